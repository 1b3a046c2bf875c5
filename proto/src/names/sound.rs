//! Names by their sound, for what speech recognition has misheard.
//!
//! A name is a row of sounds: Hangul syllables, Latin letters, numbers. Two names are compared sound
//! by sound. Numbers, and letters and syllables that identify (the `B` of `B동`, the `가` of `가동`,
//! the `본` of `본관`), must be the same; syllables may differ by confusions that [`super::jamo`]
//! knows; letters of longer Latin words by confusions and by one that is wrong or missing. How
//! many confusions are forgiven grows with the length.
//!
//! At most one sound may be missing, and then nothing else may differ, so a comparison is linear.

use unicode_normalization::char::decompose_canonical;

use super::jamo::Syllable;
use super::numerals::{self, Stretch};
use super::plain::{MINUS, Plain, is_hangul};

/// The largest distance that is ever forgiven.
const FURTHEST: u32 = 3;
/// The distance of an inner letter of a long Latin word that is wrong or missing.
const ONE_LETTER: u32 = FURTHEST;
/// How long a Latin word is to have letters that may differ; a shorter one is an identifier.
const WORD: usize = 4;
/// How long it is to have vowels that may be others.
const MEDIUM_WORD: usize = 6;
/// How long it is to have a letter wrong or missing.
const LONG_WORD: usize = 7;
/// Syllables that name the kind of a thing: with one more syllable before them, as in `본관`, they
/// leave nothing that may differ.
const KINDS: &str = "동관반호층문홀팀조방실구";
/// Syllables that are counted with, as in `회의실 가`.
const COUNTING: &str = "가나다라마바사아자차카타파하";

/// A name by its sound.
#[derive(Debug)]
pub(super) struct Sound {
    sounds: Vec<Unit>,
    weight: u32,
}

#[derive(Debug)]
enum Unit {
    Syllable(Syllable),
    Letter(Letter),
    /// Without leading zeros.
    Number(String),
    Other(char),
}

#[derive(Debug)]
struct Letter {
    letter: char,
    /// How many letters the word has.
    of: usize,
    is_first: bool,
    is_last: bool,
}

/// A stretch of a name with characters of one kind.
#[derive(Debug)]
enum Word {
    Hangul(Vec<char>),
    Latin(Vec<char>),
    Number(String),
    Other(char),
}

impl Sound {
    pub(super) fn of(plain: &Plain) -> Self {
        let words = words(plain);
        let mut sounds = Vec::new();
        for (index, word) in words.iter().enumerate() {
            match word {
                Word::Hangul(word) => {
                    let next = words.get(index + 1).map(Word::first);
                    push_hangul(&mut sounds, word, next);
                }
                Word::Latin(word) => push_latin(&mut sounds, word),
                Word::Number(digits) => sounds.push(number(digits)),
                Word::Other(character) => sounds.push(Unit::Other(*character)),
            }
        }
        for index in 0..sounds.len() {
            let (_, from) = sounds.split_at_mut(index);
            let Some((Unit::Syllable(this), rest)) = from.split_first_mut() else {
                continue;
            };
            let next = match rest.first_mut() {
                Some(Unit::Syllable(next)) => Some(next),
                _ => None,
            };
            this.speak_before(next);
        }
        let weight = sounds.iter().map(Unit::weight).sum();
        Self { sounds, weight }
    }

    /// How far apart two names are; `None` where further than [`FURTHEST`].
    pub(super) fn distance(&self, other: &Self) -> Option<u32> {
        let (shorter, longer) = if self.sounds.len() <= other.sounds.len() {
            (&self.sounds, &other.sounds)
        } else {
            (&other.sounds, &self.sounds)
        };
        match longer.len() - shorter.len() {
            0 => {
                let mut sum = 0;
                for (one, other) in shorter.iter().zip(longer) {
                    sum += one.distance(other)?;
                    if sum > FURTHEST {
                        return None;
                    }
                }
                Some(sum)
            }
            1 => {
                let same = |(one, other): &(&Unit, &Unit)| one.distance(other) == Some(0);
                let begin = shorter.iter().zip(longer).take_while(same).count();
                let missing = longer.get(begin)?.missing()?;
                let rest = shorter.iter().skip(begin);
                let mut rest = rest.zip(longer.iter().skip(begin + 1));
                rest.all(|pair| same(&pair)).then_some(missing)
            }
            _ => None,
        }
    }

    /// How far apart the two may be to be taken for each other: the shorter a name, the more other
    /// names are near it.
    pub(super) fn limit(&self, other: &Self) -> u32 {
        match self.weight.min(other.weight) {
            0..=3 => 0,
            4..=8 => 1,
            9..=12 => 2,
            _ => FURTHEST,
        }
    }
}

impl Word {
    /// The first character of a Hangul word; of others, something that is none.
    fn first(&self) -> char {
        match self {
            Self::Hangul(word) => word.first().copied().unwrap_or(MINUS),
            Self::Latin(_) | Self::Number(_) | Self::Other(_) => MINUS,
        }
    }
}

