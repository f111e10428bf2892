//! Decides what is worth writing to the disk: a device wears with each byte, and most of what is stored once is never asked for again.
//!
//! A token bucket of bytes: it fills with the write budget and everything that is written is spent from it, what reclaim writes anew included.
//! The fuller the bucket, the less is asked of a record; when it is overdrawn only what was used before gets in, then nothing. The driver asks
//! before it appends, and tells what was written. Time and chance are arguments. Invariants: over any time no more is spent than the budget
//! of that time, twice the burst and one response; time that goes backwards counts as no time.

/// Hits that a record on the disk needs to be written anew when its segment is reclaimed; one that has as many as this never does.
pub const REINSERT_NEVER: u8 = u8::MAX;

/// The write budget of a store, or of a core's part of it.
#[derive(Debug)]
pub struct Admission {
    /// Bytes a second; `None` admits everything.
    bytes_per_second: Option<u64>,
    burst: u64,
    /// Bytes that may be written now, in thousandths so that a slow budget loses nothing to rounding; below zero is overdrawn.
    tokens: i128,
    filled_at: u64,
    /// Bytes of what is longer than a burst that was admitted and is not written yet.
    owed: u64,
    /// The running mean of the lengths of what was not used before, in [`SHARE`]ths so that it does not stop short of small changes.
    mean_len: u64,
}

/// Thousandths of a byte in a byte: a millisecond at one byte a second brings one of them.
const PER_BYTE: i128 = 1000;

/// The longest that is admitted, in full buckets.
const BURSTS_MAX: u64 = 20;

/// The newest length moves the mean by one in so many.
const SHARE: u64 = 64;

/// What one stands for where a ratio of lengths is a whole number.
const RATIO_ONE: u64 = 1 << 16;

impl Admission {
    /// Makes a full bucket of `burst` bytes that fills by `bytes_per_second`; without a rate everything is admitted.
    pub fn new(bytes_per_second: Option<u64>, burst: u64) -> Admission {
        let burst = burst.max(1);
        Admission {
            bytes_per_second,
            burst,
            tokens: i128::from(burst) * PER_BYTE,
            filled_at: 0,
            owed: 0,
            mean_len: 0,
        }
    }

    /// Tells whether a record of `len` bytes shall be written at `now_millis`; `random` is any number, new for each call.
    ///
    /// Above half a bucket everything is. Below, what was used before is, and other records by chance, rarer as the bucket empties: so
    /// a one-hit wonder rarely costs a write when writes are dear. That chance is larger for what is shorter than the others, as the RAM
    /// tier's worth is: for the bytes of one long record many short ones are kept. On recorded traces 2 to 3 % of all requests become hits by
    /// that, with the same budget and about as many bytes of hits. A bucket overdrawn by more than itself admits nothing.
    ///
    /// What is longer than a full bucket is written over a long time: it is admitted out of plenty only, if it is not longer than
    /// 20 of them (`BURSTS_MAX`), and then nothing else is until the budget has made up for it.
    pub fn admit(&mut self, now_millis: u64, len: u64, used_before: bool, random: u32) -> bool {
        self.fill(now_millis);
        if self.bytes_per_second.is_none() {
            return true;
        }
        let full = self.full();
        if len > self.burst {
            let is_affordable = self.tokens > full / 2 && len <= self.burst.saturating_mul(BURSTS_MAX);
            self.owed += if is_affordable { len } else { 0 };
            return is_affordable;
        }
        let after = self.tokens - i128::from(len) * PER_BYTE;
        if after < -full {
            return false;
        }
        if used_before {
            return true;
        }
        let ratio = self.shortness(len);
        if self.tokens > full / 2 {
            return true;
        }
        // Twice the level as a probability, for a record of the mean length: at an empty bucket none, at half a bucket all.
        let chance = self.tokens.saturating_mul((2 << 32) * i128::from(ratio));
        self.tokens > 0 && i128::from(random) * full * i128::from(RATIO_ONE) < chance
    }

