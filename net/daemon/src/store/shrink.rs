//! Makes room in a volume for the segments that are to stay when its end is cut off.
//!
//! Which they are is decided by `aspis_storage::disk::shrink`: the newest, so that nothing that was replaced or removed comes back. Invariant: at
//! each moment each segment that stays is whole in its old place or in its new one, and a start in between finds it once.

use std::io;
use std::os::unix::fs::FileExt;

use aspis_storage::disk::check;
use aspis_storage::disk::format::{BLOCK_LEN, SegmentHeader, TableEntry};
use aspis_storage::disk::shrink::{self, Move};

use super::file::{Bytes, Progress};
use super::find::FoundVolume;

/// What is copied with one read and one write.
const COPIED_LEN: usize = 1 << 20;

/// Moves what stays of a volume into its first `kept` segments.
pub(super) fn make_room(volume: &FoundVolume, kept: u32) -> io::Result<()> {
    let segments = check::segments(&Bytes(&volume.file), &volume.superblock);
    let shrink::Plan { freed, moves } = shrink::plan(&segments, kept);
    for place in freed {
        write_entry(volume, place, &TableEntry::FREE)?;
    }
    volume.file.sync_data()?;
    let len = volume.superblock.geometry().segment_len();
    let mut progress = Progress::new("moving what stays of the store", moves.len() as u64 * len);
    for Move { from, to } in moves {
        copy(volume, from, to)?;
        // The content first: an entry in the table is believed.
        volume.file.sync_data()?;
        write_entry(volume, to, &segments[from as usize])?;
        progress.add(len);
    }
    progress.end();
    volume.file.sync_data()
}

/// Copies a segment to another place. Only its header says where it lies.
fn copy(volume: &FoundVolume, from: u32, to: u32) -> io::Result<()> {
    let (geometry, store) = (volume.superblock.geometry(), volume.superblock.store);
    let (source, target) = (geometry.segment_offset(from), geometry.segment_offset(to));
    let mut buffer = vec![0; COPIED_LEN];
    let mut at = 0;
    while at < geometry.segment_len() {
        volume.file.read_exact_at(&mut buffer, source + at)?;
        if at == 0
            && let Some(header) = SegmentHeader::decode(&buffer[..BLOCK_LEN as usize], store, from)
        {
            buffer[..BLOCK_LEN as usize].copy_from_slice(&header.encode(store, to));
        }
        volume.file.write_all_at(&buffer, target + at)?;
        at += buffer.len() as u64;
    }
    Ok(())
}

fn write_entry(volume: &FoundVolume, segment: u32, entry: &TableEntry) -> io::Result<()> {
    let geometry = volume.superblock.geometry();
    let at = geometry.table_offset() + geometry.entry_offset(segment);
    volume.file.write_all_at(&entry.encode(volume.superblock.store, segment), at)
}
