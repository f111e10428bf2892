//! What lies in the folders that an operator named: a whole store, nothing, or something that must not be touched?
//!
//! Reads labels and superblocks under the folders' locks, for serving and for the commands. Invariant: it changes nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use aspis_storage::disk::format::{BLOCK_LEN, FormatError, StoreId, Superblock};

use super::label::{self, Label};
use super::{begin_anew, file, shard_of, volume_path};
use crate::files;

/// What may lie in a folder beside a store, and in one that becomes a store: what `--state` keeps, and what file systems make.
const NEUTRAL: &[&str] = &["rules.log", "rules.log.new", "rules.log.damaged", "lock", "lost+found"];
/// So many names of other files are told.
const TOLD_COUNT: usize = 3;

/// A folder of a store, ours alone as long as this is there.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// The folder itself, locked.
    pub(super) file: File,
    pub(super) label: Option<Label>,
    /// The shards of the volumes in it, ascending.
    pub(super) shards: Vec<u16>,
    /// What else is in it.
    others: Vec<String>,
}

/// Whether a folder that is not there is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Refuse,
}

/// Whether a label that cannot be read matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Labels {
    Read,
    /// All of it is to be replaced.
    Ignore,
}

/// Locks folders and lists what is in them.
pub(super) fn folders(paths: &[String], missing: Missing, labels: Labels) -> Result<Vec<Folder>, String> {
    let all = || paths.iter().map(Path::new);
    let mut folders: Vec<Folder> = Vec::with_capacity(paths.len());
    for path in all() {
        let fail = |error: io::Error| format!("{}: {error}", path.display());
        if missing == Missing::Make {
            files::make_folder(path).map_err(fail)?;
        }
        let file = File::open(path).map_err(fail)?;
        let identity = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        for other in &folders {
            if identity(&other.file).map_err(fail)? == identity(&file).map_err(fail)? {
                return Err(format!("{} and {} are the same folder", other.path.display(), path.display()));
            }
        }
        if !files::lock(&file).map_err(fail)? {
            return Err(format!("{}: another process uses this folder", path.display()));
        }
        let label = match (labels, Label::read(path).map_err(fail)?) {
            (Labels::Ignore, _) | (_, None) => None,
            (Labels::Read, Some(Ok(label))) => Some(label),
            (Labels::Read, Some(Err(error))) => {
                let file = path.join(label::FILE_NAME);
                return Err(format!("{} {}. {}", file.display(), wrong(error), begin_anew(all())));
            }
        };
        let mut folder =
            Folder { path: path.to_owned(), file, label, shards: Vec::new(), others: Vec::new() };
        folder.list().map_err(fail)?;
        folders.push(folder);
    }
    Ok(folders)
}

impl Folder {
    fn list(&mut self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            match shard_of(&name) {
                Some(shard) => self.shards.push(shard),
                None if name.starts_with(label::FILE_NAME) || NEUTRAL.contains(&name.as_str()) => {}
                None => self.others.push(name),
            }
        }
        self.shards.sort_unstable();
        self.others.sort_unstable();
        Ok(())
    }

    /// Whether nothing of a store is in it.
    pub(super) fn has_no_store(&self) -> bool {
        self.label.is_none() && self.shards.is_empty()
    }

    /// The first of the other files in it, as a text; `None` if there are none.
    pub(super) fn others(&self) -> Option<String> {
        let told: Vec<&str> = self.others.iter().take(TOLD_COUNT).map(String::as_str).collect();
        let more = if self.others.len() > told.len() { ", ..." } else { "" };
        (!told.is_empty()).then(|| format!("{}{more}", told.join(", ")))
    }
}

/// A volume whose superblock was read.
#[derive(Debug)]
pub(super) struct FoundVolume {
    /// The folder in which it lies, by its place among those that were named.
    pub(super) folder: usize,
    pub(super) path: PathBuf,
    /// Open through the page cache, locked.
    pub(super) file: File,
    pub(super) superblock: Superblock,
    /// Which of the two superblocks are not as they should be.
    pub(super) mend: Option<Mend>,
}

