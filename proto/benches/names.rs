//! What it costs to find a name among those of a large building.

#![allow(clippy::expect_used, reason = "a benchmark that fails panics")]

use brrbrr_proto::names::{Asked, Likeness, Named, find};
use divan::Bencher;

/// As many as a large campus has.
const PLACES: usize = 2_000;

fn main() {
    divan::main();
}

/// How a name is asked for, and how it is found.
#[divan::bench(args = [
    ("싸피 1999반", Some(Likeness::Exact)),
    ("싸피1999반", Some(Likeness::Loose)),
    ("서피 1999 반", Some(Likeness::Sound)),
    ("없는 곳", None),
])]
fn search(bencher: Bencher<'_, '_>, (asked, expected): (&str, Option<Likeness>)) {
    let names: Vec<String> = (0..PLACES)
        .map(|number| format!("싸피 {number}반"))
        .collect();
    let offered: Vec<_> = names.iter().map(|name| named(name)).collect();
    let asked = Asked::new(asked);
    let found = find(&asked, &offered).map(|found| found.likeness);
    assert_eq!(found, expected, "what is measured is what was meant");
    bencher.bench(|| find(divan::black_box(&asked), divan::black_box(&offered)));
}

/// The longest names that are compared, all alike but for their end.
#[divan::bench]
fn hostile(bencher: Bencher<'_, '_>) {
    let names: Vec<String> = (0..PLACES)
        .map(|number| format!("{}{number:04}", "일".repeat(196)))
        .collect();
    let offered: Vec<_> = names.iter().map(|name| named(name)).collect();
    let asked = Asked::new(&format!("{}A", "일".repeat(199)));
    assert!(find(&asked, &offered).is_none(), "nothing is like it");
    bencher.bench(|| find(divan::black_box(&asked), divan::black_box(&offered)));
}

fn named(name: &str) -> Named<'_, ()> {
    Named {
        thing: (),
        name,
        aliases: &[],
        is_near: true,
    }
}
