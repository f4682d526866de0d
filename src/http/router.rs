//! Every route on one screen.

use std::sync::Arc;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, post},
};

use super::{
    App, artifacts, cancel, claims, error, events, intake, meta, metrics, projects, read, submit, waits, workers,
};
use crate::wire::ErrorCode;

type Route = (&'static str, &'static [&'static str], MethodRouter<Arc<App>>);

/// The paths, their methods, and their handlers. A test compares `openapi.yaml` with this list.
fn routes() -> Vec<Route> {
    const DEPLOYMENTS: &str = "/v1/projects/{project}/deployments";
    vec![
        (DEPLOYMENTS, &["get", "post"], get(read::list).post(submit::submit)),
        ("/v1/projects/{project}/deployments/{id}", &["get"], get(read::one)),
        ("/v1/projects/{project}/deployments/{id}/completion", &["get"], get(waits::completion)),
        ("/v1/projects/{project}/deployments/{id}/turn", &["get"], get(waits::turn)),
        ("/v1/projects/{project}/deployments/{id}/events", &["get"], get(events::events)),
        ("/v1/projects/{project}/deployments/{id}/cancel", &["post"], post(cancel::cancel)),
        ("/v1/projects/{project}/deployments/{id}/heartbeat", &["post"], post(workers::heartbeat)),
        ("/v1/projects/{project}/deployments/{id}/reports", &["post"], post(workers::reports)),
        ("/v1/projects/{project}/deployments/{id}/finish", &["post"], post(workers::finish)),
        ("/v1/projects", &["get"], get(projects::list)),
        ("/v1/projects/{project}", &["get"], get(projects::one)),
        ("/v1/projects/{project}/release", &["post"], post(projects::release)),
        ("/v1/claims", &["post"], post(claims::claim)),
        (
            "/v1/artifacts/{sha256}",
            &["get", "head", "put"],
            get(artifacts::get).head(artifacts::head).put(artifacts::put),
        ),
        ("/healthz", &["get"], get(meta::healthz)),
        ("/readyz", &["get"], get(meta::readyz)),
        ("/metrics", &["get"], get(metrics::metrics)),
        ("/openapi.yaml", &["get"], get(meta::openapi)),
    ]
}

/// The paths and their methods in lower case.
pub fn route_table() -> Vec<(&'static str, &'static [&'static str])> {
    routes().into_iter().map(|(path, methods, _)| (path, methods)).collect()
}

/// The whole HTTP service.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (path, _, handlers) in routes() {
        router = router.route(path, handlers);
    }
    router
        .fallback(|| async {
            error::ErrorAnswer::new(ErrorCode::NotFound, "there is no such route; see /openapi.yaml")
        })
        .method_not_allowed_fallback(|| async {
            error::ErrorAnswer::new(ErrorCode::MethodNotAllowed, "this route does not take that method; see Allow")
        })
        .layer(middleware::from_fn_with_state(app.clone(), front))
        .with_state(app)
}

/// The layer that every request passes: the guard, and on the way back the rest of its body, the error's body and the
/// count. It is one layer, because each layer costs a parked poll another half KiB.
async fn front(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let rest = intake::watch(&mut request);
    let response = match app.access.check(request.version(), request.uri(), request.headers()) {
        Ok(scope) => {
            scope.attach(request.extensions_mut());
            next.run(request).await
        }
        Err(failure) => {
            drop(request);
            failure.into_response()
        }
    };
    let mut response = error::render(path, response);
    if app.watch.is_draining() {
        // Close the connection, so that the client's next request opens a new one, which a load balancer sends to
        // another server.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(rest) = rest {
        // Boxed, because few requests need it.
        Box::pin(rest.settle(&app.shutdown, &mut response)).await;
    }
    app.metrics.count(&method, route.as_ref().map_or("none", MatchedPath::as_str), response.status());
    response
}
