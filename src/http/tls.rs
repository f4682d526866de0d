//! The handshake of a connection over TLS. Each one has a time limit and a task of its own, so it keeps nobody else
//! waiting. See decision 0068.

use std::{io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::socket::{Guarded, Socket};
use crate::wire::{ErrorCode, Problem, ascii};

/// How long a handshake may take, from the connection on.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long it may still take when the server ends.
const LAST_HANDSHAKE_LIMIT: Duration = Duration::from_secs(1);
/// How much of a request without TLS is read, and for how long, so that its client gets the answer and not a reset.
const PLAIN_BYTES: usize = 64 << 10;
const PLAIN_LIMIT: Duration = Duration::from_secs(1);

/// The socket after its handshake; `None` if there was none in time.
pub async fn accept(stream: TcpStream, server: Arc<ServerConfig>, shutdown: &CancellationToken) -> Option<Socket> {
    let ended = async {
        tokio::select! {
            () = sleep(HANDSHAKE_LIMIT) => {}
            () = async { shutdown.cancelled().await; sleep(LAST_HANDSHAKE_LIMIT).await } => {}
        }
    };
    tokio::select! {
        shaken = shake_hands(stream, server) => match shaken {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "a handshake failed");
                None
            }
        },
        () = ended => {
            tracing::debug!("a handshake was not finished in time");
            None
        }
    }
}

async fn shake_hands(stream: TcpStream, server: Arc<ServerConfig>) -> io::Result<Option<Socket>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    // A request begins with its method, and a handshake with a byte that is no letter.
    if first[0].is_ascii_uppercase() {
        let _ = timeout(PLAIN_LIMIT, refuse_plain(stream)).await;
        return Ok(None);
    }
    let guarded = Guarded::new(stream);
    let signs = guarded.signs();
    let stream = TlsAcceptor::from(server).accept(guarded).await?;
    Ok(Some(Socket::encrypted(stream, signs)))
}

/// Tells a client without TLS what is wrong.
async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while head.len() < PLAIN_BYTES && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let problem = Problem::new(ErrorCode::BadRequest, "this server speaks TLS here; call it at https://", "/");
    let body = ascii::to_vec(&problem).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    // The rest of a body that is on its way.
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}