/// For what the volumes are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Opens every volume of the store in these folders, in the order of the shards; refuses what is not one whole store.
pub(super) fn volumes(folders: &[Folder], access: Access) -> Result<(Label, Vec<FoundVolume>), String> {
    let anew = || begin_anew(folders.iter().map(|folder| folder.path.as_path()));
    let label = one_store(folders)?;
    let mut volumes: Vec<FoundVolume> = Vec::with_capacity(usize::from(label.volumes));
    for (at, folder) in folders.iter().enumerate() {
        for &shard in &folder.shards {
            let path = volume_path(&folder.path, shard);
            let fail = |error: io::Error| format!("{}: {error}", path.display());
            let refuse = |what: &str| format!("{} {what}. {}", path.display(), anew());
            let opened = match access {
                Access::Read => File::open(&path),
                Access::Write => files::private().open(&path),
            };
            let file = opened.map_err(fail)?;
            file::take(&file).map_err(fail)?;
            let (superblock, mend) = superblock(&file).map_err(fail)?;
            let superblock = superblock.map_err(|error| refuse(&wrong(error)))?;
            if superblock.store != label.store {
                return Err(refuse("belongs to another store"));
            }
            if superblock.shard != shard || 1 << superblock.shard_bits != label.volumes {
                return Err(refuse(&format!(
                    "is volume {} of {}, and not what its name and the store's label say",
                    superblock.shard,
                    1 << superblock.shard_bits
                )));
            }
            if let Some(other) = volumes.iter().find(|other| other.superblock.shard == shard) {
                return Err(refuse(&format!("is there twice, as {} too", other.path.display())));
            }
            volumes.push(FoundVolume { folder: at, path, file, superblock, mend });
        }
    }
    volumes.sort_unstable_by_key(|volume| volume.superblock.shard);
    let is_there = |shard| volumes.iter().any(|volume| volume.superblock.shard == shard);
    if let Some(missing) = (0..label.volumes).find(|&shard| !is_there(shard)) {
        // Where it was put when the store was made.
        let folder = folders
            .iter()
            .find(|folder| folder.label.is_some_and(|label| label.folder - 1 == missing % label.folders));
        let path = volume_path(folder.map_or(Path::new(""), |folder| &folder.path), missing);
        return Err(format!(
            "{} is missing: the store has {} volume(s). {}",
            path.display(),
            label.volumes,
            anew()
        ));
    }
    Ok((label, volumes))
}

/// Returns what the labels say in common. Their numbers differ if a start broke off: the largest counts.
fn one_store(folders: &[Folder]) -> Result<Label, String> {
    let anew = || begin_anew(folders.iter().map(|folder| folder.path.as_path()));
    let labelled = folders.iter().find_map(|folder| Some((folder, folder.label?)));
    let Some((first, mut common)) = labelled else {
        let folder = folders.iter().find(|folder| !folder.shards.is_empty()).or(folders.first());
        let path = folder.map(|folder| folder.path.display().to_string()).unwrap_or_default();
        return Err(format!(
            "{path} has no {}, so it is no store or was not finished. {}",
            label::FILE_NAME,
            anew()
        ));
    };
    for folder in folders {
        let path = folder.path.display();
        let Some(label) = folder.label else {
            return Err(format!(
                "{path} is not part of the store in {}, which has {} folder(s). {}",
                first.path.display(),
                common.folders,
                anew()
            ));
        };
        if label.store != common.store {
            return Err(format!("{path} belongs to another store than {}. {}", first.path.display(), anew()));
        }
        common.numbers = common.numbers.max(label.numbers);
    }
    if folders.len() != usize::from(common.folders) {
        let named: Vec<String> = folders
            .iter()
            .filter_map(|folder| {
                Some(format!("{} is number {}", folder.path.display(), folder.label?.folder))
            })
            .collect();
        return Err(format!(
            "the store has {} folder(s), and {} named: {}. Name all of them. {}",
            common.folders,
            if folders.len() == 1 { "one is".to_owned() } else { format!("{} are", folders.len()) },
            named.join(", "),
            anew()
        ));
    }
    Ok(common)
}

/// Reads both superblocks, and says which of them is not as it should be.
fn superblock(file: &File) -> io::Result<(Result<Superblock, FormatError>, Option<Mend>)> {
    let block = usize::try_from(BLOCK_LEN).expect("a block is small");
    let mut blocks = vec![0; 2 * block];
    let mut len = 0;
    while len < blocks.len() {
        match file.read_at(&mut blocks[len..], len as u64) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let read = Superblock::read(&blocks[..len]);
    let mend = read.as_ref().ok().and_then(|superblock| {
        let sound = superblock.encode();
        match (blocks[..block] == sound, blocks[block..] == sound) {
            (true, true) => None,
            (true, false) => Some(Mend::One(BLOCK_LEN)),
            (false, true) => Some(Mend::One(0)),
            (false, false) => Some(Mend::Both),
        }
    });
    Ok((read, mend))
}

/// Which superblocks of a volume are to be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// The one at this place: it is damaged, or older than the other.
    One(u64),
    /// Both: they are of an older format.
    Both,
}

/// Writes both superblocks and waits until the device has them.
pub(super) fn write_superblocks(file: &File, superblock: &Superblock) -> io::Result<()> {
    let block = superblock.encode();
    // One after the other: whatever happens, one of them is whole.
    file.write_all_at(&block, 0)?;
    file.sync_data()?;
    file.write_all_at(&block, BLOCK_LEN)?;
    file.sync_all()
}

/// Says what is wrong with a label or a superblock.
fn wrong(error: FormatError) -> String {
    match error {
        FormatError::NotAStore => "is no file of a store".to_owned(),
        FormatError::Version(version) => {
            format!("has format version {version}, which this program does not know")
        }
        FormatError::Damaged => "is damaged: what it says of the store does not verify".to_owned(),
    }
}

/// Names a store as people see it.
pub(super) fn shown(store: &StoreId) -> String {
    format!("{:016x}", super::name_of(store))
}
