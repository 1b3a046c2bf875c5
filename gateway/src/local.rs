//! The control socket: HTTP on a Unix socket in the data folder, for `brrbrr-gateway status`, for
//! whatever watches the board, and for programs that post events. Only the daemon's own user can
//! open it.

mod events;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

pub use self::events::{POSTS_MAX, Posted};
use crate::status::{Snapshot, SpoolStatus, StatusBoard};

/// The socket's name in the data folder.
pub const SOCKET: &str = "control.sock";
/// Connections at a time: a person, a collector or two, and the programs that post events. One more
/// is answered 503.
const CONNECTIONS: usize = 128;
/// How long a connection may wait for its next request's head.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long the client side waits for an answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that the client side takes.
const ANSWER_BYTES: usize = 1024 * 1024;

/// What one connection too many is told.
const CROWDED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nconnection: close\r\n\
    content-length: 0\r\n\r\n";

/// Why there is no control socket, or no answer from it.
#[derive(Debug, Error)]
pub enum ControlError {
    /// A gateway uses this data folder already.
    #[error("a gateway is running with this data folder already, it answers on {}", .0.display())]
    Taken(PathBuf),
    /// Nothing listens.
    #[error("no gateway is running here, nothing listens on {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket cannot be used.
    #[error("cannot use the control socket {}: {reason}", path.display())]
    Socket {
        /// Which socket.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// What answers is not a gateway of this version.
    #[error("the gateway gave no usable answer: {0}")]
    Answer(String),
}

/// Opens the socket. A socket that a dead daemon left is replaced, a live one is respected.
///
/// # Errors
/// [`ControlError`] where it cannot be had.
pub async fn bind(data: &Path) -> Result<UnixListener, ControlError> {
    let path = data.join(SOCKET);
    let failed = |reason| ControlError::Socket {
        path: path.clone(),
        reason,
    };
    match UnixStream::connect(&path).await {
        Ok(_) => return Err(ControlError::Taken(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(&path).map_err(failed)?,
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers until it is dropped. What is posted goes to the event loop.
pub async fn serve(listener: UnixListener, board: StatusBoard, posts: mpsc::Sender<Posted>) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Ok(turn) = Arc::clone(&turns).try_acquire_owned() else {
            // An empty socket buffer takes it in one piece. Who has gone away needs no answer.
            stream.try_write(CROWDED).ok();
            continue;
        };
        let (board, posts) = (board.clone(), posts.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| async {
                Ok::<_, Infallible>(answer(request, &board, &posts).await)
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE_LIMIT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "control connection");
            }
            drop(turn);
        });
    }
}

/// Asks the gateway that uses the data folder how things stand.
///
/// # Errors
/// [`ControlError::NotRunning`] where none does.
pub async fn ask(data: &Path) -> Result<Snapshot, ControlError> {
    let path = data.join(SOCKET);
    let stream = UnixStream::connect(&path).await.map_err(|reason| {
        let is_absent = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
        if is_absent.contains(&reason.kind()) {
            return ControlError::NotRunning(path.clone());
        }
        ControlError::Socket {
            path: path.clone(),
            reason,
        }
    })?;
    let exchange = tokio::time::timeout(REQUEST_LIMIT, get(stream, "/status"));
    let body = exchange
        .await
        .map_err(|_| ControlError::Answer("none in time".to_owned()))??;
    serde_json::from_slice(&body).map_err(|error| ControlError::Answer(error.to_string()))
}

/// Asks whoever is at the other end for a page. The answer has a bounded length, and any status but
/// 200 is an error.
pub(crate) async fn get<S>(stream: S, path: &str) -> Result<Bytes, ControlError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| ControlError::Answer(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "gateway")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ControlError::Answer(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(ControlError::Answer(response.status().to_string()));
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| ControlError::Answer(error.to_string()))?;
    driver.abort();
    Ok(body.to_bytes())
}

