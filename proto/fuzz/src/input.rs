//! Takes what a scenario needs from the bytes of a fuzzer.

use serde::de::DeserializeOwned;

/// Bytes that are read from the front and are zero after their end.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Small numbers and huge ones alike: a byte, moved up by another.
    pub fn number(&mut self) -> u64 {
        let value = u64::from(self.byte());
        let shift = u32::from(self.byte()) % 64;
        value.wrapping_shl(shift)
    }

    /// A message in its wire encoding.
    pub fn message<M: DeserializeOwned>(&mut self) -> Option<M> {
        let (message, rest) = postcard::take_from_bytes(self.0).ok()?;
        self.0 = rest;
        Some(message)
    }
}
