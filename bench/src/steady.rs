//! A viewer that asks for one plan after the other at a steady pace and reads what comes to its end.
//!
//! It judges status and length, not the bytes: for loads that are to cost their driver little. A failure of one answer ends it.

use crate::http::{Flow, Reader};
use crate::plan::Plan;
use crate::wait;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// An answer that takes longer is an error.
const SILENCE: Duration = Duration::from_secs(30);

/// What is asked for: a plan, and the first byte and the one after the last of a part of it.
pub(crate) type Wish = (Plan, Option<(u64, u64)>);

/// Asks until `end` for what `next` says, each time when it is due or as soon as the answer before is there.
pub(crate) fn ask(
    address: SocketAddr,
    mut next: impl FnMut() -> Wish,
    end: Instant,
    period: Duration,
) -> io::Result<()> {
    let mut reader = Reader::connect(address, SILENCE)?;
    let mut due = Instant::now();
    while due < end {
        wait::pause(due.saturating_duration_since(Instant::now()));
        let (plan, part) = next();
        let range = part.map_or_else(String::new, |(from, to)| format!("Range: bytes={from}-{}\r\n", to - 1));
        let request = format!("GET {plan} HTTP/1.1\r\nHost: {address}\r\n{range}\r\n");
        reader.stream().write_all(request.as_bytes())?;
        let head = reader.head()?;
        let length = reader.content(&head, |_, _| Flow::Continue)?;
        let is_right = match head.status()? {
            200 => length == plan.size,
            206 => part.is_some_and(|(from, to)| length == to - from),
            _ => false,
        };
        if !is_right {
            return Err(io::Error::other(format!("{plan} {part:?}: {}, {length} bytes", head.start_line)));
        }
        due = (due + period).max(Instant::now());
    }
    Ok(())
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
        ask(origin.address(), || (plan, None), end(), period).unwrap();
        assert!((2..=10).contains(&origin.requests()), "{}", origin.requests());
        let cut = Plan { kind: Kind::CutLength, ..plan };
        assert!(ask(origin.address(), || (cut, None), end(), period).is_err());
    }
}