    /// Notes the length of a record, and returns the root of how often it fits into the mean of them, in parts of [`RATIO_ONE`].
    fn shortness(&mut self, len: u64) -> u64 {
        let len = len.clamp(1, u64::from(u32::MAX));
        match self.mean_len {
            0 => self.mean_len = len * SHARE,
            mean => self.mean_len = mean - mean / SHARE + len,
        }
        (self.mean_len / SHARE * RATIO_ONE / len * RATIO_ONE).isqrt()
    }

    /// Notes that `len` bytes were written, whether they were asked for or not.
    pub fn spend(&mut self, len: u64) {
        if self.bytes_per_second.is_some() {
            let of_long = len.min(self.owed);
            self.owed -= of_long;
            self.tokens -= i128::from(of_long) * PER_BYTE;
            // What cannot be refused (tombstones, footers) may overdraw, but never by so much that nothing is written for long.
            let floor = self.tokens.min(-2 * self.full());
            self.tokens = (self.tokens - i128::from(len - of_long) * PER_BYTE).max(floor);
        }
    }

    /// Returns how many hits a record needs to be written anew when its segment is reclaimed at `now_millis`.
    pub fn reinsertion_hits(&mut self, now_millis: u64) -> u8 {
        self.fill(now_millis);
        match self.tokens {
            _ if self.bytes_per_second.is_none() => 1,
            tokens if tokens > 0 => 1,
            tokens if tokens > -self.full() => 2,
            _ => REINSERT_NEVER,
        }
    }

    /// Returns how full the bucket is: 1 is full, below 0 it is overdrawn.
    pub fn level(&self) -> f64 {
        self.tokens as f64 / (self.burst as f64 * PER_BYTE as f64)
    }

    /// What a full bucket has, in thousandths of a byte.
    fn full(&self) -> i128 {
        i128::from(self.burst) * PER_BYTE
    }

    fn fill(&mut self, now_millis: u64) {
        let passed = now_millis.saturating_sub(self.filled_at);
        self.filled_at = self.filled_at.max(now_millis);
        if let Some(rate) = self.bytes_per_second {
            self.tokens = (self.tokens + i128::from(rate) * i128::from(passed)).min(self.full());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers: good enough to be a die.
    fn dice(state: &mut u64) -> u32 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 32) as u32
    }

    #[test]
    fn a_full_bucket_admits_all_and_an_empty_one_what_was_used() {
        let mut admission = Admission::new(Some(1000), 10_000);
        assert!(admission.admit(0, 100, false, u32::MAX));
        admission.spend(4_999);
        assert!(admission.admit(0, 100, false, u32::MAX), "just above half");
        admission.spend(2);
        assert!(!admission.admit(0, 100, false, u32::MAX) && admission.admit(0, 100, false, 0));
        admission.spend(4_999);
        assert!(!admission.admit(0, 100, false, 0) && admission.admit(0, 100, true, u32::MAX));
        admission.spend(9_950);
        assert!(!admission.admit(0, 100, true, 0), "overdrawn by a whole bucket");
        assert!(admission.admit(100, 100, true, 0), "a tenth of a second brings 100 bytes");
    }

    #[test]
    fn chance_follows_the_level() {
        for quarters in 0..=2u64 {
            let mut admission = Admission::new(Some(1000), 1 << 20);
            admission.spend((1 << 20) - quarters * (1 << 18));
            let mut state = 1;
            let admitted = (0..10_000).filter(|_| admission.admit(0, 1, false, dice(&mut state))).count();
            let expected = quarters as usize * 5_000;
            assert!(admitted.abs_diff(expected) < 200, "{admitted} at {quarters} quarters");
        }
    }

