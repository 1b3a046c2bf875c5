//! The enrolment file: how a robot's gateway learns who it is and where its relay listens.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::RobotId;
use crate::seal::Secret;

/// The format this build writes and reads.
pub const FORMAT: u8 = 1;

/// Why an enrolment cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnrolmentError {
    /// Written by a newer relay.
    #[error("enrolment format {0} is not known here, the newest known is {FORMAT}")]
    Format(u8),
    /// The robot's number is zero.
    #[error("enrolment names robot 0, and robots count from 1")]
    Robot,
    /// The secret is not one.
    #[error("enrolment holds no valid secret")]
    Secret,
}

/// The content of an enrolment file, a JSON document. Whoever holds it can speak for the robot.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// See [`FORMAT`].
    pub format: u8,
    /// The robot's number in the relay's catalog.
    pub robot: u32,
    /// What people call it.
    pub name: String,
    /// The floor it serves.
    pub floor: i32,
    /// The robot's secret in hexadecimal.
    pub secret: String,
    /// Where the relay's MQTT broker listens: `mqtt://host:port` or `mqtts://host:port`.
    pub mqtt: String,
    /// The certificates that may sign the broker's, in PEM; the system's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

impl Enrolment {
    /// The robot and its secret.
    ///
    /// # Errors
    /// Says which part of the enrolment cannot be used.
    pub fn identity(&self) -> Result<(RobotId, Secret), EnrolmentError> {
        if self.format != FORMAT {
            return Err(EnrolmentError::Format(self.format));
        }
        let robot = RobotId::new(self.robot).ok_or(EnrolmentError::Robot)?;
        let secret = self.secret.parse().map_err(|_| EnrolmentError::Secret)?;
        Ok((robot, secret))
    }
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment")
            .field("robot", &self.robot)
            .field("name", &self.name)
            .field("mqtt", &self.mqtt)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment() -> Enrolment {
        Enrolment {
            format: FORMAT,
            robot: 7,
            name: "guide".to_owned(),
            floor: 7,
            secret: "ab".repeat(32),
            mqtt: "mqtt://localhost:1883".to_owned(),
            ca: None,
        }
    }

    #[test]
    fn an_enrolment_that_cannot_be_used_says_why() {
        let reason = |change: fn(&mut Enrolment)| {
            let mut changed = enrolment();
            change(&mut changed);
            changed.identity().err()
        };
        assert_eq!(reason(|_| {}), None);
        assert_eq!(reason(|e| e.format = 2), Some(EnrolmentError::Format(2)));
        assert_eq!(reason(|e| e.robot = 0), Some(EnrolmentError::Robot));
        assert_eq!(reason(|e| e.secret.clear()), Some(EnrolmentError::Secret));
    }

    #[test]
    fn an_enrolment_is_printed_without_its_secret() {
        let printed = format!("{:?}", enrolment());
        assert!(
            printed.contains("guide") && !printed.contains("abab"),
            "{printed}"
        );
    }
}
