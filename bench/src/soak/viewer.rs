//! One viewer of a soak: it picks a scenario, plays it, and judges each answer against what the URL promised.

use super::connection::{Connection, get};
use super::scenarios::{BAD, FAULTY, PLAIN, Scenario};
use super::shared::Meeting;
use super::tally::{Ending, Tally};
use super::verdict::{Want, verdict};
use crate::http::{Fault, Flow};
use crate::origin::{Outages, reset_on_close};
use crate::plan::{Kind, Plan, Promise};
use crate::random::Random;
use crate::stream::{Chunks, upload};
use crate::wait;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

/// Longest silence within an exchange: well past every timeout of the server, so that more means stuck.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Longest that one exchange may take in all.
pub(super) const EXCHANGE_MAX: Duration = Duration::from_secs(90);

/// One viewer with its own chance.
pub(super) struct Viewer<'t> {
    pub(super) address: SocketAddr,
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) tally: &'t Tally,
    pub(super) outages: Outages,
    /// Numbers that no other viewer uses, for URLs that are asked for once.
    pub(super) next_id: u64,
    /// What it plays, with weights.
    pub(super) scenarios: Vec<(Scenario, u64)>,
    /// Where it meets the others.
    pub(super) meeting: &'t Meeting,
}

/// How an exchange went wrong on the wire.
type Played = Result<(), Fault>;

