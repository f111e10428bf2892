//! What several targets need: limits that inputs can reach, and a slow second reading of a head.

use aspis_wire::{Field, HeadLimits};

/// Small limits, so that short inputs reach them, or the defaults.
pub fn limits(choice: u8) -> HeadLimits {
    if choice & 1 == 0 {
        return HeadLimits::default();
    }
    HeadLimits {
        head_len_max: 200,
        target_len_max: 40,
        field_count_max: 4,
        trailer_len_max: 20,
        chunk_extension_len_max: 8,
        chunk_overhead_max: 40,
    }
}

/// Prefix lengths to try: all of a short input, about a hundred of a long one, always the whole.
pub fn prefixes(len: usize) -> impl Iterator<Item = usize> {
    let step = (len / 100).max(1);
    (0..len).step_by(step).chain([len])
}

/// Reads a complete head a second time, line by line, and panics where the first reading was too kind or too clever.
///
/// Returns the start line.
pub fn check_head<'b>(head: &'b [u8], fields: &[Field<'_>]) -> &'b [u8] {
    for (at, &byte) in head.iter().enumerate() {
        assert!(byte != b'\n' || head[at - 1] == b'\r', "a bare line feed was accepted");
        assert!(byte != b'\r' || head[at + 1] == b'\n', "a bare carriage return was accepted");
        assert!(
            byte >= b' ' && byte != 0x7f || matches!(byte, b'\t' | b'\r' | b'\n'),
            "a control byte was accepted"
        );
    }
    let body = head.strip_suffix(b"\r\n\r\n").expect("a head ends in an empty line");
    let mut lines = lines(body);
    let start = lines.next().expect("a head has a start line");
    for field in fields {
        let line = lines.next().expect("a field has a line");
        let colon = line.iter().position(|&byte| byte == b':').expect("a field line has a colon");
        assert_eq!(&line[..colon], field.name.as_bytes());
        assert!(!field.name.is_empty() && field.name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!field.name.contains([
            '(', ')', ',', '/', ':', ';', '<', '=', '>', '?', '@', '[', '\\', ']', '{', '}', '"'
        ]));
        assert_eq!(trim(&line[colon + 1..]), field.value);
    }
    assert_eq!(lines.next(), None, "a line became no field");
    start
}

/// The values of the fields of a name, found the slow way.
pub fn values<'b>(fields: &[Field<'b>], name: &str) -> Vec<&'b [u8]> {
    fields.iter().filter(|field| field.name.to_ascii_lowercase() == name).map(|field| field.value).collect()
}

/// `value` as digits only, as a number.
pub fn decimal(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    (!text.starts_with('+')).then(|| text.parse().ok())?
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let from = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let to = value.iter().rposition(|byte| !blank(byte)).map_or(from, |at| at + 1);
    &value[from..to]
}
