//! The disk tier of one core: the volumes of the shards that it owns, read and written on its ring.
//!
//! What lies where, what is written next and what a crash leaves is decided by `aspis_storage::disk`; this does the I/O. The owner of a key
//! asks whether a record may be there (memory only), reads it (`reading.rs`), hands over what is to be written (`writing.rs`), and says what
//! must not come back. `volumes.rs` rebuilds the index after a start and reclaims segments, `health.rs` goes without a directory that fails.
//!
//! Invariants: nothing here waits on the core, syncs, allocates files or touches a page that is not there; an error is a miss that is
//! counted; what is read is verified before anybody sees it; every step of a turn is bounded and at most one long one runs in a turn.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use aspis_runtime::{DiskFile, Ring};
use aspis_storage::budget::{Budget, Purpose};
use aspis_storage::disk::format::{READ_LEN_MAX, Superblock};
use aspis_storage::disk::index::SlotKind;
use aspis_storage::disk::volume::{BUFFER_LEN, Volume, VolumeConfig, VolumeStats};
use aspis_storage::mapping::aligned::AlignedPool;
use aspis_storage::shards::Sharding;
use aspis_telemetry::{CoreCounters, Counter};

pub(crate) mod ending;
mod health;
pub(crate) mod large;
mod mapped;
mod markers;
pub(crate) mod offering;
mod pace;
mod pieces;
mod reading;
pub(crate) mod reading_on;
mod removing;
pub(crate) mod restore;
mod slices;
mod streaming;
mod trying;
mod volumes;
mod writing;

pub use ending::{Extent, Flushed};
pub use health::Directory;
use reading::{Blocks, ReadBody};
pub(crate) use slices::{Slices, SlicesOf};
pub(crate) use streaming::Feed;
pub(crate) use writing::{Offer, Step};

use crate::limits::{DISK_WRITE_SHARE, WRITE_BUFFERS_MAX, WRITE_BUFFERS_MIN};
use health::Health;
use mapped::{Mapping, Mappings};
use pace::Pace;
use pieces::Pieces;
use reading::Reads;
use writing::{Line, Writes};

/// A store whose files the daemon opened.
#[derive(Debug)]
pub struct DiskBoot {
    /// Its volumes, one for each shard, in any order.
    pub volumes: Vec<VolumeFile>,
    /// The directories that they lie in.
    pub directories: Vec<Arc<Directory>>,
    /// How many top bits of a primary key's hash name its shard.
    pub shard_bits: u8,
    /// Slots of each volume's index.
    pub index_slots_per_volume: u64,
    /// Bytes that may be written in a second, to all volumes; `None` writes everything.
    pub write_budget: Option<u64>,
    /// Bytes of responses that may be sent from the page cache, through mappings of the volumes; 0 sends none so.
    pub mapped_len_max: u64,
}

/// The file of one shard, locked, of its whole length, and verified to be of the store.
#[derive(Debug)]
pub struct VolumeFile {
    /// Open for reading and writing, past the page cache where the file system allows.
    pub file: OwnedFd,
    /// The same, open for reading through the page cache, if it is to be mapped.
    pub mapped: Option<OwnedFd>,
    /// In which of [`DiskBoot::directories`] it lies.
    pub directory: usize,
    /// What it says about itself.
    pub superblock: Superblock,
}

/// The disk tier of one core.
pub(crate) struct Disk {
    me: Weak<Disk>,
    ring: Ring,
    counters: Arc<CoreCounters>,
    budget: Arc<Budget>,
    sharding: Sharding,
    /// The first of the shards that this core owns; the others follow it.
    first_shard: usize,
    /// By shard.
    volumes: Vec<Mounted>,
    /// By directory.
    health: RefCell<Vec<Health>>,
    reads: Reads,
    writes: Writes,
    /// The write buffers of its volumes.
    write_pool: AlignedPool,
    mappings: Mappings,
    pace: Pace,
    pieces: Pieces,
}

/// One volume and its file.
struct Mounted {
    /// Its place among the volumes of the core.
    at: usize,
    file: DiskFile,
    mapping: Option<Mapping>,
    directory: usize,
    superblock: Superblock,
    volume: RefCell<Volume>,
    line: Line,
    /// Every segment is known: it can be written to.
    is_located: Cell<bool>,
    /// A task makes room in it.
    is_reclaiming: Cell<bool>,
}

