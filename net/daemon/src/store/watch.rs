//! How are the folders of the store while cores serve from it? For `/readyz`, `/v1/store` and the log.
//!
//! Three things can be wrong that viewers do not notice. The cores go without a folder whose device fails, and say so by [`Directory`]. Its files
//! are not under their names any more: the cores hold them open and go on, but the next start will not find what is in them. Or one was cut short
//! while it is served from: the cores are told at once, and go without the folder until the file has its length again. For the latter two a
//! task looks each second, on a thread of its own, because a dead device may keep it waiting. Nothing here touches content.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aspis_shard::Directory;

/// How often files and names are looked at: at most 64 of each, for which nobody waits.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// A volume as it should be.
#[derive(Debug)]
pub(super) struct Watched {
    /// Its name.
    pub(super) path: PathBuf,
    /// The same open file that the cores have.
    pub(super) file: File,
    /// How long it was made.
    pub(super) len: u64,
}

/// A file that should be under its name.
#[derive(Debug)]
struct Known {
    watched: Watched,
    device: u64,
    inode: u64,
}

/// One folder.
#[derive(Debug)]
struct Folder {
    directory: Arc<Directory>,
    files: Vec<Known>,
    /// What was found missing when somebody looked last.
    missing: RwLock<Option<String>>,
}

/// The folders of a store that is served from.
#[derive(Debug, Default)]
pub(crate) struct Folders {
    folders: Vec<Folder>,
    is_ending: AtomicBool,
}

impl Folders {
    /// Watches the volumes in these folders.
    pub(super) fn new(folders: Vec<(Arc<Directory>, Vec<Watched>)>) -> std::io::Result<Self> {
        let known = |watched: Watched| {
            let found = watched.file.metadata()?;
            Ok(Known { watched, device: found.dev(), inode: found.ino() })
        };
        let folder = |(directory, volumes): (_, Vec<Watched>)| {
            let files = volumes.into_iter().map(known).collect::<std::io::Result<_>>()?;
            Ok(Folder { directory, files, missing: RwLock::new(None) })
        };
        let folders = folders.into_iter().map(folder).collect::<std::io::Result<_>>()?;
        Ok(Folders { folders, is_ending: AtomicBool::new(false) })
    }

    /// Looks until the runtime ends.
    pub(crate) async fn run(self: Arc<Self>) {
        if self.folders.is_empty() {
            return;
        }
        loop {
            tokio::time::sleep(LOOK_AFTER).await;
            let looking = Arc::clone(&self);
            // One that never comes back is not followed by another.
            if tokio::task::spawn_blocking(move || looking.look()).await.is_err() {
                return;
            }
        }
    }

    /// The process ends and may remove what it made.
    pub(crate) fn ending(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    fn look(&self) {
        for folder in &self.folders {
            folder.directory.set_cut(folder.files.iter().any(Known::is_cut));
            let found = folder.files.iter().find_map(Known::missing);
            if self.is_ending.load(Ordering::Relaxed) {
                return;
            }
            let mut missing = folder.missing.write().unwrap_or_else(PoisonError::into_inner);
            match (&found, missing.is_some()) {
                (Some(what), false) => tracing::error!("{what}"),
                (None, true) => {
                    tracing::info!("{}: its files are under their names again", folder.directory.name())
                }
                _ => {}
            }
            *missing = found;
        }
    }

    /// What is not as it should be, for people. Each folder is said once.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.folders.iter().filter_map(Folder::warning).collect()
    }

    /// Each folder for programs: its name, whether it is off line, how many errors there were, and what else is wrong.
    pub(super) fn each(&self) -> impl Iterator<Item = (&Directory, Option<String>)> {
        self.folders.iter().map(|folder| (&*folder.directory, folder.warning()))
    }
}

impl Folder {
    fn warning(&self) -> Option<String> {
        if self.directory.is_off_line() {
            return Some(format!(
                "{} is off line after {} errors: what is stored there is fetched again until it works",
                self.directory.name(),
                self.directory.errors()
            ));
        }
        self.missing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Known {
    fn is_cut(&self) -> bool {
        // A device that does not tell fails reads as well: the cores judge by those.
        self.watched.file.metadata().is_ok_and(|found| found.len() < self.watched.len)
    }

    fn missing(&self) -> Option<String> {
        let is_there = std::fs::metadata(&self.watched.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        (!is_there).then(|| {
            format!(
                "{} was removed or replaced: it is served from as long as this process runs, and the next start will not find it",
                self.watched.path.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn a_file_that_lost_its_name_is_told_until_it_has_it_again() {
        let scratch = Scratch::new("watch");
        let path = scratch.path().join("shard-0000.aspis");
        std::fs::write(&path, "content").unwrap();
        let watched = Watched { path: path.clone(), file: File::open(&path).unwrap(), len: 7 };
        let folders = Folders::new(vec![(Directory::new("/cache"), vec![watched])]).unwrap();
        folders.look();
        assert!(folders.warnings().is_empty());
        let aside = scratch.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        folders.look();
        assert!(folders.warnings()[0].contains("shard-0000.aspis was removed or replaced"));
        std::fs::write(&path, "another").unwrap();
        folders.look();
        assert_eq!(folders.warnings().len(), 1, "another file is not it");
        std::fs::rename(&aside, &path).unwrap();
        folders.look();
        assert!(folders.warnings().is_empty());
    }

    #[test]
    fn a_file_that_was_cut_short_puts_its_folder_off_line_until_it_has_its_length_again() {
        let scratch = Scratch::new("cut");
        let path = scratch.path().join("shard-0000.aspis");
        let file = File::create(&path).unwrap();
        file.set_len(4096).unwrap();
        let directory = Directory::new("/cache");
        let watched = Watched { path, file: file.try_clone().unwrap(), len: 4096 };
        let folders = Folders::new(vec![(Arc::clone(&directory), vec![watched])]).unwrap();
        for (len, is_cut) in [(4096, false), (4095, true), (8192, false), (0, true), (4096, false)] {
            file.set_len(len).unwrap();
            folders.look();
            assert_eq!((directory.is_off_line(), folders.warnings().len()), (is_cut, usize::from(is_cut)));
        }
    }
}
