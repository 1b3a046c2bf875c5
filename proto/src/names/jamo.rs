//! How Hangul syllables sound, and which of their sounds speech recognition confuses.
//!
//! Only confusions have a distance. Any other difference of one jamo tells names apart: `초급반` from
//! `고급반`, `실험실` from `시험실`.

const FIRST: u32 = 0xac00;
const LAST: u32 = 0xd7a3;
const VOWEL_COUNT: u32 = 21;
const CODA_COUNT: u32 = 28;

const ONSETS: [char; 19] = [
    'ㄱ', 'ㄲ', 'ㄴ', 'ㄷ', 'ㄸ', 'ㄹ', 'ㅁ', 'ㅂ', 'ㅃ', 'ㅅ', 'ㅆ', 'ㅇ', 'ㅈ', 'ㅉ', 'ㅊ', 'ㅋ',
    'ㅌ', 'ㅍ', 'ㅎ',
];
const VOWELS: [char; 21] = [
    'ㅏ', 'ㅐ', 'ㅑ', 'ㅒ', 'ㅓ', 'ㅔ', 'ㅕ', 'ㅖ', 'ㅗ', 'ㅘ', 'ㅙ', 'ㅚ', 'ㅛ', 'ㅜ', 'ㅝ', 'ㅞ',
    'ㅟ', 'ㅠ', 'ㅡ', 'ㅢ', 'ㅣ',
];
/// What a syllable may end in; a cluster as its two letters.
const CODAS: [&str; 28] = [
    "", "ㄱ", "ㄲ", "ㄱㅅ", "ㄴ", "ㄴㅈ", "ㄴㅎ", "ㄷ", "ㄹ", "ㄹㄱ", "ㄹㅁ", "ㄹㅂ", "ㄹㅅ",
    "ㄹㅌ", "ㄹㅍ", "ㄹㅎ", "ㅁ", "ㅂ", "ㅂㅅ", "ㅅ", "ㅆ", "ㅇ", "ㅈ", "ㅊ", "ㅋ", "ㅌ", "ㅍ",
    "ㅎ",
];
/// The onset that is not heard.
const SILENT: char = 'ㅇ';

/// Consonants that differ in how much breath and force they have.
const SERIES: [&str; 5] = ["ㄱㄲㅋ", "ㄷㄸㅌ", "ㅂㅃㅍ", "ㅅㅆ", "ㅈㅉㅊ"];
/// Consonants that are sometimes heard as each other, or not at all.
const WEAK_ONSETS: [&str; 2] = ["ㅎㅇ", "ㄴㄹ"];
/// Vowels that are heard as each other.
const VOWEL_SERIES: [&str; 10] = [
    "ㅐㅔ",
    "ㅏㅓ",
    "ㅒㅖ",
    "ㅙㅚㅞ",
    "ㅗㅜ",
    "ㅡㅜ",
    "ㅣㅢ",
    "ㅑㅕ",
    "ㅛㅠ",
    "ㅔㅖ",
];
/// Vowels that are sometimes heard as each other, most of them for a lost glide.
const WEAK_VOWELS: [&str; 13] = [
    "ㅏㅑ", "ㅓㅕ", "ㅗㅛ", "ㅜㅠ", "ㅐㅒ", "ㅏㅘ", "ㅓㅝ", "ㅣㅟ", "ㅔㅚ", "ㅔㅞ", "ㅔㅣ", "ㅡㅓ",
    "ㅡㅢ",
];

/// The distance of sounds that are often confused.
const OFTEN: u32 = 1;
/// The distance of sounds that are confused now and then.
const SOMETIMES: u32 = 2;

/// A syllable as it is spelled and as it sounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Syllable {
    spelled: char,
    onset: char,
    vowel: char,
    coda: &'static str,
    /// Part of an identifier: it must be spelled the same.
    is_fixed: bool,
}

impl Syllable {
    /// `None` where the character is no whole Hangul syllable.
    pub(super) fn new(spelled: char, is_fixed: bool) -> Option<Self> {
        let code = u32::from(spelled);
        if !(FIRST..=LAST).contains(&code) {
            return None;
        }
        let index = code - FIRST;
        let onset = index / (VOWEL_COUNT * CODA_COUNT);
        let vowel = index / CODA_COUNT % VOWEL_COUNT;
        let coda = usize::try_from(index % CODA_COUNT).ok()?;
        Some(Self {
            spelled,
            onset: *ONSETS.get(usize::try_from(onset).ok()?)?,
            vowel: *VOWELS.get(usize::try_from(vowel).ok()?)?,
            coda: CODAS.get(coda)?,
            is_fixed,
        })
    }

