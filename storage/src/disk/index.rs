//! Where the records of a volume lie: one number of eight bytes for each, found by a hash.
//!
//! ```text
//! slot     tag:12 | segment:22 | unit:18 | length class:6 | hits:2 | lossy:1 | aside:1 | kind:2       0 is free
//! bucket   8 slots, one line of the processor's cache          group  64 buckets, one page
//! ```
//!
//! A hash has a home bucket and another one in the same group; a record lies in the emptier of the two, marked `aside` if that is not its home,
//! so that at 85 % load few (0.3 %) are crowded out. The index is only a hint where to look: the record itself decides. There is at most
//! one slot for each (home, tag), the newest, so that a look-up has at most one candidate and an older version of a key can never answer. Two
//! keys that share both push each other out (0.1 % at that load).
//!
//! Records may lie on the disk that the index no longer knows: what was crowded out, or could not be read. Their home bucket is *lossy*
//! from then on: who removes a key that lives there has to say so on the disk too. While a volume recovers, newest records first, the
//! same mark keeps older versions out of a bucket that lost a newer one, and *hidden* slots stand for what was removed. Fed by the
//! volume. Invariants: the table never grows and allocates nothing; a slot that is not free names a record that was there.

use std::sync::Arc;

use crate::budget::Budget;
use crate::mapping::aligned::AlignedBuf;
use crate::mapping::prefetch::prefetch_line;

const BUCKET_SLOTS: usize = 8;
const BUCKET_LEN: usize = BUCKET_SLOTS * size_of::<u64>();
/// Buckets among which the two of a hash lie.
const GROUP_BUCKETS: u64 = 64;

const KIND_MASK: u64 = 3;
const ASIDE: u64 = 1 << 2;
/// Of the whole bucket; kept in its first slot, whether that is free or not.
const LOSSY: u64 = 1 << 3;
const HITS_SHIFT: u32 = 4;
const CLASS_SHIFT: u32 = 6;
const UNIT_SHIFT: u32 = 12;
const SEGMENT_SHIFT: u32 = 30;
const TAG_SHIFT: u32 = 52;
/// What a look-up compares.
const SOUGHT: u64 = 0xfff << TAG_SHIFT | ASIDE;
/// Tags are 1 to this, so that no free slot is ever taken for a match.
const TAG_COUNT: u64 = (1 << 12) - 1;

/// Most segments that a slot can name.
pub const SEGMENT_COUNT_MAX: u32 = 1 << 22;
/// Hits are counted up to this.
pub const HITS_MAX: u8 = 3;

/// What a slot says about a record, so that a look-up knows more than where to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotKind {
    /// A whole response, or a slice.
    Plain = 0,
    /// The head of a large response.
    Head = 1,
    /// By which fields a URI's responses vary, or which parts of its response are there.
    Marker = 2,
    /// Nothing: what lies on the disk, up to this place, was removed. Only while the volume recovers.
    Hidden = 3,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The number of its segment.
    pub segment: u32,
    /// Its place in the segment, in units.
    pub unit: u32,
    /// The class of its length.
    pub class: u8,
    /// Uses, at most [`HITS_MAX`].
    pub hits: u8,
    /// What it is.
    pub kind: SlotKind,
}

impl Slot {
    /// What stands for a key that was removed after all that is recovered.
    pub const REMOVED: Slot = Slot { segment: 0, unit: 0, class: 0, hits: 0, kind: SlotKind::Hidden };

    /// Returns what stands for a key that was removed by a tombstone in this place.
    pub fn hidden(segment: u32, unit: u32) -> Slot {
        Slot { segment, unit, ..Slot::REMOVED }
    }

    fn pack(self) -> u64 {
        debug_assert!(self.segment < SEGMENT_COUNT_MAX && self.unit < 1 << 18 && self.class < 64);
        u64::from(self.segment) << SEGMENT_SHIFT
            | u64::from(self.unit) << UNIT_SHIFT
            | u64::from(self.class) << CLASS_SHIFT
            | u64::from(self.hits.min(HITS_MAX)) << HITS_SHIFT
            | self.kind as u64
    }

