//! Which of several things a name means.

use brrbrr_proto::names::Likeness::{Alias, Exact, Loose, Sound};
use brrbrr_proto::names::{
    Asked, BadAliases, Likeness, MAX_ALIASES, Named, find, stored_aliases, stored_name,
};

use crate::ask;

/// A place by its name, its aliases and whether it is on the robot's floor.
type Place = (&'static str, &'static [&'static str], bool);

const BUILDING: &[Place] = &[
    ("싸피 7반", &["SSAFY 7반", "칠반 교실"], true),
    ("싸피 8반", &[], true),
    ("로비", &["현관 로비", "Entrance"], true),
    ("로비", &[], false),
    ("카페 C+", &["씨플"], true),
    ("카페 c", &[], false),
    ("7층 화장실", &["화장실"], true),
    ("8층 화장실", &["화장실"], false),
    ("동쪽 계단", &["계단"], false),
    ("서쪽 계단", &["계단"], false),
    ("A-1", &["창고"], true),
    ("A 1", &["창고"], true),
    ("자재실", &[], true),
    ("차재실", &[], true),
    ("회의실", &[], false),
    ("훼의실", &[], true),
    ("본관 로피", &[], true),
];

/// What is found in the building: how, the name, how many, and whether near.
fn meant(asked: &str) -> Option<(Likeness, String, usize, bool)> {
    let aliases: Vec<Vec<String>> = BUILDING
        .iter()
        .map(|(_, aliases, _)| aliases.iter().map(|alias| stored_name(alias)).collect())
        .collect();
    let offered: Vec<_> = BUILDING
        .iter()
        .zip(&aliases)
        .map(|((name, _, is_near), aliases)| Named {
            thing: *name,
            name,
            aliases,
            is_near: *is_near,
        })
        .collect();
    let found = find(&Asked::new(asked), &offered)?;
    let count = found.things.len();
    Some((found.likeness, found.name.to_owned(), count, found.is_near))
}

#[test]
fn a_name_means_the_best_and_nearest_thing_or_nothing() {
    for (asked, expected) in [
        ("싸피 7반", Some((Exact, "싸피 7반", 1, true))),
        ("사피 8반", Some((Sound, "싸피 8반", 1, true))),
        ("싸피 9반", None),
        // Near comes before far, and things of one name are one name.
        ("로비", Some((Exact, "로비", 1, true))),
        ("로비!", Some((Loose, "로비", 1, true))),
        // An exact name far away comes before a sound-alike and a loose name near by.
        ("카페 c", Some((Exact, "카페 c", 1, false))),
        ("회의실", Some((Exact, "회의실", 1, false))),
        ("카페 C", Some((Loose, "카페 C+", 1, true))),
        // Aliases, exactly and loosely, come after names and before sounds.
        ("SSAFY 7반", Some((Alias, "싸피 7반", 1, true))),
        ("ssafy7반", Some((Alias, "싸피 7반", 1, true))),
        ("entrance", Some((Alias, "로비", 1, true))),
        ("화장실", Some((Alias, "7층 화장실", 1, true))),
        ("현관 노비", Some((Sound, "로비", 1, true))),
        ("현관 로삐", Some((Sound, "로비", 1, true))),
        // Far away, several may be offered; near by, none is guessed.
        ("계단", Some((Alias, "동쪽 계단", 2, false))),
        ("창고", None),
        ("a1", None),
        ("A-1", Some((Exact, "A-1", 1, true))),
        // Two names that sound about equally alike.
        ("짜재실", None),
        ("자제실", None),
        ("자재실", Some((Exact, "자재실", 1, true))),
        ("회이실", None),
    ] {
        let expected = expected.map(|(how, name, count, near)| (how, name.to_owned(), count, near));
        assert_eq!(meant(asked), expected, "{asked:?}");
    }
}

#[test]
fn a_rival_that_is_itself_too_far_away_still_makes_a_name_ambiguous() {
    let asked = "정수실";
    assert_eq!(
        ask(asked, &["청수실"]).map(|found| found.name),
        Some("청수실")
    );
    assert_eq!(ask(asked, &["청소실"]), None);
    assert_eq!(ask(asked, &["청수실", "청소실"]), None);
}

#[test]
fn two_names_that_are_the_same_but_for_a_plus_are_both_found_exactly() {
    let found = ask("A B", &["A+B", "A B"]).expect("found");
    assert_eq!((found.likeness, found.things.len()), (Exact, 2));
}

#[test]
fn names_that_nobody_says_are_found_exactly_or_not_at_all() {
    let long = "가".repeat(201);
    let spaced = format!("{long} ");
    assert_eq!(
        ask(&long, &[&long]).map(|found| found.likeness),
        Some(Exact)
    );
    assert_eq!(ask(&spaced, &[&long]), None);
    for alias in [long.as_str(), "+"] {
        let aliases = [alias.to_owned()];
        let place = Named {
            thing: (),
            name: "로비",
            aliases: &aliases,
            is_near: true,
        };
        let found = find(&Asked::new(alias), &[place]);
        assert_eq!(found.map(|found| found.likeness), Some(Alias));
    }
    let shorter = "가".repeat(199);
    let spaced = format!("{shorter} ");
    assert_eq!(
        ask(&spaced, &[&shorter]).map(|found| found.likeness),
        Some(Loose)
    );
}

#[test]
fn aliases_are_stored_once_each_and_refused_by_what_is_wrong_with_them() {
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let given = texts(&["\u{1100}\u{1161}", "b", "가", "b"]);
    assert_eq!(stored_aliases(given), Ok(texts(&["가", "b"])));
    assert_eq!(stored_aliases(texts(&["a", " "])), Err(BadAliases::Empty));
    assert_eq!(stored_aliases(texts(&["a\0"])), Err(BadAliases::Nul));
    let long = "a".repeat(256);
    assert_eq!(stored_aliases(texts(&[&long])), Err(BadAliases::TooLong));
    let many: Vec<String> = (0..=MAX_ALIASES).map(|number| number.to_string()).collect();
    assert_eq!(stored_aliases(many.clone()), Err(BadAliases::TooMany));
    assert!(stored_aliases(many.into_iter().skip(1).collect()).is_ok());
}
