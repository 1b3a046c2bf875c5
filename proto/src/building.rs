//! What a robot is told of its building, so that it can guide people while no relay answers: the
//! places, the events, and the robot itself, as the relay's catalog has them.
//!
//! ```text
//! content   = postcard of Building: places, events, robot
//! revision  = the first half of the content's SHA-256
//! parts     = the content cut into pieces of PART_BYTES; the robot itself is the last part
//! ```
//! So every relay that knows the same gives the same revision, and only the last part differs from
//! robot to robot.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::id::Revision;
use crate::live::Pose;
use crate::names::MAX_ALIASES;
use crate::time::WallClock;
use crate::wire;

/// The largest content. It is held in memory, on the relay once and on every board.
pub const MAX_BUILDING_BYTES: usize = 4 * 1024 * 1024;
/// The most places of a building.
pub const MAX_PLACES: usize = 20_000;
/// The most events of a building.
pub const MAX_EVENTS: usize = 20_000;
/// How much of the content is sent in one part: a second of a link of 64 kbit/s, which is what a
/// command may have to wait behind.
pub const PART_BYTES: usize = 8 * 1024;
/// The largest part that is taken.
pub const MAX_PART_BYTES: usize = 64 * 1024;
/// The most parts that are taken.
pub const MAX_PARTS: u32 = 4096;

/// A building, as one robot sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Building {
    /// The places, by number.
    #[serde(deserialize_with = "wire::places")]
    pub places: Vec<Place>,
    /// The events, by number.
    #[serde(deserialize_with = "wire::events")]
    pub events: Vec<Event>,
    /// The robot.
    pub robot: Itself,
}

/// A place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Its number in the catalog.
    pub id: i64,
    /// What people call it.
    pub name: String,
    /// What else they call it.
    #[serde(deserialize_with = "wire::aliases")]
    pub aliases: Vec<String>,
    /// Its floor.
    pub floor: i32,
    /// Metres along x on the floor's map.
    pub x: f64,
    /// Metres along y on the floor's map.
    pub y: f64,
    /// A sentence about it.
    pub description: Option<String>,
    /// Where there is a small picture.
    pub thumburl: Option<String>,
    /// Where there is a map.
    pub mapurl: Option<String>,
}

/// Something that happens in the building. It is at a place that is named by `place` and `floor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in the catalog.
    pub id: i64,
    /// What people call it.
    pub name: String,
    /// A sentence about it.
    pub description: Option<String>,
    /// When it begins.
    pub starts: WallClock,
    /// When it ends.
    pub ends: WallClock,
    /// The name of its place.
    pub place: String,
    /// The floor of its place.
    pub floor: i32,
    /// Where there is a small picture.
    pub thumburl: Option<String>,
}

/// What the catalog says of the robot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Itself {
    /// What people call it.
    pub name: String,
    /// The floor it serves.
    pub floor: i32,
    /// Where it goes when nobody needs it.
    pub home: Option<Pose>,
}

/// Why a building cannot be sent or read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BuildingError {
    /// Too many of something.
    #[error("the building has {count} {what}, a robot keeps at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Too long as a whole.
    #[error("the building takes {0} bytes, a robot keeps at most {MAX_BUILDING_BYTES}")]
    TooLong(usize),
    /// Not what its revision says.
    #[error("the building's content does not belong to revision {0}")]
    WrongRevision(Revision),
    /// A pose that no robot can drive to.
    #[error("place {0} has no usable coordinates")]
    BadPose(i64),
    /// More than one building.
    #[error("{0} bytes follow the building")]
    Trailing(usize),
    /// Not a building.
    #[error("not a building: {0}")]
    Malformed(#[from] postcard::Error),
}

