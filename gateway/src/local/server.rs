//! Accepts connections, never more than a bound, and answers what comes over them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::guard::Guard;
use super::listen::{Extra, Listening};
use super::patience::Patient;
use super::routes::{self, Services};

/// Connections at a time on each socket: a person, a collector or two, and the programs on the
/// board. One more is answered 503.
pub(super) const CONNECTIONS: usize = 128;
/// How long a connection may wait for its next request's head.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long one answer may take to be written: the longest has a few megabytes.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait where no connection can be accepted, as for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What one connection too many is told.
const CROWDED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nconnection: close\r\n\
    content-length: 0\r\n\r\n";

/// Answers on the control socket, and on the one that is configured, until it is dropped.
pub async fn serve(control: UnixListener, extra: Option<Extra>, services: Services) {
    let services = Arc::new(services);
    let open = Arc::new(Guard::Open);
    let control = accept_unix(&control, &open, &services);
    match extra {
        None => control.await,
        Some(Extra { listening, guard }) => {
            let guard = Arc::new(guard);
            match listening {
                Listening::Unix(listener) => {
                    tokio::join!(control, accept_unix(&listener, &guard, &services))
                }
                Listening::Tcp(listener) => {
                    tokio::join!(control, accept_tcp(&listener, &guard, &services))
                }
            };
        }
    }
}

async fn accept_unix(listener: &UnixListener, guard: &Arc<Guard>, services: &Arc<Services>) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        let Some((stream, turn)) = admit(accepted, &turns, UnixStream::try_write).await else {
            continue;
        };
        tokio::spawn(converse(
            stream,
            Arc::clone(guard),
            Arc::clone(services),
            turn,
        ));
    }
}

async fn accept_tcp(listener: &TcpListener, guard: &Arc<Guard>, services: &Arc<Services>) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        let Some((stream, turn)) = admit(accepted, &turns, TcpStream::try_write).await else {
            continue;
        };
        // An answer is one small write; without this it may wait for the next request.
        stream.set_nodelay(true).ok();
        tokio::spawn(converse(
            stream,
            Arc::clone(guard),
            Arc::clone(services),
            turn,
        ));
    }
}

/// The connection with its place, if there is one for it.
async fn admit<S>(
    accepted: io::Result<S>,
    turns: &Arc<Semaphore>,
    try_write: impl FnOnce(&S, &[u8]) -> io::Result<usize>,
) -> Option<(S, OwnedSemaphorePermit)> {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            warn!(%error, "local connections");
            tokio::time::sleep(ACCEPT_AGAIN).await;
            return None;
        }
    };
    let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
        // An empty socket buffer takes it in one piece. Who has gone away needs no answer.
        try_write(&stream, CROWDED).ok();
        return None;
    };
    Some((stream, turn))
}

async fn converse<S>(
    stream: S,
    guard: Arc<Guard>,
    services: Arc<Services>,
    turn: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| async {
        Ok::<_, Infallible>(routes::answer(request, &guard, &services).await)
    });
    let stream = Patient::new(stream, WRITE_LIMIT);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "local connection");
    }
    drop(turn);
}
