//! Answers requests before there is a store: the process is alive, and not ready.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    answer,
    connection::{self, ConnectionShared},
    error::{self, ErrorAnswer},
    meta,
    request_id::new_request_id,
    screens,
    serve::ServeError,
};
use crate::{clock::SystemClock, config::LiveConfig, health::Health, wire::ErrorCode};

/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens until it is dropped.
pub struct Early {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Early {
    /// Listens on the address of the future server. Whether there are tokens is known once there is a store; until then
    /// nobody gets anything from here.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn listen(live: &LiveConfig, health: Health) -> Result<Early, ServeError> {
        let config = live.now();
        let address = config.listen;
        let listener = TcpListener::bind(address).await.map_err(|error| ServeError::Bind { address, error })?;
        let address = listener.local_addr().map_err(|error| ServeError::Bind { address, error })?;
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
            let health = health.clone();
            async move { answered(&uri, &headers, &health) }
        });
        let (clock, shutdown) = (Arc::new(SystemClock), CancellationToken::new());
        let shared = Arc::new(ConnectionShared { router, clock, shutdown, config: live.clone() });
        let serving = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => _ = tokio::spawn(connection::serve(stream, shared.clone())),
                    Err(error) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Ok(Early { address, serving })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answered(uri: &Uri, headers: &HeaderMap, health: &Health) -> Response {
    let response = match uri.path() {
        "/healthz" => answer::json(StatusCode::OK, &json!({ "status": "ok" })),
        "/readyz" => meta::ready(health),
        _ => ErrorAnswer::new(ErrorCode::Unavailable, "the server waits for its database; try again").into_response(),
    };
    let screen_of: Option<error::ScreenOf> = screens::is_for_browser(headers).then_some(screens::failure);
    let (mut response, _) = error::render(uri.path(), &new_request_id(), response, screen_of);
    let headers = response.headers_mut();
    if uri.path() != "/healthz" {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    // Close the connection, so that the client's next request goes to the real server, which will listen by then.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