impl Building {
    /// Reads a whole content.
    ///
    /// # Errors
    /// Where it is not exactly the building of this revision. Never panics, whatever it is.
    pub fn decode(revision: Revision, content: &[u8]) -> Result<Self, BuildingError> {
        if content.len() > MAX_BUILDING_BYTES {
            return Err(BuildingError::TooLong(content.len()));
        }
        let mut hash = ContentHash::default();
        hash.update(content);
        if hash.revision() != revision {
            return Err(BuildingError::WrongRevision(revision));
        }
        let (building, rest) = postcard::take_from_bytes::<Self>(content)?;
        if !rest.is_empty() {
            return Err(BuildingError::Trailing(rest.len()));
        }
        let is_bad = |place: &&Place| !(place.x.is_finite() && place.y.is_finite());
        match building.places.iter().find(is_bad) {
            Some(place) => Err(BuildingError::BadPose(place.id)),
            None => Ok(building),
        }
    }
}

/// What all robots of a building are told, ready to be sent.
#[derive(Debug, Clone)]
pub struct Shared {
    bytes: Vec<u8>,
    hash: ContentHash,
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Shared {
    /// Encodes places and events.
    ///
    /// # Errors
    /// Where a robot could not keep them.
    pub fn new(places: &[Place], events: &[Event]) -> Result<Self, BuildingError> {
        let aliases = places.iter().map(|place| place.aliases.len()).max();
        for (what, count, limit) in [
            ("places", places.len(), MAX_PLACES),
            ("events", events.len(), MAX_EVENTS),
            (
                "aliases of one place",
                aliases.unwrap_or_default(),
                MAX_ALIASES,
            ),
        ] {
            if count > limit {
                return Err(BuildingError::TooMany { what, count, limit });
            }
        }
        let bytes = postcard::to_stdvec(&(places, events))?;
        // The robot itself takes a part at the most.
        if bytes.len() > MAX_BUILDING_BYTES - PART_BYTES {
            return Err(BuildingError::TooLong(bytes.len()));
        }
        let mut hash = ContentHash::default();
        hash.update(&bytes);
        Ok(Self { bytes, hash })
    }

    /// What one robot is told.
    ///
    /// # Errors
    /// Where the robot's own part is too long.
    pub fn of(&self, robot: &Itself) -> Result<Offer<'_>, BuildingError> {
        let last = postcard::to_stdvec(robot)?;
        if last.len() > PART_BYTES {
            return Err(BuildingError::TooLong(self.bytes.len() + last.len()));
        }
        let mut hash = self.hash.clone();
        hash.update(&last);
        Ok(Offer {
            shared: &self.bytes,
            last,
            revision: hash.revision(),
        })
    }
}

/// The content for one robot, in parts.
#[derive(Debug, Clone)]
pub struct Offer<'a> {
    shared: &'a [u8],
    last: Vec<u8>,
    revision: Revision,
}

impl Offer<'_> {
    /// The revision of the whole.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// How many parts there are; at least one.
    #[must_use]
    pub fn parts(&self) -> u32 {
        let shared = self.shared.len().div_ceil(PART_BYTES);
        u32::try_from(shared).map_or(MAX_PARTS, |shared| shared + 1)
    }

    /// One part, from 0 on; `None` beyond the last.
    #[must_use]
    pub fn part(&self, part: u32) -> Option<Vec<u8>> {
        if part.checked_add(1) == Some(self.parts()) {
            return Some(self.last.clone());
        }
        let part = usize::try_from(part).ok()?;
        self.shared.chunks(PART_BYTES).nth(part).map(<[u8]>::to_vec)
    }
}

/// Makes the revision of a content that comes piece by piece.
#[derive(Clone, Default)]
pub(crate) struct ContentHash(Sha256);

impl ContentHash {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn revision(&self) -> Revision {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Revision(u128::from_be_bytes(half))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({})", self.revision())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(id: i64) -> Place {
        Place {
            id,
            name: format!("room {id}"),
            aliases: vec!["교실".to_owned()],
            floor: 7,
            x: 1.5,
            y: -2.0,
            description: None,
            thumburl: None,
            mapurl: Some("http://maps.example/7".to_owned()),
        }
    }

    fn robot(floor: i32) -> Itself {
        Itself {
            name: "guide-7".to_owned(),
            floor,
            home: None,
        }
    }

