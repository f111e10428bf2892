//! Lists, dates, authorities, hop-by-hop fields and structured values; the first byte chooses.
#![no_main]

use std::time::UNIX_EPOCH;

use aspis_wire::{Field, date, fields, parse_authority, structured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 5 {
        0 => check_list(bytes),
        1 => check_date(bytes),
        2 => check_authority(bytes),
        3 => check_hop_by_hop(bytes),
        _ => check_structured(bytes),
    }
});

fn check_list(bytes: &[u8]) {
    for parts in [fields::list(bytes), fields::parameters(bytes)] {
        let mut from = bytes.as_ptr() as usize;
        for member in parts {
            assert!(!member.is_empty() && fields::trim(member) == member);
            assert!(member.as_ptr() as usize >= from, "members come in order");
            from = member.as_ptr() as usize + member.len();
        }
        assert!(from <= bytes.as_ptr() as usize + bytes.len());
    }
    let members: Vec<&[u8]> = fields::list(bytes).collect();
    let joined = members.join(&b", "[..]);
    assert!(fields::list(&joined).eq(members.iter().copied()), "joining and splitting are inverse");
    if !bytes.contains(&b'"') {
        let naive = bytes.split(|&byte| byte == b',').map(fields::trim).filter(|member| !member.is_empty());
        assert!(naive.eq(members.iter().copied()));
    }
}

fn check_date(bytes: &[u8]) {
    let ours = date::parse(bytes);
    if let Some(seconds) = ours {
        assert!(seconds <= date::SECONDS_MAX + 1, "only a leap second can end the year 9999 later");
        let seconds = seconds.min(date::SECONDS_MAX);
        assert_eq!(date::parse(&date::format(seconds)), Some(seconds));
        assert!((24..=33).contains(&bytes.len()));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(theirs) = httpdate::parse_http_date(text) else { return };
    let seconds = theirs.duration_since(UNIX_EPOCH).expect("after the epoch").as_secs();
    // The other implementation does not look at every separator, so only what it would write must be a date for us.
    if ours.is_some() || httpdate::fmt_http_date(theirs) == text {
        assert_eq!(ours, Some(seconds), "{text}");
    }
}

fn check_authority(bytes: &[u8]) {
    let Some(authority) = parse_authority(bytes) else { return };
    let again = match authority.port {
        Some(port) => format!("{}:{port}", authority.host),
        None => authority.host.to_owned(),
    };
    assert_eq!(again.as_bytes(), bytes);
    assert!(bytes.is_ascii() && authority.port != Some(0) && !authority.host.is_empty());
    assert!(!authority.host.contains(['@', '/', ' ', ',', '\\', '%', '?', '#']));
    assert!(authority.host.starts_with('[') || !authority.host.contains(':'));
}

fn check_hop_by_hop(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |&byte| byte == b'\n');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(name) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let sent = [
        Field { name: "Connection", value: first },
        Field { name, value: b"x" },
        Field { name: "CONNECTION", value: second },
        Field { name: "Content-Type", value: b"text/plain" },
    ];
    let named = [first, second].iter().any(|value| {
        fields::list(value).any(|option| option.to_ascii_lowercase() == name.to_ascii_lowercase().as_bytes())
    });
    let kept: Vec<&str> = fields::end_to_end(&sent).map(|field| field.name).collect();
    assert!(!kept.iter().any(|kept| kept.eq_ignore_ascii_case("connection")));
    if !name.is_empty() && !name.eq_ignore_ascii_case("content-type") {
        assert_eq!(kept.contains(&name), !named && !fields::is_hop_by_hop(name));
    }
}

fn check_structured(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut out = Vec::new();
    structured::write_token_or_string(&text, &mut out);
    if structured::is_token(&text) {
        assert_eq!(out, text.as_bytes());
        return;
    }
    let inner = out.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).expect("a quoted string");
    let mut read = String::new();
    let mut rest = inner.iter();
    while let Some(&byte) = rest.next() {
        assert!((b' '..=b'~').contains(&byte) && byte != b'"');
        let byte = if byte == b'\\' { *rest.next().expect("an escaped byte") } else { byte };
        read.push(char::from(byte));
    }
    let expected: String = text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
    assert_eq!(read, expected);
}
