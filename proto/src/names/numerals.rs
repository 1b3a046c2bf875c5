//! Numbers that are spelled out in Hangul: `칠백일호` and `칠공일호` are `701호`, `일곱 반` is `7반`.
//!
//! A numeral is read as a number only where it counts something, follows `제`, or is a word of its
//! own that nothing but a number can be. There it sounds exactly as the digits do, so reading it
//! as a number finds nothing that was not said.

/// What numbers stand before in the names of rooms and buildings.
const COUNTED: &str = "호층반";
/// The same, where the number begins the word: `육관` has a number in it, and `체육관` has none.
const COUNTED_AT_START: &str = "번관동팀홀";
/// Digits of the Sino-Korean numerals, with zero last, as they are said in numbers of rooms.
const DIGITS: [(char, u32); 12] = [
    ('일', 1),
    ('이', 2),
    ('삼', 3),
    ('사', 4),
    ('오', 5),
    ('육', 6),
    ('륙', 6),
    ('칠', 7),
    ('팔', 8),
    ('구', 9),
    ('영', 0),
    ('공', 0),
];
/// The native numerals that are said before a counter too and are part of no other word.
const NATIVE: [(&str, u32); 6] = [
    ("하나", 1),
    ("다섯", 5),
    ("여섯", 6),
    ("일곱", 7),
    ("여덟", 8),
    ("아홉", 9),
];
/// From how many digits on a row of them is a number. Shorter ones are words, such as `이사`.
const ROW: usize = 3;

/// A stretch of a Hangul word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stretch {
    /// A number, in digits.
    Number(String),
    /// Syllables that are no number.
    Syllables(Vec<char>),
}

/// Whether a syllable is one that numbers are made of.
fn is_numeral(syllable: char) -> bool {
    digit(syllable).is_some() || unit(syllable).is_some()
}

/// Takes the numbers out of a word. `next` is the first character of what follows it, if anything
/// does.
pub(super) fn split(word: &[char], next: Option<char>) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut syllables = Vec::new();
    let mut at = 0;
    while let Some(&syllable) = word.get(at) {
        let rest = word.get(at..).unwrap_or_default();
        let native = native(rest);
        let length = native.map_or_else(
            || rest.iter().take_while(|s| is_numeral(**s)).count(),
            |(length, _)| length,
        );
        let number = match native {
            Some((_, number)) => Some(number.to_string()),
            None => rest.get(..length).and_then(value),
        };
        let after = rest.get(length).copied();
        let is_whole = length == word.len() && (next.is_none() || length >= ROW);
        let is_counting = after.or(next).is_some_and(|after| {
            COUNTED.contains(after) || (at == 0 && COUNTED_AT_START.contains(after))
        });
        let is_ordinal = at == 1 && word.first() == Some(&'제');
        let number = number.filter(|_| length > 0 && (is_counting || is_ordinal || is_whole));
        if let Some(number) = number {
            if !syllables.is_empty() {
                stretches.push(Stretch::Syllables(std::mem::take(&mut syllables)));
            }
            stretches.push(Stretch::Number(number));
            at += length;
        } else {
            // The whole run, or else its tail would be taken for a shorter number.
            let passed = length.max(1);
            syllables.push(syllable);
            syllables.extend(rest.iter().take(passed).skip(1));
            at += passed;
        }
    }
    if !syllables.is_empty() {
        stretches.push(Stretch::Syllables(syllables));
    }
    stretches
}

fn native(word: &[char]) -> Option<(usize, u32)> {
    let begins = |numeral: &str| {
        let mut syllables = word.iter();
        numeral.chars().all(|said| syllables.next() == Some(&said))
    };
    let found = NATIVE.iter().find(|(numeral, _)| begins(numeral));
    found.map(|(numeral, number)| (numeral.chars().count(), *number))
}

/// The number that Sino-Korean numerals say: by tens and hundreds, or digit after digit.
fn value(numerals: &[char]) -> Option<String> {
    if numerals.iter().all(|numeral| digit(*numeral).is_some()) {
        let digits: String = numerals
            .iter()
            .filter_map(|numeral| digit(*numeral))
            .filter_map(|digit| char::from_digit(digit, 10))
            .collect();
        let is_one = numerals.len() == 1 && digits != "0";
        return (is_one || numerals.len() >= ROW).then_some(digits);
    }
    let mut total = 0;
    let mut pending = None;
    let mut last_unit = u32::MAX;
    for numeral in numerals {
        match (digit(*numeral), unit(*numeral)) {
            (Some(digit @ 1..), _) if pending.is_none() => pending = Some(digit),
            (None, Some(unit)) if unit < last_unit => {
                total += pending.take().unwrap_or(1) * unit;
                last_unit = unit;
            }
            _ => return None,
        }
    }
    Some((total + pending.unwrap_or(0)).to_string())
}

fn digit(syllable: char) -> Option<u32> {
    let found = DIGITS.iter().find(|(digit, _)| *digit == syllable);
    found.map(|(_, value)| *value)
}

const fn unit(syllable: char) -> Option<u32> {
    match syllable {
        '십' => Some(10),
        '백' => Some(100),
        '천' => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in brackets.
    fn read(word: &str, next: Option<char>) -> String {
        let word: Vec<char> = word.chars().collect();
        let show = |stretch| match stretch {
            Stretch::Number(number) => format!("[{number}]"),
            Stretch::Syllables(syllables) => syllables.into_iter().collect(),
        };
        split(&word, next).into_iter().map(show).collect()
    }

    #[test]
    fn numerals_that_count_are_numbers() {
        for (word, expected) in [
            ("칠백일호", "[701]호"),
            ("칠공일호", "[701]호"),
            ("칠백십일호", "[711]호"),
            ("천이백삼십사호", "[1234]호"),
            ("백층", "[100]층"),
            ("싸피칠반", "싸피[7]반"),
            ("신관이층로비", "신관[2]층로비"),
            ("일곱반", "[7]반"),
            ("제이강의실", "제[2]강의실"),
        ] {
            assert_eq!(read(word, Some('가')), expected);
        }
        assert_eq!(read("칠", Some('반')), "[7]");
        assert_eq!(read("이", None), "[2]");
        assert_eq!(read("이", Some('강')), "이");
        assert_eq!(read("칠공일", Some('강')), "[701]");
    }

    #[test]
    fn syllables_that_only_look_like_numerals_are_none() {
        for word in [
            "이사실",
            "오이",
            "사피",
            "공동실",
            "십백호",
            "이공관",
            "공관",
            "회사이층",
        ] {
            assert_eq!(read(word, Some('가')), word);
        }
    }
}