    fn whole(offer: &Offer<'_>) -> Vec<u8> {
        (0..offer.parts())
            .flat_map(|part| offer.part(part).unwrap())
            .collect()
    }

    #[test]
    fn the_parts_are_the_building_and_none_is_long() {
        let places: Vec<_> = (0..1000).map(place).collect();
        let shared = Shared::new(&places, &[]).unwrap();
        let offer = shared.of(&robot(7)).unwrap();
        assert!(offer.parts() > 3);
        for part in 0..offer.parts() {
            let length = offer.part(part).unwrap().len();
            assert!((1..=PART_BYTES).contains(&length), "{part}: {length}");
        }
        assert_eq!(offer.part(offer.parts()), None);
        assert_eq!(offer.part(u32::MAX), None);
        let building = Building::decode(offer.revision(), &whole(&offer)).unwrap();
        assert_eq!(
            (building.places, building.robot.floor, building.events),
            (places, 7, Vec::new())
        );
    }

    #[test]
    fn an_empty_building_has_the_robot_in_it() {
        let shared = Shared::new(&[], &[]).unwrap();
        let offer = shared.of(&robot(7)).unwrap();
        let building = Building::decode(offer.revision(), &whole(&offer)).unwrap();
        assert_eq!(building.robot, robot(7));
    }

    #[test]
    fn the_revision_follows_the_content_and_nothing_else() {
        let revision = |places: &[Place], floor| {
            let shared = Shared::new(places, &[]).unwrap();
            shared.of(&robot(floor)).unwrap().revision()
        };
        let first = revision(&[place(1)], 7);
        assert_eq!(first, revision(&[place(1)], 7));
        assert_ne!(first, revision(&[place(1)], 8));
        assert_ne!(first, revision(&[place(2)], 7));
        assert_ne!(first, revision(&[], 7));
    }

    #[test]
    fn what_a_robot_could_not_keep_is_refused() {
        let many = vec![place(1); MAX_PLACES + 1];
        let refused = Shared::new(&many, &[]).unwrap_err().to_string();
        assert!(refused.contains("20001 places"), "{refused}");
        let long = Place {
            description: Some("x".repeat(MAX_BUILDING_BYTES)),
            ..place(1)
        };
        let refused = Shared::new(&[long], &[]).unwrap_err();
        assert!(matches!(refused, BuildingError::TooLong(_)), "{refused}");
        let named = Place {
            aliases: vec![String::new(); MAX_ALIASES + 1],
            ..place(1)
        };
        let refused = Shared::new(&[named], &[]).unwrap_err().to_string();
        assert!(refused.contains("33 aliases"), "{refused}");
        let named = Itself {
            name: "x".repeat(PART_BYTES),
            ..robot(7)
        };
        assert!(Shared::new(&[], &[]).unwrap().of(&named).is_err());
    }

    #[test]
    fn what_is_no_building_is_refused() {
        let nowhere = Place {
            x: f64::NAN,
            ..place(9)
        };
        let shared = Shared::new(&[nowhere], &[]).unwrap();
        let offer = shared.of(&robot(7)).unwrap();
        let refused = Building::decode(offer.revision(), &whole(&offer));
        assert_eq!(refused, Err(BuildingError::BadPose(9)));
        let of = |content: &[u8]| {
            let mut hash = ContentHash::default();
            hash.update(content);
            Building::decode(hash.revision(), content)
        };
        assert!(matches!(of(&[]), Err(BuildingError::Malformed(_))));
        let mut more = whole(&offer);
        more.push(0);
        assert_eq!(of(&more), Err(BuildingError::Trailing(1)));
        let wrong = Building::decode(Revision(1), &more);
        assert_eq!(wrong, Err(BuildingError::WrongRevision(Revision(1))));
        let long = vec![0; MAX_BUILDING_BYTES + 1];
        assert_eq!(of(&long), Err(BuildingError::TooLong(long.len())));
    }
}
