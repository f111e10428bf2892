//! What a volume has to write, and what becomes of it: chunks and footers of segments, and blocks of the segment table.
//!
//! The driver fetches writes, does them in any order, and tells how each ended. The order that matters is kept here: a segment is not written
//! before the disk knows that it is open, nor the same block twice at once. After a write that failed the segment takes no more records, what the
//! disk does not have of it is not found any more and gets a tombstone, and its footer lists the rest.

use super::{OpenSegment, Phase, Role, Volume};
use crate::disk::format::{Class, TableEntry};
use crate::disk::record::RecordKind;
use crate::mapping::aligned::SharedBuf;

/// Most writes that are under way.
pub const WRITES_IN_FLIGHT_MAX: u32 = 4;

/// Errors after which a segment is not used again before a trial.
pub(in crate::disk) const ERRORS_MAX: u16 = 3;

/// Buckets of the index that are swept in one call.
const SWEPT_PER_CALL: u64 = 4096;

/// Something to be written.
#[derive(Debug)]
#[must_use = "a write that is not told of is under way for ever"]
pub struct Write {
    /// Where in the file, on a block.
    pub file_offset: u64,
    /// Its bytes, from the buffer's beginning; the volume reads them meanwhile.
    pub buffer: SharedBuf,
    /// How many, whole blocks.
    pub len: usize,
    /// What to tell of its end by.
    pub token: Token,
}

/// How far the records of a volume are at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    sequence: u64,
    position: u64,
}

/// Names a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(Target);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Table { block: u32 },
    Chunk { segment: u32, sequence: u64, start: u64 },
    Footer { segment: u32, sequence: u64 },
}

/// A write did not bring all bytes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteFailed;

impl Volume {
    /// Tells whether something waits to be written that [`Volume::next_write`] gives when it is forced.
    pub fn has_unwritten(&self) -> bool {
        !self.segments.is_written()
            || !self.pending.is_empty()
            || self.open.iter().flatten().chain(&self.closing).any(OpenSegment::has_unwritten)
    }

    /// Tells whether all that was appended is on the disk and no write is under way.
    pub fn is_settled(&self) -> bool {
        self.in_flight == 0 && !self.has_unwritten()
    }

    /// Returns how far the records are that were appended so far, removals above all, for [`Volume::is_written`].
    pub fn mark(&self) -> Mark {
        let open = self.open[Class::Records as usize].as_ref();
        open.map_or(Mark::default(), |open| Mark { sequence: open.sequence(), position: open.position() })
    }

    /// Tells whether the disk has every record and every removal from before a mark, as far as it can have them.
    pub fn is_written(&self, mark: Mark) -> bool {
        // A removal that waited, or was lost with a write and made anew, stands behind marks that were taken after it was asked for.
        let mark = mark.max(self.late);
        // What is not listed here any more was sealed, so it is wholly there.
        let mut unsealed = self.open.iter().flatten().chain(&self.closing);
        let is_behind = |open: &OpenSegment| match open.sequence() {
            sequence if sequence == mark.sequence => open.durable() < mark.position.min(open.position()),
            sequence => {
                open.class() == Class::Records && sequence < mark.sequence && open.durable() < open.position()
            }
        };
        self.pending.is_empty() && !unsealed.any(is_behind)
    }

    /// Returns the next write, if there is one worth it and fewer than [`WRITES_IN_FLIGHT_MAX`] are under way.
    ///
    /// Records are gathered until 256 KiB of a segment are there, unless `force`: then what there is goes out now, its last block as far as
    /// it is filled, to be written again with what comes behind. Tombstones, footers and the table never wait.
    pub fn next_write(&mut self, force: bool) -> Option<Write> {
        if self.in_flight >= WRITES_IN_FLIGHT_MAX {
            return None;
        }
        self.append_pending();
        self.sweep();
        let write = self.next_table_write().or_else(|| self.next_segment_write(force))?;
        self.in_flight += 1;
        self.stats.written_bytes += write.len as u64;
        Some(write)
    }

    /// Tells how a write ended; `buffer` is what came with it.
    pub fn written(&mut self, token: Token, buffer: SharedBuf, result: Result<(), WriteFailed>) {
        // The volume takes its buffers back when nobody else has them.
        drop(buffer);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.stats.write_errors += u64::from(result.is_err());
        match token.0 {
            Target::Table { block } => {
                self.segments.written(block, result.is_ok());
                self.segments.settle_block(block);
            }
            Target::Chunk { segment, sequence, start } => match result {
                Ok(()) => {
                    if let Some(open) = find(&mut self.open, &mut self.closing, segment, sequence) {
                        open.chunk_written(start, &self.config.pool);
                        self.finish(segment);
                    }
                }
                Err(WriteFailed) => self.fail(segment, sequence),
            },
            Target::Footer { segment, sequence } => {
                if let Some(open) = find(&mut self.open, &mut self.closing, segment, sequence) {
                    open.footer_written(result.is_ok());
                    self.finish(segment);
                }
            }
        }
    }

