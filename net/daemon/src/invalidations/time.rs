//! When an invalidation was created: milliseconds since the epoch, and as text (RFC 3339).

use std::time::{SystemTime, UNIX_EPOCH};

use aspis_telemetry::access_log::civil_date;

/// Returns the time now.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// Writes a time as `2026-03-01T09:00:00.000Z`.
pub(crate) fn text(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (year, month, day) = civil_date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_api_has_them() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(1_772_355_600_007), "2026-03-01T09:00:00.007Z");
        assert_eq!(text(1_709_210_096_999), "2024-02-29T12:34:56.999Z");
        assert!(now_ms() > 1_700_000_000_000);
    }
}
