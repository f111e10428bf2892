//! Whether a directory's device can be relied on: it goes off line after a few errors in a short time, and comes back by itself.
//!
//! Each core judges by its own reads and writes and probes by itself; who asks for the process ([`Directory`]) hears how many cores have
//! it off line. Nothing is read or written meanwhile but a probe. Other bytes than were written are no error of the device's own telling: they may be
//! one bad place, or all that it brings may be wrong. So a probe is made while it is on line, now and then, and it goes off line if that is wrong too.
//! Who watches its files says when one ends too early: then it is off line on all
//! cores at once, before they touch what is not there any more, until the file has its length again. Times are arguments. Invariants: what cannot be
//! read is a miss and never an answer; going off line and coming back are each said once in the log, by whichever core is first or last.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::limits::{
    DISK_DOUBT_PAUSE, DISK_ERRORS_MAX, DISK_ERRORS_SPAN, DISK_PROBE_PAUSE_MAX, DISK_PROBE_PAUSE_MIN,
};

/// One directory of the store, as all cores see it.
#[derive(Debug)]
pub struct Directory {
    name: Box<str>,
    /// How many cores have it off line.
    off_line: AtomicU32,
    /// A file of it is shorter than it was made.
    is_cut: AtomicBool,
    errors: AtomicU64,
}

impl Directory {
    /// Makes one that is well; `name` is what operators are told.
    pub fn new(name: &str) -> Arc<Directory> {
        Arc::new(Directory {
            name: name.into(),
            off_line: AtomicU32::new(0),
            is_cut: AtomicBool::new(false),
            errors: AtomicU64::new(0),
        })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells whether any core goes without it now.
    pub fn is_off_line(&self) -> bool {
        self.is_cut() || self.off_line.load(Ordering::Relaxed) > 0
    }

    /// Tells every core whether a file of it is shorter than it was made: nothing of it is touched from now on, or no longer for that.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Release);
    }

    /// Tells whether a file of it is shorter than it was made. One load: for who is about to touch a mapping.
    #[inline]
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Returns how many reads and writes of it failed so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn went_off(&self, cause: &dyn fmt::Display) {
        if self.off_line.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(
                "disk {} is off line after {cause}: serving without it until it works again",
                self.name
            );
        }
    }

    fn came_back(&self) {
        if self.off_line.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!("disk {} works again and is in use", self.name);
        }
    }
}

/// The same directory as one core has found it.
#[derive(Debug)]
pub(crate) struct Health {
    directory: Arc<Directory>,
    /// When the last errors were, in milliseconds of the core's clock; the oldest is replaced.
    errors: [Option<u64>; DISK_ERRORS_MAX],
    next: usize,
    off: Option<Off>,
    doubt: Doubt,
}

/// Whether all that it brings may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Not before this millisecond is it probed for that again.
    None(u64),
    /// It is probed.
    Probed,
}

/// Since it went off line.
#[derive(Clone, Copy, Debug)]
struct Off {
    probe_at: u64,
    pause: u64,
}