    /// Seals the open segments, for an orderly end: a start finds their footers and need not look through them.
    pub fn seal_all(&mut self) {
        for number in 0..self.open.len() {
            let Some(mut open) = self.open[number].take() else { continue };
            if open.entries().is_empty() {
                open.release(&self.config.pool);
                self.free(open.segment);
                continue;
            }
            self.close(open);
        }
    }

    /// Has the table say that nothing in a segment counts; it is used again when the disk knows.
    pub(in crate::disk) fn free(&mut self, segment: u32) {
        // Its smallest number stays until then: after a crash its records would be found again.
        self.segments.change(segment, Role::Freeing, |entry| {
            *entry = TableEntry {
                sequence: entry.sequence,
                oldest: entry.oldest,
                errors: entry.errors,
                ..TableEntry::FREE
            };
        });
    }

    /// Frees some of the hidden slots that recovery left.
    fn sweep(&mut self) {
        if let Phase::Sweeping(from) = self.phase {
            let next = self.index.sweep_hidden(from, SWEPT_PER_CALL);
            self.phase = next.map_or(Phase::Ready, Phase::Sweeping);
        }
    }

    fn next_table_write(&mut self) -> Option<Write> {
        if self.phase == Phase::Unknown {
            return None;
        }
        let write = self.segments.next_write(&self.config.budget)?;
        let len = crate::disk::format::BLOCK_LEN as usize;
        let token = Token(Target::Table { block: write.block });
        Some(Write { file_offset: write.file_offset, buffer: write.buffer, len, token })
    }

    fn next_segment_write(&mut self, force: bool) -> Option<Write> {
        let geometry = self.config.geometry;
        for open in self.closing.iter_mut().chain(self.open.iter_mut().flatten()) {
            let (segment, sequence) = (open.segment, open.sequence());
            // Until the disk knows that the segment is open, recovery would not look for what is written into it.
            if !self.segments.is_durable(segment) {
                continue;
            }
            let Some(write) = open.next_write(force, &self.config.budget) else {
                continue;
            };
            let target = match write.is_footer {
                true => Target::Footer { segment, sequence },
                false => Target::Chunk { segment, sequence, start: write.start },
            };
            let file_offset = geometry.segment_offset(segment) + write.start;
            return Some(Write { file_offset, buffer: write.buffer, len: write.len, token: Token(target) });
        }
        None
    }

    /// Makes a segment that is wholly on the disk a sealed one.
    fn finish(&mut self, segment: u32) {
        let Some(at) = self.closing.iter().position(|open| open.segment == segment) else { return };
        if !self.closing[at].is_finished() {
            return;
        }
        let mut open = self.closing.remove(at);
        open.release(&self.config.pool);
        let trailer = open.trailer();
        self.segments.change(segment, Role::Sealed, |entry| {
            *entry = TableEntry { errors: entry.errors, ..trailer.table_entry() };
        });
    }

    /// Closes a segment of which a write failed.
    fn fail(&mut self, segment: u32, sequence: u64) {
        for number in 0..self.open.len() {
            if let Some(open) = self.open[number].take_if(|open| open.segment == segment) {
                self.close(open);
            }
        }
        let Some(open) = find(&mut self.open, &mut self.closing, segment, sequence) else { return };
        let lost = open.fail(&self.config.pool);
        self.note_errors(segment, ERRORS_MAX);
        for entry in lost {
            if let Some(slot) = self.index.remove_at(entry.hash, segment, entry.unit) {
                self.forget(slot);
                if !self.is_recovered() {
                    self.index.hide(entry.hash);
                }
                self.bury(entry.hash);
            } else if entry.kind() == Some(RecordKind::Tombstone) && self.index.find(entry.hash).is_none() {
                self.bury(entry.hash);
            }
        }
        self.late = self.mark();
    }
}

/// Returns a segment that is being written, if this is still the same use of it.
fn find<'v>(
    open: &'v mut [Option<OpenSegment>; 2],
    closing: &'v mut [OpenSegment],
    segment: u32,
    sequence: u64,
) -> Option<&'v mut OpenSegment> {
    let mut all = open.iter_mut().flatten().chain(closing);
    all.find(|open| open.segment == segment && open.sequence() == sequence)
}