    fn unpack(word: u64) -> Slot {
        Slot {
            segment: (word >> SEGMENT_SHIFT) as u32 & (SEGMENT_COUNT_MAX - 1),
            unit: (word >> UNIT_SHIFT) as u32 & ((1 << 18) - 1),
            class: (word >> CLASS_SHIFT) as u8 & 63,
            hits: (word >> HITS_SHIFT) as u8 & HITS_MAX,
            kind: match word & KIND_MASK {
                0 => SlotKind::Plain,
                1 => SlotKind::Head,
                2 => SlotKind::Marker,
                _ => SlotKind::Hidden,
            },
        }
    }
}

/// What an insert pushed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// What stood under the same home and tag: an older version, or rarely another key.
    pub replaced: Option<Slot>,
    /// What was used least of both buckets, which were full.
    pub crowded_out: Option<Slot>,
}

/// What became of a record that is older than all that were inserted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// It is found from now on.
    Taken,
    /// A newer one stands under its home and tag, or it was removed.
    Hidden,
    /// There was no room for it, or for a newer one of its home.
    Crowded,
}

/// The index of one volume.
#[derive(Debug)]
pub struct Index {
    memory: AlignedBuf,
    bucket_count: u64,
    seed: u64,
    /// Slots that are not free, hidden ones included.
    len: u64,
}

/// Where a hash looks.
#[derive(Clone, Copy)]
struct Place {
    home: u64,
    other: u64,
    tag: u64,
}

impl Index {
    /// Makes an empty index of at least `slot_count` slots; `None` when the budget or the kernel has no memory for it.
    ///
    /// All of it is charged at once, and the kernel gives pages when they are first used. `seed` keeps others from choosing who shares a slot.
    pub fn new(slot_count: u64, seed: u64, budget: &Arc<Budget>) -> Option<Index> {
        let group_slots = GROUP_BUCKETS * BUCKET_SLOTS as u64;
        let bucket_count = slot_count.max(1).div_ceil(group_slots) * GROUP_BUCKETS;
        let len = usize::try_from(bucket_count).ok()?.checked_mul(BUCKET_LEN)?;
        Some(Index { memory: AlignedBuf::new(len, budget)?, bucket_count, seed, len: 0 })
    }

    /// Returns how many slots `record_count` records need so that few are crowded out: 85 % of them are used then.
    pub fn slots_for(record_count: u64) -> u64 {
        record_count.saturating_mul(20).div_ceil(17)
    }

    /// Returns how many slots there are.
    pub fn slot_count(&self) -> u64 {
        self.bucket_count * BUCKET_SLOTS as u64
    }

