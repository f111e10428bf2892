//! Properties of keys, ages, lifetimes, ranges and stored heads over random values, through the public interface only.
#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic names the line that is wrong")]

use std::net::{IpAddr, Ipv4Addr};

use aspis_cache::age::{Delay, current_age};
use aspis_cache::range::{ByteRange, Selection, select};
use aspis_cache::storable::{RequestFacts, storable};
use aspis_config::{Behavior, Raw, check};
use aspis_exchange::forwarded::write_request_key;
use aspis_exchange::response_head::{
    HIT_TAIL_LEN_MAX, HitTail, Multipart, finish_hit, stored_fields, write_stored,
};
use aspis_exchange::{Now, ViewerFacts};
use aspis_wire::request::parse_request;
use aspis_wire::response::{ResponseFraming, parse_response};
use aspis_wire::{Field, FieldSlots, HeadLimits, Method, Scheme, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select as one_of;

const WALL: u64 = 1_700_000_000;
const VIEWER: ViewerFacts =
    ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), trusted: false };

fn behavior(flags: &[(&str, &str)]) -> Behavior {
    let mut raw: Raw = flags.iter().copied().collect();
    raw.push("origin", "http://origin.example");
    Behavior::from(&check(&raw).unwrap())
}

fn key(request: &str) -> Vec<u8> {
    let mut slots = FieldSlots::new();
    let head = parse_request(request.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
    let mut key = Vec::new();
    write_request_key(&head, &VIEWER, head.path_and_query, &mut key);
    key
}

/// A Cache-Control line in all the ways that origins write it.
fn control() -> impl Strategy<Value = String> {
    let directive = one_of(vec![
        "max-age",
        "s-maxage",
        "stale-while-revalidate",
        "stale-if-error",
        "public",
        "no-cache",
        "must-revalidate",
        "x",
    ]);
    let argument = prop_oneof![
        any::<u64>().prop_map(|number| format!("={number}")),
        (0_u32..500).prop_map(|number| format!("={number}")),
        one_of(vec!["", "=", "=\"60\"", "=-1", "=x"]).prop_map(str::to_string),
    ];
    vec((directive, argument), 0..4).prop_map(|members| {
        members.iter().map(|(name, argument)| format!("{name}{argument}")).collect::<Vec<_>>().join(", ")
    })
}

/// Cuts of `0..len` into pieces that follow each other.
fn cuts(len: u64, at: &[prop::sample::Index]) -> Vec<ByteRange> {
    let mut ends: Vec<u64> = at.iter().map(|index| index.index(len as usize) as u64 + 1).collect();
    ends.push(len);
    ends.sort_unstable();
    ends.dedup();
    let starts = [0].into_iter().chain(ends.iter().copied());
    starts.zip(ends.iter().copied()).map(|(start, end)| ByteRange { start, end }).collect()
}

fn selected(spec: &str, len: u64) -> Selection {
    select(&[Field { name: "Range", value: format!("bytes={spec}").as_bytes() }], len)
}

fn parts(selection: Selection) -> Vec<ByteRange> {
    match selection {
        Selection::Parts(ranges) => ranges.as_slice().to_vec(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Rules 5 and 6, T-9: whatever the origin says, the lifetime lies within the operator's bounds, and age never falls.
    #[test]
    fn lifetime_stays_within_bounds_and_age_never_falls(
        control in control(), age in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
        min in 0_u64..100, more in 0_u64..10_000, date in prop_oneof![Just(None), (0..2 * WALL).prop_map(Some)],
        expires in prop_oneof![Just(None), (0..2 * WALL).prop_map(Some)], delay in 0_u64..100, mut times in vec(any::<u32>(), 1..10),
    ) {
        let (least, most) = (format!("{min}s"), format!("{}s", min + more));
        let behavior = behavior(&[("min-ttl", &least), ("max-ttl", &most)]);
        let mut text = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: \"a\"\r\nCache-Control: {control}\r\n");
        let format = |at| String::from_utf8(aspis_wire::date::format(at).to_vec()).unwrap();
        for (name, at) in [("Date", date), ("Expires", expires)] {
            text += &at.map(|at| format!("{name}: {}\r\n", format(at))).unwrap_or_default();
        }
        text += &age.map(|age| format!("Age: {age}\r\n")).unwrap_or_default();
        text += "\r\n";
        let mut slots = FieldSlots::new();
        let head = parse_response(text.as_bytes(), &mut slots, &HeadLimits::default(), Method::Get).unwrap().unwrap();
        let request = RequestFacts {
            may_store: true, explicit_only: false, range: false, authorization: false, ordinary: true,
            delay: Delay { requested_at: WALL - delay, seconds: delay },
        };
        let meta = storable(&behavior, request, &head, WALL).unwrap();
        let validated_each_time = control.contains("no-cache");
        prop_assert!(u64::from(meta.lifetime) <= min + more, "{meta:?}");
        prop_assert!(validated_each_time || u64::from(meta.lifetime) >= min, "{meta:?}");
        let mut last = u32::try_from(delay).unwrap();
        times.sort_unstable();
        for time in times {
            let now = current_age(&meta, WALL + u64::from(time));
            prop_assert!(now >= last && now <= 1 << 31, "{now} after {last}");
            // What is not fresh at one moment is not fresh later.
            prop_assert!(meta.is_fresh(WALL + u64::from(time)) == (now < meta.lifetime));
            last = now;
        }
    }

    /// RFC 9110 §14, R-12 to R-14: any way to cut content into ranges gives it back, one by one and all at once.
    #[test]
    fn ranges_tile_the_content(body in vec(any::<u8>(), 1..300), at in vec(any::<prop::sample::Index>(), 0..15), tail in any::<bool>()) {
        let len = body.len() as u64;
        let pieces = cuts(len, &at);
        let spec = |range: &ByteRange| match range.end {
            end if end == len && tail => format!("-{}", range.len()),
            end if end == len => format!("{}-", range.start),
            end => format!("{}-{}", range.start, end - 1),
        };
        let slice = |range: &ByteRange| &body[range.start as usize..range.end as usize];
        let mut whole = Vec::new();
        for piece in &pieces {
            let one = parts(selected(&spec(piece), len));
            prop_assert_eq!(&one, &[*piece]);
            whole.extend_from_slice(slice(&one[0]));
        }
        prop_assert_eq!(&whole, &body);
        let all: Vec<String> = pieces.iter().map(spec).collect();
        let ranges = parts(selected(&all.join(","), len));
        prop_assert_eq!(&ranges, &pieces);
        // As it goes out: each part with its head, of exactly the announced length.
        let stored = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nVia: 1.1 a\r\nX-Cache: Hit from a\r\nCache-Status: a; hit; ttl=";
        let multipart = Multipart::new(stored, len, &ranges, 1);
        let (mut sent, mut joined) = (0, Vec::new());
        for (before, range) in &multipart.parts {
            let line = format!("Content-Range: bytes {}-{}/{len}\r\n", range.start, range.end - 1);
            prop_assert!(std::str::from_utf8(before).unwrap().contains(&line));
            sent += before.len() + slice(range).len();
            joined.extend_from_slice(slice(range));
        }
        prop_assert_eq!((sent + multipart.end.len()) as u64, multipart.len());
        prop_assert_eq!(&joined, &body);
    }

    /// no field asks for a byte that is not there, or for one twice.
    #[test]
    fn ranges_lie_within_the_content_and_ascend(spec in "[0-9]{0,3}-[0-9]{0,3}(,[0-9]{0,3}-[0-9]{0,3}){0,3}", len in 0_u64..500) {
        if let Selection::Parts(ranges) = selected(&spec, len) {
            let mut reached = 0;
            for range in ranges.as_slice() {
                prop_assert!(range.start >= reached && range.start < range.end && range.end <= len, "{range:?} of {len}");
                reached = range.end;
            }
        }
    }

    /// RFC 9111 §2: a key tells apart all that names the resource, byte for byte, and nothing else but the case and the port of the host.
    #[test]
    fn key_is_host_and_target(
        one in "/[!-~]{0,8}", other in "/[!-~]{0,8}", host in "[a-cA-C]{1,2}", second in "[a-cA-C]{1,2}", noise in "[a-zA-Z-]{1,10}",
    ) {
        prop_assume!(!one.contains('#') && !other.contains('#'));
        let request = |path: &str, host: &str, more: &str| key(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"));
        let first = request(&one, &host, "");
        let same = one == other && host.eq_ignore_ascii_case(&second);
        prop_assert_eq!(first == request(&other, &second, ""), same);
        prop_assert_eq!(&first, &request(&one, &format!("{}:80", host.to_uppercase()), ""));
        prop_assert_ne!(&first, &request(&one, &format!("{host}:81"), ""));
        // Fields are no part of it; Vary adds what it names.
        prop_assert_eq!(&first, &request(&one, &host, &format!("X-{noise}: 1\r\nCookie: a\r\nRange: bytes=0-1\r\nAuthorization: b\r\n")));
    }

    /// Parse and send are inverse for stored heads: status, fields in their order, length and age come back from what a hit sends.
    #[test]
    fn hits_parse_back_to_what_was_stored(
        status in one_of(vec![200, 203, 204, 299, 301, 404, 410, 503]), fields in vec(("X-[A-Za-z0-9-]{1,12}", "[!-~]([ -~]{0,20}[!-~])?"), 0..8),
        age in 0_u32..=1 << 31, ttl in any::<i32>(), content_len in any::<u32>(), keep_alive in any::<bool>(),
        flags in one_of(vec![&[][..], &[("semantics", "cloudfront")][..]]),
    ) {
        // X-Cache is our own; nothing else of these names is.
        let fields: Vec<_> = fields.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("x-cache")).collect();
        let behavior = behavior(flags);
        let mut text = format!("HTTP/1.1 {status} Fine\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nAge: 7\r\nConnection: X-Hop\r\nX-Hop: 1\r\n");
        let fields: Vec<_> = fields.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("x-hop")).collect();
        for (name, value) in &fields {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        let mut slots = FieldSlots::new();
        let head = parse_response(text.as_bytes(), &mut slots, &HeadLimits::default(), Method::Get).unwrap().unwrap();
        let mut prefix = Vec::new();
        write_stored(&behavior, &head, Now { wall: WALL, millis: 0 }, &mut prefix);
        let mut expected = vec![("Date".to_string(), "Sun, 06 Nov 1994 08:49:37 GMT".to_string())];
        expected.extend(fields);
        let pair = |field: &Field<'_>| (field.name.to_string(), String::from_utf8(field.value.to_vec()).unwrap());
        let read: Vec<_> = stored_fields(&prefix).map(|field| pair(&field)).collect();
        prop_assert_eq!(&read, &expected);
        let tail = HitTail { age, ttl: ttl.into(), content_len: content_len.into(), status, version: Version::Http11, keep_alive };
        let mut out = vec![0; prefix.len() + HIT_TAIL_LEN_MAX];
        let sent_len = finish_hit(&behavior, &prefix, &tail, &mut out);
        let mut slots = FieldSlots::new();
        let hit = parse_response(&out[..sent_len], &mut slots, &HeadLimits::default(), Method::Get).unwrap().unwrap();
        prop_assert_eq!((hit.status, hit.len, hit.keep_alive), (status, sent_len, keep_alive));
        prop_assert_eq!(hit.field("age").map(<[u8]>::to_vec), Some(age.to_string().into_bytes()));
        let framing = if status == 204 { ResponseFraming::None } else { ResponseFraming::Length(content_len.into()) };
        prop_assert_eq!(hit.framing, framing);
        let sent: Vec<_> = hit.fields.iter().map(pair).take(expected.len()).collect();
        prop_assert_eq!(&sent, &expected);
    }
}
