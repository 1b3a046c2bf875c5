//! The robot's own side: HTTP for programs on the board, with the cloud or without it.
//!
//! The control socket in the data folder always serves it, to the daemon's own user only. Another
//! Unix socket or a TCP address may be configured for others (`listen`, `guard`). Both serve the same
//! (`routes`): how things stand, events for the relay, commands, and the building by name.

mod answer;
mod commands;
mod events;
mod guard;
mod listen;
mod metrics;
mod patience;
mod places;
mod query;
mod routes;
mod server;
mod view;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};

pub use self::events::{POSTS_MAX, Posted};
pub use self::guard::Token;
pub use self::listen::{Extra, Listen, listen};
pub use self::routes::{Services, Waiters};
pub use self::server::serve;
use crate::status::Snapshot;

/// The socket's name in the data folder.
pub const SOCKET: &str = "control.sock";
/// How long the client side waits for an answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that the client side takes.
const ANSWER_BYTES: usize = 1024 * 1024;

/// Why there is no control socket, or no answer from it.
#[derive(Debug, Error)]
pub enum ControlError {
    /// A gateway uses this data folder already.
    #[error("a gateway is running here already, it answers on {}", .0.display())]
    Taken(PathBuf),
    /// Nothing listens.
    #[error("no gateway is running here, nothing listens on {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket cannot be used.
    #[error("cannot use the socket {}: {reason}", path.display())]
    Socket {
        /// Which socket.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The configured address cannot be used.
    #[error("cannot listen on {address}, as local.listen says: {reason}")]
    Address {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// What answers is not a gateway of this version.
    #[error("the gateway gave no usable answer: {0}")]
    Answer(String),
}

/// Opens the control socket. A socket that a dead daemon left is replaced, a live one is respected.
///
/// # Errors
/// [`ControlError`] where it cannot be had.
pub async fn bind(data: &Path) -> Result<UnixListener, ControlError> {
    listen::bind_unix(&data.join(SOCKET)).await
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
