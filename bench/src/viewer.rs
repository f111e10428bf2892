//! A viewer that knows from the plan of a URL what it must get: asks once, or for one plan after the other at a steady pace.

use crate::http::{Fault, Flow, Reader};
use crate::plan::Plan;
use crate::wait;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// An answer that takes longer is an error.
const SILENCE: Duration = Duration::from_secs(30);

/// What is asked for: a plan, and the first byte and the one after the last of a part of it.
pub(crate) type Wish = (Plan, Option<(u64, u64)>);

/// What an answer must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// What its plan promises.
    Planned,
    /// As many bytes: for answers that are nobody's, and for loads that are to cost their driver little.
    Any,
}

/// Asks once and reads the answer to its end; one that is not as promised is malformed.
pub(crate) fn fetch(
    reader: &mut Reader,
    host: impl Display,
    (plan, part): Wish,
    body: Body,
) -> Result<(), Fault> {
    let range = part.map_or_else(String::new, |(from, to)| format!("Range: bytes={from}-{}\r\n", to - 1));
    let request = format!("GET {plan} HTTP/1.1\r\nHost: {host}\r\n{range}\r\n");
    reader.stream().write_all(request.as_bytes()).map_err(|_| Fault::Reset)?;
    let head = reader.head()?;
    let status = head.status()?;
    // Whoever asks for a part may get the whole.
    let (from, due) = match (status, part) {
        (206, Some((from, to))) => (from, to - from),
        _ => (0, plan.size),
    };
    let mut wrong = None;
    let length = reader.content(&head, |at, piece| {
        if body == Body::Planned {
            wrong = wrong.or_else(|| plan.content().first_difference(from + at, piece));
        }
        Flow::Continue
    })?;
    let is_asked = status == 200 || status == 206 && part.is_some();
    if is_asked && length == due && wrong.is_none() {
        return Ok(());
    }
    Err(Fault::Malformed(format!("{}, {length} bytes, wrong at {wrong:?}", head.start_line)))
}

/// Asks until `end` for what `next` says, each time when it is due or as soon as the answer before is there, and returns then, not before; the first answer that is wrong ends it.
pub(crate) fn steadily(
    address: SocketAddr,
    mut next: impl FnMut() -> Wish,
    end: Instant,
    period: Duration,
) -> io::Result<()> {
    let mut reader = Reader::connect(address, SILENCE)?;
    let mut due = Instant::now();
    loop {
        wait::pause(due.min(end).saturating_duration_since(Instant::now()));
        if due >= end {
            return Ok(());
        }
        let (plan, part) = next();
        fetch(&mut reader, address, (plan, part), Body::Any)
            .map_err(|fault| io::Error::other(format!("{plan} {part:?}: {fault:?}")))?;
        due = (due + period).max(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Origin;
    use crate::plan::Kind;

    #[test]
    fn a_viewer_keeps_its_pace_and_tells_what_is_wrong() {
        let origin = Origin::start().unwrap();
        let end = || Instant::now() + Duration::from_millis(200);
        let period = Duration::from_millis(20);
        let plan = Plan { kind: Kind::Fresh, size: 3000, seed: 1, id: 1 };
        steadily(origin.address(), || (plan, None), end(), period).unwrap();
        assert!((2..=10).contains(&origin.requests()), "{}", origin.requests());
        let cut = Plan { kind: Kind::CutLength, ..plan };
        assert!(steadily(origin.address(), || (cut, None), end(), period).is_err());
    }

    #[test]
    fn a_whole_answer_may_come_for_a_part_and_every_byte_counts() {
        let origin = Origin::start().unwrap();
        let mut reader = Reader::connect(origin.address(), SILENCE).unwrap();
        let plan = Plan { kind: Kind::Fresh, size: 3000, seed: 1, id: 1 };
        assert_eq!(fetch(&mut reader, "a", (plan, None), Body::Planned), Ok(()));
        assert_eq!(fetch(&mut reader, "a", (plan, Some((7, 90))), Body::Planned), Ok(()));
        // An upload's answer to nothing is no body of that size.
        let other = Plan { kind: Kind::Upload, size: 3_000_000, ..plan };
        assert!(fetch(&mut reader, "a", (other, None), Body::Any).is_err());
    }
}
