//! What a spoken or typed name means among the names of a building.
//!
//! A name is looked for in five steps, and the first step in which anything fits decides:
//!
//! 1. exactly: the same text in Unicode NFC. A space asks for a stored `+` too, since whoever asks
//!    over HTTP cannot say `+`;
//! 2. loosely: the same but for spacing, `+`, letter case, full-width forms and punctuation;
//! 3. and 4. the same two for the aliases of a thing;
//! 5. by its sound, see [`sound`].
//!
//! Within a step, what is near (on the robot's own floor) comes before what is not; so an exact
//! match anywhere comes before a sound-alike here. Things of one name are one answer, however many
//! floors they are on. Two different names in the same step are not guessed between: near by, or
//! about equally alike in sound, they are no answer at all. Far away they are all returned, to be
//! offered and not acted on.
//!
//! In no step do numbers differ, nor identifiers such as the `A` of `A동`. A name of more than
//! [`CONSIDERED`] characters is found exactly or not at all, so the work for each name is bounded
//! and no text can make it large.

mod jamo;
mod numerals;
mod plain;
mod sound;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use unicode_normalization::UnicodeNormalization;

use self::plain::Plain;
use self::sound::Sound;

/// The longest name that is compared other than exactly, in characters. Nobody says a longer one.
pub const CONSIDERED: usize = 200;
/// The longest name of anything, in characters. An order that carries it must stay small.
pub const MAX_NAME_CHARS: usize = 255;
/// How many aliases a place may have, in the catalog and on the wire: every search looks at each of
/// them.
pub const MAX_ALIASES: usize = 32;
/// Names whose distances differ by no more than this are about equally alike.
const ABOUT_EQUAL: u32 = 1;

/// A name as it is stored (Unicode NFC), so that the same Hangul typed on different devices is the
/// same name. Whoever compares a name with a stored one must do this to it too.
#[must_use]
pub fn stored_name(name: &str) -> String {
    name.nfc().collect()
}

/// Why a list of aliases is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{}", self.reason())]
pub enum BadAliases {
    /// More than [`MAX_ALIASES`].
    TooMany,
    /// One of them has nothing to say.
    Empty,
    /// One of them has more than [`MAX_NAME_CHARS`] characters.
    TooLong,
    /// One of them has a character that no store that may come later can hold.
    Nul,
}

impl BadAliases {
    /// What to tell whoever gave them.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooMany => "must not hold more than 32 names",
            Self::Empty => "must not hold an empty name",
            Self::TooLong => "holds a name of more than 255 characters",
            Self::Nul => "must not hold a NUL",
        }
    }
}

/// Aliases as they are stored: each once, in NFC, in the order in which they were given.
///
/// # Errors
/// [`BadAliases`] says what is wrong with them.
pub fn stored_aliases(given: Vec<String>) -> Result<Vec<String>, BadAliases> {
    if given.len() > MAX_ALIASES {
        return Err(BadAliases::TooMany);
    }
    let mut aliases: Vec<String> = Vec::new();
    for alias in given {
        if alias.trim().is_empty() {
            return Err(BadAliases::Empty);
        }
        if alias.chars().nth(MAX_NAME_CHARS).is_some() {
            return Err(BadAliases::TooLong);
        }
        if alias.contains('\0') {
            return Err(BadAliases::Nul);
        }
        let alias = stored_name(&alias);
        if !aliases.contains(&alias) {
            aliases.push(alias);
        }
    }
    Ok(aliases)
}

/// A name as somebody asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked(String);

impl Asked {
    /// Takes a name in any Unicode form. Where it comes from a query, every `+` in it has become a
    /// space.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(stored_name(name))
    }

    /// The name, in NFC.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is exactly the stored name.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        name == self.0 || (name.contains('+') && name.replace('+', " ") == self.0)
    }
}

/// Something that has a name.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a, T> {
    /// What it is to the caller.
    pub thing: T,
    /// What people call it, as it is stored.
    pub name: &'a str,
    /// What else they call it.
    pub aliases: &'a [String],
    /// Whether it is near: on the robot's own floor.
    pub is_near: bool,
}

/// How a name was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Likeness {
    /// It is the name.
    Exact,
    /// But for spacing, `+`, case, width or punctuation it is the name.
    Loose,
    /// It is an alias, at least loosely.
    Alias,
    /// It sounds like the name or an alias.
    Sound,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Match<'a, T> {
    /// How.
    pub likeness: Likeness,
    /// The name of the first of the things.
    pub name: &'a str,
    /// Whether the things are near. Then they have one name, unless they were asked for exactly and
    /// differ in `+` and spaces.
    pub is_near: bool,
    /// At least one, in the order in which they were offered.
    pub things: Vec<T>,
}

