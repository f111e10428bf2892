//! The turns of one core as the kernel saw them: how long each was, and how much of that the core could have run but was not let.
//!
//! `perf` notes when the thread enters and leaves `io_uring_enter`, and when the scheduler takes the processor from it and gives it back. A turn here is
//! from the return of one call to the sleep in the next, or to its return if it does not sleep: the turn of the server's own histogram with what the
//! kernel does for what is submitted, which that leaves out before a sleep. A thread that is *runnable* and does not run waits for nothing but others who
//! use the processor; one that waits for a page, a lock or a device is not runnable, and that stays in the turn.
//!
//! It takes `perf`, and the rights to trace (root); without them there is no [`Trace`]. A record that is lost makes a turn longer, never shorter.

use crate::process::{find_program, pinned};
use crate::stats::quantile;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// `io_uring_enter`, the same number on all architectures.
const ENTER: &str = "NR 426 ";
const ENTERS: &str = "id==426";
/// What the kernel keeps for `perf` until it is written: seconds of a busy core.
const BUFFER: &str = "16M";

/// A recording that runs.
#[derive(Debug)]
pub(super) struct Trace {
    perf: PathBuf,
    recorder: Child,
    file: PathBuf,
}

/// Lengths in seconds, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Turns {
    whole: Vec<f64>,
    /// Without what others who ran meanwhile took.
    own: Vec<f64>,
}

impl Trace {
    /// Records a thread for so long, into a file in `folder`, from another core; `None` where that cannot be.
    pub(super) fn start(
        folder: &Path,
        thread: u32,
        length: Duration,
        core: usize,
    ) -> io::Result<Option<Trace>> {
        let Some(perf) = find_program("perf") else { return Ok(None) };
        let file = folder.join("stall.perf");
        let mut command = pinned(&perf, Some(core));
        command.args(["record", "-q", "--switch-events", "-m", BUFFER, "-t", &thread.to_string()]);
        for event in ["raw_syscalls:sys_enter", "raw_syscalls:sys_exit"] {
            command.args(["-e", event, "--filter", ENTERS]);
        }
        command.args(["-e", "sched:sched_switch", "-o"]).arg(&file);
        command.args(["--", "sleep", &length.as_secs_f64().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Some(Trace { perf, recorder: command.spawn()?, file }))
    }

    /// Waits for its end; `None` if the kernel did not allow it.
    pub(super) fn end(mut self) -> io::Result<Option<Turns>> {
        if !self.recorder.wait()?.success() {
            return Ok(None);
        }
        let mut script = Command::new(&self.perf);
        script.args(["script", "--ns", "--show-switch-events", "-F", "time,event,trace", "-i"]);
        let said = script.arg(&self.file).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
        let turns = Turns::read(&String::from_utf8_lossy(&said.stdout));
        Ok((!turns.whole.is_empty()).then_some(turns))
    }
}

impl Turns {
    /// Reads what `perf script` says.
    fn read(text: &str) -> Turns {
        let mut reading = Reading::default();
        for line in text.lines() {
            let parsed = line.trim_start().split_once(": ");
            if let Some((at, what)) = parsed.and_then(|(at, what)| Some((at.parse().ok()?, what))) {
                reading.note(at, what.trim());
            }
        }
        let mut turns = reading.turns;
        turns.whole.sort_by(f64::total_cmp);
        turns.own.sort_by(f64::total_cmp);
        turns
    }

    /// Returns how many turns there were.
    pub(super) fn count(&self) -> usize {
        self.whole.len()
    }

    /// Returns what one turn in so many takes at least, whole and without what others took.
    pub(super) fn quantiles(&self, share: f64) -> (f64, f64) {
        let of = |sorted| quantile(sorted, share).unwrap_or(f64::NAN);
        (of(&self.whole), of(&self.own))
    }
}

/// Where in the recording one is.
#[derive(Default)]
struct Reading {
    /// When the turn began; `None` while the core sleeps, and before the first call.
    began: Option<f64>,
    /// What others took of it.
    taken: f64,
    /// Since when others run though this thread could.
    out_since: Option<f64>,
    /// It is in a call that may sleep.
    may_sleep: bool,
    turns: Turns,
}

impl Reading {
    fn note(&mut self, at: f64, what: &str) {
        if let Some(call) = what.strip_prefix("raw_syscalls:sys_enter: ") {
            self.may_sleep = awaited(call).is_some_and(|count| count > 0);
        } else if what.starts_with("raw_syscalls:sys_exit: ") && what.contains(ENTER) {
            self.end(at);
            (self.began, self.taken, self.may_sleep) = (Some(at), 0.0, false);
        } else if what.starts_with("sched:sched_switch: ") {
            match state_left_in(what) {
                Some('R') => self.out_since = Some(at),
                Some('S') if self.may_sleep => self.end(at),
                _ => {}
            }
        } else if what == "PERF_RECORD_SWITCH IN"
            && let Some(since) = self.out_since.take()
        {
            self.taken += at - since;
        }
    }

