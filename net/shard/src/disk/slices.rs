//! The bytes of a large body on disk, slice by slice, as a fill reads them.
//!
//! `restore.rs` makes it from a head; `fill.rs` reads through [`Source`](crate::fill::Source). Invariants: each byte was verified since it was
//! read; a slice of another body, or of another key with the same hash, is no slice of this one; one piece of a slice and the next are
//! held at a time, and none while nobody takes any; what viewers are slow to take is read once for several (`pieces.rs`); a slice that is still being
//! written is waited for.

use std::ops::Range;
use std::rc::Rc;

use aspis_cache::range::ByteRange;
use aspis_runtime::sync::oneshot;
use aspis_storage::budget::Purpose;
use aspis_storage::disk::format::{CHECKED_LEN, READ_LEN_MAX, SLICE_LEN};
use aspis_storage::disk::stored::slice_hash;
use aspis_storage::mapping::body::BodyWriter;
use aspis_telemetry::Counter;

use super::pieces::{Piece, Place};
use super::{Blocks, ReadBody};
use crate::fill::Broken;
use crate::limits::{SLICE_LOOK, SLICE_PATIENCE, SLOW_PIECE_LEN};
use crate::shard::Shard;

/// Whose slices they are.
#[derive(Clone, Debug)]
pub(crate) struct SlicesOf {
    /// The hash of the primary key.
    pub(crate) primary: u128,
    /// Hash and bytes of the key.
    pub(crate) hash: u128,
    pub(crate) key: Box<[u8]>,
    /// Under which number the body was written.
    pub(crate) write_id: u64,
    /// The bytes of all of it.
    pub(crate) total: u64,
}

/// What becomes of what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    /// It is copied.
    Nowhere,
    /// It becomes a body in memory: a whole slice is read to where it stays, if there is such a place.
    InMemory,
}

/// How fast the bytes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// As the disk brings them, a slice at a time.
    Disk,
    /// As viewers take them: less of a slice at once, since it may have to be let go, and shared with others who read the same.
    Viewers,
}

/// What was read.
enum Read {
    Own(ReadBody),
    /// A piece that others may have, and which bytes of it are meant.
    Shared(Rc<Piece>, Range<usize>),
}

impl Read {
    fn bytes(&self) -> &[u8] {
        match self {
            Read::Own(body) => body.bytes(),
            Read::Shared(piece, range) => &piece.bytes[range.clone()],
        }
    }
}

/// Some of a large body's bytes on their way from disk.
pub(crate) struct Slices {
    shard: Rc<Shard>,
    of: SlicesOf,
    range: ByteRange,
    at: u64,
    pace: Pace,
    /// What was read last, and how much of it was taken.
    piece: Option<(Read, usize)>,
    /// What comes behind that, being read.
    ahead: Option<oneshot::Receiver<ReadBody>>,
    stays: Stays,
}

impl SlicesOf {
    /// Tells whether each slice of a range may be there, or comes; memory alone is asked.
    pub(crate) fn may_be_there(&self, shard: &Shard, range: ByteRange) -> bool {
        let numbers = range.start / SLICE_LEN..range.end.div_ceil(SLICE_LEN);
        let streaming = shard.stream_of(self);
        let comes = |number| streaming.as_ref().is_some_and(|streaming| streaming.expects(number));
        let hash = |number| Some(slice_hash(self.hash, self.write_id, u32::try_from(number).ok()?));
        let is_there = |number| hash(number).is_some_and(|hash| shard.has_on_disk(self.primary, hash));
        numbers.into_iter().all(|number| comes(number) || is_there(number))
    }
}

