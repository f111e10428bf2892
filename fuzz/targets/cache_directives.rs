//! Cache-Control of responses: agrees with a second reading, and what forbids storing always forbids it.
#![no_main]

use aspis_cache::age::{AGE_MAX, Delay};
use aspis_cache::directives::{Extent, ResponseDirectives, response_directives};
use aspis_cache::storable::{RequestFacts, storable};
use aspis_config::{Behavior, Raw, check};
use aspis_wire::response::parse_response;
use aspis_wire::{Field, FieldSlots, HeadLimits, Method, fields};
use libfuzzer_sys::fuzz_target;

/// Line feeds separate field lines.
fn read(lines: &[&[u8]]) -> ResponseDirectives {
    let head: Vec<Field<'_>> = lines.iter().map(|value| Field { name: "Cache-Control", value }).collect();
    response_directives(&head)
}

/// The lower-case names of all members, found by walking the bytes; quotes that never close reach to the end of the line.
fn names(lines: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for line in lines {
        let (mut member, mut quoted, mut escaped) = (Vec::new(), false, false);
        for &byte in line.iter().chain(b",") {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    names.push(std::mem::take(&mut member));
                    continue;
                }
                _ => {}
            }
            member.push(byte);
        }
        names.push(member);
    }
    let name = |member: &Vec<u8>| {
        let name = member.split(|&byte| byte == b'=').next().unwrap_or_default();
        name.trim_ascii().to_ascii_lowercase()
    };
    names.iter().map(name).collect()
}

fuzz_target!(|data: &[u8]| {
    if !data.iter().all(|&byte| byte == b'\n' || fields::is_field_value(&[byte])) {
        return;
    }
    let lines: Vec<&[u8]> = data.split(|&byte| byte == b'\n').map(fields::trim).collect();
    let found = read(&lines);

    let names = names(&lines);
    let has = |name: &str| names.iter().any(|other| other == name.as_bytes());
    let open = lines.iter().any(|line| fields::has_open_string(line));
    assert_eq!(found.no_store, has("no-store") || open);
    assert_eq!(found.private != Extent::Absent, has("private"));
    assert_eq!(found.no_cache != Extent::Absent, has("no-cache"));
    assert!(!found.public || has("public"));
    assert!(!found.must_revalidate || has("must-revalidate"));
    assert!(found.max_age.is_none_or(|age| age <= AGE_MAX && has("max-age")));
    assert!(found.s_maxage.is_none_or(|age| age <= AGE_MAX && has("s-maxage")));

    let reversed: Vec<&[u8]> = lines.iter().rev().copied().collect();
    assert_eq!(read(&reversed), found, "the order of lines does not matter");
    let mut more = lines.clone();
    more.push(b"no-store, max-age=3");
    let with_more = read(&more);
    assert!(with_more.no_store && with_more.max_age.is_some_and(|age| age <= 3));
    assert_eq!(ResponseDirectives { no_store: found.no_store, max_age: found.max_age, ..with_more }, found);

    check_storing(&lines, &found);
});

fn check_storing(lines: &[&[u8]], found: &ResponseDirectives) {
    thread_local! {
        static BEHAVIOR: Behavior = {
            let mut raw = Raw::new();
            raw.push("origin", "http://origin.example");
            Behavior::from(&check(&raw).expect("these settings are valid"))
        };
    }
    let mut bytes =
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nExpires: Fri, 31 Dec 9999 23:59:59 GMT\r\n".to_vec();
    for line in lines {
        bytes.extend_from_slice(b"Cache-Control: ");
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    let mut slots = FieldSlots::new();
    let Ok(Some(head)) = parse_response(&bytes, &mut slots, &HeadLimits::default(), Method::Get) else {
        return;
    };
    let request = RequestFacts {
        may_store: true,
        authorization: false,
        delay: Delay { requested_at: 1_000, seconds: 0 },
        explicit_only: false,
        range: false,
        ordinary: true,
    };
    let stored = BEHAVIOR.with(|behavior| storable(behavior, request, &head, 1_000));
    if let Ok(meta) = stored {
        assert!(!found.no_store || found.must_understand, "{found:?}");
        assert!(found.private != Extent::Whole, "{found:?}");
        assert!(found.no_cache != Extent::Whole || meta.lifetime == 0, "{meta:?} {found:?}");
        let explicit = found.s_maxage.or(found.max_age);
        assert!(explicit.is_none_or(|explicit| meta.lifetime <= explicit), "{meta:?} {found:?}");
    }
    let authorized = RequestFacts { authorization: true, ..request };
    let stored = BEHAVIOR.with(|behavior| storable(behavior, authorized, &head, 1_000));
    assert!(stored.is_err() || found.public || found.must_revalidate || found.s_maxage.is_some());
}
