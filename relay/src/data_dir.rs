//! The relay's data folder: where its files are, who serves from it, and where that one listens.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a data folder cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// It cannot be created.
    #[error("cannot create the data folder {path}", path = .path.display())]
    Create {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no catalog in it.
    #[error(
        "there is no relay's data in {path}; give the --data folder that `serve` uses, or make one \
         with `robot add` or `seed`",
        path = .path.display()
    )]
    Empty {
        /// Which folder.
        path: PathBuf,
    },
    /// Another process serves from it.
    #[error("another brrbrr-relay serves from {path}; stop it or give another --data folder", path = .path.display())]
    Taken {
        /// Which folder.
        path: PathBuf,
    },
    /// A file in it cannot be written or read.
    #[error("cannot use {path}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A relay's data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The folder at this path, which need not be there yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Creates the folder, open to its owner only, where it is not there.
    ///
    /// # Errors
    /// [`DataDirError::Create`].
    pub fn create(&self) -> Result<(), DataDirError> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0);
        made.map_err(|source| DataDirError::Create {
            path: self.0.clone(),
            source,
        })
    }

    /// Makes sure that the folder holds a catalog.
    ///
    /// # Errors
    /// [`DataDirError::Empty`].
    pub fn expect_catalog(&self) -> Result<(), DataDirError> {
        if self.catalog().is_file() {
            return Ok(());
        }
        Err(DataDirError::Empty {
            path: self.0.clone(),
        })
    }

    /// Keeps other processes from serving from the folder while the answer lives, or until the
    /// process ends, however it does. Other commands may use the folder meanwhile.
    ///
    /// # Errors
    /// [`DataDirError::Taken`], or what the system said.
    pub fn lock(&self) -> Result<File, DataDirError> {
        let path = self.0.join("relay.lock");
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let locked = match opened {
            Ok(file) => file.try_lock().map(|()| file),
            Err(error) => Err(TryLockError::Error(error)),
        };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => DataDirError::Taken {
                path: self.0.clone(),
            },
            TryLockError::Error(source) => DataDirError::File { path, source },
        })
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file of the embedded catalog.
    #[must_use]
    pub fn catalog(&self) -> PathBuf {
        self.0.join("catalog.sqlite")
    }

    /// The file of the embedded journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.sqlite")
    }

    /// The file of the live state that outlives a restart.
    #[must_use]
    pub fn live(&self) -> PathBuf {
        self.0.join("live.sqlite")
    }

    /// Notes where the relay listens, for `robot add` and for people. Replaces an older note whole.
    ///
    /// # Errors
    /// [`DataDirError::File`].
    pub fn note_listening(&self, listening: &Listening) -> Result<(), DataDirError> {
        let path = self.listening_file();
        let fresh = self.0.join("relay.json.new");
        let written = serde_json::to_vec_pretty(listening)
            .map_err(io::Error::from)
            .and_then(|json| std::fs::write(&fresh, json))
            .and_then(|()| std::fs::rename(&fresh, &path));
        written.map_err(|source| DataDirError::File { path, source })
    }

    /// Where the relay last listened; `None` where none has yet.
    ///
    /// # Errors
    /// [`DataDirError::File`].
    pub fn listening(&self) -> Result<Option<Listening>, DataDirError> {
        let path = self.listening_file();
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataDirError::File { path, source }),
        };
        match serde_json::from_slice(&json) {
            Ok(listening) => Ok(Some(listening)),
            Err(error) => Err(DataDirError::File {
                path,
                source: error.into(),
            }),
        }
    }

    fn listening_file(&self) -> PathBuf {
        self.0.join("relay.json")
    }
}

/// Where a relay listens, as `relay.json` in its data folder says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The base of its HTTP routes.
    pub http: String,
    /// What gateways connect to.
    pub mqtt: String,
}

impl Listening {
    /// What to note for the addresses that were bound. `public` is what gateways were told to use
    /// by the configuration.
    #[must_use]
    pub fn new(http: SocketAddr, mqtt: SocketAddr, has_tls: bool, public: Option<&str>) -> Self {
        let scheme = if has_tls { "mqtts" } else { "mqtt" };
        let own = || format!("{scheme}://{}", reachable(mqtt));
        Self {
            http: format!("http://{}", reachable(http)),
            mqtt: public.map_or_else(own, str::to_owned),
        }
    }
}

/// Nobody can connect to the unspecified address, but loopback works on this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Creates a file that only its owner can read and that was not there before.
///
/// # Errors
/// What the system said; [`ErrorKind::AlreadyExists`] where something is there.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Writes a file to the disk, whole.
///
/// # Errors
/// What the system said.
pub fn write_all_synced(mut file: File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_relay_listens_is_read_as_it_was_noted() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(folder.path().join("a/b"));
        data.create().unwrap();
        assert_eq!(data.listening().unwrap(), None);
        let any = "0.0.0.0:1883".parse().unwrap();
        let http = "127.0.0.1:8080".parse().unwrap();
        for public in [None, Some("mqtts://relay.example:8883")] {
            let listening = Listening::new(http, any, false, public);
            data.note_listening(&listening).unwrap();
            assert_eq!(data.listening().unwrap(), Some(listening.clone()));
            assert_eq!(listening.http, "http://127.0.0.1:8080");
            assert_eq!(listening.mqtt, public.unwrap_or("mqtt://127.0.0.1:1883"));
        }
    }

    #[test]
    fn one_process_at_a_time_serves_from_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(folder.path());
        let held = data.lock().unwrap();
        let error = data.lock().unwrap_err();
        assert!(matches!(error, DataDirError::Taken { .. }), "{error}");
        drop(held);
        data.lock().unwrap();
    }
}
