//! Moments as people and programs write them: ISO 8601 in UTC.

use brrbrr_proto::time::WallClock;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// With milliseconds, such as `2020-06-01T04:10:25.000Z`.
#[must_use]
pub fn iso8601(at: WallClock) -> String {
    let seconds = at.0.div_euclid(MICROS_PER_SECOND);
    let millis = at.0.rem_euclid(MICROS_PER_SECOND) / 1000;
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// As a part of a file's name, such as `20200601T041025Z`.
#[must_use]
pub fn file_stamp(at: WallClock) -> String {
    let iso = iso8601(at);
    let whole = iso.split('.').next().unwrap_or(&iso);
    let digits: String = whole.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{digits}Z")
}

/// The date of a day since 1970-01-01, in the proleptic Gregorian calendar; Howard Hinnant's
/// `civil_from_days`. Years begin in March there, so that a leap day is a year's last.
const fn civil(day: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let day = day + 719_468;
    let era = day.div_euclid(DAYS_PER_ERA);
    let of_era = day.rem_euclid(DAYS_PER_ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let next = if month <= 2 { 1 } else { 0 };
    (year + era * 400 + next, month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_relay_writes_them() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_590_984_625, "2020-06-01T04:10:25.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(iso8601(WallClock(seconds * 1_000_000)), expected);
        }
        assert_eq!(iso8601(WallClock(999_999)), "1970-01-01T00:00:00.999Z");
        assert_eq!(iso8601(WallClock(-1)), "1969-12-31T23:59:59.999Z");
        assert_eq!(file_stamp(WallClock(0)), "19700101T000000Z");
    }

    #[test]
    fn no_clock_is_too_wrong_to_be_written() {
        assert_eq!(iso8601(WallClock(i64::MAX)), "294247-01-10T04:00:54.775Z");
        assert!(iso8601(WallClock(i64::MIN)).starts_with("-29"));
    }
}