/// Returns which bytes of `total` are read from disk for a range of them: the blocks that have checks of their own and that it touches, with
/// `ahead` of those behind it in the same slice; and all of a slice of which that is most.
pub(super) fn covering(wanted: ByteRange, total: u64, ahead: u64) -> ByteRange {
    let block_len = CHECKED_LEN as u64;
    let slice_of = |at: u64| {
        let start = at / SLICE_LEN * SLICE_LEN;
        ByteRange { start, end: total.min(start + SLICE_LEN) }
    };
    let (first, last) = (slice_of(wanted.start), slice_of(wanted.end.saturating_sub(1)));
    let mut start = first.start + (wanted.start - first.start) / block_len * block_len;
    let blocks = (wanted.end - last.start).div_ceil(block_len) + ahead;
    let mut end = last.end.min(last.start + blocks * block_len);
    let is_most = |slice: ByteRange| 2 * (end.min(slice.end) - start.max(slice.start)) > slice.len();
    let (most_of_first, most_of_last) = (is_most(first), is_most(last));
    if most_of_first {
        start = first.start;
    }
    if most_of_last {
        end = last.end;
    }
    ByteRange { start, end }
}

impl Slices {
    /// Begins to read a range of a body.
    pub(crate) fn new(shard: &Rc<Shard>, of: SlicesOf, range: ByteRange) -> Self {
        Slices {
            shard: Rc::clone(shard),
            of,
            range,
            at: range.start,
            pace: Pace::Disk,
            piece: None,
            ahead: None,
            stays: Stays::Nowhere,
        }
    }

    /// Whose they are.
    pub(crate) fn of(&self) -> &SlicesOf {
        &self.of
    }

    /// Where in the whole they begin.
    pub(crate) fn start(&self) -> u64 {
        self.range.start
    }

    /// How many bytes they are.
    pub(crate) fn len(&self) -> u64 {
        self.range.len()
    }

    /// Tells whether all of them were read.
    pub(crate) fn is_whole(&self) -> bool {
        self.at == self.range.end
    }

    /// Tells whether another slice has to be read.
    pub(crate) fn must_read(&self) -> bool {
        self.piece.is_none() && !self.is_whole()
    }

    /// Reads the next bytes into `buffer`. Zero: there are no more.
    pub(crate) async fn read<B: AsMut<[u8]>>(&mut self, mut buffer: B) -> (Result<usize, Broken>, B) {
        if self.is_whole() {
            return (Ok(0), buffer);
        }
        if self.piece.is_none() {
            self.piece = self.next_piece().await.map(|piece| (piece, 0));
        }
        let Some((piece, taken)) = &mut self.piece else { return (Err(Broken), buffer) };
        let (rest, room) = (&piece.bytes()[*taken..], buffer.as_mut());
        let count = rest.len().min(room.len());
        room[..count].copy_from_slice(&rest[..count]);
        self.shard.counters.add(Counter::DiskCopiedBytes, count as u64);
        self.at += count as u64;
        *taken += count;
        if count == rest.len() {
            self.piece = None;
        }
        (Ok(count), buffer)
    }

    /// Appends the next bytes to a body without a copy. Zero: there are no more, or they are for [`Slices::read`] to copy.
    pub(crate) async fn append_to(&mut self, writer: &mut BodyWriter) -> Result<usize, Broken> {
        self.stays = Stays::InMemory;
        if self.must_read() {
            let piece = self.next_piece().await.ok_or(Broken)?;
            self.piece = Some((piece, 0));
        }
        let Some((piece, taken)) = self.piece.take() else { return Ok(0) };
        if taken > 0 {
            self.piece = Some((piece, taken));
            return Ok(0);
        }
        let back = match piece {
            Read::Own(body) => match body.append_to(writer) {
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(body) => Read::Own(body),
            },
            shared => shared,
        };
        self.piece = Some((back, 0));
        Ok(0)
    }

    /// Gives back what was read and not taken: its buffer is wanted while nobody takes any.
    pub(crate) fn let_go(&mut self) {
        (self.piece, self.ahead) = (None, None);
    }

    /// From now on the bytes are taken slowly.
    pub(crate) fn slow_down(&mut self) {
        self.let_go();
        self.pace = Pace::Viewers;
    }

