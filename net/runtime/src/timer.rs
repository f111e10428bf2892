//! The timer wheel: what is due, and when the core must wake for it.
//!
//! Four levels of 64 slots; a slot of the lowest is [`SLOT_MILLIS`] long. Arming and cancelling are O(1) and touch
//! no other timer; an idle wheel costs nothing, because one bitmap per level tells the next slot that holds anything.
//! Fed by the ring's timers and sleeps; read by the turn. Invariant: a timer never fires before its time, and
//! timers of different slots fire in the order of their times.

use std::task::Waker;

use crate::slots::{Key, Slots};

/// Length of a slot: how much later than asked a timer may fire on an otherwise idle core.
pub(crate) const SLOT_MILLIS: u64 = 10;
const LEVEL_COUNT: usize = 4;
const SLOT_BITS: u32 = 6;
const SLOT_COUNT: usize = 1 << SLOT_BITS;
/// Slots that the whole wheel spans; later timers wait in its last slot and are sorted in again.
const SPAN: u64 = 1 << (SLOT_BITS * LEVEL_COUNT as u32);

/// What happens when a timer is due.
pub(crate) enum Due {
    /// The handler is told the token.
    Token(u64),
    /// A sleeping future is woken.
    Wake(Option<Waker>),
    /// A lingering socket is looked at.
    Linger(Key),
    /// A listener that ran out of descriptors accepts again.
    Accept(Key),
}

struct Entry {
    due: u64,
    previous: Option<Key>,
    next: Option<Key>,
    place: (u8, u8),
    what: Due,
}

/// All timers of one core.
pub(crate) struct Wheel {
    /// Slots whose time has come are emptied up to and including this one.
    now: u64,
    entries: Slots<Entry>,
    heads: [[Option<Key>; SLOT_COUNT]; LEVEL_COUNT],
    tails: [[Option<Key>; SLOT_COUNT]; LEVEL_COUNT],
    occupied: [u64; LEVEL_COUNT],
}

