//! Sealing: every frame is encrypted and authenticated with keys that only the robot and the relay
//! hold, so a broker between them can drop frames but neither read, forge nor redirect them.
//!
//! From the robot's 32-byte secret, HKDF-SHA-256 (RFC 5869) derives one XChaCha20-Poly1305 key for
//! each direction and the MQTT password. Associated data binds a frame to its robot, direction,
//! topic kind, version and epoch. Replays are harmless, because what frames say is idempotent
//! within a session (see `link`).

use std::fmt;
use std::str::FromStr;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::id::{Epoch, RobotId};
use crate::topic::TopicKind;

/// Bytes of a nonce. Drawn from the operating system for every frame: 192 bits never collide.
pub const NONCE_BYTES: usize = 24;
/// Bytes that the cipher adds to a message.
pub const TAG_BYTES: usize = 16;

/// A nonce, drawn by the driver.
pub type Nonce = [u8; NONCE_BYTES];

const SALT: &[u8] = b"brrbrr/1";

/// The frame was not made with this robot's keys for this place, or was changed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the seal is broken: wrong key, wrong place, or changed on the way")]
pub struct BrokenSeal;

/// A text is not a robot's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a robot's secret is 64 hexadecimal digits")]
pub struct NotASecret;

/// What a robot and the relay share. Shown only in the enrolment file.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Takes 32 bytes drawn from the operating system.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret in hexadecimal, for the enrolment file and the stores only.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(64));
        for byte in self.0.iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text
    }

    /// What the robot's gateway says to the MQTT broker. It tells nothing about the frame keys.
    #[must_use]
    pub fn mqtt_password(&self) -> Password {
        Password(Secret::new(self.derive(b"mqtt password")))
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        let extracted = Hkdf::<Sha256>::new(Some(SALT), self.0.as_slice());
        // 32 bytes are far below the limit of HKDF, 255 hashes, so this cannot fail.
        let expanded = extracted.expand(purpose, &mut key);
        debug_assert!(expanded.is_ok());
        key
    }
}

impl FromStr for Secret {
    type Err = NotASecret;

    fn from_str(text: &str) -> Result<Self, NotASecret> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(NotASecret);
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(NotASecret),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An MQTT password, in hexadecimal on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password(Secret);

impl Password {
    /// The password as MQTT carries it.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        self.0.reveal()
    }

    /// Whether `offered` is this password, in time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, offered: &[u8]) -> bool {
        self.reveal().as_bytes().ct_eq(offered).into()
    }
}

/// Where a frame belongs. A frame opens only in the place it was sealed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The robot it comes from or goes to.
    pub robot: RobotId,
    /// The kind of topic, which also tells the direction.
    pub kind: TopicKind,
    /// The incarnation of the gateway's spool.
    pub epoch: Epoch,
    /// The version of the frame.
    pub version: u8,
}

impl Place {
    fn associated_data(self) -> [u8; 14] {
        let mut data = [0; 14];
        data[0] = self.version;
        data[1] = self.kind as u8;
        data[2..6].copy_from_slice(&self.robot.number().to_le_bytes());
        data[6..14].copy_from_slice(&self.epoch.0.to_le_bytes());
        data
    }
}

/// The keys of one robot, for both directions.
#[derive(Clone)]
pub struct Keys {
    up: XChaCha20Poly1305,
    down: XChaCha20Poly1305,
}

impl Keys {
    /// Derives the keys from the secret.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let cipher = |purpose| XChaCha20Poly1305::new(&secret.derive(purpose).into());
        Self {
            up: cipher(b"frames up"),
            down: cipher(b"frames down"),
        }
    }

    /// Encrypts a message for its place. A nonce must never be used twice.
    ///
    /// # Errors
    /// Never for messages below 256 GiB, the cipher's limit.
    pub fn seal(&self, place: Place, nonce: &Nonce, message: &[u8]) -> Result<Vec<u8>, BrokenSeal> {
        let aad = place.associated_data();
        let payload = Payload {
            msg: message,
            aad: &aad,
        };
        self.cipher(place.kind)
            .encrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| BrokenSeal)
    }

    /// Decrypts a message that was sealed for this place.
    ///
    /// # Errors
    /// [`BrokenSeal`] for everything else.
    pub fn open(&self, place: Place, nonce: &Nonce, sealed: &[u8]) -> Result<Vec<u8>, BrokenSeal> {
        let aad = place.associated_data();
        let payload = Payload {
            msg: sealed,
            aad: &aad,
        };
        self.cipher(place.kind)
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| BrokenSeal)
    }

    const fn cipher(&self, kind: TopicKind) -> &XChaCha20Poly1305 {
        match kind {
            TopicKind::Down => &self.down,
            TopicKind::Hello | TopicKind::Up | TopicKind::Live | TopicKind::Presence => &self.up,
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            robot: RobotId::new(7).unwrap(),
            kind: TopicKind::Up,
            epoch: Epoch(3),
            version: 1,
        }
    }

    #[test]
    fn a_frame_opens_only_in_the_place_it_was_sealed_for() {
        let keys = Keys::new(&Secret::new([5; 32]));
        let nonce = [9; NONCE_BYTES];
        let sealed = keys.seal(place(), &nonce, b"hello").unwrap();
        assert_eq!(keys.open(place(), &nonce, &sealed).unwrap(), b"hello");

        let elsewhere = [
            Place {
                robot: RobotId::new(8).unwrap(),
                ..place()
            },
            Place {
                kind: TopicKind::Live,
                ..place()
            },
            Place {
                kind: TopicKind::Down,
                ..place()
            },
            Place {
                epoch: Epoch(4),
                ..place()
            },
            Place {
                version: 2,
                ..place()
            },
        ];
        for wrong in elsewhere {
            assert_eq!(
                keys.open(wrong, &nonce, &sealed),
                Err(BrokenSeal),
                "{wrong:?}"
            );
        }
        let other = Keys::new(&Secret::new([6; 32]));
        assert_eq!(other.open(place(), &nonce, &sealed), Err(BrokenSeal));
    }

    #[test]
    fn one_changed_bit_breaks_the_seal() {
        let keys = Keys::new(&Secret::new([5; 32]));
        let nonce = [9; NONCE_BYTES];
        let sealed = keys.seal(place(), &nonce, b"hello").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.open(place(), &nonce, &changed), Err(BrokenSeal));
        }
    }

    #[test]
    fn a_secret_is_read_as_it_is_revealed_and_never_printed() {
        let secret = Secret::new([0xab; 32]);
        assert_eq!(secret.reveal().parse(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert!("AB".repeat(32).parse::<Secret>().is_err());
        assert!("é".repeat(32).parse::<Secret>().is_err());
    }

    #[test]
    fn the_mqtt_password_is_neither_the_secret_nor_guessed() {
        let secret = Secret::new([1; 32]);
        let password = secret.mqtt_password();
        assert_ne!(password.reveal(), secret.reveal());
        assert!(password.matches(password.reveal().as_bytes()));
        assert!(!password.matches(b""));
        assert!(!password.matches(secret.reveal().as_bytes()));
    }
}
