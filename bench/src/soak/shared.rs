//! What viewers do together: crowds before one URL, URLs that change under their readers, and the requests that change them.
//!
//! Judges what collapsing and invalidation must keep: every answer is of one version from its first byte to its last, the one that its head
//! names, also as a part; and no answer that was asked for after a change had been confirmed is of a version before it.

use super::connection::Connection;
use super::tally::Ending;
use super::viewer::{EXCHANGE_MAX, Viewer};
use crate::content::Content;
use crate::http::{Fault, Flow, Head};
use crate::origin::reset_on_close;
use crate::plan::{Kind, Plan, Promise};
use crate::random::Random;
use crate::wait;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Crowds meet at multiples of this, counted from the start.
const APPOINTMENT: Duration = Duration::from_millis(250);
/// A body that is shared and not stored may be cut for readers that are so far behind the fastest.
const WINDOW: u64 = 1 << 20;
/// URLs that change.
const CHANGING: u64 = 24;
/// What crowds meet for; each is asked for at one moment only, so it is cold then.
const CROWDED: &[(Kind, u64)] = &[
    (Kind::Fresh, 20),
    (Kind::FreshChunked, 15),
    (Kind::Trickle, 15),
    (Kind::Late, 8),
    (Kind::Private, 8),
    (Kind::PrivateChunked, 6),
    (Kind::UntilClose, 4),
    (Kind::Overrun, 2),
    (Kind::CutLength, 6),
    (Kind::CutChunked, 6),
    (Kind::ResetBody, 4),
    (Kind::ResetHead, 4),
    (Kind::Garbage, 2),
    (Kind::Changing, 10),
    (Kind::Ragged, 10),
];

/// What all viewers of a soak know together.
#[derive(Debug)]
pub(crate) struct Meeting {
    began: Instant,
    /// The oldest version of each changing URL that may still be seen.
    floors: Mutex<HashMap<Plan, u64>>,
    collapsed: AtomicU64,
    /// Each answer that was cut, in words.
    cut: Mutex<Vec<String>>,
}

impl Meeting {
    /// Begins now.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            floors: Mutex::default(),
            collapsed: AtomicU64::new(0),
            cut: Mutex::default(),
        }
    }

    /// Returns how many answers said that they came from another's fetch.
    pub(crate) fn collapsed(&self) -> u64 {
        self.collapsed.load(Ordering::Relaxed)
    }

    /// Returns in words which answers broke off that nothing at the origin excuses.
    ///
    /// What turns out not to be stored while it is shared goes on at the pace of the fastest reader; who is too slow for that, and cannot have
    /// the rest by a range, is cut.
    pub(crate) fn cut(&self) -> MutexGuard<'_, Vec<String>> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floors(&self) -> MutexGuard<'_, HashMap<Plan, u64>> {
        self.floors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floor(&self, plan: Plan) -> u64 {
        self.floors().get(&plan).copied().unwrap_or(0)
    }
}

/// What is asked of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Whole,
    Head,
    /// The bytes from the first to the last.
    Part(u64, u64),
    /// Whole, with so many pauses.
    Slowly(u64),
    /// Whole, but the viewer leaves after so many bytes, by a reset if told so.
    Leaving(u64, Farewell),
}

/// How a viewer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    Orderly,
    Reset,
}