/// What one core gets of a store.
pub(crate) struct Dealt {
    first_shard: usize,
    volumes: Vec<VolumeFile>,
    pub(crate) plan: Plan,
}

/// What all cores have in common.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) sharding: Sharding,
    pub(crate) directories: Vec<Arc<Directory>>,
    index_slots: u64,
    /// Bytes that may be written to one volume in a second.
    write_budget: Option<u64>,
    /// Bytes that may be mapped of one volume.
    mapped_len_max: u64,
}

/// Why something was not read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IoFailed {
    /// With this errno.
    Errno(i32),
    /// The file ends before.
    Short,
    /// A page of its mapping cannot be read.
    Page,
    /// It took too long.
    Late,
}

impl fmt::Display for IoFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoFailed::Errno(errno) => write!(f, "\"{}\"", io::Error::from_raw_os_error(*errno)),
            IoFailed::Short => write!(f, "a file that ends too early"),
            IoFailed::Page => f.write_str("a page that cannot be read"),
            IoFailed::Late => write!(f, "waiting too long for an answer"),
        }
    }
}

/// Deals a store to cores: to each the volumes of the shards that it owns. Without one, how the key space is divided.
///
/// The error says why the store cannot be used, or what memory it needs.
pub(crate) fn deal(
    boot: Option<DiskBoot>,
    cores: usize,
    budget: &Arc<Budget>,
) -> Result<(Sharding, Vec<Dealt>), String> {
    let Some(boot) = boot else { return Ok((Sharding::IN_MEMORY, Vec::new())) };
    let DiskBoot { mut volumes, directories, shard_bits, index_slots_per_volume, .. } = boot;
    let sharding = Sharding::of_bits(shard_bits.min(Sharding::BITS_MAX));
    volumes.sort_by_key(|volume| volume.superblock.shard);
    let is_whole = volumes.iter().enumerate().all(|(shard, volume)| {
        volume.superblock.shard as usize == shard && volume.directory < directories.len()
    });
    if !is_whole || volumes.len() != sharding.count() {
        return Err(format!("of its {} volumes {} are there", sharding.count(), volumes.len()));
    }
    let plan = Plan {
        sharding,
        directories,
        index_slots: index_slots_per_volume,
        write_budget: boot.write_budget.map(|rate| rate / volumes.len() as u64),
        mapped_len_max: boot.mapped_len_max / volumes.len() as u64,
    };
    let index_len = plan.index_slots * size_of::<u64>() as u64 * volumes.len() as u64;
    let is_affordable = try_out(&volumes, &plan, cores, budget);
    if !is_affordable {
        let (limit, index) = (budget.limit() >> 20, index_len >> 20);
        return Err(format!(
            "its index takes {index} MiB and --memory is {limit} MiB: give it more memory, or a larger --disk-mean-object, or less disk"
        ));
    }
    let mut dealt: Vec<Dealt> =
        (0..cores).map(|_| Dealt { first_shard: 0, volumes: Vec::new(), plan: plan.clone() }).collect();
    for (shard, volume) in volumes.into_iter().enumerate() {
        let core = &mut dealt[sharding.owner_of_shard(shard, cores)];
        if core.volumes.is_empty() {
            core.first_shard = shard;
        }
        core.volumes.push(volume);
    }
    Ok((sharding, dealt))
}

/// Whether the limit and the kernel allow all volumes, and buffers to write and to read: a core's thread cannot report a failure.
fn try_out(volumes: &[VolumeFile], plan: &Plan, cores: usize, budget: &Arc<Budget>) -> bool {
    let pool = AlignedPool::new(BUFFER_LEN, 0, 0, Arc::clone(budget));
    let all: Option<Vec<Volume>> =
        volumes.iter().map(|volume| new_volume(&volume.superblock, plan, budget, &pool)).collect();
    let buffers = (WRITE_BUFFERS_MIN * BUFFER_LEN + READ_LEN_MAX as usize) * cores;
    all.is_some() && budget.reserve(Purpose::Disk, buffers as u64).is_some()
}

