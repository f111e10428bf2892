//! What does the log of the process before say, and what follows from it?
//!
//! Runs once, before anything is served. A record that ends the file without verifying was being written when the process was killed: nobody was
//! told that it is there, so it is cut off. One that does not verify and has others behind it is damage: some of what stood there may have been
//! acknowledged, so everything that was stored before now counts as invalidated - too much, never too little. So does everything in a store on disk
//! whose log this is not: it is missing, older than the store, or was kept without it, when rules were forgotten that still concern what is there. A
//! file that is not a log of ours, or whose front is damaged, stops the start: nothing then says how far the numbers went.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::limits::IN_PROGRESS_COUNT_MAX;
use super::record::{Entry, HEADER_LEN, Header, HeaderError, Invalidation, next_record, record_len};
use super::rules_log::{FILE_NAME, Folder};

/// Where a damaged log is kept for a look.
const DAMAGED_NAME: &str = "rules.log.damaged";

/// Numbers go on this far above the last one that is found: as many may have been given without being in the log.
pub(crate) const NUMBER_MARGIN: u64 = IN_PROGRESS_COUNT_MAX as u64;

/// Numbers go on so far above those of a store whose log is lost: no process gives as many.
const LOST_MARGIN: u64 = 1 << 40;

/// What is known of the store on disk, if there is one, before its log is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Its name; 0 for none.
    pub(crate) store: u64,
    /// The number from which the last process went on that served from it; `None` if none has.
    pub(crate) numbers: Option<u64>,
    /// The largest number of anything in it, as far as that is known.
    pub(crate) newest: u64,
}

impl Bound {
    /// Says why the rules that a log has are not all that concern what is stored; `None` if they are.
    fn distrust(&self, header: &Header, last: u64) -> Option<&'static str> {
        let numbers = self.numbers?;
        match () {
            () if header.store != self.store => Some("was not kept together with what is on disk"),
            () if last < numbers => Some("is older than what is on disk"),
            // What was being accepted when the process was killed may be on disk and not in the log.
            () if last.saturating_add(NUMBER_MARGIN) < self.newest => Some("is older than what is on disk"),
            () => None,
        }
    }
}

/// What the registry goes on from.
pub(crate) struct Recovered {
    /// The header; its `numbers` are those after which this process goes on.
    pub(crate) header: Header,
    /// The invalidations that are known, with their records, by rising number.
    pub(crate) records: Vec<(Invalidation, Arc<[u8]>)>,
    /// The folder, ready to be appended to.
    pub(crate) folder: Folder,
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    header: Header,
    records: Vec<(Invalidation, Arc<[u8]>)>,
    /// The last number that is named anywhere.
    last: u64,
    /// How long the part is that can be appended to.
    sound_len: usize,
    /// Where the first damaged record begins.
    damage: Option<usize>,
}

/// Takes the folder and reads its log, or makes one. The error names the flag, and says what to do.
pub(crate) fn recover(path: &Path, bound: Bound) -> Result<Recovered, String> {
    let lock = Folder::lock(path)?;
    let fail = |error: &io::Error| format!("--state {}: {FILE_NAME}: {error}", path.display());
    let bytes = match std::fs::read(path.join(FILE_NAME)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut header = Header { file: file_number(), store: bound.store, ..Header::default() };
            if bound.numbers.is_some() {
                invalidate_all(&mut header, bound, "is missing");
            }
            let folder = Folder::create(path, lock, &header.encode(), &[]).map_err(|error| fail(&error))?;
            return Ok(Recovered { header, records: Vec::new(), folder });
        }
        Err(error) => return Err(fail(&error)),
    };
    let content = read(&bytes).map_err(|error| unreadable(path, error))?;
    if content.sound_len < bytes.len() && content.damage.is_none() {
        let cut = bytes.len() - content.sound_len;
        tracing::warn!(
            "{FILE_NAME}: the last {cut} byte(s) were not written to their end, and nobody was told that they were: cut off"
        );
    }
    let mut header = Header { numbers: content.last + NUMBER_MARGIN, store: bound.store, ..content.header };
    if let Some(at) = content.damage {
        header.folded = header.numbers;
        let aside = path.join(DAMAGED_NAME);
        std::fs::write(&aside, &bytes).map_err(|error| fail(&error))?;
        tracing::error!(
            "{FILE_NAME} is damaged at byte {at}; {} record(s) could be read. Invalidations may be lost, so everything stored before now counts as \
             invalidated. The damaged file is kept as {}",
            content.records.len(),
            aside.display()
        );
    }
    if let Some(why) = bound.distrust(&content.header, content.last) {
        invalidate_all(&mut header, bound, why);
    }
    if header.folded != content.header.folded || header.store != content.header.store {
        let records: Vec<Arc<[u8]>> = content.records.iter().map(|(_, record)| Arc::clone(record)).collect();
        let folder = Folder::create(path, lock, &header.encode(), &records).map_err(|error| fail(&error))?;
        return Ok(Recovered { header, records: content.records, folder });
    }
    let mut folder = Folder::open(path, lock, content.sound_len as u64).map_err(|error| fail(&error))?;
    // Numbers that this process gives must not be given again by the next, whether they reach the log or not.
    let started = Entry::Numbers(header.numbers).encode(header.file);
    super::rules_log::Disk::append(&mut folder, &started).map_err(|error| fail(&error))?;
    Ok(Recovered { header, records: content.records, folder })
}