impl Viewer<'_> {
    /// Asks for what everybody who is there asks for at this moment.
    pub(super) fn stampede(&mut self) {
        let scenario = "stampede";
        let Some(mut connection) = self.connect(scenario) else { return };
        let number = self.meeting.began.elapsed().as_millis() / APPOINTMENT.as_millis() + 1;
        let meets = self.meeting.began + APPOINTMENT * number as u32;
        // Every viewer comes to the same plan by itself.
        let mut random = Random::new(self.seed ^ number as u64);
        let kind = random.weighted(CROWDED);
        let size = if random.chance(80) { random.length(300_000) } else { random.between(1 << 20, 12 << 20) };
        let plan = Plan { kind, size: size + 1, seed: self.seed, id: (1 << 50) + number as u64 };
        wait::pause(meets.saturating_duration_since(Instant::now()));
        let ask = self.ask(plan);
        self.play(scenario, plan, &mut connection, ask);
    }

    /// Asks a few times for URLs that change.
    pub(super) fn changing(&mut self) {
        let Some(mut connection) = self.connect("changing content") else { return };
        for _ in 0..self.random.between(1, 8) {
            let plan = self.changing_plan();
            let scenario = if plan.kind == Kind::Ragged { "ragged content" } else { "changing content" };
            let ask = self.ask(plan);
            if !self.play(scenario, plan, &mut connection, ask) {
                return;
            }
        }
    }

    /// Changes a URL; from the answer on nobody may see what was before.
    pub(super) fn invalidate(&mut self) {
        let scenario = "invalidation";
        let Some(mut connection) = self.connect(scenario) else { return };
        let plan = self.changing_plan();
        let start = Instant::now();
        let request = format!("POST {plan} HTTP/1.1\r\nHost: soak\r\nContent-Length: 0\r\n\r\n");
        let _ = connection.send(request.as_bytes());
        match connection.answer(|_, _| Flow::Continue) {
            Ok((head, _)) if head.status() == Ok(200) => {
                let version = head.field("x-version").and_then(|text| text.parse::<u64>().ok());
                let Some(version) = version else {
                    return self
                        .tally
                        .fault(scenario, format!("{plan}: the head of another answer: {head:?}"));
                };
                let mut floors = self.meeting.floors();
                let floor = floors.entry(plan).or_default();
                *floor = version.max(*floor);
                drop(floors);
                self.tally.ended(scenario, Ending::Whole, 0, start.elapsed());
            }
            other if self.outages.touched(start) => {
                let refused = matches!(other, Ok((head, _)) if matches!(head.status(), Ok(502..=504)));
                let ending = if refused { Ending::Refused } else { Ending::Broken };
                self.tally.ended(scenario, ending, 0, start.elapsed());
            }
            other => self.tally.fault(scenario, format!("{plan}: {other:?}")),
        }
    }

    fn changing_plan(&mut self) -> Plan {
        let id = self.random.between(0, CHANGING - 1);
        let kind = if id.is_multiple_of(4) { Kind::Ragged } else { Kind::Changing };
        // The size follows from the number, so that a URL means one sequence of contents.
        let size = Random::new(id).length(if id % 8 == 5 { 6 << 20 } else { 200_000 }) + 4_000;
        Plan { kind, size, seed: self.seed, id }
    }

    fn ask(&mut self, plan: Plan) -> Ask {
        let first = self.random.between(0, plan.size - 1);
        match self.random.between(0, 99) {
            0..60 => Ask::Whole,
            60..78 => Ask::Part(first, first + self.random.length(plan.size - first) - 1),
            78..85 => Ask::Head,
            85..88 => Ask::Slowly(self.random.between(3, 12)),
            88..94 => Ask::Leaving(first, Farewell::Orderly),
            _ => Ask::Leaving(first, Farewell::Reset),
        }
    }

    /// Asks, reads, judges and counts; true when the connection can go on.
    fn play(&mut self, scenario: &'static str, plan: Plan, connection: &mut Connection, ask: Ask) -> bool {
        let start = Instant::now();
        let floor = self.meeting.floor(plan);
        let method = if ask == Ask::Head { "HEAD" } else { "GET" };
        let range = match ask {
            Ask::Part(first, last) => format!("Range: bytes={first}-{last}\r\n"),
            _ => String::new(),
        };
        // A send that fails shows in what can be read afterwards.
        let _ = connection.send(format!("{method} {plan} HTTP/1.1\r\nHost: soak\r\n{range}\r\n").as_bytes());
        connection.head_only = ask == Ask::Head;
        let mut read = 0;
        let outcome = read_shared(connection, plan, ask, floor, &mut read);
        let took = start.elapsed();
        let excused = self.outages.touched(start) || plan.kind.promise() != Promise::Whole;
        let verdict = match outcome {
            Ok(Shared::Right { collapsed }) => {
                if collapsed {
                    self.meeting.collapsed.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Ending::Whole)
            }
            Ok(Shared::Left) => Ok(Ending::Left),
            Ok(Shared::Refused) if excused => Ok(Ending::Refused),
            Ok(Shared::Refused) => Err("an error that nothing excuses".into()),
            Err(Wrong::Fault(Fault::Silent)) => Err("stuck".into()),
            Err(Wrong::Fault(Fault::Malformed(what))) | Err(Wrong::Answer(what)) => Err(what),
            Err(Wrong::Fault(_)) if excused => Ok(Ending::Broken),
            // Whether the server counts as many, with the cause that allows it, is judged at the end.
            Err(Wrong::Fault(Fault::Reset | Fault::Cut)) if plan.size > WINDOW => {
                let (at, seconds) =
                    (start.duration_since(self.meeting.began).as_secs_f64(), took.as_secs_f64());
                self.meeting
                    .cut()
                    .push(format!("{plan} {ask:?}: {read} bytes in {seconds:.1} s from {at:.1} s on"));
                Ok(Ending::Broken)
            }
            Err(Wrong::Fault(fault)) => Err(format!("broke off: {fault:?}")),
        };
        let verdict = if took > EXCHANGE_MAX { Err("stuck".into()) } else { verdict };
        match verdict {
            Ok(ending) => {
                if matches!(ask, Ask::Leaving(_, Farewell::Reset)) {
                    reset_on_close(connection.reader.stream());
                }
                self.tally.ended(scenario, ending, read, took);
                matches!(ending, Ending::Whole | Ending::Refused) && !connection.closes
            }
            Err(what) => {
                let seconds = took.as_secs_f64();
                self.tally.fault(scenario, format!("{plan} {ask:?}: {what} ({read} bytes, {seconds:.1} s)"));
                false
            }
        }
    }
}

