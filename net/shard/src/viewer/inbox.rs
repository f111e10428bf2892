//! Bytes that a viewer sent and that nobody has used yet.
//!
//! `viewer/hot.rs` appends what the ring received and takes requests from the front, `viewer/body.rs` and `viewer/tunnel.rs` content. Invariants:
//! taking from the front moves no more bytes than were taken before; an empty inbox holds no memory.

use std::ops::Deref;

use aspis_runtime::weight::{Meter, Weight};

/// Received bytes in their order, of which the used ones are gone.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    /// Where the first byte lies that is not used.
    start: usize,
    /// What the bytes weigh, while there are any.
    weight: Option<Weight>,
}

impl Inbox {
    /// Adds what came, and its weight to `meter`.
    pub(crate) fn extend(&mut self, bytes: &[u8], meter: &Meter) {
        // What is used makes room once it is the larger part, so that each byte is moved once at most on average.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
        let len = self.bytes.capacity();
        self.weight.get_or_insert_with(|| meter.weigh(0)).set(len);
    }

    /// Forgets the first `len` bytes.
    pub(crate) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.bytes.len());
        if self.start == self.bytes.len() {
            *self = Inbox::default();
        }
    }

    /// Takes everything.
    pub(crate) fn take_bytes(&mut self) -> Vec<u8> {
        let Inbox { mut bytes, start, .. } = std::mem::take(self);
        bytes.drain(..start);
        bytes
    }
}

impl Deref for Inbox {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        let (mut inbox, mut model) = (Inbox::default(), Vec::new());
        let meter = Meter::default();
        for step in 0..1000_usize {
            let piece: Vec<u8> = (0..step * 7 % 50).map(|at| (step + at) as u8).collect();
            inbox.extend(&piece, &meter);
            model.extend_from_slice(&piece);
            let used = (step * 13 % 60).min(model.len());
            inbox.consume(used);
            model.drain(..used);
            assert_eq!(*inbox, *model);
            assert_eq!(meter.sum(), inbox.bytes.capacity() as u64);
        }
        assert_eq!(inbox.take_bytes(), model);
        assert!(inbox.is_empty() && meter.sum() == 0);
    }

    /// A long queue of requests is not copied for each few that are answered.
    #[test]
    fn little_is_moved_however_small_the_steps() {
        let mut inbox = Inbox::default();
        inbox.extend(&[1; 100_000], &Meter::default());
        let at = inbox.bytes.as_ptr();
        for _ in 0..49_000 {
            inbox.consume(1);
            assert_eq!(inbox.bytes.as_ptr(), at);
        }
        assert_eq!((inbox.bytes.len(), inbox.len()), (100_000, 51_000), "nothing moved");
        inbox.extend(&[2; 10], &Meter::default());
        assert_eq!(inbox.start, 49_000, "still the smaller part");
        inbox.consume(10_000);
        inbox.extend(&[3; 10], &Meter::default());
        assert_eq!((inbox.start, inbox.len()), (0, 41_020));
    }

    #[test]
    fn an_empty_inbox_holds_no_memory() {
        let (mut inbox, meter) = (Inbox::default(), Meter::default());
        inbox.extend(&[1; 5000], &meter);
        assert!(meter.sum() >= 5000);
        inbox.consume(5000);
        assert_eq!((inbox.bytes.capacity(), meter.sum()), (0, 0));
        inbox.extend(b"ab", &meter);
        inbox.consume(9);
        assert!(inbox.is_empty() && inbox.bytes.capacity() == 0, "no more is used than there is");
    }
}
