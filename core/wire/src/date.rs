//! HTTP dates (RFC 9110 section 5.6.7) to and from seconds since 1970.
//!
//! Read by the cache (`Date`, `Expires`, `Last-Modified`, conditionals) and by whoever writes `Date`.
//! Rule 5 of the RFC 9111 profile: exactly the three forms, names without case, everything else is no date.

/// Days before each month in a common year.
const DAYS_BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
const MONTH_NAMES: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// Day 0, the first of January 1970, was a Thursday.
const DAY_NAMES: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The last second that four digits of year can name: the end of 9999.
pub const SECONDS_MAX: u64 = 253_402_300_799;

/// Reads a date in one of its three forms, as seconds since the epoch; `None` if it is none.
///
/// - `Sun, 06 Nov 1994 08:49:37 GMT`
/// - `Sunday, 06-Nov-94 08:49:37 GMT`: years 70 to 99 are of the last century, the others of this one.
/// - `Sun Nov  6 08:49:37 1994`
///
/// The day and its name must agree. Dates before 1970 count as 0: they are older than everything we compare.
pub fn parse(value: &[u8]) -> Option<u64> {
    match value.get(3)? {
        b',' => parse_fixdate(value),
        b' ' => parse_asctime(value),
        _ => parse_rfc850(value),
    }
}

/// Writes `seconds` as `Sun, 06 Nov 1994 08:49:37 GMT`. Beyond the year 9999 it stays at its last second.
pub fn format(seconds: u64) -> [u8; 29] {
    let seconds = seconds.min(SECONDS_MAX);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date_of(days);
    let mut out = *b"   , 00     0000 00:00:00 GMT";
    out[..3].copy_from_slice(&DAY_NAMES[(days % 7) as usize].as_bytes()[..3]);
    two_digits(&mut out[5..7], day);
    out[8..11].copy_from_slice(MONTH_NAMES[month].as_bytes());
    two_digits(&mut out[12..14], year / 100);
    two_digits(&mut out[14..16], year % 100);
    two_digits(&mut out[17..19], second / 3600);
    two_digits(&mut out[20..22], second / 60 % 60);
    two_digits(&mut out[23..25], second % 60);
    out
}

fn two_digits(out: &mut [u8], number: u64) {
    out[0] = b'0' + (number / 10 % 10) as u8;
    out[1] = b'0' + (number % 10) as u8;
}

