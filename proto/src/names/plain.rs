//! A name without what people leave out when they speak: spacing, `+`, letter case, full-width forms
//! and punctuation.

use unicode_normalization::UnicodeNormalization;

use super::CONSIDERED;

/// A name as plain text, and where its words begin. Two names are loosely the same where the texts
/// are equal.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    /// What is left of the name, in NFC and lower case.
    text: Vec<char>,
    /// Whether something was left out before the character with the same index, or a small letter
    /// comes before a capital there.
    begins_word: Vec<bool>,
}

impl PartialEq for Plain {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// How long names usually are.
const USUAL: usize = 16;
/// Keeps two numbers apart that would otherwise become one.
const BETWEEN_NUMBERS: char = ' ';
/// The sign of a number.
pub(super) const MINUS: char = '-';

impl Plain {
    /// `None` where the name is too long, or where nothing is left of it.
    pub(super) fn of(name: &str) -> Option<Self> {
        if name.chars().nth(CONSIDERED).is_some() {
            return None;
        }
        let is_composed = |c: char| c.is_ascii() || is_hangul(c);
        if name.chars().all(is_composed) {
            // Most names are, and need no tables.
            return Self::read(name.chars());
        }
        Self::read(name.chars().map(narrow).nfc())
    }

    fn read(characters: impl Iterator<Item = char>) -> Option<Self> {
        let mut plain = Self {
            text: Vec::with_capacity(USUAL),
            begins_word: Vec::with_capacity(USUAL),
        };
        let mut gap = Gap::Start;
        let mut was_small = false;
        let mut characters = characters.peekable();
        while let Some(character) = characters.next() {
            let is_before_digit = characters.peek().is_some_and(char::is_ascii_digit);
            // After a letter it is a hyphen: `B-1` is `B1`, and `-1` is no `1`.
            let is_minus = is_dash(character) && is_before_digit && gap != Gap::None;
            if is_minus {
                plain.push(MINUS, true);
                gap = Gap::None;
            } else if is_left_out(character) {
                gap = gap.max(Gap::Some);
            } else {
                let is_apart = gap == Gap::Some && plain.ends_in_digit();
                if is_apart && character.is_ascii_digit() {
                    plain.push(BETWEEN_NUMBERS, true);
                }
                let is_capital_after_small = was_small && character.is_uppercase();
                plain.push_lower(character, gap != Gap::None || is_capital_after_small);
                gap = Gap::None;
            }
            was_small = character.is_lowercase();
        }
        (!plain.text.is_empty()).then_some(plain)
    }

    /// The characters, each with whether a word begins with it.
    pub(super) fn characters(&self) -> impl Iterator<Item = (char, bool)> {
        let begins_word = self.begins_word.iter().copied();
        self.text.iter().copied().zip(begins_word)
    }

    fn ends_in_digit(&self) -> bool {
        self.text.last().is_some_and(char::is_ascii_digit)
    }

    fn push(&mut self, character: char, begins_word: bool) {
        self.text.push(character);
        self.begins_word.push(begins_word);
    }

    fn push_lower(&mut self, character: char, begins_word: bool) {
        if is_hangul(character) {
            return self.push(character, begins_word);
        }
        let mut lower = character.to_lowercase();
        if let Some(first) = lower.next() {
            self.push(first, begins_word);
        }
        for more in lower {
            self.push(more, false);
        }
    }
}

/// What lies between the last character that was kept and the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    None,
    Some,
    Start,
}

/// A full-width form as the usual character.
fn narrow(character: char) -> char {
    const FULL_WIDTH: std::ops::RangeInclusive<char> = '\u{ff01}'..='\u{ff5e}';
    if !FULL_WIDTH.contains(&character) {
        return character;
    }
    let usual = u32::from(character) - u32::from('\u{ff01}') + u32::from('!');
    char::from_u32(usual).unwrap_or(character)
}

/// Whether a character is a whole Hangul syllable.
pub(super) fn is_hangul(character: char) -> bool {
    ('가'..='힣').contains(&character)
}

fn is_dash(character: char) -> bool {
    matches!(
        character,
        '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe63}'
    )
}

fn is_left_out(character: char) -> bool {
    character.is_whitespace() || is_dash(character) || is_dot(character) || {
        matches!(
            character,
            '+' | '_'
                | ','
                | ':'
                | ';'
                | '!'
                | '?'
                | '~'
                | '/'
                | '\''
                | '"'
                | '('
                | ')'
                | '['
                | ']'
                | '\u{2018}'..='\u{201f}'
                | '\u{3001}'
                | '\u{3002}'
                // What is not seen: soft hyphens, joiners, marks of direction and byte order,
                // variants of a picture.
                | '\u{ad}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
        )
    }
}

/// Full stops, and the dots that are typed between two words.
fn is_dot(character: char) -> bool {
    matches!(
        character,
        '.' | '\u{b7}'
            | '\u{318d}'
            | '\u{119e}'
            | '\u{2022}'
            | '\u{2024}'
            | '\u{2027}'
            | '\u{22c5}'
            | '\u{30fb}'
            | '\u{ff65}'
    )
}