    /// The bytes from where reading stands to the end of their slice, or of the range. Who reads a second slice reads on: the one behind it is
    /// on its way meanwhile.
    async fn next_piece(&mut self) -> Option<Read> {
        if self.pace == Pace::Viewers {
            return shared_piece(&self.shard, &self.of, self.at, self.range.end).await;
        }
        let ahead = match self.ahead.take() {
            Some(ahead) => ahead.await.ok(),
            None => None,
        };
        let piece = match ahead {
            Some(piece) => piece,
            None => read_piece(&self.shard, &self.of, self.wanted_at(self.at)?, self.stays).await?,
        };
        let next = self.at + piece.bytes().len() as u64;
        let reads_on = self.at > self.range.start;
        if let (true, Some(wanted)) = (reads_on, self.wanted_at(next)) {
            let (sender, receiver) = oneshot::channel();
            let (shard, of, stays) = (Rc::clone(&self.shard), self.of.clone(), self.stays);
            self.shard.ring.spawn(async move {
                if let Some(piece) = read_piece(&shard, &of, wanted, stays).await {
                    // Nobody waits for it any more, perhaps.
                    let _ = sender.send(piece);
                }
            });
            self.ahead = Some(receiver);
        }
        Some(Read::Own(piece))
    }

    /// What is read next where reading stands at `at`: the number of a slice, and which bytes of it.
    fn wanted_at(&self, at: u64) -> Option<(u32, Range<usize>)> {
        let number = u32::try_from(at / SLICE_LEN).ok()?;
        let start = u64::from(number) * SLICE_LEN;
        let end = self.range.end.min(start + SLICE_LEN);
        (at < end).then(|| (number, (at - start) as usize..(end - start) as usize))
    }
}

/// The bytes from `at` to the end of their piece, or to `end`: as others read it, or for all who want it.
async fn shared_piece(shard: &Shard, of: &SlicesOf, at: u64, end: u64) -> Option<Read> {
    let number = u32::try_from(at / SLICE_LEN).ok()?;
    let slice_start = u64::from(number) * SLICE_LEN;
    let within = (at - slice_start) / SLOW_PIECE_LEN * SLOW_PIECE_LEN;
    let whole = (of.total - slice_start).min(SLICE_LEN);
    let wanted = within as usize..whole.min(within + SLOW_PIECE_LEN) as usize;
    let disk = shard.disk.as_ref()?;
    let read = async {
        let body = read_piece(shard, of, (number, wanted.clone()), Stays::Nowhere).await?;
        shard.make_room(wanted.len() as u64);
        let _charge = shard.budget.reserve(Purpose::Disk, wanted.len() as u64)?;
        shard.counters.add(Counter::DiskCopiedBytes, wanted.len() as u64);
        Some(Piece { bytes: body.bytes().into(), _charge })
    };
    let hash = slice_hash(of.hash, of.write_id, number);
    let place = Place { hash, start: wanted.start, key: of.key.clone() };
    let start = slice_start + within;
    let Some(piece) = disk.pieces.get(place, read).await else {
        // Without memory for that it is for this reader alone.
        let meant = (at - slice_start) as usize..wanted.end.min((end - slice_start) as usize);
        return read_piece(shard, of, (number, meant), Stays::Nowhere).await.map(Read::Own);
    };
    let meant = (at - start) as usize..piece.bytes.len().min((end - start) as usize);
    Some(Read::Shared(piece, meant))
}

