//! What the viewers of a soak do, how often each thing, and with which URLs and requests.

use crate::plan::Kind;

/// What a viewer does with one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    KeepAlive,
    Pipeline,
    Head,
    Large,
    Upload,
    UploadAborted,
    EarlyAnswer,
    SlowReader,
    StalledReader,
    LeavesWithinBody,
    ResetsWithinBody,
    ResetsAtOnce,
    HalfRequest,
    BadRequest,
    Tunnel,
    Faulty,
    Stampede,
    Changing,
    Invalidate,
}

/// Returns the scenarios whose names `list` has, separated by commas; all of them for an empty list.
pub(super) fn scenarios(list: &str) -> Result<Vec<(Scenario, u64)>, String> {
    if list.is_empty() {
        return Ok(SCENARIOS.to_vec());
    }
    let named = |name: &str| {
        let found = SCENARIOS.iter().find(|(scenario, _)| format!("{scenario:?}") == name);
        found.copied().ok_or_else(|| {
            let all: Vec<String> = SCENARIOS.iter().map(|(scenario, _)| format!("{scenario:?}")).collect();
            format!("no scenario {name:?}: expected some of {}", all.join(","))
        })
    };
    list.split(',').map(named).collect()
}

/// Scenarios with their weights; the stalled ones hold a viewer for long and so are rare.
const SCENARIOS: &[(Scenario, u64)] = &[
    (Scenario::KeepAlive, 260),
    (Scenario::Pipeline, 80),
    (Scenario::Head, 40),
    (Scenario::Large, 15),
    (Scenario::Upload, 80),
    (Scenario::UploadAborted, 40),
    (Scenario::EarlyAnswer, 20),
    (Scenario::SlowReader, 15),
    (Scenario::StalledReader, 1),
    (Scenario::LeavesWithinBody, 60),
    (Scenario::ResetsWithinBody, 60),
    (Scenario::ResetsAtOnce, 60),
    (Scenario::HalfRequest, 20),
    (Scenario::BadRequest, 40),
    (Scenario::Tunnel, 30),
    (Scenario::Faulty, 40),
    (Scenario::Stampede, 200),
    (Scenario::Changing, 260),
    (Scenario::Invalidate, 25),
];

/// Kinds of plain requests; fresh ones from a small set of URLs, so that they become hits.
pub(super) const PLAIN: &[(Kind, u64)] = &[
    (Kind::Fresh, 40),
    (Kind::FreshChunked, 15),
    (Kind::Brief, 10),
    (Kind::Private, 15),
    (Kind::PrivateChunked, 10),
    (Kind::UntilClose, 6),
    (Kind::Late, 2),
    (Kind::Trickle, 3),
    (Kind::Interim, 4),
    (Kind::Overrun, 3),
];

pub(super) const FAULTY: &[(Kind, u64)] = &[
    (Kind::CutLength, 20),
    (Kind::CutChunked, 20),
    (Kind::ResetBody, 20),
    (Kind::ResetHead, 20),
    (Kind::Garbage, 20),
    (Kind::StallBody, 2),
    (Kind::StallHead, 2),
];

/// Requests that must be refused with 400 and a closed connection, or with another error.
pub(super) const BAD: &[&str] = &[
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET / HTTP/1.1\nHost: a\n\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "POST /upload/3/0/0 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "GET / HTTP/3.7\r\nHost: a\r\n\r\n",
    "\x00\x01\x02\x03\r\n\r\n",
    "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
];