/// Year, month from 0, and day from 1, of a day since the epoch.
fn date_of(days: u64) -> (u64, usize, u64) {
    // Count years from March, so that the leap day is the last of its year; 719,468 days before 1970 began the
    // year 0 so counted. Eras of 400 years are all alike.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    (year, month as usize, day)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_fixdate(value: &[u8]) -> Option<u64> {
    let value: &[u8; 29] = value.try_into().ok()?;
    let separated = value[3..5] == *b", " && value[7] == b' ' && value[11] == b' ' && value[16] == b' ';
    if !separated || !value[25..].eq_ignore_ascii_case(b" gmt") {
        return None;
    }
    let weekday = day_index(&value[..3], 3)?;
    let year = number(&value[12..16])?;
    seconds_of(weekday, year, month_index(&value[8..11])?, number(&value[5..7])?, time_of(&value[17..25])?)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`.
fn parse_rfc850(value: &[u8]) -> Option<u64> {
    let comma = value.iter().position(|&byte| byte == b',')?;
    let (name, rest) = value.split_at(comma);
    let rest: &[u8; 24] = rest.try_into().ok()?;
    let separated = rest[..2] == *b", " && rest[4] == b'-' && rest[8] == b'-' && rest[11] == b' ';
    if !separated || !rest[20..].eq_ignore_ascii_case(b" gmt") {
        return None;
    }
    let weekday = day_index(name, usize::MAX)?;
    let short_year = number(&rest[9..11])?;
    let year = if short_year < 70 { 2000 + short_year } else { 1900 + short_year };
    seconds_of(weekday, year, month_index(&rest[5..8])?, number(&rest[2..4])?, time_of(&rest[12..20])?)
}

/// `Sun Nov  6 08:49:37 1994`.
fn parse_asctime(value: &[u8]) -> Option<u64> {
    let value: &[u8; 24] = value.try_into().ok()?;
    if value[3] != b' ' || value[7] != b' ' || value[10] != b' ' || value[19] != b' ' {
        return None;
    }
    let day = if value[8] == b' ' { number(&value[9..10])? } else { number(&value[8..10])? };
    let weekday = day_index(&value[..3], 3)?;
    seconds_of(weekday, number(&value[20..])?, month_index(&value[4..7])?, day, time_of(&value[11..19])?)
}

/// The index in [`DAY_NAMES`] of a name, or of its first `len` letters.
fn day_index(name: &[u8], len: usize) -> Option<u64> {
    let same = |day: &&str| name.eq_ignore_ascii_case(&day.as_bytes()[..len.min(day.len())]);
    DAY_NAMES.iter().position(same).map(|index| index as u64)
}

fn month_index(name: &[u8]) -> Option<usize> {
    MONTH_NAMES.iter().position(|month| name.eq_ignore_ascii_case(month.as_bytes()))
}

/// One to four digits, all of them digits.
fn number(digits: &[u8]) -> Option<u64> {
    digits
        .iter()
        .try_fold(0, |sum, &digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

/// The second of the day of `08:49:37`. Second 60 is a leap second and counts as the next minute's first.
fn time_of(value: &[u8]) -> Option<u64> {
    let [_, _, b':', _, _, b':', _, _] = value else { return None };
    let (hour, minute, second) = (number(&value[..2])?, number(&value[3..5])?, number(&value[6..])?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// The seconds since the epoch, if such a day exists and has that name.
fn seconds_of(weekday: u64, year: u64, month: usize, day: u64, second: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let month_len = match month {
        1 => 28 + u64::from(leap),
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    };
    if day == 0 || day > month_len {
        return None;
    }
    // Days since the first of January of the year 0, which is a leap year; then from 1970.
    let years_before = year.saturating_sub(1);
    let leap_days =
        if year == 0 { 0 } else { years_before / 4 - years_before / 100 + years_before / 400 + 1 };
    let leap_day = u64::from(leap && month > 1);
    let days = year * 365 + leap_days + DAYS_BEFORE_MONTH[month] + leap_day + day - 1;
    // 719,528 days lie between the two, and 719,528 mod 7 is 5; day 0 of the epoch has index 0.
    if (days + 2) % 7 != weekday {
        return None;
    }
    Some(days.checked_sub(719_528).map_or(0, |days| days * 86_400 + second))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_three_forms_mean_the_same() {
        // Rule 5 of the RFC 9111 profile.
        for value in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "sun, 06 NOV 1994 08:49:37 gmt",
            "sUNDAY, 06-nov-94 08:49:37 Gmt",
            "SUN nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(value.as_bytes()), Some(784_111_777), "{value}");
        }
        assert_eq!(parse(b"Sun Nov 06 08:49:37 1994"), Some(784_111_777));
        assert_eq!(parse(b"Wed Nov 16 08:49:37 1994"), Some(784_975_777));
    }

    #[test]
    fn everything_else_is_no_date() {
        for value in [
            "",
            "0",
            "-1",
            "Sun",
            "Sun,",
            "Sun, ",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Thu, 31 Nov 1994 08:49:37 GMT",
            "Wed, 29 Feb 1995 00:00:00 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            " Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37\tGMT",
            "Sund, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06 Nov 94 08:49:37 GMT",
            "Sun Nov   6 08:49:37 1994",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 94",
        ] {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn edges_of_the_calendar_hold() {
        for (value, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 01 Jan 1970 00:00:01 GMT", 1),
            ("Wed, 31 Dec 1969 23:59:59 GMT", 0),
            ("Mon, 01 Jan 1900 00:00:00 GMT", 0),
            ("Sat, 01 Jan 0000 00:00:00 GMT", 0),
            ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Fri, 31 Dec 9999 23:59:59 GMT", SECONDS_MAX),
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800),
            ("Thursday, 01-Jan-70 00:00:00 GMT", 0),
            ("Tuesday, 31-Dec-69 00:00:00 GMT", 3_155_673_600),
        ] {
            assert_eq!(parse(value.as_bytes()), Some(seconds), "{value}");
        }
        assert_eq!(&format(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn every_day_agrees_with_another_implementation() {
        for day in (0..=SECONDS_MAX / 86_400).step_by(17) {
            let seconds = day * 86_400 + day % 86_400;
            let theirs = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(str::from_utf8(&format(seconds)), Ok(theirs.as_str()));
            assert_eq!(parse(theirs.as_bytes()), Some(seconds), "{theirs}");
        }
    }
}
