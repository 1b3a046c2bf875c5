//! What holds for any text.

use brrbrr_proto::names::{Asked, Likeness, Named, find, stored_name};
use proptest::prelude::*;

use crate::{ask, likeness};

/// Text that comes near to being a name: syllables that are confused, numerals, codes, parts of
/// syllables, marks, and now and then anything.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[싸사서써피비칠팔일이삼층호반동관실회의가카나다]",
        3 => "[0-9]{1,4}",
        3 => "[a-zA-Z]{1,9}",
        2 => "[ +._·-]",
        1 => "[\u{1100}-\u{1112}\u{1161}-\u{1175}\u{11a8}-\u{11c2}ㄱ-ㅣ]",
        1 => "[\u{300}-\u{310}Ａ-Ｚ０-９　]",
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// The numbers of a text that has them in digits only.
fn numbers(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.trim_start_matches('0'))
        .collect()
}

/// A name with numbers in digits and no word that could be read as one.
fn numbered() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("싸피"),
        Just("서피"),
        Just("반"),
        Just("호"),
        Just("B"),
        Just("회의실")
    ];
    let gap = prop_oneof![Just(""), Just(" "), Just("-"), Just("+")];
    let piece = prop_oneof![word.prop_map(str::to_owned), "[0-3]{1,3}"];
    prop::collection::vec((piece, gap), 1..6).prop_map(|pieces| {
        let pieces = pieces.into_iter().map(|(piece, gap)| piece + gap);
        pieces.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_name_is_always_found_by_itself_and_first(name in text(), others in prop::collection::vec(text(), 0..4)) {
        let name = stored_name(&name);
        let others: Vec<String> = others.iter().map(|other| stored_name(other)).collect();
        let names: Vec<&str> = others.iter().map(String::as_str).chain([name.as_str()]).collect();
        let found = ask(&name, &names).expect("found");
        prop_assert_eq!(found.likeness, Likeness::Exact);
        let is_asked = found.name == name || found.name.replace('+', " ") == name;
        prop_assert!(is_asked, "{:?}", found);
    }

    #[test]
    fn no_text_is_too_strange_and_likeness_is_mutual(one in text(), other in text()) {
        let (one, other) = (stored_name(&one), stored_name(&other));
        let (there, back) = (likeness(&one, &other), likeness(&other, &one));
        // A space asks for a stored `+`, and a `+` for no stored space.
        if !one.contains('+') && !other.contains('+') {
            prop_assert_eq!(there, back);
        }
    }

    #[test]
    fn names_with_other_numbers_are_never_found(one in numbered(), other in numbered()) {
        if likeness(&one, &other).is_some() {
            prop_assert_eq!(numbers(&one), numbers(&other));
        }
    }

    #[test]
    fn a_name_is_found_however_it_is_spaced(name in "[가-힣a-z]{1,8}", at in any::<prop::sample::Index>()) {
        let mut characters: Vec<char> = name.chars().collect();
        characters.insert(at.index(characters.len()), ' ');
        let spaced: String = characters.into_iter().collect();
        prop_assert_eq!(likeness(&spaced, &name), Some(Likeness::Loose));
    }

    #[test]
    fn what_is_found_near_has_one_name_and_what_sounds_alike_has_one_everywhere(
        asked in text(),
        offered in prop::collection::vec((text(), prop::collection::vec(text(), 0..3), any::<bool>()), 0..8),
    ) {
        let offered: Vec<Named<'_, usize>> = offered
            .iter()
            .enumerate()
            .map(|(thing, (name, aliases, is_near))| Named { thing, name, aliases, is_near: *is_near })
            .collect();
        let Some(found) = find(&Asked::new(&asked), &offered) else { return Ok(()) };
        prop_assert!(!found.things.is_empty());
        for thing in &found.things {
            let named = &offered[*thing];
            prop_assert_eq!(named.is_near, found.is_near);
            let may_differ = match found.likeness {
                Likeness::Exact => true,
                Likeness::Loose | Likeness::Alias => !found.is_near,
                Likeness::Sound => false,
            };
            prop_assert!(may_differ || named.name == found.name);
        }
    }
}

#[test]
fn a_hostile_text_costs_no_more_than_a_long_one() {
    let marks = format!("a{}", "\u{301}".repeat(4_000));
    let expanding = "\u{fdfa}".repeat(200);
    let digits = "9".repeat(200);
    let numerals = "일".repeat(200);
    let units = "천백십".repeat(66);
    for text in [&marks, &expanding, &digits, &numerals, &units] {
        assert_eq!(likeness(text, "로비"), None);
        assert_eq!(likeness(text, &stored_name(text)), Some(Likeness::Exact));
        let spaced = format!("{text} ");
        assert_ne!(likeness(&spaced, &stored_name(text)), Some(Likeness::Exact));
    }
}