/// How an answer ended that was not wrong.
enum Shared {
    Right { collapsed: bool },
    Refused,
    Left,
}

/// What was wrong with an answer.
enum Wrong {
    Fault(Fault),
    Answer(String),
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Reads one answer and holds each byte against the version that its head names.
fn read_shared(
    connection: &mut Connection,
    plan: Plan,
    ask: Ask,
    floor: u64,
    read: &mut u64,
) -> Result<Shared, Wrong> {
    let head = connection.final_head()?;
    let status = head.status()?;
    if matches!(status, 502..=504) {
        connection.content(&head, |_, _| Flow::Continue)?;
        return Ok(Shared::Refused);
    }
    let wrong = |what: String| Err(Wrong::Answer(what));
    if head.field("x-plan") != Some(&plan.to_string()) {
        return wrong(format!("the head of another answer: {head:?}"));
    }
    let (content, total) = match promised(&head, plan, floor) {
        Ok(promised) => promised,
        Err(what) => return wrong(what),
    };
    let (from, to) = match (status, ask) {
        (200, _) => (0, total),
        (206, Ask::Part(first, last)) => {
            let last = last.min(total - 1);
            let stated = format!("bytes {first}-{last}/{total}");
            if head.field("content-range") != Some(&stated) {
                return wrong(format!("not {stated}: {head:?}"));
            }
            (first, last + 1)
        }
        _ => return wrong(format!("status {status}")),
    };
    if let Some(length) = head.field("content-length")
        && length.parse() != Ok(to - from)
    {
        return wrong(format!("a length of {length} for bytes {from} to {to}"));
    }
    let mut pauses = if let Ask::Slowly(pauses) = ask { pauses } else { 0 };
    let mut difference = None;
    let length = connection.content(&head, |at, piece| {
        difference = difference.or_else(|| content.first_difference(from + at, piece));
        *read = at + piece.len() as u64;
        if pauses > 0 {
            pauses -= 1;
            wait::pause(Duration::from_millis(100));
        }
        match ask {
            Ask::Leaving(limit, _) if *read >= limit => Flow::Stop,
            _ => Flow::Continue,
        }
    });
    // Before how it ended: what came must be right as far as it goes.
    if let Some(at) = difference {
        return wrong(format!("wrong content at byte {at} of {from} to {to}: {head:?}"));
    }
    let length = length?;
    if let Ask::Leaving(..) = ask {
        return Ok(Shared::Left);
    }
    if plan.kind == Kind::UntilClose && ask != Ask::Head && length < to - from {
        // An orderly end is the end of such a body, also of an origin that is shut down.
        return Err(Wrong::Fault(Fault::Cut));
    }
    if ask != Ask::Head && length != to - from {
        return wrong(format!("{length} bytes passed for {from} to {to}"));
    }
    let broken = matches!(plan.kind.promise(), Promise::Broken | Promise::Failure);
    // The part of a body that breaks off later may be whole, and so is its head.
    if broken && status == 200 && ask != Ask::Head {
        return wrong("a whole answer where the origin gave none".into());
    }
    let collapsed = head.field("cache-status").is_some_and(|value| value.contains("; collapsed"));
    Ok(Shared::Right { collapsed })
}

/// Returns the content that a head promises, and its whole length.
fn promised(head: &Head, plan: Plan, floor: u64) -> Result<(Content, u64), String> {
    if !plan.kind.has_versions() {
        return Ok((plan.content(), plan.answer_len()));
    }
    let tag = head.field("etag").unwrap_or_default();
    let version =
        tag.strip_prefix("\"v").and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
    let Some(version) = version else { return Err(format!("no version in the entity tag {tag:?}")) };
    if version < floor {
        return Err(format!("version {version} after {floor} had been confirmed: {head:?}"));
    }
    Ok((plan.content_in(version), plan.length_in(version)))
}