fn words(plain: &Plain) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut sign = None;
    for (character, begins) in plain.characters() {
        let letter = latin(character);
        match words.last_mut() {
            Some(Word::Hangul(word)) if !begins && is_hangul(character) => word.push(character),
            Some(Word::Number(digits))
                if sign.is_none() && character.is_ascii_digit() && !begins =>
            {
                digits.push(character);
            }
            Some(Word::Latin(word)) if !begins && letter.is_some() => word.extend(letter),
            _ if character == MINUS => sign = Some(MINUS),
            _ if character.is_ascii_digit() => {
                words.push(Word::Number(
                    sign.take().into_iter().chain([character]).collect(),
                ));
            }
            _ if character.is_whitespace() => {}
            _ if is_hangul(character) => words.push(Word::Hangul(vec![character])),
            _ => words.push(letter.map_or(Word::Other(character), |l| Word::Latin(vec![l]))),
        }
    }
    words
}

/// A Latin letter without its accents.
fn latin(character: char) -> Option<char> {
    if character.is_ascii() || is_hangul(character) {
        return Some(character).filter(char::is_ascii_lowercase);
    }
    let mut base: Option<char> = None;
    decompose_canonical(character, |part| {
        base = base.or(Some(part));
    });
    base.filter(char::is_ascii_lowercase)
}

fn number(digits: &str) -> Unit {
    let (sign, digits) = digits
        .strip_prefix(MINUS)
        .map_or(("", digits), |digits| ("-", digits));
    Unit::Number(format!("{sign}{}", digits.trim_start_matches('0')))
}

fn push_hangul(sounds: &mut Vec<Unit>, word: &[char], next: Option<char>) {
    for stretch in numerals::split(word, next) {
        match stretch {
            Stretch::Number(digits) => sounds.push(number(&digits)),
            Stretch::Syllables(syllables) => {
                let count = syllables.len();
                let is_kind = syllables.last().is_some_and(|last| KINDS.contains(*last));
                let is_identifier = count == 1 || (count == 2 && is_kind);
                let last_counts = count > 2;
                let syllables = syllables.into_iter().enumerate();
                sounds.extend(syllables.filter_map(|(index, spelled)| {
                    let is_last = index + 1 == count;
                    let counts = last_counts && is_last && COUNTING.contains(spelled);
                    Syllable::new(spelled, is_identifier || counts).map(Unit::Syllable)
                }));
            }
        }
    }
}

fn push_latin(sounds: &mut Vec<Unit>, word: &[char]) {
    let of = word.len();
    let mut letters: Vec<char> = word.to_vec();
    if of >= WORD {
        // That a consonant is double is not heard.
        letters.dedup_by(|next, before| next == before && !is_vowel(*next));
    }
    let count = letters.len();
    let letters = letters.into_iter().enumerate();
    sounds.extend(letters.map(|(index, letter)| {
        Unit::Letter(Letter {
            letter,
            of,
            is_first: index == 0,
            is_last: index + 1 == count,
        })
    }));
}

const fn is_vowel(letter: char) -> bool {
    matches!(letter, 'a' | 'e' | 'i' | 'o' | 'u')
}

impl Unit {
    /// How much of a name it is, in Hangul jamo.
    fn weight(&self) -> u32 {
        match self {
            Self::Syllable(syllable) => syllable.weight(),
            Self::Letter(_) | Self::Other(_) => 2,
            Self::Number(_) => 4,
        }
    }

    fn distance(&self, other: &Self) -> Option<u32> {
        let same = match (self, other) {
            (Self::Syllable(one), Self::Syllable(other)) => return one.distance(other),
            (Self::Letter(one), Self::Letter(other)) => return one.distance(other),
            (Self::Number(one), Self::Number(other)) => one == other,
            (Self::Other(one), Self::Other(other)) => one == other,
            (Self::Syllable(_) | Self::Letter(_) | Self::Number(_) | Self::Other(_), _) => false,
        };
        same.then_some(0)
    }

    /// The distance where it is missing.
    fn missing(&self) -> Option<u32> {
        match self {
            Self::Letter(letter) => letter.is_inner_of_long().then_some(ONE_LETTER),
            Self::Syllable(_) | Self::Number(_) | Self::Other(_) => None,
        }
    }
}

impl Letter {
    fn distance(&self, other: &Self) -> Option<u32> {
        if self.letter == other.letter {
            return Some(0);
        }
        let shorter = self.of.min(other.of);
        if shorter < WORD {
            return None;
        }
        let is_inner = !(self.is_last || other.is_last);
        let are = |pair: &str| pair.contains(self.letter) && pair.contains(other.letter);
        // The last letter may be an identifier that has lost its space, as in `sectorc`.
        if are("iy") || (is_inner && ["ck", "cs", "sz", "kq", "gj"].into_iter().any(are)) {
            return Some(1);
        }
        let are_vowels = is_vowel(self.letter) && is_vowel(other.letter);
        if is_inner && are_vowels && shorter >= MEDIUM_WORD {
            return Some(2);
        }
        (self.is_inner_of_long() && other.is_inner_of_long()).then_some(ONE_LETTER)
    }

    const fn is_inner_of_long(&self) -> bool {
        self.of >= LONG_WORD && !self.is_first && !self.is_last
    }
}
