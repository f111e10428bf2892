//! Heads and dates as text, read and written without the product's help.

/// A request's or response's head.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    text: String,
}

impl Head {
    /// Takes the bytes of a head.
    pub(crate) fn of(bytes: &[u8]) -> Head {
        Head { text: String::from_utf8_lossy(bytes).into_owned() }
    }

    /// Returns a word of the first line.
    pub(crate) fn word(&self, at: usize) -> &str {
        self.text.lines().next().and_then(|line| line.split(' ').nth(at)).unwrap_or_default()
    }

    /// Returns the value of the first field of this name, in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Returns the value of a field that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    /// Returns first byte, end and complete length of Content-Range.
    pub(crate) fn content_range(&self) -> Option<(u64, u64, u64)> {
        let (range, total) = self.field("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse::<u64>().ok()? + 1, total.parse().ok()?))
    }
}

/// Writes a second since the epoch as HTTP does (RFC 9110 §5.6.7).
pub(crate) fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since the first of March of the year 0, so that the day that comes and goes is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_rfc_9110_shows() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn heads_are_read() {
        let head =
            Head::of(b"GET /a HTTP/1.1\r\nRange: bytes=0-1\r\nContent-Range: bytes 2-4/9\r\nAge: 7\r\n\r\n");
        assert_eq!((head.word(0), head.word(1), head.field("range")), ("GET", "/a", Some("bytes=0-1")));
        assert_eq!(
            (head.content_range(), head.number("age"), head.field("host")),
            (Some((2, 5, 9)), Some(7), None)
        );
    }
}