/// Has everything that is stored on disk count as invalidated, and numbers go on above any that it may have.
fn invalidate_all(header: &mut Header, bound: Bound, why: &str) {
    tracing::warn!(
        "{FILE_NAME} {why}. Invalidations may be lost, so everything on disk counts as invalidated"
    );
    let known = bound.numbers.unwrap_or_default().max(bound.newest);
    header.numbers = header.numbers.max(known.saturating_add(LOST_MARGIN));
    header.folded = header.numbers;
}

fn unreadable(path: &Path, error: HeaderError) -> String {
    let what = match error {
        HeaderError::Foreign => "is not a log of invalidations".to_owned(),
        HeaderError::Version(version) => format!("has version {version}, which this program does not know"),
        HeaderError::Damaged => {
            "is damaged at its front, and nothing tells how far its numbers went".to_owned()
        }
    };
    format!(
        "--state {}: {FILE_NAME} {what}. Nothing was changed. To begin without it, move it away together with everything that was stored under it",
        path.display()
    )
}

/// Reads a whole file.
fn read(bytes: &[u8]) -> Result<Content, HeaderError> {
    let header = Header::decode(bytes)?;
    let last = header.numbers.max(header.folded).max(header.settled);
    let mut content = Content { header, records: Vec::new(), last, sound_len: HEADER_LEN, damage: None };
    let mut at = HEADER_LEN;
    while at < bytes.len() {
        let whole = record_len(header.file, &bytes[at..]).map(|len| &bytes[at..at + len]);
        match whole.and_then(|record| Some((Entry::decode(record)?, record))) {
            Some((entry, record)) => {
                content.take(entry, record);
                at += record.len();
                if content.damage.is_none() {
                    content.sound_len = at;
                }
            }
            None => {
                // A record that verifies but says nothing that we know was written by nobody: it counts as damage.
                let from = at + whole.map_or(1, <[u8]>::len);
                match next_record(header.file, bytes, from) {
                    Some(next) => {
                        content.damage.get_or_insert(at);
                        at = next;
                    }
                    None if whole.is_some() => {
                        content.damage.get_or_insert(at);
                        break;
                    }
                    None => break,
                }
            }
        }
    }
    // The order of the file is that of the numbers, unless somebody else wrote it.
    content.records.sort_by_key(|(invalidation, _)| invalidation.number);
    content.records.dedup_by_key(|(invalidation, _)| invalidation.number);
    Ok(content)
}

impl Content {
    fn take(&mut self, entry: Entry, record: &[u8]) {
        match entry {
            Entry::Invalidation(invalidation) => {
                self.last = self.last.max(invalidation.number);
                self.records.push((*invalidation, record.into()));
            }
            Entry::Numbers(number) => self.last = self.last.max(number),
        }
    }
}

/// Tells the files of one folder apart. The time is enough: they are written one after the other.
fn file_number() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| u64::try_from(now.as_nanos()).unwrap_or(1))
        ^ u64::from(std::process::id()).rotate_left(48)
}

#[cfg(test)]
mod tests;
