//! The store of the disk tier as the daemon has it: folders, files, sizes and locks, before the cores have it and while nobody serves.
//!
//! A store is the folders of `--disk`. In each lie a label (`store.aspis`) and the volumes that fall to it: a volume is the file of one shard of the
//! key space, `shard-NNNN.aspis`, in the format of `aspis_storage::disk`. [`open()`] takes a store for serving and makes one of empty folders,
//! [`commands`] are `aspis store format|check|stat`; [`size`] has the numbers, [`find`] looks at what is there, [`mod@format`] makes files,
//! [`mod@file`] and [`crate::files`] have the system calls. Invariants:
//!
//! - nothing is written into a folder before its lock is held, and nothing that is not empty becomes a store but by `aspis store format`;
//! - what is wrong is refused with the file, what is wrong with it and what mends it, and nothing was changed then;
//! - all of this is done before the first viewer, or without any: it blocks.

pub(crate) mod commands;
mod file;
mod find;
mod format;
mod label;
mod open;
mod page;
mod shrink;
mod size;
mod temporary;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

pub(crate) use open::{Store, Wanted, foresee, open};
pub(crate) use page::StorePage;
pub(crate) use temporary::Temporary;
pub(crate) use watch::Folders;

use std::path::{Path, PathBuf};

/// Returns the file of a shard's volume.
fn volume_path(folder: &Path, shard: u16) -> PathBuf {
    folder.join(format!("shard-{shard:04}.aspis"))
}

/// Returns the shard of which a file is the volume, by its name.
fn shard_of(name: &str) -> Option<u16> {
    let shard = name.strip_prefix("shard-")?.strip_suffix(".aspis")?.parse().ok()?;
    (volume_path(Path::new(""), shard).as_os_str() == name).then_some(shard)
}

/// What people call a store by: it says nothing of the id, which is secret.
fn name_of(store: &aspis_storage::disk::format::StoreId) -> u64 {
    const SEED: u64 = u64::from_le_bytes(*b"its name");
    // Zero stands for no store.
    xxhash_rust::xxh3::xxh3_64_with_seed(&store.0, SEED) | 1
}

/// The end of a refusal: what an operator can be sure of, and the command that begins anew.
fn begin_anew<'f>(folders: impl Iterator<Item = &'f Path>) -> String {
    let folders: Vec<String> = folders.map(|folder| folder.display().to_string()).collect();
    format!(
        "Nothing was changed. To begin with an empty store: aspis store format {} --disk-size SIZE --force",
        folders.join(" ")
    )
}
