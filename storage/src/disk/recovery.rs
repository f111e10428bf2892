//! What recovery tells about a volume, and to whom.

use super::footer::FooterEntry;
use super::format::TableEntry;

/// What recovery tells a volume; which segments there are first, then what they hold, the newest first.
///
/// A volume answers look-ups meanwhile, and appends and removes as soon as it was told of all segments: what it takes in by itself is newer
/// than anything it is told, and a removal has to hide what it was not told of yet.
pub trait Rebuild {
    /// Tells what a segment is, once for each, before any record.
    ///
    /// A sealed one may have records; an open one was not sealed and has some too, of which [`Rebuild::sealed`] will tell.
    fn segment(&mut self, segment: u32, entry: &TableEntry);

    /// Tells that every segment was told of, and the largest sequence among them: the next segment that is opened has a larger one.
    fn located(&mut self, last_sequence: u64);

    /// Tells of a record, which counts unless something newer with the same place in the index, a tombstone too, was told of or taken in before.
    ///
    /// Records of the class with an order come the newest first; slices in any order.
    fn record(&mut self, segment: u32, entry: &FooterEntry);

    /// Tells that a segment without a footer that can be read has these records, in the order in which they lie there.
    ///
    /// All of them are told by [`Rebuild::record`] as well. The volume writes footer and table entry; if it cannot, the next recovery finds
    /// the same.
    fn sealed(&mut self, segment: u32, entry: &TableEntry, last_lsn: u64, records: &[FooterEntry]);
}