    /// Returns how many bytes of memory it has, whether they are in use or not.
    pub fn memory_len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Returns how many slots are not free.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether every slot is free.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Asks the processor for the buckets of a hash ahead of their use.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        let place = self.place(hash);
        let memory = self.memory.as_ref();
        prefetch_line(&memory[place.home as usize * BUCKET_LEN]);
        prefetch_line(&memory[place.other as usize * BUCKET_LEN]);
    }

    /// Returns where the record of this hash lies, if it is there at all.
    #[inline]
    pub fn find(&self, hash: u64) -> Option<Slot> {
        self.peek(hash).filter(|slot| slot.kind != SlotKind::Hidden)
    }

    /// Returns the record of this hash if it lies in this very place.
    pub fn find_at(&self, hash: u64, segment: u32, unit: u32) -> Option<Slot> {
        self.find(hash).filter(|slot| (slot.segment, slot.unit) == (segment, unit))
    }

    /// Returns what stands for this hash, hidden or not.
    #[inline]
    pub fn peek(&self, hash: u64) -> Option<Slot> {
        let (bucket, at) = self.position(self.place(hash))?;
        Some(Slot::unpack(self.word(bucket, at)))
    }

    /// Puts the newest record of a hash in; whatever stood under its home and tag leaves.
    pub fn insert(&mut self, hash: u64, slot: Slot) -> Inserted {
        let place = self.place(hash);
        if let Some((bucket, at)) = self.position(place) {
            let word = self.word(bucket, at);
            let kept = word & (SOUGHT | self.lossy_bit(at, word));
            self.set_word(bucket, at, kept | slot.pack());
            let replaced = Some(Slot::unpack(word)).filter(|old| old.kind != SlotKind::Hidden);
            return Inserted { replaced, crowded_out: None };
        }
        if self.put(place, slot) {
            return Inserted::default();
        }
        let crowded_out = self.crowd_out(place);
        let taken = self.put(place, slot);
        debug_assert!(taken, "a slot was freed for it");
        Inserted { replaced: None, crowded_out: Some(crowded_out).filter(|old| old.kind != SlotKind::Hidden) }
    }

    /// Puts a record in that is older than all others of its hash which were ever put in, or what stands for a removed one.
    pub fn insert_older(&mut self, hash: u64, slot: Slot) -> Older {
        let place = self.place(hash);
        if self.position(place).is_some() {
            return Older::Hidden;
        }
        if self.is_lossy_at(place.home) {
            return Older::Crowded;
        }
        if self.put(place, slot) {
            return Older::Taken;
        }
        self.set_lossy(place.home);
        Older::Crowded
    }

    /// Takes the record of a hash out and keeps older ones out too, for as long as the volume recovers.
    pub fn hide(&mut self, hash: u64) -> Option<Slot> {
        let removed = self.remove(hash);
        self.insert_older(hash, Slot::REMOVED);
        removed
    }

    /// Frees the hidden slots of `bucket_count` buckets from one on; `None` after the last, else where to go on.
    pub fn sweep_hidden(&mut self, from: u64, bucket_count: u64) -> Option<u64> {
        self.free_where(from, bucket_count, |slot| slot.kind == SlotKind::Hidden)
    }

    /// Frees the slots of `bucket_count` buckets from one on that lead into a segment; `None` after the last bucket, else where to go on.
    pub fn clear_segment(&mut self, segment: u32, from: u64, bucket_count: u64) -> Option<u64> {
        self.free_where(from, bucket_count, |slot| slot.segment == segment && slot.kind != SlotKind::Hidden)
    }

    /// Takes the record of a hash out.
    pub fn remove(&mut self, hash: u64) -> Option<Slot> {
        let (bucket, at) = self.position(self.place(hash))?;
        let slot = Slot::unpack(self.word(bucket, at));
        self.free(bucket, at);
        Some(slot).filter(|old| old.kind != SlotKind::Hidden)
    }

    /// Takes the record of a hash out if it lies in this very place.
    pub fn remove_at(&mut self, hash: u64, segment: u32, unit: u32) -> Option<Slot> {
        self.find_at(hash, segment, unit)?;
        self.remove(hash)
    }

    /// Notes that something lies on the disk under this hash, or may, which the index does not know.
    pub fn mark_lossy(&mut self, hash: u64) {
        self.set_lossy(self.place(hash).home);
    }

    /// Tells whether something may lie on the disk under this hash though the index does not know it.
    pub fn is_lossy(&self, hash: u64) -> bool {
        self.is_lossy_at(self.place(hash).home)
    }

    /// Counts a use of the record of a hash.
    pub fn mark_used(&mut self, hash: u64) {
        let Some((bucket, at)) = self.position(self.place(hash)) else { return };
        let word = self.word(bucket, at);
        if (word >> HITS_SHIFT) as u8 & HITS_MAX < HITS_MAX {
            self.set_word(bucket, at, word + (1 << HITS_SHIFT));
        }
    }

    #[inline]
    fn place(&self, hash: u64) -> Place {
        // Folded, so that each bit depends on many: the shard's bits are the same in most hashes, and low bits choose the tag.
        let product = u128::from(hash ^ self.seed) * 0x9e37_79b9_7f4a_7c15;
        let mixed = (product >> 64) as u64 ^ product as u64;
        let home = ((u128::from(mixed) * u128::from(self.bucket_count)) >> 64) as u64;
        let tag = 1 + (((mixed & 0xffff_ffff) * TAG_COUNT) >> 32);
        Place { home, other: other_bucket(home, tag), tag }
    }

    #[inline]
    fn words(&self, bucket: u64) -> [u64; BUCKET_SLOTS] {
        let start = bucket as usize * BUCKET_LEN;
        let bytes: &[u8; BUCKET_LEN] =
            self.memory.as_ref()[start..start + BUCKET_LEN].try_into().expect("a bucket has its length");
        let mut words = [0; BUCKET_SLOTS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }

    #[inline]
    fn word(&self, bucket: u64, at: usize) -> u64 {
        let start = bucket as usize * BUCKET_LEN + at * size_of::<u64>();
        let bytes = &self.memory.as_ref()[start..start + size_of::<u64>()];
        u64::from_le_bytes(bytes.try_into().expect("a slot has its length"))
    }

    #[inline]
    fn set_word(&mut self, bucket: u64, at: usize, word: u64) {
        let start = bucket as usize * BUCKET_LEN + at * size_of::<u64>();
        self.memory.as_mut()[start..start + size_of::<u64>()].copy_from_slice(&word.to_le_bytes());
    }

    /// Returns where the slot for this place is, hidden or not.
    #[inline]
    fn position(&self, place: Place) -> Option<(u64, usize)> {
        let wanted = place.tag << TAG_SHIFT;
        // Both are read before either is looked at: the processor fetches them side by side.
        let (home, other) = (self.words(place.home), self.words(place.other));
        let at = |words: [u64; BUCKET_SLOTS], wanted| words.iter().position(|word| word & SOUGHT == wanted);
        match at(home, wanted) {
            Some(at) => Some((place.home, at)),
            None => at(other, wanted | ASIDE).map(|at| (place.other, at)),
        }
    }

    /// Puts a slot into the emptier bucket of its place; false if both are full.
    fn put(&mut self, place: Place, slot: Slot) -> bool {
        let free_of = |words: [u64; BUCKET_SLOTS]| words.iter().filter(|word| *word & !LOSSY == 0).count();
        let (at_home, aside) = (free_of(self.words(place.home)), free_of(self.words(place.other)));
        if at_home.max(aside) == 0 {
            return false;
        }
        let (bucket, mark) = if aside > at_home { (place.other, ASIDE) } else { (place.home, 0) };
        let words = self.words(bucket);
        let at = words.iter().position(|word| word & !LOSSY == 0).expect("one was counted");
        self.set_word(bucket, at, words[at] | place.tag << TAG_SHIFT | slot.pack() | mark);
        self.len += 1;
        true
    }

    /// Frees the least used slot of two full buckets, whose home then has lost something.
    fn crowd_out(&mut self, place: Place) -> Slot {
        // The tag decides where to begin, so that it is not always the same position that goes.
        let start = place.tag as usize;
        let candidates = (start..start + 2 * BUCKET_SLOTS).map(|number| {
            let bucket = if number & BUCKET_SLOTS == 0 { place.home } else { place.other };
            (bucket, number % BUCKET_SLOTS)
        });
        let (bucket, at) = candidates
            .min_by_key(|(bucket, at)| (self.word(*bucket, *at) >> HITS_SHIFT) as u8 & HITS_MAX)
            .expect("two buckets have slots");
        let word = self.word(bucket, at);
        let home = if word & ASIDE == 0 { bucket } else { other_bucket(bucket, word >> TAG_SHIFT) };
        self.free(bucket, at);
        self.set_lossy(home);
        Slot::unpack(word)
    }

    fn free_where(&mut self, from: u64, bucket_count: u64, is_freed: impl Fn(Slot) -> bool) -> Option<u64> {
        let end = from.saturating_add(bucket_count).min(self.bucket_count);
        for bucket in from..end {
            for (at, word) in self.words(bucket).into_iter().enumerate() {
                if word & !LOSSY != 0 && is_freed(Slot::unpack(word)) {
                    self.free(bucket, at);
                }
            }
        }
        (end < self.bucket_count).then_some(end)
    }

    fn free(&mut self, bucket: u64, at: usize) {
        let lossy = self.lossy_bit(at, self.word(bucket, at));
        self.set_word(bucket, at, lossy);
        self.len -= 1;
    }

    /// Returns the bucket's mark if it is in this slot.
    fn lossy_bit(&self, at: usize, word: u64) -> u64 {
        if at == 0 { word & LOSSY } else { 0 }
    }

    fn set_lossy(&mut self, bucket: u64) {
        let word = self.word(bucket, 0);
        self.set_word(bucket, 0, word | LOSSY);
    }

    fn is_lossy_at(&self, bucket: u64) -> bool {
        self.word(bucket, 0) & LOSSY != 0
    }
}

/// Returns the other bucket of a tag; of that one it is this.
#[inline]
fn other_bucket(bucket: u64, tag: u64) -> u64 {
    bucket ^ (1 + tag % (GROUP_BUCKETS - 1))
}

#[cfg(test)]
mod tests;
