//! Identifiers. Each is a type of its own, so that no two numbers can be swapped by mistake.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// The text is not a decimal number without sign or leading zeros.
    #[error("not a robot id, which is a decimal number from 1 to 4294967295: {0:?}")]
    Robot(String),
    /// The text is not made of the expected number of lower-case hexadecimal digits.
    #[error("not an id of {digits} lower-case hexadecimal digits: {text:?}")]
    Hex {
        /// How many digits the identifier has.
        digits: usize,
        /// What was given.
        text: String,
    },
}

/// A robot, as numbered by the relay's catalog. Written in decimal in topics and URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RobotId(u32);

impl RobotId {
    /// The robot with this catalog number; zero is nobody.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 {
            None
        } else {
            Some(Self(number))
        }
    }

    /// The catalog number, never zero.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for RobotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for RobotId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let canonical = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| canonical);
        number
            .and_then(Self::new)
            .ok_or_else(|| IdError::Robot(text.to_owned()))
    }
}

/// Makes a newtype over an unsigned integer that is written as fixed-width lower-case hexadecimal.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $int);

        impl $name {
            const DIGITS: usize = std::mem::size_of::<$int>() * 2;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:0width$x}", self.0, width = Self::DIGITS)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
                if text.len() == Self::DIGITS && text.bytes().all(is_digit) {
                    if let Ok(value) = <$int>::from_str_radix(text, 16) {
                        return Ok(Self(value));
                    }
                }
                Err(IdError::Hex { digits: Self::DIGITS, text: text.to_owned() })
            }
        }
    };
}

hex_id! {
    /// One running relay process. Drawn at random when it starts.
    RelayId(u64)
}
hex_id! {
    /// One command in the relay's ledger. Drawn at random, so it can be made anywhere.
    CommandId(u128)
}
hex_id! {
    /// One session between a gateway and the relay that welcomed it. Drawn at random by the relay.
    SessionId(u64)
}
hex_id! {
    /// One connection of a gateway to its MQTT broker. Drawn at random by the gateway.
    ConnectionId(u64)
}
hex_id! {
    /// The incarnation of a stream's storage. Drawn at random when a spool or a ledger is created;
    /// sequence numbers mean something only together with it.
    Epoch(u64)
}
hex_id! {
    /// What a building is at one time: a hash of its content, see `building`.
    Revision(u128)
}
hex_id! {
    /// One boot of a robot's board, from the first half of the kernel's `boot_id`.
    BootId(u64)
}

/// One attempt of a gateway to get a session. Never used twice by the same gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HelloId {
    /// The connection it was made on.
    pub connection: ConnectionId,
    /// Counts up on one connection.
    pub attempt: u32,
}

/// A position in a stream. The first record is 1, and there are no holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

impl Seq {
    /// The first position of every stream.
    pub const FIRST: Self = Self(1);
    /// The last position that a stream can have: stores keep positions in signed 64-bit columns.
    pub const LAST: Self = Self(i64::MAX.unsigned_abs());

    /// The position `count` further on. Saturates, which no real stream can reach.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many positions lie from `earlier` up to but not including this one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How far a receiver has got in a stream: everything before `next` is in its durable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cursor {
    /// The incarnation that `next` counts in.
    pub epoch: Epoch,
    /// The first position the receiver does not have.
    pub next: Seq,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn robot_ids_are_canonical_decimal_numbers() {
        assert_eq!("7".parse::<RobotId>().map(RobotId::number), Ok(7));
        for text in ["", "0", "07", "+7", "-1", "4294967296", "7 ", "７", "a"] {
            assert!(text.parse::<RobotId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn hexadecimal_ids_are_read_as_they_are_written() {
        let id = CommandId(0xfeed);
        assert_eq!(id.to_string().len(), 32);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "FEED000000000000",
            "123",
            "+123456789abcdef",
            "00000000000000000",
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text:?}");
        }
    }
}
