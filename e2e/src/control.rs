//! The control socket of a gateway: HTTP on a Unix socket in its data folder.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::http::{Answer, Connection, Cut, Request};

/// Sends each request over a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control(PathBuf);

impl Control {
    /// That of the gateway which uses this data folder.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self(data.join("control.sock"))
    }

    /// Connects, for several requests.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(&self) -> io::Result<Connection<UnixStream>> {
        Connection::open_unix(&self.0)
    }

    /// Sends a request that may fail.
    ///
    /// # Errors
    /// Says whether it may have been acted on.
    pub fn try_send(&self, request: &Request) -> Result<Answer, Cut> {
        let mut connection = self.open().map_err(Cut::Refused)?;
        let answer = connection.exchange(&request.bytes(false));
        answer.map_err(Cut::Lost)
    }
}
