//! `store.aspis`: the small file in each folder of a store that says which store it is, and how far the numbers of invalidations went.
//!
//! Text, so that an operator can read it; written beside, synced and renamed; the last line is a check over the others. A volume's superblock says
//! the same of the store, but nothing of the folders, and it is not rewritten at each start as `numbers` is.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use aspis_storage::disk::format::{FormatError, StoreId};
use xxhash_rust::xxh3::xxh3_64;

use super::size::VOLUME_COUNT_MAX;
use crate::files;

/// Its name in the folder.
pub(super) const FILE_NAME: &str = "store.aspis";
/// Its replacement while that is written.
const NEW_NAME: &str = "store.aspis.new";
const TITLE: &str = "aspis store, version ";
const VERSION: u32 = 1;
const NO_NUMBERS: &str = "none";
/// No label is longer.
const LEN_MAX: u64 = 4096;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// The store to which the folder belongs.
    pub(super) store: StoreId,
    /// Which of its folders this is, from 1.
    pub(super) folder: u16,
    /// How many it has.
    pub(super) folders: u16,
    /// How many volumes it has, in all folders.
    pub(super) volumes: u16,
    /// The number of invalidations from which the last server went on; `None` if none has served from it.
    pub(super) numbers: Option<u64>,
}

impl Label {
    /// Returns the file's content.
    fn encode(&self) -> String {
        let Label { store, folder, folders, volumes, numbers } = self;
        let numbers = numbers.map_or_else(|| NO_NUMBERS.to_owned(), |numbers| numbers.to_string());
        let mut text = format!(
            "{TITLE}{VERSION}\nid {}\nfolder {folder} of {folders}\nvolumes {volumes}\nnumbers {numbers}\n",
            hex(store)
        );
        let check = xxh3_64(text.as_bytes());
        // A String accepts every write.
        let _ = writeln!(text, "check {check:016x}");
        text
    }

    /// Reads a file's content.
    fn decode(text: &str) -> Result<Self, FormatError> {
        let version =
            text.strip_prefix(TITLE).and_then(|rest| rest.lines().next()).ok_or(FormatError::NotAStore)?;
        let version = version.parse().map_err(|_| FormatError::Damaged)?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        Self::checked(text).ok_or(FormatError::Damaged)
    }

    fn checked(text: &str) -> Option<Self> {
        let (content, check) = text.split_at_checked(text.rfind("check ")?)?;
        let check = check.strip_prefix("check ")?.strip_suffix('\n')?;
        if u64::from_str_radix(check, 16).ok()? != xxh3_64(content.as_bytes()) {
            return None;
        }
        let mut lines = content.lines().skip(1);
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let store = StoreId(u128::from_str_radix(value("id")?, 16).ok()?.to_be_bytes());
        let (folder, folders) = value("folder")?.split_once(" of ")?;
        let label = Label {
            store,
            folder: folder.parse().ok()?,
            folders: folders.parse().ok()?,
            volumes: value("volumes")?.parse().ok()?,
            numbers: match value("numbers")? {
                NO_NUMBERS => None,
                numbers => Some(numbers.parse().ok()?),
            },
        };
        let is_sound = (1..=label.folders).contains(&label.folder)
            && label.volumes.is_power_of_two()
            && u64::from(label.volumes) <= VOLUME_COUNT_MAX;
        is_sound.then_some(label)
    }

    /// Reads the label of a folder; `None` if it has none.
    pub(super) fn read(folder: &Path) -> io::Result<Option<Result<Self, FormatError>>> {
        let path = folder.join(FILE_NAME);
        match std::fs::metadata(&path) {
            Ok(found) if found.len() > LEN_MAX => return Ok(Some(Err(FormatError::NotAStore))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let bytes = std::fs::read(&path)?;
        Ok(Some(Self::decode(&String::from_utf8_lossy(&bytes))))
    }

    /// Makes it the label of a folder.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        files::replace(folder, FILE_NAME, NEW_NAME, [self.encode().as_bytes()])
    }
}

/// Writes a store's id. It is the secret of every check in the store, so that only files of its owner have it.
fn hex(store: &StoreId) -> String {
    format!("{:032x}", u128::from_be_bytes(store.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label {
        store: StoreId(*b"0123456789abcdef"),
        folder: 2,
        folders: 3,
        volumes: 8,
        numbers: Some(1 << 40),
    };

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(Label::decode(&LABEL.encode()), Ok(LABEL));
        let first = Label { store: StoreId([0; 16]), folder: 1, folders: 1, volumes: 1, numbers: None };
        assert_eq!(Label::decode(&first.encode()), Ok(first));
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let sound = LABEL.encode();
        for at in 0..sound.len() {
            for byte in [b'0', b'7', b'\n', b' ', b'x'] {
                let mut bytes = sound.clone().into_bytes();
                if bytes[at] != byte {
                    bytes[at] = byte;
                    let text = String::from_utf8(bytes).expect("plain letters");
                    let read = Label::decode(&text);
                    assert!(read.is_err() || read == Ok(LABEL), "byte {at} as {byte}: {read:?}");
                }
            }
            assert!(Label::decode(&sound[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_version_and_other_files_are_told_apart() {
        assert_eq!(
            Label::decode(&LABEL.encode().replacen("version 1", "version 7", 1)),
            Err(FormatError::Version(7))
        );
        assert_eq!(Label::decode("something else\n"), Err(FormatError::NotAStore));
        assert_eq!(Label::decode(""), Err(FormatError::NotAStore));
        let signed = |text: &str| format!("{text}check {:016x}\n", xxh3_64(text.as_bytes()));
        let odd = LABEL.encode().replace("volumes 8", "volumes 9");
        let odd = signed(&odd[..odd.rfind("check").expect("a check")]);
        assert_eq!(Label::decode(&odd), Err(FormatError::Damaged), "a check over nonsense");
    }
}
