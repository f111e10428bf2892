//! A store in files of their own, for tests: opened again and again, looked into, damaged and forged.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aspis_storage::disk::format::{Geometry, SegmentHeader, StoreId, Superblock, TableEntry};
use aspis_storage::disk::record::{Front, NewRecord, Place, encode_record, scan_record};
use aspis_telemetry::Counter;

use super::{Directory, DiskBoot, Extent, VolumeFile};
use crate::rules::stage::{CORES, Stage};

const SHARD_BITS: u8 = 1;

/// Segments that many slices fit into.
const LARGE: Geometry = Geometry { segment_shift: 22, segment_count: 32 };

/// As the kernel's headers have it.
const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store with a volume for each core, in a directory that goes with it.
pub(super) struct Store {
    path: PathBuf,
    pub(super) geometry: Geometry,
    pub(super) directory: Arc<Directory>,
}

impl Store {
    /// Makes one in which large objects fit.
    pub(super) fn new() -> Self {
        Self::of(LARGE)
    }

    pub(super) fn of(geometry: Geometry) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert_eq!(1 << SHARD_BITS, CORES);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("aspis-disk-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        let store = Store { path, geometry, directory: Directory::new("a disk") };
        for shard in 0..1 << SHARD_BITS {
            let superblock = store.superblock(shard);
            let file = File::create(store.volume_path(shard)).expect("a new file");
            file.set_len(geometry.file_len()).expect("room for it");
            for place in [0, 4096] {
                file.write_all_at(&superblock.encode(), place).expect("it is written");
            }
            for segment in 0..geometry.segment_count {
                let entry = TableEntry::FREE.encode(superblock.store, segment);
                let place = geometry.table_offset() + geometry.entry_offset(segment);
                file.write_all_at(&entry, place).expect("it is written");
            }
        }
        store
    }

    pub(super) fn volume_path(&self, shard: u16) -> PathBuf {
        self.path.join(format!("shard-{shard:04}.aspis"))
    }

    fn superblock(&self, shard: u16) -> Superblock {
        Superblock {
            store: StoreId(*b"a store of tests"),
            shard,
            shard_bits: SHARD_BITS,
            segment_shift: self.geometry.segment_shift,
            segment_count: self.geometry.segment_count,
            created: 1,
        }
    }

    /// Opens the volumes as `options` say, the last first: their order is not to matter.
    pub(super) fn open_as(&self, options: &OpenOptions) -> DiskBoot {
        let open = |shard| VolumeFile {
            file: options.open(self.volume_path(shard)).expect("it is there").into(),
            mapped: None,
            directory: 0,
            superblock: self.superblock(shard),
        };
        DiskBoot {
            volumes: (0..1 << SHARD_BITS).rev().map(open).collect(),
            directories: vec![Arc::clone(&self.directory)],
            shard_bits: SHARD_BITS,
            index_slots_per_volume: 4096,
            write_budget: None,
            mapped_len_max: 0,
        }
    }

    /// Opens it as the daemon does, with its volumes mapped.
    pub(super) fn open_mapped(&self, mapped_len_max: u64) -> DiskBoot {
        let mut boot = self.open();
        for volume in &mut boot.volumes {
            let path = self.volume_path(volume.superblock.shard);
            volume.mapped = Some(File::open(path).expect("it is there").into());
        }
        DiskBoot { mapped_len_max, ..boot }
    }

    /// Opens it as the daemon does: past the page cache where the file system allows.
    pub(super) fn open(&self) -> DiskBoot {
        let mut direct = OpenOptions::new();
        direct.read(true).write(true).custom_flags(O_DIRECT);
        match direct.open(self.volume_path(0)) {
            Ok(_) => self.open_as(&direct),
            Err(_) => self.boot(),
        }
    }

    /// Opens it through the page cache.
    pub(super) fn boot(&self) -> DiskBoot {
        self.open_as(OpenOptions::new().read(true).write(true))
    }

