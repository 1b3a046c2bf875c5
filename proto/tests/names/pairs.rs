//! The table of cases: what is asked for, what there is, and how it is found.

use brrbrr_proto::names::Likeness::{self, Exact, Loose, Sound};

use crate::likeness;

const FOUND: &[(&str, &str, Likeness)] = &[
    // The text itself.
    ("701호", "701호", Exact),
    ("싸피 7반", "싸피 7반", Exact),
    ("Lobby", "Lobby", Exact),
    ("카페 C ", "카페 C+", Exact),
    ("A B", "A+B", Exact),
    // Hangul in parts, as some devices send it.
    ("\u{110f}\u{1161}\u{1111}\u{1166}", "카페", Exact),
    (
        "\u{110a}\u{1161}\u{1111}\u{1175}7\u{1107}\u{1161}\u{11ab}",
        "싸피 7반",
        Loose,
    ),
    (
        "\u{1109}\u{1161}\u{1111}\u{1175} 7\u{1107}\u{1161}\u{11ab}",
        "싸피 7반",
        Sound,
    ),
    ("cafe\u{301}", "café", Exact),
    // Spacing, `+`, case, width, punctuation.
    ("싸피7반", "싸피 7반", Loose),
    ("싸 피 7 반", "싸피 7반", Loose),
    ("회의실\u{3000}A", "회의실 A", Loose),
    ("회의실\u{a0}a", "회의실 A", Loose),
    ("LOBBY", "Lobby", Loose),
    ("a  b", "A+B", Loose),
    ("카페 c", "카페 C+", Loose),
    ("카페C", "카페 C+", Loose),
    ("Ａ동", "A동", Loose),
    ("７０１호", "701호", Loose),
    ("B-1", "B1", Loose),
    ("b1", "B 1", Loose),
    ("meeting room", "Meeting-Room", Loose),
    ("meeting_room", "Meeting Room", Loose),
    ("세미나·로봇", "세미나 로봇", Loose),
    ("세미나ㆍ로봇", "세미나.로봇", Loose),
    ("세미나\u{200b}실", "세미나실", Loose),
    ("ÉCOLE", "école", Loose),
    // Tense, aspirated and lax consonants.
    ("사피 7반", "싸피 7반", Sound),
    ("싸비 7반", "싸피 7반", Sound),
    ("까페", "카페", Sound),
    ("가페", "카페", Sound),
    ("식땅", "식당", Sound),
    ("탕비실", "당비실", Sound),
    ("화창실", "화장실", Sound),
    ("컴부터 실습실", "컴푸터 실습실", Sound),
    // Vowels.
    ("써피7반", "싸피 7반", Sound),
    ("서피 7 반", "싸피 7반", Sound),
    ("카패", "카페", Sound),
    ("회이실", "회의실", Sound),
    ("훼의실", "회의실", Sound),
    ("교수 휴계실", "교수 휴게실", Sound),
    ("세미너실", "세미나실", Sound),
    ("체육간", "체육칸", Sound),
    ("채육관", "체육관", Sound),
    ("엘레베이터 홀", "엘리베이터 홀", Sound),
    ("컴푸터 실습실", "컴퓨터 실습실", Sound),
    // Final consonants, and what they do to the next syllable.
    ("으막실", "음악실", Sound),
    ("방물관", "박물관", Sound),
    ("도서관압", "도서관앞", Sound),
    ("조럽 작품 전시회", "졸업 작품 전시회", Sound),
    ("교수 유게실", "교수 휴게실", Sound),
    // Numbers that are spelled out.
    ("칠백일호", "701호", Sound),
    ("칠공일호", "701호", Sound),
    ("칠백일 호", "701호", Sound),
    ("천이백삼십사호", "1234호", Sound),
    ("일층", "1층", Sound),
    ("1층 로비", "일층로비", Sound),
    ("싸피칠반", "싸피 7반", Sound),
    ("서피 칠 반", "싸피 7반", Sound),
    ("일곱반", "7반", Sound),
    ("제이강의실", "제2강의실", Sound),
    ("회의실 이", "회의실 2", Sound),
    ("백일동", "101동", Sound),
    ("07반", "7반", Sound),
    // Latin words.
    ("kafe", "Cafe", Sound),
    ("cafe", "Café", Sound),
    ("loby", "Lobby", Sound),
    ("lobbi", "Lobby", Sound),
    ("cafetaria", "Cafeteria", Sound),
    ("auditorim", "Auditorium", Sound),
    ("bilding", "Building", Sound),
    ("konference room", "Conference Room", Sound),
    ("meating room 3", "Meeting Room 3", Sound),
];