impl Health {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Health { directory, errors: [None; DISK_ERRORS_MAX], next: 0, off: None, doubt: Doubt::None(0) }
    }

    /// Tells whether it is to be left alone.
    pub(crate) fn is_off_line(&self) -> bool {
        self.off.is_some() || self.directory.is_cut()
    }

    /// Tells whether a file of it is shorter than it was made.
    pub(crate) fn is_cut(&self) -> bool {
        self.directory.is_cut()
    }

    /// Takes it off line if a file was found cut short since; true if it goes off line with that.
    pub(crate) fn note_cut(&mut self, now: u64) -> bool {
        if self.off.is_some() || !self.directory.is_cut() {
            return false;
        }
        self.go_off(now, &"finding a file of it cut short");
        true
    }

    /// A read or write failed that should not. True if the directory goes off line with it; then it is to be probed.
    pub(crate) fn note_error(&mut self, now: u64, cause: &dyn fmt::Display) -> bool {
        self.directory.errors.fetch_add(1, Ordering::Relaxed);
        if self.off.is_some() {
            return false;
        }
        self.errors[self.next] = Some(now);
        self.next = (self.next + 1) % DISK_ERRORS_MAX;
        // The place that is written next has the oldest of the last few.
        let span = DISK_ERRORS_SPAN.as_millis() as u64;
        if self.errors[self.next].is_none_or(|oldest| now.saturating_sub(oldest) > span) {
            return false;
        }
        self.go_off(now, cause);
        true
    }

    /// Something was read that is not what was written. True if it is to be probed, and [`Health::doubt_ended`] told.
    pub(crate) fn doubt(&mut self, now: u64) -> bool {
        let is_due = !self.is_off_line() && matches!(self.doubt, Doubt::None(next) if next <= now);
        if is_due {
            self.doubt = Doubt::Probed;
        }
        is_due
    }

    /// Takes what came of a probe that was made because of a doubt; true if it goes off line with that.
    pub(crate) fn doubt_ended(&mut self, now: u64, is_well: bool) -> bool {
        self.doubt = Doubt::None(now + DISK_DOUBT_PAUSE.as_millis() as u64);
        let goes_off = !is_well && self.off.is_none();
        if goes_off {
            self.go_off(now, &"a probe that did not bring what was written");
        }
        goes_off
    }

    fn go_off(&mut self, now: u64, cause: &dyn fmt::Display) {
        let pause = DISK_PROBE_PAUSE_MIN.as_millis() as u64;
        self.off = Some(Off { probe_at: now + pause, pause });
        self.directory.went_off(cause);
    }

    /// Returns how many milliseconds from now the next probe is due; `None` while it is well.
    pub(crate) fn probe_in(&self, now: u64) -> Option<u64> {
        self.off.map(|off| off.probe_at.saturating_sub(now))
    }

    /// A probe failed: the next waits longer.
    pub(crate) fn probe_failed(&mut self, now: u64) {
        if let Some(off) = &mut self.off {
            off.pause = (off.pause * 2).min(DISK_PROBE_PAUSE_MAX.as_millis() as u64);
            off.probe_at = now + off.pause;
        }
    }

    /// A probe read and wrote what it should.
    pub(crate) fn probe_succeeded(&mut self) {
        if self.off.take().is_some() {
            self.errors = [None; DISK_ERRORS_MAX];
            self.directory.came_back();
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        // A core that ends says nothing about the device.
        if self.off.is_some() {
            self.directory.off_line.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = DISK_ERRORS_SPAN.as_millis() as u64;

    fn health() -> (Arc<Directory>, Health) {
        let directory = Directory::new("/cache");
        (Arc::clone(&directory), Health::new(directory))
    }

    #[test]
    fn a_few_errors_in_a_short_time_put_it_off_line() {
        let (directory, mut health) = health();
        for number in 0..DISK_ERRORS_MAX as u64 - 1 {
            assert!(!health.note_error(number, &"EIO"));
        }
        assert!(!health.is_off_line() && !directory.is_off_line());
        assert!(health.note_error(SPAN, &"EIO"), "the first of them is just not too old");
        assert!(health.is_off_line() && directory.is_off_line());
        assert!(!health.note_error(SPAN, &"EIO"), "it goes off line once");
        assert_eq!(directory.errors(), DISK_ERRORS_MAX as u64 + 1);
    }

    #[test]
    fn rare_errors_do_not() {
        let (_, mut health) = health();
        for number in 0..100 {
            assert!(!health.note_error(number * (SPAN / (DISK_ERRORS_MAX as u64 - 1) + 1), &"EIO"));
        }
    }

    #[test]
    fn probes_wait_longer_and_longer_and_one_that_works_brings_it_back() {
        let (directory, mut health) = health();
        assert_eq!(health.probe_in(0), None);
        let goes_off = (0..DISK_ERRORS_MAX).filter(|_| health.note_error(0, &"ENOSPC"));
        assert_eq!(goes_off.count(), 1);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..12 {
            let pause = health.probe_in(now).unwrap();
            pauses.push(pause / 1000);
            now += pause;
            assert_eq!(health.probe_in(now), Some(0));
            health.probe_failed(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        health.probe_succeeded();
        assert!(!health.is_off_line() && !directory.is_off_line());
        assert!(!health.note_error(now, &"EIO"), "it starts anew");
    }

    #[test]
    fn a_file_cut_short_puts_it_off_line_everywhere_at_once() {
        let (directory, mut health) = health();
        assert!(!health.note_cut(0));
        directory.set_cut(true);
        assert!(health.is_off_line() && directory.is_off_line(), "before the core looked");
        assert!(health.note_cut(0) && !health.note_cut(0), "it goes off line once");
        directory.set_cut(false);
        assert!(health.is_off_line(), "until a probe works");
        health.probe_succeeded();
        assert!(!health.is_off_line() && !directory.is_off_line());
    }

    #[test]
    fn other_bytes_than_were_written_have_it_probed_now_and_then() {
        const PAUSE: u64 = DISK_DOUBT_PAUSE.as_millis() as u64;
        let (directory, mut health) = health();
        assert!(health.doubt(0) && !health.doubt(0), "one probe at a time");
        assert!(!health.doubt_ended(10, true) && !health.is_off_line(), "it is one bad place");
        assert!(!health.doubt(PAUSE + 9), "however many there are");
        assert!(health.doubt(PAUSE + 10));
        assert!(health.doubt_ended(PAUSE + 20, false));
        assert!(health.is_off_line() && directory.is_off_line());
        assert_eq!(health.probe_in(PAUSE + 20), Some(DISK_PROBE_PAUSE_MIN.as_millis() as u64));
        assert!(!health.doubt(10 * PAUSE), "it is probed anyway");
        health.probe_succeeded();
        assert!(!directory.is_off_line() && health.doubt(10 * PAUSE));
        // It went off line for another reason while it was probed for this.
        assert!((0..DISK_ERRORS_MAX).any(|_| health.note_error(10 * PAUSE, &"EIO")));
        assert!(health.is_off_line() && !health.doubt_ended(10 * PAUSE, false), "it goes off line once");
        health.probe_succeeded();
        assert!(!directory.is_off_line());
    }

    #[test]
    fn the_process_goes_without_it_while_any_core_does() {
        let (directory, mut one) = health();
        let mut other = Health::new(Arc::clone(&directory));
        for _ in 0..DISK_ERRORS_MAX {
            one.note_error(0, &"EIO");
            other.note_error(0, &"EIO");
        }
        one.probe_succeeded();
        assert!(directory.is_off_line());
        drop(other);
        assert!(!directory.is_off_line(), "a core that ends does not count");
    }
}
