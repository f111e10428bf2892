//! The operations of a list, and how random ones are made: mostly plain requests for one URI, so that things are stored and found.

use proptest::prelude::*;
use proptest::sample::select;

use crate::origin::{Change, Clock, Confirms, Expires, Failure, Framing, Tag};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Ask(Ask),
    /// The URI by host and path.
    Change(usize, usize, Change),
    Wait(i64),
}

/// A viewer's request; names of fields as places in the lists below.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) host: usize,
    pub(crate) path: usize,
    pub(crate) language: &'static str,
    pub(crate) encoding: &'static str,
    pub(crate) condition: Condition,
    pub(crate) range: &'static str,
    pub(crate) if_range: Validator,
    /// A whole field line, or nothing.
    pub(crate) extra: &'static str,
    pub(crate) directive: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    None,
    NoneMatch(Validator),
    ModifiedSince(Validator),
    /// If-Modified-Since does not count beside If-None-Match.
    Both(Validator, Validator),
    Match(Validator),
    UnmodifiedSince(Validator),
}

/// A validator that a viewer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validator {
    None,
    Current,
    Old,
    Any,
    Listed,
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let control = select(vec![
        "max-age=60",
        "max-age=0",
        "",
        "public",
        "public, max-age=50",
        "s-maxage=30, max-age=600",
        "no-store",
        "private",
        "no-cache",
        "no-cache, max-age=100",
        "max-age=60, must-revalidate",
        "max-age=60, proxy-revalidate",
        "max-age=20, stale-while-revalidate=50",
        "max-age=20, stale-while-revalidate=50, must-revalidate",
        "max-age=20, stale-if-error=40",
        "max-age=20, stale-if-error=0",
        "private=\"x-secret\", max-age=60",
        "no-cache=\"x-secret\", max-age=60",
        "must-understand, no-store, max-age=60",
        "max-age=abc",
        "max-age=\"70\"",
        "max-age=10, max-age=80",
        "Max-Age=-5",
        "MAX-AGE=45, ext=\"a, no-store\"",
        "max-age='60'",
        "max-age=99999999999",
        "max-age=60, no-store",
        "must-revalidate",
    ]);
    let targeted = select(vec![
        "",
        "",
        "max-age=25",
        "no-store",
        "max-age=\"9\"",
        "max-age=15, stale-while-revalidate=30",
    ]);
    prop_oneof![
        6 => Just(Change::Content),
        2 => select(vec![200, 200, 200, 204, 203, 301, 302, 404, 410, 500, 503, 599]).prop_map(Change::Status),
        6 => control.prop_map(Change::Control),
        1 => targeted.prop_map(Change::Targeted),
        2 => select(vec![Tag::None, Tag::Strong, Tag::Weak]).prop_map(Change::Etag),
        2 => any::<bool>().prop_map(Change::Modified),
        1 => select(vec![Expires::None, Expires::In(40), Expires::In(-5), Expires::Invalid, Expires::Twice]).prop_map(Change::Expires),
        1 => select(vec![Clock::Missing, Clock::Off(0), Clock::Off(-30), Clock::Off(30)]).prop_map(Change::Date),
        1 => select(vec!["", "10", "junk", "3, 500", "-1", "4000"]).prop_map(Change::Age),
        2 => select(vec!["", "Accept-Language", "accept-encoding", "Accept-Encoding, Accept-Language", "*"]).prop_map(Change::Vary),
        1 => select(vec![Framing::Length, Framing::Chunked, Framing::UntilClose]).prop_map(Change::Framing),
        1 => any::<bool>().prop_map(Change::Cookie),
        2 => select(vec![Confirms::Full, Confirms::Lean, Confirms::Undated, Confirms::Updated, Confirms::Another, Confirms::Never])
            .prop_map(Change::Confirms),
        2 => select(vec![Failure::None, Failure::None, Failure::NoAnswer, Failure::Status(503), Failure::Status(500), Failure::Broken])
            .prop_map(Change::Failure),
        1 => select(vec![0, 0, 5]).prop_map(Change::Delay),
        2 => (
            select(vec!["", "/b", "http://two.example/a", "http://one.example/a?b"]),
            select(vec!["", "/a", "/b", "http://two.example/b"]),
        )
            .prop_map(|(location, content)| Change::Location(location, content)),
    ]
}

pub(crate) fn ask() -> impl Strategy<Value = Ask> {
    let validator = || select(vec![Validator::Current, Validator::Old, Validator::Any, Validator::Listed]);
    let condition = prop_oneof![
        8 => Just(Condition::None),
        2 => validator().prop_map(Condition::NoneMatch),
        2 => validator().prop_map(Condition::ModifiedSince),
        1 => (validator(), validator()).prop_map(|(tag, date)| Condition::Both(tag, date)),
        1 => validator().prop_map(Condition::Match),
        1 => validator().prop_map(Condition::UnmodifiedSince),
    ];
    let range = prop_oneof![
        8 => Just(""),
        2 => select(vec![
            "bytes=0-9", "bytes=5-", "bytes=-7", "bytes=0-4,10-19", "bytes=0-0,2-2,9-", "bytes=1000000-", "bytes=9-5", "items=0-1",
            "bytes=3-1000000", "bytes=-1000000",
        ]),
    ];
    let method = prop_oneof![
        14 => Just("GET"),
        3 => Just("HEAD"),
        3 => select(vec!["POST", "PUT", "DELETE", "OPTIONS", "M-SEARCH"]),
    ];
    let extra = prop_oneof![
        9 => Just(""),
        1 => select(vec!["Authorization: Basic eDp5", "Cookie: a=b", "X-HTTP-Method-Override: DELETE", "Content-Length: 3", "Pragma: no-cache"]),
    ];
    let directive = prop_oneof![
        6 => Just(""),
        2 => select(vec![
            "no-cache", "no-store", "max-age=0", "max-age=10", "min-fresh=30", "max-stale", "max-stale=20", "only-if-cached",
            "only-if-cached, max-stale=100", "max-age=x",
        ]),
    ];
    let names = (
        select(vec!["", "", "en", "EN", "en, fr", "en,fr", "fr"]),
        select(vec!["", "", "gzip", "gzip, br", "GZIP"]),
    );
    let place =
        (prop_oneof![5 => Just(0), 1 => Just(1)], prop_oneof![6 => Just(0), 2 => Just(1), 1 => Just(2)]);
    let if_range =
        select(vec![Validator::None, Validator::None, Validator::Current, Validator::Old, Validator::Any]);
    (method, place, names, condition, range, if_range, extra, directive).prop_map(
        |(method, (host, path), (language, encoding), condition, range, if_range, extra, directive)| Ask {
            method,
            host,
            path,
            language,
            encoding,
            condition,
            range,
            if_range,
            extra,
            directive,
        },
    )
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let wait = select(vec![0, 1, 2, 9, 10, 19, 20, 21, 29, 30, 31, 40, 59, 60, 61, 100, 1000, 100_000]);
    prop_oneof![
        8 => ask().prop_map(Op::Ask),
        3 => (prop_oneof![5 => Just(0), 1 => Just(1)], prop_oneof![6 => Just(0), 2 => Just(1), 1 => Just(2)], change())
            .prop_map(|(host, path, change)| Op::Change(host, path, change)),
        3 => wait.prop_map(Op::Wait),
    ]
}