fn new_volume(
    superblock: &Superblock,
    plan: &Plan,
    budget: &Arc<Budget>,
    pool: &AlignedPool,
) -> Option<Volume> {
    Volume::new(VolumeConfig {
        store: superblock.store,
        shard: superblock.shard,
        geometry: superblock.geometry(),
        index_slots: plan.index_slots,
        budget: Arc::clone(budget),
        pool: pool.clone(),
    })
}

/// How many write buffers the volumes of a core share.
fn write_buffers(budget: &Arc<Budget>, cores: usize) -> usize {
    let affordable = budget.limit() / DISK_WRITE_SHARE / cores as u64 / BUFFER_LEN as u64;
    (affordable as usize).clamp(WRITE_BUFFERS_MIN, WRITE_BUFFERS_MAX)
}

impl Disk {
    /// Makes the disk tier of a core and begins to find out what it holds.
    ///
    /// # Panics
    /// If there is no memory for it: [`deal`] looked.
    pub(crate) fn new(
        ring: Ring,
        counters: &Arc<CoreCounters>,
        budget: &Arc<Budget>,
        cores: usize,
        dealt: Dealt,
    ) -> Rc<Disk> {
        let Dealt { first_shard, volumes, plan } = dealt;
        let (reads, writes) = (Reads::new(budget, cores), Writes::new(budget, cores, volumes.len(), &plan));
        let count = write_buffers(budget, cores);
        let pool = AlignedPool::new(BUFFER_LEN, count, count, Arc::clone(budget));
        let write_pool = pool.clone();
        let pieces = Pieces::new(budget, cores);
        let mappings = Mappings::new(plan.mapped_len_max * volumes.len() as u64, budget);
        let mount = |(at, file): (usize, VolumeFile)| {
            let mut volume =
                new_volume(&file.superblock, &plan, budget, &pool).expect("the limit has room for the store");
            let mapping = file.mapped.and_then(|mapped| {
                let mapping = Mapping::new(mapped, file.superblock.geometry(), budget);
                mapping.inspect_err(|error| tracing::warn!("a volume cannot be mapped: {error}")).ok()
            });
            if let Some(mapping) = &mapping {
                volume.send_from(Arc::clone(&mapping.map));
            }
            Mounted {
                at,
                file: DiskFile::new(file.file),
                mapping,
                directory: file.directory,
                superblock: file.superblock,
                volume: RefCell::new(volume),
                line: Line::default(),
                is_located: Cell::new(false),
                is_reclaiming: Cell::new(false),
            }
        };
        let disk = Rc::new_cyclic(|me| Disk {
            me: me.clone(),
            ring,
            counters: Arc::clone(counters),
            budget: Arc::clone(budget),
            sharding: plan.sharding,
            first_shard,
            volumes: volumes.into_iter().enumerate().map(mount).collect(),
            health: RefCell::new(plan.directories.iter().cloned().map(Health::new).collect()),
            reads,
            writes,
            write_pool,
            mappings,
            pace: Pace::default(),
            pieces,
        });
        // From the first look on: who waits for recovery must not take it for done before it began.
        disk.show_levels();
        disk.recover();
        disk
    }

    /// The volume of a primary key, if this core owns it.
    #[inline]
    fn mounted(&self, primary: u128) -> Option<&Mounted> {
        self.volumes.get(self.sharding.shard(primary).checked_sub(self.first_shard)?)
    }

    /// The volume of a primary key, if it is on line.
    fn usable(&self, primary: u128) -> Option<&Mounted> {
        self.mounted(primary).filter(|mounted| !self.is_off_line(mounted))
    }

    /// Looks at the volume of a primary key, if this core owns it.
    fn with_volume<T>(&self, primary: u128, look: impl FnOnce(&Volume) -> T) -> Option<T> {
        self.mounted(primary).map(|mounted| look(&mounted.volume.borrow()))
    }

    /// What lies on disk under a primary key itself, if something does; memory alone is asked.
    fn stands(&self, primary: u128) -> Option<SlotKind> {
        self.with_volume(primary, |volume| volume.find(primary).map(|found| found.kind)).flatten()
    }

