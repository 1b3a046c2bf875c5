//! What people ask for and what they are taken to: a table of cases, and what holds for any text.

#![allow(clippy::expect_used, clippy::panic, reason = "a failing check panics")]

mod building;
mod pairs;
mod properties;

use brrbrr_proto::names::{Asked, Likeness, Match, Named, find};

/// A name without aliases, near by.
fn named(name: &str) -> Named<'_, ()> {
    Named {
        thing: (),
        name,
        aliases: &[],
        is_near: true,
    }
}

/// How one name is found in a building of these names only.
fn ask<'a>(asked: &str, names: &[&'a str]) -> Option<Match<'a, ()>> {
    let offered: Vec<_> = names.iter().map(|name| named(name)).collect();
    find(&Asked::new(asked), &offered)
}

/// How one name is found where nothing else is there.
fn likeness(asked: &str, name: &str) -> Option<Likeness> {
    ask(asked, &[name]).map(|found| found.likeness)
}