impl Viewer<'_> {
    /// Plays scenarios until `end`.
    pub(super) fn run(&mut self, end: Instant) {
        while Instant::now() < end {
            match self.random.weighted(&self.scenarios) {
                Scenario::KeepAlive => self.keep_alive(),
                Scenario::Pipeline => self.pipeline(),
                Scenario::Head => self.single("head", |viewer| viewer.plain(20_000), Want::HeadOnly),
                Scenario::Large => self.single("large body", Self::large, Want::All),
                Scenario::Faulty => self.single("origin misbehaves", Self::faulty, Want::All),
                Scenario::Upload => self.upload(Leave::Never),
                Scenario::UploadAborted => self.upload(Leave::Within),
                Scenario::EarlyAnswer => self.early_answer(),
                Scenario::SlowReader => self.slow_reader(),
                Scenario::StalledReader => self.stalled_reader(),
                Scenario::LeavesWithinBody => {
                    self.leave("leaves within the body", Leave::Within, How::Orderly)
                }
                Scenario::ResetsWithinBody => self.leave("resets within the body", Leave::Within, How::Reset),
                Scenario::ResetsAtOnce => self.leave("resets at once", Leave::AtOnce, How::Reset),
                Scenario::HalfRequest => self.half_request(),
                Scenario::BadRequest => self.bad_request(),
                Scenario::Tunnel => self.tunnel(),
                Scenario::Stampede => self.stampede(),
                Scenario::Changing => self.changing(),
                Scenario::Invalidate => self.invalidate(),
            }
        }
    }

    /// Asks once for each kind that promises a whole answer.
    pub(super) fn each_once(&mut self, scenario: &'static str) {
        for (kind, _) in PLAIN {
            let plan = Plan { kind: *kind, size: 40_000, seed: self.seed, id: self.fresh_id() };
            self.single(scenario, |_| plan, Want::All);
        }
    }

    /// A URL of the usual mix.
    fn plain(&mut self, size_max: u64) -> Plan {
        let kind = self.random.weighted(PLAIN);
        match kind {
            // A few hundred URLs that all viewers share; size follows from the number, so that a URL means one content.
            Kind::Fresh | Kind::FreshChunked | Kind::Brief => {
                let id = self.random.between(0, 200);
                Plan { kind, size: Random::new(id).length(size_max), seed: self.seed, id }
            }
            _ => Plan { kind, size: self.random.length(size_max), seed: self.seed, id: self.fresh_id() },
        }
    }

    fn large(&mut self) -> Plan {
        let kinds =
            [(Kind::Fresh, 2), (Kind::FreshChunked, 2), (Kind::Private, 1), (Kind::PrivateChunked, 1)];
        let kind = self.random.weighted(&kinds);
        let size = self.random.between(2 << 20, 24 << 20);
        Plan { kind, size, seed: self.seed, id: self.fresh_id() }
    }

    fn faulty(&mut self) -> Plan {
        let kind = self.random.weighted(FAULTY);
        // At least two bytes, so that half of them is less than all.
        let size = self.random.length(300_000) + 1;
        // Some are asked for again, to show that what was cut has not been stored.
        let id = if self.random.chance(30) { self.random.between(0, 5) } else { self.fresh_id() };
        let size = if id <= 5 { 50_000 + id } else { size };
        Plan { kind, size, seed: self.seed, id }
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn connect(&self, scenario: &'static str) -> Option<Connection> {
        match Connection::open(self.address, None) {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.tally.fault(scenario, format!("cannot connect: {error}"));
                None
            }
        }
    }

    fn keep_alive(&mut self) {
        let scenario = "keep-alive";
        let Some(mut connection) = self.connect(scenario) else { return };
        for _ in 0..self.random.between(1, 20) {
            let plan = self.plain(200_000);
            let start = Instant::now();
            let sent = connection.send(&get(plan));
            if !self.judge(scenario, plan, &mut connection, start, Want::All) || sent.is_err() {
                return;
            }
        }
    }

    fn single(&mut self, scenario: &'static str, plan: impl FnOnce(&mut Self) -> Plan, want: Want) {
        let plan = plan(self);
        let Some(mut connection) = self.connect(scenario) else { return };
        let method = if want == Want::HeadOnly { "HEAD" } else { "GET" };
        let start = Instant::now();
        // A send that fails shows in what can be read afterwards.
        let _ = connection.send(format!("{method} {plan} HTTP/1.1\r\nHost: soak\r\n\r\n").as_bytes());
        self.judge(scenario, plan, &mut connection, start, want);
    }

    fn pipeline(&mut self) {
        let scenario = "pipeline";
        let Some(mut connection) = self.connect(scenario) else { return };
        let plans: Vec<Plan> = (0..self.random.between(2, 10)).map(|_| self.plain(8_000)).collect();
        let requests: Vec<u8> = plans.iter().flat_map(|plan| get(*plan)).collect();
        let start = Instant::now();
        let split = self.random.between(0, requests.len() as u64) as usize;
        let _ = connection.send(&requests[..split]);
        if self.random.chance(50) {
            wait::pause(Duration::from_millis(self.random.between(0, 30)));
        }
        let _ = connection.send(&requests[split..]);
        for plan in plans {
            if !self.judge(scenario, plan, &mut connection, start, Want::All) {
                return;
            }
        }
    }

    fn upload(&mut self, leave: Leave) {
        let scenario = if leave == Leave::Never { "upload" } else { "upload aborted" };
        let Some(mut connection) = self.connect(scenario) else { return };
        let size = self.random.length(3 << 20);
        let plan = Plan { kind: Kind::Upload, size, seed: self.seed, id: self.fresh_id() };
        let chunks = if self.random.chance(50) { Chunks::Yes } else { Chunks::No };
        let expect = leave == Leave::Never && self.random.chance(25);
        let mut head = format!("POST {plan} HTTP/1.1\r\nHost: soak\r\n");
        match chunks {
            Chunks::Yes => head.push_str("Transfer-Encoding: chunked\r\n"),
            Chunks::No => head.push_str(&format!("Content-Length: {size}\r\n")),
        }
        if expect {
            head.push_str("Expect: 100-continue\r\n");
        }
        head.push_str("\r\n");
        let start = Instant::now();
        let _ = connection.send(head.as_bytes());
        if leave == Leave::Within {
            let mut body = Vec::new();
            // Writing into memory cannot fail.
            let _ = upload(&mut body, plan, chunks);
            let cut = self.random.between(0, body.len() as u64 - 1) as usize;
            let _ = connection.send(&body[..cut]);
            if self.random.chance(50) {
                reset_on_close(connection.reader.stream());
            }
            self.tally.ended(scenario, Ending::Left, cut as u64, start.elapsed());
            return;
        }
        if expect && !connection.continues() {
            // A final answer instead of 100: the body is not sent, and the answer is judged as it stands.
            self.judge(scenario, plan, &mut connection, start, Want::All);
            return;
        }
        let _ = upload(&mut connection.writer, plan, chunks);
        self.judge(scenario, plan, &mut connection, start, Want::All);
    }

    fn early_answer(&mut self) {
        let scenario = "answer before the upload";
        let Some(mut connection) = self.connect(scenario) else { return };
        let size = self.random.length(400_000);
        let plan = Plan { kind: Kind::EarlyAnswer, size, seed: self.seed, id: self.fresh_id() };
        let start = Instant::now();
        let head = format!("POST {plan} HTTP/1.1\r\nHost: soak\r\nContent-Length: {size}\r\n\r\n");
        let _ = connection.send(head.as_bytes());
        let _ = upload(&mut connection.writer, plan, Chunks::No);
        self.judge(scenario, plan, &mut connection, start, Want::All);
    }

    fn slow_reader(&mut self) {
        let scenario = "slow reader";
        let plan = Plan { size: self.random.between(1 << 20, 4 << 20), ..self.large() };
        let Ok(mut connection) = Connection::open(self.address, Some(16 * 1024)) else { return };
        let start = Instant::now();
        let _ = connection.send(&get(plan));
        let pieces = self.random.between(5, 30);
        self.judge(scenario, plan, &mut connection, start, Want::Slowly(pieces));
    }

    /// Reads nothing at all until the server has given up, which it must.
    fn stalled_reader(&mut self) {
        let scenario = "stalled reader";
        let plan = Plan { size: 16 << 20, ..self.large() };
        let Ok(mut connection) = Connection::open(self.address, Some(16 * 1024)) else { return };
        let start = Instant::now();
        let _ = connection.send(&get(plan));
        wait::pause(super::SEND_TIMEOUT * 3);
        let mut read = 0;
        let ended = connection.drain(&mut read);
        if ended && read < plan.size {
            self.tally.ended(scenario, Ending::Broken, read, start.elapsed());
        } else {
            self.tally
                .fault(scenario, format!("{plan}: {read} bytes came after a stall past the send timeout"));
        }
    }

    fn leave(&mut self, scenario: &'static str, leave: Leave, how: How) {
        let Some(mut connection) = self.connect(scenario) else { return };
        let plan = if self.random.chance(20) { self.large() } else { self.plain(300_000) };
        let start = Instant::now();
        let _ = connection.send(&get(plan));
        let mut read = 0;
        if leave == Leave::Within {
            let limit = self.random.between(0, plan.size);
            // What comes up to here is judged by the scenarios that stay.
            let _ = connection.answer(|at, piece| {
                read = at + piece.len() as u64;
                if read >= limit { Flow::Stop } else { Flow::Continue }
            });
        } else if self.random.chance(50) {
            wait::pause(Duration::from_millis(self.random.between(0, 20)));
        }
        if how == How::Reset {
            reset_on_close(connection.reader.stream());
        }
        self.tally.ended(scenario, Ending::Left, read, start.elapsed());
    }

    fn half_request(&mut self) {
        let scenario = "half a request";
        let Some(mut connection) = self.connect(scenario) else { return };
        let request = get(self.plain(10_000));
        let cut = self.random.between(1, request.len() as u64 - 1) as usize;
        let start = Instant::now();
        let _ = connection.send(&request[..cut]);
        match self.random.between(0, 2) {
            0 => {}
            1 => reset_on_close(connection.reader.stream()),
            // Waits for the server's head timeout, which must come.
            _ => {
                let mut read = 0;
                if !connection.drain(&mut read) {
                    self.tally.fault(scenario, "the server waits for the rest for ever".into());
                    return;
                }
            }
        }
        self.tally.ended(scenario, Ending::Left, 0, start.elapsed());
    }

    fn bad_request(&mut self) {
        let scenario = "bad request";
        let Some(mut connection) = self.connect(scenario) else { return };
        let request = BAD[self.random.between(0, BAD.len() as u64 - 1) as usize];
        let start = Instant::now();
        let _ = connection.send(request.as_bytes());
        match connection.answer(|_, _| Flow::Continue).and_then(|(head, _)| head.status()) {
            Ok(400..=599) | Err(Fault::Closed | Fault::Reset | Fault::Cut) => {}
            other => {
                self.tally.fault(scenario, format!("{request:?} was answered with {other:?}"));
                return;
            }
        }
        let mut read = 0;
        if connection.drain(&mut read) {
            self.tally.ended(scenario, Ending::Refused, 0, start.elapsed());
        } else {
            self.tally.fault(scenario, format!("{request:?} did not end the connection"));
        }
    }

    fn tunnel(&mut self) {
        let scenario = "tunnel";
        let Some(mut connection) = self.connect(scenario) else { return };
        let plan = Plan {
            kind: Kind::Tunnel,
            size: self.random.length(200_000),
            seed: self.seed,
            id: self.fresh_id(),
        };
        let start = Instant::now();
        let request =
            format!("GET {plan} HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
        let _ = connection.send(request.as_bytes());
        let played = self.echo(&mut connection, plan);
        match played {
            Ok(()) => self.tally.ended(scenario, Ending::Whole, 2 * plan.size, start.elapsed()),
            Err(_) if self.outages.touched(start) => {
                self.tally.ended(scenario, Ending::Broken, 0, start.elapsed());
            }
            Err(fault) => self.tally.fault(scenario, format!("{plan}: {fault:?}")),
        }
    }

    fn echo(&mut self, connection: &mut Connection, plan: Plan) -> Played {
        let head = connection.reader.head()?;
        if head.status()? != 101 {
            return Err(Fault::Malformed(head.start_line));
        }
        let content = plan.content();
        let mut at = 0;
        let mut piece = vec![0; 16 * 1024];
        while at < plan.size {
            let piece = &mut piece[..(plan.size - at).min(16 * 1024) as usize];
            content.fill(at, piece);
            connection.send(piece).map_err(|_| Fault::Reset)?;
            let end = at + piece.len() as u64;
            while at < end {
                let bytes = connection.reader.some()?;
                if let Some(wrong) = content.first_difference(at, &bytes) {
                    return Err(Fault::Malformed(format!("wrong echo at {wrong}")));
                }
                at += bytes.len() as u64;
            }
        }
        if self.random.chance(50) {
            // An orderly end of one direction must come back as the end of the other.
            connection.writer.shutdown(Shutdown::Write).map_err(|_| Fault::Reset)?;
            return match connection.reader.some() {
                Err(Fault::Closed | Fault::Reset) => Ok(()),
                other => Err(Fault::Malformed(format!("{other:?} after the end"))),
            };
        }
        Ok(())
    }

    /// Reads one answer, holds it against the plan's promise and counts it; true when the connection can go on.
    fn judge(
        &mut self,
        scenario: &'static str,
        plan: Plan,
        connection: &mut Connection,
        start: Instant,
        want: Want,
    ) -> bool {
        let content = plan.content();
        let mut wrong = None;
        let mut read = 0;
        let mut pauses = if let Want::Slowly(pieces) = want { pieces } else { 0 };
        connection.head_only = want == Want::HeadOnly;
        let answer = connection.answer(|at, piece| {
            wrong = wrong.or_else(|| content.first_difference(at, piece));
            read = at + piece.len() as u64;
            if pauses > 0 {
                pauses -= 1;
                wait::pause(Duration::from_millis(100));
            }
            Flow::Continue
        });
        let took = start.elapsed();
        let excused = self.outages.touched(start);
        if took > EXCHANGE_MAX || matches!(answer, Err(Fault::Silent)) {
            self.tally.fault(scenario, format!("{plan}: stuck for {:.1} s, {answer:?}", took.as_secs_f64()));
            return false;
        }
        let verdict = match answer {
            Ok((head, length)) => verdict(plan, &head, length, wrong, want, excused),
            // What broke off must have been right as far as it went, unless it was an error page.
            Err(fault) => match plan.kind.promise() {
                _ if matches!(fault, Fault::Malformed(_)) => Err(format!("{fault:?}")),
                Promise::Broken | Promise::Failure | Promise::Any => Ok(Ending::Broken),
                Promise::Whole if excused => Ok(Ending::Broken),
                Promise::Whole => Err(format!("broke off after {read} bytes: {fault:?}")),
            },
        };
        match verdict {
            Ok(ending) => {
                self.tally.ended(scenario, ending, read, took);
                ending != Ending::Broken && !connection.closes
            }
            Err(what) => {
                self.tally.fault(scenario, format!("{plan}: {what}"));
                false
            }
        }
    }
}

/// When a viewer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Never,
    AtOnce,
    Within,
}

/// How a viewer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Orderly,
    Reset,
}
