//! How the fields are written whose length the other side chooses: byte strings in one piece, and
//! lists that end at a limit before they take memory.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::Serializer;

use crate::building::{Event, MAX_EVENTS, MAX_PART_BYTES, MAX_PLACES, Place};
use crate::down::{Command, MAX_COMMANDS};
use crate::names::MAX_ALIASES;
use crate::up::{Item, MAX_BATCH_ITEMS, MAX_RECORD_BYTES};

pub(crate) fn items<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Item>, D::Error> {
    from.deserialize_seq(AtMost::<Item, MAX_BATCH_ITEMS>(PhantomData))
}

pub(crate) fn commands<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Command>, D::Error> {
    from.deserialize_seq(AtMost::<Command, MAX_COMMANDS>(PhantomData))
}

pub(crate) fn places<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Place>, D::Error> {
    from.deserialize_seq(AtMost::<Place, MAX_PLACES>(PhantomData))
}

pub(crate) fn events<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Event>, D::Error> {
    from.deserialize_seq(AtMost::<Event, MAX_EVENTS>(PhantomData))
}

pub(crate) fn aliases<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    from.deserialize_seq(AtMost::<String, MAX_ALIASES>(PhantomData))
}

struct AtMost<T, const LIMIT: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const LIMIT: usize> Visitor<'de> for AtMost<T, LIMIT> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {LIMIT} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = from.next_element()? {
            if elements.len() == LIMIT {
                return Err(A::Error::invalid_length(LIMIT + 1, &self));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

/// The bytes of a record: the same on the wire as a list of numbers, and copied at once.
pub(crate) mod record {
    use super::{Bytes, Deserializer, MAX_RECORD_BYTES, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_bytes(Bytes::<MAX_RECORD_BYTES>)
    }
}

/// The bytes of a part of a building, likewise.
pub(crate) mod part {
    use super::{Bytes, Deserializer, MAX_PART_BYTES, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_bytes(Bytes::<MAX_PART_BYTES>)
    }
}

struct Bytes<const LIMIT: usize>;

impl<const LIMIT: usize> Visitor<'_> for Bytes<LIMIT> {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {LIMIT} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        if bytes.len() > LIMIT {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(bytes.to_vec())
    }
}
