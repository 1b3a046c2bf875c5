//! The configured socket besides the control socket: a TCP address, or a Unix socket that other users
//! of the board may open.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::Mode;
use rustix::process::umask;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::ControlError;
use super::guard::{Guard, Token};

/// The group database; see `group(5)`.
const GROUPS: &str = "/etc/group";

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On a TCP address.
    Tcp(SocketAddr),
    /// On a Unix socket.
    Unix {
        /// Where it is.
        path: PathBuf,
        /// Who may open it, as for `chmod`.
        mode: u32,
        /// The group it belongs to, by name or number.
        group: Option<String>,
    },
}

/// The configured socket, ready to be served.
#[derive(Debug)]
pub struct Extra {
    pub(super) listening: Listening,
    pub(super) guard: Guard,
}

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listening {
    /// On TCP.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

impl Extra {
    /// The address that a TCP socket has got, where its port was left open.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.listening {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(_) => None,
        }
    }
}

/// Opens the configured socket.
///
/// # Errors
/// [`ControlError`] where it cannot be had.
pub async fn listen(listen: &Listen, token: Option<Token>) -> Result<Extra, ControlError> {
    match listen {
        Listen::Tcp(address) => {
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(|reason| ControlError::Address {
                address: *address,
                reason,
            })?;
            Ok(Extra {
                listening: Listening::Tcp(listener),
                guard: Guard::Tcp {
                    token,
                    is_loopback: address.ip().is_loopback(),
                },
            })
        }
        Listen::Unix { path, mode, group } => {
            let listener = bind_unix(path).await?;
            let failed = |reason| socket_error(path, reason);
            // Only then may others open it: before, they would be another group.
            if let Some(group) = group {
                give_to(path, group).map_err(failed)?;
            }
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).map_err(failed)?;
            Ok(Extra {
                listening: Listening::Unix(listener),
                guard: Guard::Unix(token),
            })
        }
    }
}

/// Opens a Unix socket that only the daemon's own user may open. One that a dead daemon left is
/// replaced, a live one is respected, and what is no socket is left alone.
pub(super) async fn bind_unix(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |reason| socket_error(path, reason);
    match UnixStream::connect(path).await {
        Ok(_) => return Err(ControlError::Taken(path.to_owned())),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
        // Nobody listens, or it is no socket at all.
        Err(reason) if reason.kind() == io::ErrorKind::ConnectionRefused => {
            let is_socket = |data: fs::Metadata| data.file_type().is_socket();
            if fs::symlink_metadata(path).is_ok_and(is_socket) {
                fs::remove_file(path).map_err(failed)?;
            }
        }
        // Somebody listens who has more callers than he can take.
        Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
            return Err(ControlError::Taken(path.to_owned()));
        }
        Err(reason) => return Err(failed(reason)),
    }
    bind_for_one(path).map_err(failed)
}

/// Binds with a mask, so that there is no moment in which others may open the socket.
fn bind_for_one(path: &Path) -> io::Result<UnixListener> {
    /// The mask is the whole process's. Whatever else is made meanwhile is only kept more private.
    static MASK: Mutex<()> = Mutex::new(());
    let turn = MASK.lock();
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(path);
    umask(before);
    drop(turn);
    bound
}

fn give_to(path: &Path, group: &str) -> io::Result<()> {
    let number = match group.parse() {
        Ok(number) => number,
        Err(_) => number_of(&fs::read_to_string(GROUPS)?, group).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no group {group:?} in {GROUPS}"),
            )
        })?,
    };
    std::os::unix::fs::chown(path, None, Some(number))
}

fn number_of(groups: &str, name: &str) -> Option<u32> {
    let mut rows = groups.lines().map(|line| line.split(':'));
    rows.find_map(|mut fields| {
        let is_it = fields.next() == Some(name);
        fields.nth(1)?.parse().ok().filter(|_| is_it)
    })
}

fn socket_error(path: &Path, reason: io::Error) -> ControlError {
    ControlError::Socket {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_opened_for_one_user_and_then_for_those_who_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(bind_for_one(&path).unwrap());
        assert_eq!(mode(), 0o600);
        let wish = Listen::Unix {
            path: path.clone(),
            mode: 0o666,
            group: None,
        };
        listen(&wish, None).await.unwrap();
        assert_eq!(mode(), 0o666);
    }

    #[tokio::test]
    async fn a_socket_that_is_not_surely_dead_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let other = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let refused = bind_unix(&path).await.unwrap_err().to_string();
        assert!(refused.contains("api.sock"), "{refused}");
        assert!(path.exists());
        drop(other);
    }

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\nbroken\nface:x:1001:kiosk,robot\n";
        assert_eq!(number_of(groups, "face"), Some(1001));
        assert_eq!(number_of(groups, "fac"), None);
        assert_eq!(number_of(groups, "broken"), None);
    }
}