    #[test]
    fn what_is_short_has_the_better_chance() {
        // At an eighth of a bucket a record of the mean length has a chance of a quarter.
        let mut admission = Admission::new(Some(1000), 1 << 40);
        admission.spend((1 << 40) / 8 * 7);
        let (mut state, mut admitted) = (3, [0u32; 2]);
        for _ in 0..20_000 {
            for (count, len) in admitted.iter_mut().zip([1_000, 31_000]) {
                *count += u32::from(admission.admit(0, len, false, dice(&mut state)));
            }
        }
        // The mean is 16,000: the short ones have four times that chance, the long ones less by the root of 31/16.
        assert!(admitted[0] > 19_000, "{}", admitted[0]);
        assert!(admitted[1].abs_diff(3_592) < 250, "{}", admitted[1]);
        // Lengths and budgets beyond all measure are no more than that.
        let mut vast = Admission::new(Some(u64::MAX), u64::MAX / 4);
        vast.spend(u64::MAX / 8);
        for len in [0, 1, u64::from(u32::MAX), 1 << 50] {
            vast.admit(0, len, false, u32::MAX);
        }
    }

    #[test]
    fn reinsertion_asks_for_more_when_writes_are_dear() {
        let mut admission = Admission::new(Some(1000), 1000);
        let mut hits = Vec::new();
        for spent in [0, 999, 1, 999, 1] {
            admission.spend(spent);
            hits.push(admission.reinsertion_hits(0));
        }
        assert_eq!(hits, [1, 1, 2, 2, REINSERT_NEVER]);
        assert_eq!(Admission::new(None, 1).reinsertion_hits(0), 1);
    }

    #[test]
    fn what_is_longer_than_a_burst_is_paid_for_in_full() {
        let mut admission = Admission::new(Some(1000), 10_000);
        assert!(!admission.admit(0, 200_001, true, 0), "longer than twenty");
        assert!(admission.admit(0, 200_000, false, u32::MAX));
        for _ in 0..200 {
            admission.spend(1000);
        }
        assert_eq!(admission.level(), -19.0);
        assert!(!admission.admit(0, 1, true, 0) && admission.reinsertion_hits(0) == REINSERT_NEVER);
        // What it took is made up for before anything else is written, and before the next one a good deal more.
        assert!(!admission.admit(179_000, 1, true, 0) && admission.admit(181_000, 1, true, 0));
        assert!(!admission.admit(195_000, 20_000, true, 0) && admission.admit(196_000, 20_000, true, 0));
    }

    #[test]
    fn time_that_goes_back_brings_nothing() {
        let mut admission = Admission::new(Some(1000), 1000);
        admission.spend(1000);
        assert!(admission.admit(500, 1, true, 0));
        assert_eq!(admission.level(), 0.5);
        for now in [100, 0, 500] {
            admission.admit(now, 1, true, 0);
            assert_eq!(admission.level(), 0.5);
        }
        admission.admit(u64::MAX, 1, true, 0);
        assert_eq!(admission.level(), 1.0, "no more than full, whatever the time");
    }

    #[test]
    fn what_is_written_stays_within_the_budget() {
        // Ten minutes of records that come four times as fast as they may be written, half of them used before.
        let (rate, burst) = (1_000_000u64, 16_000_000u64);
        let mut admission = Admission::new(Some(rate), burst);
        let (mut state, mut written) = (7, 0u64);
        for now in 0..600_000u64 {
            let len = 1 + u64::from(dice(&mut state)) % 8000;
            if admission.admit(now, len, dice(&mut state) & 1 == 0, dice(&mut state)) {
                admission.spend(len);
                written += len;
            }
        }
        let allowed = rate * 600;
        println!("{:.3} of the budget of 600 s was written", written as f64 / allowed as f64);
        assert!(written >= allowed && written <= allowed + 2 * burst + 8000, "{written}");
    }

    #[test]
    fn without_a_rate_everything_is_admitted() {
        let mut admission = Admission::new(None, 0);
        admission.spend(u64::MAX);
        assert!((0..10).all(|now| admission.admit(now, u64::MAX, false, u32::MAX)));
    }
}