impl Wheel {
    pub(crate) fn new(now_millis: u64) -> Self {
        Wheel {
            now: now_millis / SLOT_MILLIS,
            entries: Slots::new(),
            heads: [[None; SLOT_COUNT]; LEVEL_COUNT],
            tails: [[None; SLOT_COUNT]; LEVEL_COUNT],
            occupied: [0; LEVEL_COUNT],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Arms a timer for `at_millis`, rounded up to the end of its slot.
    pub(crate) fn arm(&mut self, at_millis: u64, what: Due) -> Key {
        let due = at_millis.div_ceil(SLOT_MILLIS).max(self.now + 1);
        let key = self.entries.insert(Entry { due, previous: None, next: None, place: (0, 0), what });
        self.link(key);
        key
    }

    /// Forgets a timer. Returns what it would have done, or nothing if it has fired.
    pub(crate) fn cancel(&mut self, key: Key) -> Option<Due> {
        self.entries.get(key)?;
        self.unlink(key);
        self.entries.remove(key).map(|entry| entry.what)
    }

    /// Replaces the waker of a sleeping future. False if the timer has fired.
    pub(crate) fn set_waker(&mut self, key: Key, waker: &Waker) -> bool {
        match self.entries.get_mut(key).map(|entry| &mut entry.what) {
            Some(Due::Wake(slot)) => {
                if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
                    *slot = Some(waker.clone());
                }
                true
            }
            _ => false,
        }
    }

    /// Returns the time in milliseconds at which [`Wheel::advance`] has something to do next.
    pub(crate) fn next_millis(&self) -> Option<u64> {
        (0..LEVEL_COUNT).filter_map(|level| self.next_slot(level)).min().map(|slot| slot * SLOT_MILLIS)
    }

    /// Moves to `now_millis` and appends everything that is due, in order.
    pub(crate) fn advance(&mut self, now_millis: u64, due: &mut Vec<Due>) {
        let target = now_millis / SLOT_MILLIS;
        while self.now < target {
            let next = (0..LEVEL_COUNT).filter_map(|level| self.next_slot(level)).min();
            let Some(next) = next.filter(|next| *next <= target) else {
                self.now = target;
                return;
            };
            self.now = next;
            for level in (1..LEVEL_COUNT).rev() {
                if self.now.trailing_zeros() >= SLOT_BITS * level as u32 {
                    self.cascade(level);
                }
            }
            self.fire(due);
        }
    }

    /// The first moment after `now`, in slots, at which a slot of `level` begins that holds anything.
    fn next_slot(&self, level: usize) -> Option<u64> {
        let occupied = self.occupied[level];
        if occupied == 0 {
            return None;
        }
        let shift = SLOT_BITS * level as u32;
        let current = self.now >> shift;
        // Distance 1..=64 from the current slot: the current one itself comes round last.
        let from = ((current + 1) % SLOT_COUNT as u64) as u32;
        let distance = u64::from(occupied.rotate_right(from).trailing_zeros()) + 1;
        Some((current + distance) << shift)
    }

    /// Sorts the timers of the slot of `level` that begins now into the levels below.
    fn cascade(&mut self, level: usize) {
        let slot = ((self.now >> (SLOT_BITS * level as u32)) % SLOT_COUNT as u64) as usize;
        let mut next = self.take_slot(level, slot);
        while let Some(key) = next {
            next = self.entries.get(key).and_then(|entry| entry.next);
            self.link(key);
        }
    }

    fn fire(&mut self, due: &mut Vec<Due>) {
        let mut next = self.take_slot(0, (self.now % SLOT_COUNT as u64) as usize);
        while let Some(key) = next {
            let entry = self.entries.remove(key).expect("a linked timer is alive");
            next = entry.next;
            due.push(entry.what);
        }
    }

    fn take_slot(&mut self, level: usize, slot: usize) -> Option<Key> {
        self.occupied[level] &= !(1 << slot);
        self.tails[level][slot] = None;
        self.heads[level][slot].take()
    }

    fn link(&mut self, key: Key) {
        let due = self.entries.get(key).expect("linked by its own key").due;
        // Due now happens only while a higher level is sorted in, before the lowest fires for the same slot.
        let distance = due.saturating_sub(self.now).min(SPAN - 1);
        let level = match distance {
            0 => 0,
            d => ((63 - d.leading_zeros()) / SLOT_BITS) as usize,
        };
        let slot = (((self.now + distance) >> (SLOT_BITS * level as u32)) % SLOT_COUNT as u64) as usize;
        let tail = self.tails[level][slot].replace(key);
        match tail.and_then(|tail| self.entries.get_mut(tail)) {
            Some(last) => last.next = Some(key),
            None => self.heads[level][slot] = Some(key),
        }
        self.occupied[level] |= 1 << slot;
        let entry = self.entries.get_mut(key).expect("linked by its own key");
        (entry.previous, entry.next, entry.place) = (tail, None, (level as u8, slot as u8));
    }

    fn unlink(&mut self, key: Key) {
        let Some(entry) = self.entries.get(key) else { return };
        let (previous, next, (level, slot)) = (entry.previous, entry.next, entry.place);
        let (level, slot) = (usize::from(level), usize::from(slot));
        match previous.and_then(|previous| self.entries.get_mut(previous)) {
            Some(before) => before.next = next,
            None => self.heads[level][slot] = next,
        }
        match next.and_then(|next| self.entries.get_mut(next)) {
            Some(after) => after.previous = previous,
            None => self.tails[level][slot] = previous,
        }
        if self.heads[level][slot].is_none() {
            self.occupied[level] &= !(1 << slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(due: &mut Vec<Due>) -> Vec<u64> {
        due.drain(..).map(|d| if let Due::Token(token) = d { token } else { u64::MAX }).collect()
    }

    /// Timers at pseudo-random distances over all levels, stepped only to the moments the wheel asks for: each
    /// fires once, never early, within one slot, in order.
    #[test]
    fn timers_fire_once_in_order_and_within_a_slot() {
        let start = 123_457;
        let mut wheel = Wheel::new(start);
        let (mut seed, mut ends) = (9_u64, Vec::new());
        for token in 0..4000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let span = [50, 700, 60_000, 4_000_000, 400_000_000][(token % 5) as usize];
            let at = start + (seed >> 33) % span;
            ends.push(at);
            wheel.arm(at, Due::Token(token));
        }
        let (mut due, mut fired, mut last) = (Vec::new(), 0, 0);
        while let Some(now) = wheel.next_millis() {
            wheel.advance(now, &mut due);
            for token in tokens(&mut due) {
                let at = ends[token as usize];
                assert!(
                    now >= at && now <= at.max(start) + 2 * SLOT_MILLIS,
                    "token {token}: due {at}, at {now}"
                );
                assert!(at / SLOT_MILLIS + 1 >= last, "fired out of order");
                last = at / SLOT_MILLIS;
                fired += 1;
            }
        }
        assert_eq!((fired, wheel.len()), (4000, 0));
    }

    #[test]
    fn a_late_look_fires_everything_passed() {
        let mut wheel = Wheel::new(0);
        for token in 0..100 {
            wheel.arm(token * 1000, Due::Token(token));
        }
        let mut due = Vec::new();
        wheel.advance(50_000, &mut due);
        assert_eq!(tokens(&mut due), (0..=50).collect::<Vec<_>>());
        wheel.advance(10_000_000, &mut due);
        assert_eq!(tokens(&mut due), (51..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_cancelled_timer_is_gone_and_its_neighbours_stay() {
        let mut wheel = Wheel::new(0);
        let keys: Vec<_> = (0..3).map(|token| wheel.arm(25, Due::Token(token))).collect();
        assert!(wheel.cancel(keys[1]).is_some());
        assert!(wheel.cancel(keys[1]).is_none());
        assert_eq!(wheel.next_millis(), Some(30));
        let mut due = Vec::new();
        wheel.advance(20, &mut due);
        assert!(due.is_empty());
        wheel.advance(30, &mut due);
        assert_eq!(tokens(&mut due), [0, 2]);
        assert_eq!((wheel.next_millis(), wheel.len()), (None, 0));
    }
}