    /// The bytes of the segments of a primary key's volume; `None` if it is not on line.
    fn capacity(&self, primary: u128) -> Option<u64> {
        self.usable(primary).map(|mounted| mounted.superblock.geometry().segments_len())
    }

    fn is_off_line(&self, mounted: &Mounted) -> bool {
        self.health.borrow()[mounted.directory].is_off_line()
    }

    /// The shared handle, for tasks.
    fn handle(&self) -> Rc<Disk> {
        self.me.upgrade().expect("a shard holds its disk for as long as its ring runs")
    }

    fn wall(&self) -> u32 {
        u32::try_from(self.ring.wall_seconds()).unwrap_or(u32::MAX)
    }

    /// Waits for a turn in which nothing long ran, and takes it.
    async fn long_step(&self) {
        self.pace.long_step(&self.ring).await;
    }

    /// The smallest invalidation number that anything on disk may have: the rules from there on are needed.
    pub(crate) fn oldest_number(&self) -> u64 {
        self.volumes.iter().map(|mounted| mounted.volume.borrow().oldest_number()).min().unwrap_or(u64::MAX)
    }

    /// Looks after what nobody comes by for, about once a second while the core is awake.
    pub(crate) fn tend(&self) {
        self.note_faults();
        self.pieces.tend();
        let count = self.health.borrow().len();
        for directory in 0..count {
            let goes_off = self.health.borrow_mut()[directory].note_cut(self.ring.now_millis());
            if goes_off {
                self.leave_alone(directory);
            }
        }
        self.volumes.iter().for_each(|mounted| self.try_bad(mounted));
    }

    /// Copies levels to where the control thread reads them.
    pub(crate) fn show_levels(&self) {
        let count =
            |is: &dyn Fn(&Mounted) -> bool| self.volumes.iter().filter(|mounted| is(mounted)).count() as u64;
        let counters = &self.counters;
        counters.set(Counter::DiskVolumes, self.volumes.len() as u64);
        counters.set(Counter::DiskRecovering, count(&|mounted| !mounted.volume.borrow().is_recovered()));
        counters.set(Counter::DiskOffLine, count(&|mounted| self.is_off_line(mounted)));
        let stats: Vec<VolumeStats> =
            self.volumes.iter().map(|mounted| mounted.volume.borrow().stats()).collect();
        let sum = |of: &dyn Fn(&VolumeStats) -> u64| stats.iter().map(of).sum();
        counters.set(Counter::DiskRecords, sum(&|stats| stats.records));
        counters.set(Counter::DiskLiveBytes, sum(&|stats| stats.live_bytes));
        counters.set(Counter::DiskIndexBytes, sum(&|stats| stats.index_bytes));
        counters.set(Counter::DiskSegmentsUsed, sum(&|stats| stats.used_segments.into()));
        counters.set(Counter::DiskSegmentsFree, sum(&|stats| stats.free_segments.into()));
        counters.set(Counter::DiskSegmentsBad, sum(&|stats| stats.bad_segments.into()));
        counters.set(Counter::DiskTrialsPassed, sum(&|stats| stats.trials_passed));
        counters.set(Counter::DiskTrialsFailed, sum(&|stats| stats.trials_failed));
        counters.set(Counter::DiskReclaimed, sum(&|stats| stats.reclaimed_segments));
        counters.set(Counter::DiskReinserted, sum(&|stats| stats.reinserted_bytes));
        counters.set(Counter::DiskCrowdedOut, sum(&|stats| stats.crowded_out));
        counters.set(Counter::DiskTombstones, sum(&|stats| stats.tombstones));
        counters.set(Counter::DiskMappedBytes, self.mapped_len());
    }

    /// A read or write failed that should not.
    fn note_error(&self, mounted: &Mounted, failed: IoFailed) {
        let goes_off =
            self.health.borrow_mut()[mounted.directory].note_error(self.ring.now_millis(), &failed);
        if goes_off {
            self.leave_alone(mounted.directory);
        }
    }
}

#[cfg(test)]
mod bare;
#[cfg(test)]
mod restore_tests;
#[cfg(test)]
mod store;
#[cfg(test)]
mod tests;