impl<T> Match<'_, T> {
    /// What a caller must be told where the name was not exactly what was asked for.
    #[must_use]
    pub fn inexact(&self, asked: &Asked) -> Option<Inexact> {
        (self.likeness != Likeness::Exact).then(|| Inexact {
            kind: self.likeness,
            asked: asked.as_str().to_owned(),
            name: self.name.to_owned(),
        })
    }
}

/// Says that something else was found than what was asked for, in so many words: the field `match`
/// of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inexact {
    /// How it was found; never exactly.
    pub kind: Likeness,
    /// What was asked for.
    pub asked: String,
    /// What was found.
    pub name: String,
}

/// Finds what a name means. See the module's documentation. It reads the names anew and keeps none,
/// so it takes little memory however many there are.
#[must_use]
pub fn find<'a, T: Copy>(asked: &Asked, offered: &[Named<'a, T>]) -> Option<Match<'a, T>> {
    let exactly = |named: &&Named<'a, T>| asked.is(named.name);
    let found: Vec<_> = offered.iter().filter(exactly).collect();
    if !found.is_empty() {
        return answer(Likeness::Exact, found);
    }
    let plain = Plain::of(asked.as_str());
    let is_loosely = |name: &str| plain.is_some() && Plain::of(name) == plain;
    let found = those(offered, |named| is_loosely(named.name));
    if !found.is_empty() {
        return answer(Likeness::Loose, found);
    }
    let found = those(offered, |named| {
        named.aliases.iter().any(|name| asked.is(name))
    });
    if !found.is_empty() {
        return answer(Likeness::Alias, found);
    }
    let found = those(offered, |named| {
        named.aliases.iter().any(|name| is_loosely(name))
    });
    if !found.is_empty() {
        return answer(Likeness::Alias, found);
    }
    let nearest = by_sound(&Sound::of(&plain?), offered)?;
    let found = those(offered, |named| named.name == nearest);
    answer(Likeness::Sound, found)
}

fn those<'a, 'o, T>(
    offered: &'o [Named<'a, T>],
    fits: impl Fn(&Named<'a, T>) -> bool,
) -> Vec<&'o Named<'a, T>> {
    offered.iter().filter(|named| fits(named)).collect()
}

/// What is near of what was found, or else all of it.
fn answer<'a, T: Copy>(likeness: Likeness, found: Vec<&Named<'a, T>>) -> Option<Match<'a, T>> {
    let (near, far): (Vec<&Named<'a, T>>, Vec<_>) =
        found.into_iter().partition(|named| named.is_near);
    let is_near = !near.is_empty();
    let found = if is_near { near } else { far };
    let name = found.first()?.name;
    let is_one_name = found.iter().all(|named| named.name == name);
    if is_near && !is_one_name && likeness != Likeness::Exact {
        return None;
    }
    Some(Match {
        likeness,
        name,
        is_near,
        things: found.into_iter().map(|named| named.thing).collect(),
    })
}

/// The one name that sounds most like what was asked for. A name that is about as near keeps it from
/// being the answer, even where that name alone would have been too far away.
fn by_sound<'a, T>(asked: &Sound, offered: &[Named<'a, T>]) -> Option<&'a str> {
    // By name: how far away, and whether that is too far.
    let mut near: BTreeMap<&'a str, (u32, bool)> = BTreeMap::new();
    for named in offered {
        let names = std::iter::once(named.name).chain(named.aliases.iter().map(String::as_str));
        for plain in names.filter_map(Plain::of) {
            let sound = Sound::of(&plain);
            let Some(distance) = asked.distance(&sound) else {
                continue;
            };
            let this = (distance, distance > asked.limit(&sound));
            let nearest = near.entry(named.name).or_insert(this);
            *nearest = this.min(*nearest);
        }
    }
    let (&name, &(distance, is_too_far)) = near.iter().min_by_key(|(_, nearest)| **nearest)?;
    let is_rival = |(other, _): &&(u32, bool)| *other <= distance + ABOUT_EQUAL;
    let is_alone = near.values().filter(is_rival).count() == 1;
    (is_alone && !is_too_far).then_some(name)
}