/// Reads some bytes of a slice. What is there and cannot be read yet is waited for.
async fn read_piece(
    shard: &Shard,
    of: &SlicesOf,
    (number, wanted): (u32, Range<usize>),
    stays: Stays,
) -> Option<ReadBody> {
    if let Some(streaming) = shard.stream_of(of) {
        streaming.reached(number.into()).await;
    }
    let SlicesOf { primary, hash, key, write_id, .. } = of;
    let hash = slice_hash(*hash, *write_id, number);
    let disk = shard.disk.as_ref()?;
    let whole = (of.total - u64::from(number) * SLICE_LEN).min(SLICE_LEN) as usize;
    let block = |len| shard.block(len);
    let blocks: Option<&Blocks<'_>> = (stays == Stays::InMemory && wanted == (0..whole)).then_some(&block);
    let until = shard.ring.now_millis() + SLICE_PATIENCE.as_millis() as u64;
    loop {
        shard.make_room(READ_LEN_MAX);
        if let Some(piece) = disk.read_slice(*primary, (hash, key), wanted.clone(), blocks).await {
            return Some(piece);
        }
        // What is damaged is not there any more; what is there found no buffer, or a device that is busy.
        if !shard.has_on_disk(*primary, hash) || shard.ring.now_millis() >= until {
            return None;
        }
        shard.ring.sleep(SLICE_LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = CHECKED_LEN as u64;

    fn covered(wanted: (u64, u64), total: u64, ahead: u64) -> (u64, u64) {
        let range = covering(ByteRange { start: wanted.0, end: wanted.1 }, total, ahead);
        (range.start, range.end)
    }

    #[test]
    fn a_range_is_covered_by_the_blocks_that_it_touches() {
        let total = 4 * SLICE_LEN + 100;
        for (wanted, ahead, expected) in [
            ((0, 1), 0, (0, BLOCK)),
            ((BLOCK - 1, BLOCK), 0, (0, BLOCK)),
            ((BLOCK - 1, BLOCK + 1), 0, (0, 2 * BLOCK)),
            ((BLOCK, BLOCK + 1), 2, (BLOCK, 4 * BLOCK)),
            // Blocks begin anew with each slice, and the last of one is short.
            ((SLICE_LEN, SLICE_LEN + 1), 0, (SLICE_LEN, SLICE_LEN + BLOCK)),
            ((SLICE_LEN - 1, SLICE_LEN + 1), 0, (15 * BLOCK, SLICE_LEN + BLOCK)),
            ((SLICE_LEN - 1, SLICE_LEN), 2, (15 * BLOCK, SLICE_LEN)),
            // Most of a slice is all of it: at the one end, at the other, at both.
            ((10, 8 * BLOCK), 0, (0, SLICE_LEN)),
            ((10, 7 * BLOCK), 0, (0, 7 * BLOCK)),
            ((BLOCK, SLICE_LEN + 1), 0, (0, SLICE_LEN + BLOCK)),
            ((SLICE_LEN - 1, 2 * SLICE_LEN - BLOCK), 0, (15 * BLOCK, 2 * SLICE_LEN)),
            ((BLOCK, 3 * SLICE_LEN - BLOCK), 0, (0, 3 * SLICE_LEN)),
            ((total - 1, total), 2, (4 * SLICE_LEN, total)),
        ] {
            assert_eq!(covered(wanted, total, ahead), expected, "{wanted:?} and {ahead} ahead");
        }
    }

    #[test]
    fn what_covers_a_range_holds_it_and_is_read_whole() {
        for total in [SLICE_LEN + 1, 3 * SLICE_LEN, 3 * SLICE_LEN + BLOCK + 7] {
            for start in (0..total).step_by(31_337) {
                for len in [1, 100, BLOCK, 300_000, SLICE_LEN, 2 * SLICE_LEN + 5] {
                    let wanted = (start, total.min(start + len));
                    let (from, to) = covered(wanted, total, 2);
                    assert!(from <= wanted.0 && wanted.1 <= to && to <= total, "{wanted:?} of {total}");
                    let is_bound = |at: u64| at == total || (at % SLICE_LEN).is_multiple_of(BLOCK);
                    assert!(is_bound(from) && is_bound(to), "{wanted:?} of {total}: {from}..{to}");
                }
            }
        }
    }
}
