//! Holds an answer that came to its end against what its URL promised.

use super::tally::Ending;
use crate::http::Head;
use crate::plan::{Kind, Plan, Promise};

/// How much of an answer is wanted, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    All,
    HeadOnly,
    /// With so many pauses.
    Slowly(u64),
}

/// Judges an answer that ended as its framing demands.
pub(super) fn verdict(
    plan: Plan,
    head: &Head,
    length: u64,
    wrong: Option<u64>,
    want: Want,
    excused: bool,
) -> Result<Ending, String> {
    let status = head.status().map_err(|fault| format!("{fault:?}"))?;
    if status != 200 {
        let failed = matches!(status, 502..=504);
        let allowed = excused || plan.kind.promise() != Promise::Whole;
        return if failed && allowed { Ok(Ending::Refused) } else { Err(format!("status {status}")) };
    }
    if head.field("x-plan") != Some(&plan.to_string()) {
        return Err(format!("the head of another answer: {head:?}, {length} bytes, wrong at {wrong:?}"));
    }
    if want == Want::HeadOnly {
        let stated = head.field("content-length").map(str::parse::<u64>);
        return match stated {
            Some(stated) if stated != Ok(plan.answer_len()) => Err(format!("HEAD states {stated:?}")),
            _ => Ok(Ending::Whole),
        };
    }
    if let Some(at) = wrong {
        return Err(format!("wrong content at byte {at} of {length}"));
    }
    if excused && plan.kind == Kind::UntilClose && length < plan.answer_len() {
        // An orderly end is the end of such a body, also of an origin that is shut down.
        return Ok(Ending::Broken);
    }
    if length != plan.answer_len() {
        return Err(format!("{length} of {} bytes passed for whole", plan.answer_len()));
    }
    if plan.kind.promise() != Promise::Whole {
        return Err("a whole answer where the origin gave none".into());
    }
    Ok(Ending::Whole)
}