    /// Opens it, to be written hardly at all.
    pub(super) fn boot_frugal(&self) -> DiskBoot {
        DiskBoot { write_budget: Some(1), ..self.boot() }
    }

    /// Waits until all that was offered is in the files.
    #[track_caller]
    pub(super) fn settle(&self, stage: &Stage) {
        assert!(stage.shards().flush_disk(Extent::Line, PATIENCE).is_some(), "it is not written");
    }

    /// Waits until all that is on disk is known.
    #[track_caller]
    pub(super) fn wait_recovered(&self, stage: &Stage) {
        // While somebody is there the levels are shown.
        let _viewers = stage.viewers();
        let count = 1 << SHARD_BITS;
        stage.wait(|| stage.sum(Counter::DiskVolumes) == count && stage.sum(Counter::DiskRecovering) == 0);
    }

    /// How many bytes were read since the start.
    pub(super) fn read_len(&self, stage: &Stage) -> u64 {
        stage.sum(Counter::DiskReadBytes)
    }

    /// Changes a byte wherever these bytes stand.
    pub(super) fn damage(&self, bytes: &[u8]) {
        let mut count = 0;
        self.change(|_, volume| {
            let places: Vec<usize> = volume
                .windows(bytes.len())
                .enumerate()
                .filter(|(_, at)| *at == bytes)
                .map(|(at, _)| at)
                .collect();
            places.iter().for_each(|place| volume[*place] ^= 1);
            count += places.len();
        });
        assert!(count > 0, "there is nothing to damage");
    }

    /// Gives the records of a key another one of the same hash, as an attacker would who can compute that.
    pub(super) fn forge(&self, key: &[u8]) {
        let mut forged = key.to_vec();
        *forged.last_mut().expect("no key is empty") ^= 1;
        let mut count = 0;
        self.change(|shard, volume| {
            let store = self.superblock(shard).store;
            for segment in 0..self.geometry.segment_count {
                let start = self.geometry.segment_offset(segment) as usize;
                let Some(bytes) = volume.get_mut(start..start + self.geometry.segment_len() as usize) else {
                    return;
                };
                let Some(header) = SegmentHeader::decode(&bytes[..4096], store, segment) else { continue };
                let place = Place { store, sequence: header.sequence };
                let mut at = 4096;
                while let Ok(record) = scan_record(&bytes[at..], &place) {
                    let (front, body) = (record.front, [record.body()]);
                    let len = front.record_len() as usize;
                    let Front { hash, invalidation, created, expires, content, .. } = front;
                    let hash = u128::from(hash) << 64;
                    let new = NewRecord {
                        hash,
                        key: &forged,
                        invalidation,
                        created,
                        expires,
                        content,
                        body: &body,
                    };
                    if front.key == key {
                        let mut out = vec![0; len];
                        assert_eq!(encode_record(&new, &place, front.lsn, &mut out), len);
                        bytes[at..at + len].copy_from_slice(&out);
                        count += 1;
                    }
                    at += len;
                }
            }
        });
        assert!(count > 0, "there is nothing to forge");
    }

    /// Changes what of each volume was written, from its beginning on.
    fn change(&self, mut change: impl FnMut(u16, &mut Vec<u8>)) {
        for shard in 0..1 << SHARD_BITS {
            let file =
                OpenOptions::new().read(true).write(true).open(self.volume_path(shard)).expect("it is there");
            let mut volume = vec![0; self.geometry.file_len() as usize];
            file.read_exact_at(&mut volume, 0).expect("it is as long as it was");
            let zeros = [0; 4096];
            let used = volume.chunks(4096).rposition(|block| *block != zeros[..block.len()]);
            volume.truncate(used.map_or(0, |block| (block + 1) * 4096));
            change(shard, &mut volume);
            file.write_all_at(&volume, 0).expect("it is written");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