    fn end(&mut self, at: f64) {
        if let Some(began) = self.began.take() {
            self.turns.whole.push(at - began);
            self.turns.own.push(at - began - self.taken);
        }
    }
}

/// Returns how many completions a call waits for: the third of its arguments, which are hexadecimal.
fn awaited(call: &str) -> Option<u64> {
    let arguments = call.strip_prefix(ENTER)?.strip_prefix('(')?;
    u64::from_str_radix(arguments.split(", ").nth(2)?, 16).ok()
}

/// Returns the state in which a thread left the processor.
fn state_left_in(switch: &str) -> Option<char> {
    let (previous, _) = switch.split_once(" ==> ")?;
    previous.rsplit_once("prev_state=")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `perf` says of a call that waits for `count`, of its return, and of a switch away in a state and back.
    fn enter(at: f64, count: u32) -> String {
        format!("{at:.9}: raw_syscalls:sys_enter: NR 426 (16, 2a, {count:x}, 1, 0, 80)\n")
    }

    fn exit(at: f64) -> String {
        format!("{at:.9}:  raw_syscalls:sys_exit: NR 426 = 1\n")
    }

    fn away(from: f64, to: f64, state: &str) -> String {
        format!(
            "{from:.9}: sched:sched_switch: prev_comm=aspis-core-0 prev_pid=7 prev_prio=120 prev_state={state} ==> next_comm=kworker/u8:1 next_pid=9\n\
             {from:.9}: PERF_RECORD_SWITCH OUT preempt\n{to:.9}: PERF_RECORD_SWITCH IN         \n"
        )
    }

    fn read(lines: &[String]) -> (Vec<i64>, Vec<i64>) {
        let turns = Turns::read(&lines.concat());
        let micros = |lengths: Vec<f64>| lengths.iter().map(|each| (each * 1e6).round() as i64).collect();
        (micros(turns.whole), micros(turns.own))
    }

    #[test]
    fn a_turn_ends_with_the_sleep_or_with_a_call_that_does_not_sleep() {
        // 300 us and a call that looks only, 100 us and 50 us of submission before a sleep of 10 ms, 5 us and a call that finds what it waits for.
        let lines = [
            enter(0.5, 1),
            exit(1.0),
            enter(1.000_2, 0),
            exit(1.000_3),
            enter(1.000_4, 1),
            away(1.000_45, 1.010, "S"),
            exit(1.010_01),
            enter(1.010_015, 8),
            exit(1.010_02),
        ];
        assert_eq!(read(&lines), (vec![10, 150, 300], vec![10, 150, 300]));
    }

    #[test]
    fn only_the_wait_of_a_runnable_thread_is_taken_off() {
        // Preempted for 4 ms, then waiting for a page for 2 ms, then for a lock, asleep, for 1 ms, in one turn.
        let lines = [
            exit(1.0),
            away(1.001, 1.005, "R+"),
            away(1.006, 1.008, "D"),
            away(1.008, 1.009, "S"),
            enter(1.010, 1),
            away(1.010, 1.020, "R"),
            away(1.021, 1.050, "S"),
            exit(1.051),
        ];
        assert_eq!(read(&lines), (vec![21_000], vec![7_000]));
    }

    #[test]
    fn what_the_sleep_and_the_time_before_the_first_call_hold_is_no_turn() {
        let lines = [away(0.1, 0.9, "R"), exit(1.0), enter(1.1, 1), away(1.1, 2.0, "S"), away(2.1, 2.5, "R")];
        assert_eq!(read(&lines), (vec![100_000], vec![100_000]));
        assert_eq!(Turns::read("nonsense\n1.0: other\n: \n"), Turns::default());
        assert!(Turns::default().quantiles(0.5).0.is_nan());
    }
}