async fn answer(
    request: Request<Incoming>,
    board: &StatusBoard,
    posts: &mpsc::Sender<Posted>,
) -> Response<Full<Bytes>> {
    let is_get = request.method() == Method::GET;
    match request.uri().path() {
        "/events" if request.method() == Method::POST => events::post(request, posts).await,
        "/events" => wrong_method("POST"),
        "/status" | "/healthz" | "/metrics" if !is_get => wrong_method("GET"),
        "/status" => match serde_json::to_vec(&board.snapshot()) {
            Ok(json) => respond(StatusCode::OK, "application/json", json),
            Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
        },
        "/healthz" => respond(StatusCode::OK, "text/plain", b"ok\n".to_vec()),
        "/metrics" => {
            let kind = "text/plain; version=0.0.4";
            respond(
                StatusCode::OK,
                kind,
                metrics(&board.snapshot()).into_bytes(),
            )
        }
        _ => error(
            StatusCode::NOT_FOUND,
            "there is /status, /healthz, /metrics and /events",
        ),
    }
}

fn wrong_method(allowed: &'static str) -> Response<Full<Bytes>> {
    let message = format!("only {allowed} is answered here");
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, &message);
    let allowed = hyper::header::HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, allowed);
    response
}

/// A number, as [`metrics`] writes it: name, kind, help, value.
type Row = (&'static str, &'static str, &'static str, u64);

fn spool_rows(spool: &SpoolStatus) -> [Row; 10] {
    [
        (
            "spool_next",
            "counter",
            "Records made in this epoch, plus one",
            spool.next,
        ),
        (
            "spool_backlog",
            "gauge",
            "Records that wait for the relay",
            spool.backlog,
        ),
        (
            "spool_errors",
            "counter",
            "What the spool could not do",
            spool.errors,
        ),
        (
            "spool_bytes",
            "gauge",
            "What the spool takes on the disk",
            spool.bytes,
        ),
        (
            "spool_budget_bytes",
            "gauge",
            "What the spool may take on the disk",
            spool.budget,
        ),
        (
            "spool_short",
            "gauge",
            "1 while room is made by thinning and shedding, else 0",
            u64::from(spool.disk == "short"),
        ),
        (
            "spool_failing",
            "gauge",
            "1 while the spool takes nothing, else 0",
            u64::from(spool.disk == "failing"),
        ),
        (
            "spool_thinned",
            "counter",
            "Samples of telemetry merged into others",
            spool.thinned,
        ),
        (
            "spool_shed",
            "counter",
            "Records shed to make room",
            spool.shed,
        ),
        (
            "spool_refused",
            "counter",
            "Writes refused to their sources",
            spool.refused,
        ),
    ]
}

/// The text format of Prometheus, version 0.0.4.
fn metrics(snapshot: &Snapshot) -> String {
    let in_session = u64::from(snapshot.link.state == "session");
    let unfinished = u64::try_from(snapshot.unfinished_commands).unwrap_or(u64::MAX);
    let adapter = &snapshot.adapter;
    let rows = [
        (
            "session_open",
            "gauge",
            "1 with a session, else 0",
            in_session,
        ),
        (
            "sessions",
            "counter",
            "Sessions since the start",
            snapshot.link.sessions,
        ),
        (
            "commands_unfinished",
            "gauge",
            "Commands that have not ended",
            unfinished,
        ),
        (
            "robot_messages",
            "counter",
            "Messages that came from the robot",
            adapter.messages,
        ),
        (
            "robot_unreadable",
            "counter",
            "Messages that could not be kept",
            adapter.unreadable,
        ),
        (
            "robot_orders",
            "counter",
            "Orders passed to the robot",
            adapter.orders,
        ),
        (
            "robot_reconnects",
            "counter",
            "Attempts to reach the robot",
            adapter.reconnects,
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in spool_rows(&snapshot.spool).into_iter().chain(rows) {
        // Writing to a string cannot fail.
        writeln!(
            text,
            "# HELP brrbrr_gateway_{name} {help}\n# TYPE brrbrr_gateway_{name} {kind}\n\
             brrbrr_gateway_{name} {value}"
        )
        .ok();
    }
    text
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({"error": {"code": status.as_u16(), "message": message}});
    respond(status, "application/json", body.to_string().into_bytes())
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
