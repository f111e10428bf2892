//! The way of log lines from a core to the writer thread.
//!
//! A core formats into its own buffer and ships it when it is full, or each second; the writer thread takes the
//! buffers and gives them back empty. The queue between them is bounded: when the writer is behind (a slow disk,
//! a blocked pipe), whole buffers are dropped and their lines counted, and no core ever waits. Invariants: a
//! buffer holds whole lines only, and it never grows, because it is shipped while the longest line still fits.

use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use crate::access_log::{self, LINE_LEN_MAX, Record, Stamp};
use crate::counters::{CoreCounters, Counter};

/// A buffer is shipped when it has reached this length.
pub const SHIP_LEN: usize = 64 * 1024;
/// Buffers that may wait for the writer. Worst case of memory: this × ([`SHIP_LEN`] + [`LINE_LEN_MAX`]).
pub const QUEUE_LEN_MAX: usize = 64;

/// Makes the queue between all cores and the one writer.
pub fn log_channel() -> (LogSender, LogReceiver) {
    let (full_sender, full_receiver) = bounded(QUEUE_LEN_MAX);
    let (empty_sender, empty_receiver) = bounded(QUEUE_LEN_MAX);
    (
        LogSender { full: full_sender, empty: empty_receiver },
        LogReceiver { full: full_receiver, empty: empty_sender },
    )
}

/// The cores' end of the queue; each core clones it into its [`LogBuffer`].
#[derive(Clone, Debug)]
pub struct LogSender {
    full: Sender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

/// The writer's end of the queue.
#[derive(Debug)]
pub struct LogReceiver {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
}

/// What came out of [`LogReceiver::next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Whole lines, to be written and then given back with [`LogReceiver::give_back`].
    Lines(Vec<u8>),
    /// Nothing came in the time given.
    Nothing,
    /// Every core has gone and everything they shipped has been taken.
    Finished,
}

impl LogReceiver {
    /// Waits for lines, at most `wait`.
    pub fn next(&self, wait: Duration) -> Received {
        match self.full.recv_timeout(wait) {
            Ok(lines) => Received::Lines(lines),
            Err(RecvTimeoutError::Timeout) => Received::Nothing,
            Err(RecvTimeoutError::Disconnected) => Received::Finished,
        }
    }

    /// Hands a written buffer back to the cores; saves them the allocation.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // A full queue of empty buffers, or no core left, means that nobody needs this one.
        let _ = self.empty.try_send(buffer);
    }
}

/// The lines of one core that were not shipped yet.
#[derive(Debug)]
pub struct LogBuffer {
    sender: LogSender,
    bytes: Vec<u8>,
    lines: u64,
    stamp: Stamp,
}

impl LogBuffer {
    /// Returns the memory of this buffer.
    pub fn heap_len(&self) -> u64 {
        (SHIP_LEN + LINE_LEN_MAX) as u64
    }

    /// Returns the memory of the buffers between all cores and the writer, full or empty.
    pub fn queue_heap_len(&self) -> u64 {
        (self.sender.full.len() + self.sender.empty.len()) as u64 * self.heap_len()
    }

    /// Makes an empty buffer. Memory: [`SHIP_LEN`] + [`LINE_LEN_MAX`], once per core.
    pub fn new(sender: LogSender) -> Self {
        LogBuffer {
            sender,
            bytes: Vec::with_capacity(SHIP_LEN + LINE_LEN_MAX),
            lines: 0,
            stamp: Stamp::new(),
        }
    }

    /// Adds a line, and ships the buffer if it is full. Never waits.
    pub fn record(&mut self, record: &Record<'_>, counters: &CoreCounters) {
        access_log::format(record, &mut self.stamp, &mut self.bytes);
        self.lines += 1;
        if self.bytes.len() >= SHIP_LEN {
            self.flush(counters);
        }
    }

    /// Ships what is there; call it each second and at the end. If the writer is behind, the lines are dropped
    /// and counted.
    pub fn flush(&mut self, counters: &CoreCounters) {
        if self.bytes.is_empty() {
            return;
        }
        let empty =
            self.sender.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(SHIP_LEN + LINE_LEN_MAX));
        match self.sender.full.try_send(std::mem::replace(&mut self.bytes, empty)) {
            Ok(()) => counters.add(Counter::LogLines, self.lines),
            Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) => {
                counters.add(Counter::LogLinesDropped, self.lines);
                self.bytes = lost;
                self.bytes.clear();
            }
        }
        self.lines = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(target: &[u8]) -> Record<'_> {
        Record {
            ended_at: 0,
            viewer: None,
            method: b"GET",
            target,
            host: b"h",
            version: "HTTP/1.1",
            status: 200,
            sent_len: 1,
            result: "Hit",
            forward: None,
            duration_micros: 1,
            first_byte_micros: 1,
            user_agent: b"",
            referer: b"",
        }
    }

    fn lines_in(received: Received) -> usize {
        match received {
            Received::Lines(bytes) => bytes.iter().filter(|&&byte| byte == b'\n').count(),
            other => panic!("expected lines, not {other:?}"),
        }
    }

    #[test]
    fn a_full_buffer_ships_itself_and_the_rest_waits_for_the_flush() {
        let (sender, receiver) = log_channel();
        let counters = CoreCounters::new();
        let mut buffer = LogBuffer::new(sender);
        let capacity = buffer.bytes.capacity();
        let target = vec![0_u8; 8192];
        while counters.value(Counter::LogLines) == 0 {
            buffer.record(&record(&target), &counters);
            assert_eq!(buffer.bytes.capacity(), capacity, "a buffer never grows");
        }
        assert_eq!(lines_in(receiver.next(Duration::ZERO)), 2);
        buffer.record(&record(b"/"), &counters);
        assert_eq!(receiver.next(Duration::ZERO), Received::Nothing);
        buffer.flush(&counters);
        assert_eq!(lines_in(receiver.next(Duration::ZERO)), 1);
        buffer.flush(&counters);
        assert_eq!(receiver.next(Duration::ZERO), Received::Nothing);
        assert_eq!(counters.value(Counter::LogLines), 3);
        drop(buffer);
        assert_eq!(receiver.next(Duration::ZERO), Received::Finished);
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_writer_is_behind() {
        let (sender, receiver) = log_channel();
        let counters = CoreCounters::new();
        let mut buffer = LogBuffer::new(sender);
        for _ in 0..QUEUE_LEN_MAX + 3 {
            buffer.record(&record(b"/"), &counters);
            buffer.flush(&counters);
        }
        assert_eq!(counters.value(Counter::LogLines), QUEUE_LEN_MAX as u64);
        assert_eq!(counters.value(Counter::LogLinesDropped), 3);
        assert_eq!(lines_in(receiver.next(Duration::ZERO)), 1);
        buffer.record(&record(b"/"), &counters);
        buffer.flush(&counters);
        assert_eq!(counters.value(Counter::LogLinesDropped), 3);
    }

    #[test]
    fn a_written_buffer_is_used_again() {
        let (sender, receiver) = log_channel();
        let counters = CoreCounters::new();
        let mut buffer = LogBuffer::new(sender);
        buffer.record(&record(b"/first"), &counters);
        buffer.flush(&counters);
        let Received::Lines(lines) = receiver.next(Duration::ZERO) else { panic!("lines were shipped") };
        let address = lines.as_ptr();
        receiver.give_back(lines);
        buffer.record(&record(b"/second"), &counters);
        buffer.flush(&counters);
        assert_eq!(buffer.bytes.as_ptr(), address);
        assert!(buffer.bytes.is_empty());
    }
}