    /// Changes how this and the next syllable sound for standing together, or how this one sounds
    /// for standing last.
    pub(super) fn speak_before(&mut self, next: Option<&mut Self>) {
        let Some(next) = next.filter(|next| !next.is_fixed && !self.is_fixed) else {
            self.coda = closed(self.coda);
            return;
        };
        if next.onset == SILENT && self.coda != "ㅇ" {
            let (stays, moves) = liaison(self.coda);
            self.coda = closed(stays);
            next.onset = moves.unwrap_or(SILENT);
            return;
        }
        self.coda = match (closed(self.coda), next.onset) {
            ("ㄱ", 'ㄴ' | 'ㅁ') => "ㅇ",
            ("ㄷ", 'ㄴ' | 'ㅁ') => "ㄴ",
            ("ㅂ", 'ㄴ' | 'ㅁ') => "ㅁ",
            (coda, _) => coda,
        };
    }

    /// How many sounds it has.
    pub(super) fn weight(&self) -> u32 {
        1 + u32::from(self.onset != SILENT) + u32::from(!self.coda.is_empty())
    }

    /// How far apart two syllables are that have been spoken; `None` where nobody confuses them.
    pub(super) fn distance(&self, other: &Self) -> Option<u32> {
        if self.is_fixed || other.is_fixed {
            return (self.spelled == other.spelled).then_some(0);
        }
        if self.coda != other.coda {
            return None;
        }
        let onset = apart(self.onset, other.onset, &SERIES, &WEAK_ONSETS)?;
        let vowel = apart(self.vowel, other.vowel, &VOWEL_SERIES, &WEAK_VOWELS)?;
        Some(onset + vowel)
    }
}

fn apart(one: char, other: char, often: &[&str], sometimes: &[&str]) -> Option<u32> {
    let holds_both = |series: &&str| series.contains(one) && series.contains(other);
    if one == other {
        Some(0)
    } else if often.iter().any(holds_both) {
        Some(OFTEN)
    } else if sometimes.iter().any(holds_both) {
        Some(SOMETIMES)
    } else {
        None
    }
}

/// How a final consonant sounds where no vowel follows: as one of seven.
fn closed(coda: &'static str) -> &'static str {
    match coda {
        "ㄲ" | "ㅋ" | "ㄱㅅ" | "ㄹㄱ" => "ㄱ",
        "ㄴㅈ" | "ㄴㅎ" => "ㄴ",
        "ㅅ" | "ㅆ" | "ㅈ" | "ㅊ" | "ㅌ" | "ㅎ" => "ㄷ",
        "ㄹㅂ" | "ㄹㅅ" | "ㄹㅌ" | "ㄹㅎ" => "ㄹ",
        "ㄹㅁ" => "ㅁ",
        "ㅍ" | "ㅂㅅ" | "ㄹㅍ" => "ㅂ",
        _ => coda,
    }
}

/// What stays of a final consonant before a vowel, and what moves over to it.
fn liaison(coda: &'static str) -> (&'static str, Option<char>) {
    // ㅎ is lost there.
    let heard = coda.trim_end_matches('ㅎ');
    let Some((last, moves)) = heard.char_indices().next_back() else {
        return ("", None);
    };
    (heard.get(..last).unwrap_or_default(), Some(moves))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word as it sounds, jamo by jamo.
    fn spoken(word: &str) -> String {
        let mut syllables: Vec<_> = word
            .chars()
            .map(|c| Syllable::new(c, false).unwrap())
            .collect();
        for index in 0..syllables.len() {
            let (this, rest) = syllables[index..].split_first_mut().unwrap();
            this.speak_before(rest.first_mut());
        }
        let show = |s: &Syllable| format!("{}{}{}", s.onset, s.vowel, s.coda);
        syllables.iter().map(show).collect()
    }

    #[test]
    fn words_that_sound_alike_are_spoken_alike() {
        for (one, other) in [
            ("음악실", "으막실"),
            ("박물관", "방물관"),
            ("빗", "빛"),
            ("부엌문", "부엉문"),
            ("넓이", "널비"),
            ("좋아", "조아"),
            ("많은", "마는"),
            ("값", "갑"),
            ("영어", "영어"),
        ] {
            assert_eq!(spoken(one), spoken(other), "{one} {other}");
        }
        assert_ne!(spoken("강아지"), spoken("가아지"));
    }

    #[test]
    fn the_ends_of_the_syllables_are_taken_apart() {
        assert_eq!(spoken("가"), "ㄱㅏ");
        assert_eq!(spoken("힣"), "ㅎㅣㄷ");
        for other in ['\u{abff}', '\u{d7a4}', 'a', 'ㄱ', '\u{1100}'] {
            assert!(Syllable::new(other, false).is_none());
        }
    }
}
