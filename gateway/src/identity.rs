//! Who this gateway is: the enrolment, kept in the data folder for the daemon's user only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use brrbrr_proto::enrolment::{Enrolment, EnrolmentError};
use brrbrr_proto::id::RobotId;
use brrbrr_proto::seal::Secret;
use thiserror::Error;

/// The enrolment's name in the data folder.
const IDENTITY: &str = "identity.json";
/// No enrolment is longer, certificates included.
const MAX_BYTES: u64 = 256 * 1024;

/// Why the gateway does not know who it is.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// It was never enrolled.
    #[error(
        "this gateway is not enrolled: make a file with `brrbrr-relay robot add`, then run \
         `brrbrr-gateway enroll --file FILE --data {}`", .0.display()
    )]
    NotEnrolled(PathBuf),
    /// It is enrolled already.
    #[error("{} holds an enrolment already, add --replace to give it up", .0.display())]
    Enrolled(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {doing} {}: {reason}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The file is not an enrolment.
    #[error("{} is not an enrolment: {reason}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong where.
        reason: serde_json::Error,
    },
    /// The enrolment cannot be used.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: EnrolmentError,
    },
}

/// Who this gateway is.
#[derive(Debug)]
pub struct Identity {
    /// The robot.
    pub robot: RobotId,
    /// What it shares with the relay.
    pub secret: Secret,
    /// The rest of the enrolment.
    pub enrolment: Enrolment,
}

impl Identity {
    /// Reads who the gateway is.
    ///
    /// # Errors
    /// [`IdentityError::NotEnrolled`] where it was never enrolled.
    pub fn load(data: &Path) -> Result<Self, IdentityError> {
        let path = data.join(IDENTITY);
        if !path.exists() {
            return Err(IdentityError::NotEnrolled(data.to_owned()));
        }
        Self::read(&path)
    }

    /// Takes the enrolment of a one-time file into the data folder, durably, and removes the file.
    ///
    /// # Errors
    /// Nothing has changed then, but the file may be left where only its removal failed.
    pub fn enroll(file: &Path, data: &Path, replace: bool) -> Result<Self, IdentityError> {
        let identity = Self::read(file)?;
        let path = data.join(IDENTITY);
        if path.exists() && !replace {
            return Err(IdentityError::Enrolled(path));
        }
        let failed = |doing, path: &Path, reason| IdentityError::File {
            doing,
            path: path.to_owned(),
            reason,
        };
        make_private_folder(data).map_err(|reason| failed("create", data, reason))?;
        let json = serde_json::to_vec_pretty(&identity.enrolment).map_err(|reason| {
            IdentityError::Json {
                path: path.clone(),
                reason,
            }
        })?;
        // A new file in place of the old one: a power cut leaves one of the two whole.
        let fresh = data.join("identity.json.new");
        write_private(&fresh, &json)
            .and_then(|()| give_to_owner(&fresh, data))
            .map_err(|reason| failed("write", &fresh, reason))?;
        std::fs::rename(&fresh, &path).map_err(|reason| failed("rename to", &path, reason))?;
        File::open(data)
            .and_then(|folder| folder.sync_all())
            .map_err(|reason| failed("sync", data, reason))?;
        std::fs::remove_file(file).map_err(|reason| failed("remove", file, reason))?;
        Ok(identity)
    }

    fn read(path: &Path) -> Result<Self, IdentityError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
            .map_err(|reason| IdentityError::File {
                doing: "read",
                path: path.to_owned(),
                reason,
            })?;
        let enrolment: Enrolment =
            serde_json::from_str(&text).map_err(|reason| IdentityError::Json {
                path: path.to_owned(),
                reason,
            })?;
        let (robot, secret) = enrolment
            .identity()
            .map_err(|reason| IdentityError::Unusable {
                path: path.to_owned(),
                reason,
            })?;
        Ok(Self {
            robot,
            secret,
            enrolment,
        })
    }
}

fn make_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The administrator enrols, but the daemon's own user has to read the result.
fn give_to_owner(path: &Path, folder: &Path) -> io::Result<()> {
    let (file, folder) = (std::fs::metadata(path)?, std::fs::metadata(folder)?);
    if file.uid() == folder.uid() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(folder.uid()), Some(folder.gid()))
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, robot: u32) -> PathBuf {
        let path = folder.join("robot.enrol");
        let enrolment = Enrolment {
            format: 1,
            robot,
            name: "guide-7".to_owned(),
            floor: 7,
            secret: "ab".repeat(32),
            mqtt: "mqtt://127.0.0.1:1883".to_owned(),
            ca: None,
        };
        std::fs::write(&path, serde_json::to_vec(&enrolment).unwrap()).unwrap();
        path
    }

    #[test]
    fn an_enrolment_file_is_used_once() {
        let folder = tempfile::tempdir().unwrap();
        let (file, data) = (file(folder.path(), 7), folder.path().join("data"));
        let identity = Identity::enroll(&file, &data, false).unwrap();
        assert_eq!(identity.robot.number(), 7);
        assert!(!file.exists());
        assert_eq!(Identity::load(&data).unwrap().secret, identity.secret);
    }

    #[test]
    fn only_the_owner_of_the_data_folder_can_read_the_enrolment() {
        let folder = tempfile::tempdir().unwrap();
        let (file, data) = (file(folder.path(), 7), folder.path().join("data"));
        Identity::enroll(&file, &data, false).unwrap();
        let identity = std::fs::metadata(data.join(IDENTITY)).unwrap();
        assert_eq!(identity.mode() & 0o777, 0o600);
        let data = std::fs::metadata(&data).unwrap();
        assert_eq!(data.mode() & 0o777, 0o700);
        assert_eq!(identity.uid(), data.uid());
    }

    #[test]
    fn an_enrolled_gateway_is_not_enrolled_again_by_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        Identity::enroll(&file(folder.path(), 7), &data, false).unwrap();
        let other = file(folder.path(), 8);
        let refused = Identity::enroll(&other, &data, false);
        assert!(matches!(refused, Err(IdentityError::Enrolled(_))));
        assert!(other.exists());
        Identity::enroll(&other, &data, true).unwrap();
        assert_eq!(Identity::load(&data).unwrap().robot.number(), 8);
    }

    #[test]
    fn what_is_no_enrolment_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("robot.enrol");
        for text in ["", "{}", "{\"format\":1,\"colour\":2}"] {
            std::fs::write(&path, text).unwrap();
            let refused = Identity::enroll(&path, folder.path(), false);
            assert!(matches!(refused, Err(IdentityError::Json { .. })), "{text}");
            assert!(path.exists());
        }
        let zero = file(folder.path(), 0);
        let refused = Identity::enroll(&zero, folder.path(), false);
        assert!(matches!(refused, Err(IdentityError::Unusable { .. })));
    }
}