const NOT_FOUND: &[(&str, &str)] = &[
    // Other numbers, however they are written.
    ("701호", "702호"),
    ("701호", "71호"),
    ("701호", "7101호"),
    ("701", "702"),
    ("7 01호", "701호"),
    ("1-2", "12"),
    ("1.5", "15"),
    ("1+2", "12"),
    ("칠백일호", "702호"),
    ("칠백이호", "701호"),
    ("칠공일호", "칠공이호"),
    ("칠백십일호", "701호"),
    ("7반", "8반"),
    ("싸피 7반", "싸피 8반"),
    ("사피 칠반", "싸피 8반"),
    ("서피 8 반", "싸피 7반"),
    ("싸피 77반", "싸피 7반"),
    ("싸피반", "싸피 7반"),
    ("일곱반", "8반"),
    ("1층", "2층"),
    ("일층", "이층"),
    ("삼층", "사층"),
    ("육층", "6반"),
    ("일층카페테리아라운지", "이층카페테리아라운지"),
    ("지하 1층", "1층"),
    ("-1층", "1층"),
    ("제일강의실", "제이강의실"),
    ("제1강의실", "제2강의실"),
    ("일컴퓨터실습실", "이컴퓨터실습실"),
    ("이컴퓨터실습실", "컴퓨터실습실"),
    ("회의실 1 2", "회의실 12"),
    // Other identifiers.
    ("B1", "B2"),
    ("B1", "D1"),
    ("B12", "B1 2"),
    ("A동", "B동"),
    ("회의실 A", "회의실 B"),
    ("회의실 C", "회의실 K"),
    ("회의실", "회의실 A"),
    ("SectorA", "SectorB"),
    ("sectora", "sectorb"),
    ("sectorc", "sectork"),
    ("sectora", "sectore"),
    ("가동", "나동"),
    ("가동", "카동"),
    ("다반", "타반"),
    ("엘리베이터 가", "엘리베이터 카"),
    ("엘리베이터가", "엘리베이터카"),
    ("본관", "분관"),
    ("동문", "서문"),
    ("서관", "사관"),
    // Other words.
    ("로비", "카페"),
    ("카레", "카페"),
    ("남자화장실", "여자화장실"),
    ("대강당", "소강당"),
    ("실험실", "시험실"),
    ("중앙 실험실", "중앙 시험실"),
    ("청소실", "정수실"),
    ("전산실", "정산실"),
    ("방송실", "반송실"),
    ("소프트웨어 초급반 강의실", "소프트웨어 고급반 강의실"),
    ("신입생 환영회", "신입생 환송회"),
    ("로비", "로비 앞 카페"),
    ("이사실", "24실"),
    ("체육관", "6관"),
    ("hall", "mall"),
    ("cafe", "cave"),
    ("east wing", "west wing"),
    ("men's room", "women's room"),
    ("room one", "room two"),
    ("lab", "lap"),
    ("C#", "C"),
    // Nothing to go by.
    ("", "+"),
    ("-", "+"),
    (" ", "_"),
    ("없음", "로비"),
];

#[test]
fn what_is_asked_for_is_found() {
    let rows = FOUND.iter();
    let rows = rows.map(|(asked, name, expected)| (asked, name, likeness(asked, name), expected));
    let wrong: Vec<_> = rows
        .filter(|(_, _, found, expected)| *found != Some(**expected))
        .collect();
    assert!(
        wrong.is_empty(),
        "asked, there, found, expected: {wrong:#?}"
    );
}

#[test]
fn what_is_not_asked_for_is_not_found() {
    let there_and_back = NOT_FOUND
        .iter()
        .flat_map(|(one, other)| [(one, other), (other, one)]);
    let found: Vec<_> = there_and_back
        .filter(|(asked, name)| likeness(asked, name).is_some())
        .collect();
    assert!(found.is_empty(), "asked, found: {found:#?}");
}

#[test]
fn the_table_is_long_enough_to_mean_something() {
    assert!(FOUND.len() >= 60 && NOT_FOUND.len() >= 25);
}
