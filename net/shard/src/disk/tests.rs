//! The disk tier of one core over real files: what was offered is read back, at once and after a restart, and what fails is a miss.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aspis_cache::stored::StoredMeta;
use aspis_runtime::mailbox::{self, Post};
use aspis_runtime::{CoreOptions, CoreThread, Handler, ListenerId, Peer, ReceiveEnd, SocketId, spawn_core};
use aspis_storage::disk::format::{Geometry, StoreId, TableEntry};
use aspis_storage::disk::record::{Content, Facts, NewRecord, RecordKind, Tags};
use aspis_storage::disk::volume::Refused;

use super::writing::NotTaken;
use super::*;

/// Longer than anything here takes; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

const SHARD_BITS: u8 = 1;

/// As the kernel's headers have it.
const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };

const GEOMETRY: Geometry = Geometry { segment_shift: 20, segment_count: 8 };

/// A store in a directory that goes with the test.
pub(super) struct Store {
    path: PathBuf,
    pub(super) directory: Arc<Directory>,
}

impl Store {
    pub(super) fn format(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aspis-disk-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        let store = Store { directory: Directory::new("a disk"), path };
        for shard in 0..1 << SHARD_BITS {
            let file = File::create(store.volume_path(shard)).unwrap();
            file.set_len(GEOMETRY.file_len()).unwrap();
            let superblock = superblock(shard);
            file.write_all_at(&superblock.encode(), 0).unwrap();
            file.write_all_at(&superblock.encode(), 4096).unwrap();
            for segment in 0..GEOMETRY.segment_count {
                let entry = TableEntry::FREE.encode(superblock.store, segment);
                file.write_all_at(&entry, GEOMETRY.table_offset() + GEOMETRY.entry_offset(segment)).unwrap();
            }
        }
        store
    }

    pub(super) fn volume_path(&self, shard: u16) -> PathBuf {
        self.path.join(format!("shard-{shard:04}.aspis"))
    }

    /// Opens the volumes as `options` say.
    fn open_as(&self, options: &OpenOptions) -> DiskBoot {
        let volumes = (0..1 << SHARD_BITS)
            .rev()
            .map(|shard| VolumeFile {
                file: options.open(self.volume_path(shard)).unwrap().into(),
                directory: 0,
                superblock: superblock(shard),
            })
            .collect();
        DiskBoot {
            volumes,
            directories: vec![Arc::clone(&self.directory)],
            shard_bits: SHARD_BITS,
            index_slots_per_volume: 4096,
            write_budget: None,
        }
    }

    /// Opens the volumes as the daemon does: past the page cache where the file system allows.
    pub(super) fn open(&self) -> DiskBoot {
        let mut direct = OpenOptions::new();
        direct.read(true).write(true).custom_flags(O_DIRECT);
        match direct.open(self.volume_path(0)) {
            Ok(_) => self.open_as(&direct),
            Err(_) => self.open_as(OpenOptions::new().read(true).write(true)),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn superblock(shard: u16) -> Superblock {
    Superblock {
        store: StoreId(*b"a store of tests"),
        shard,
        shard_bits: SHARD_BITS,
        segment_shift: GEOMETRY.segment_shift,
        segment_count: GEOMETRY.segment_count,
        created: 1,
    }
}

type Job = Box<dyn FnOnce(&Rc<Disk>) + Send>;

/// A core that has a disk tier and nothing else.
struct Bare {
    disk: Rc<Disk>,
    jobs: mailbox::Receiver<Job>,
}

impl Handler for Bare {
    fn on_accept(&self, _: ListenerId, _: SocketId, _: Peer) {}
    fn on_receive(&self, _: SocketId, _: &[u8]) {}
    fn on_receive_end(&self, _: SocketId, _: ReceiveEnd) {}
    fn on_sent(&self, _: SocketId, _: Result<(), i32>) {}
    fn on_timer(&self, _: u64) {}
    fn on_turn(&self) -> bool {
        let Some(job) = self.jobs.pop() else { return false };
        job(&self.disk);
        true
    }
    fn has_mail(&self) -> bool {
        !self.jobs.is_empty()
    }
}

struct Core {
    post: Post<Job>,
    thread: Option<CoreThread>,
    counters: Arc<CoreCounters>,
}

impl Core {
    /// A core that owns all of a store; it is recovered.
    fn start(boot: DiskBoot) -> Self {
        let core = Self::start_recovering(boot);
        core.wait("recovery", |disk| {
            disk.volumes.iter().all(|mounted| mounted.volume.borrow().is_recovered())
        });
        core
    }

    fn start_recovering(boot: DiskBoot) -> Self {
        let budget = Budget::new(64 << 20);
        let (_, dealt) = deal(Some(boot), 1, &budget).unwrap();
        let dealt = dealt.into_iter().next().unwrap();
        let counters = Arc::new(CoreCounters::new());
        let (mut receivers, post) = mailbox::channel(1, 1024);
        let jobs = receivers.pop().unwrap();
        let (doorbell, for_core) = (jobs.doorbell(), Arc::clone(&counters));
        let make =
            move |ring: Ring| Rc::new(Bare { disk: Disk::new(ring, &for_core, &budget, 1, dealt), jobs });
        let thread = spawn_core(CoreOptions::default(), Some(doorbell), make).unwrap();
        Core { post, thread: Some(thread), counters }
    }

    fn call<T: Send + 'static>(&self, job: impl FnOnce(&Rc<Disk>) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move |disk| answer.send(job(disk)).unwrap());
        assert!(self.post.send(0, job).is_ok(), "the mailbox has room");
        answered.recv_timeout(PATIENCE).expect("the core answers")
    }

    fn block<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        make: impl FnOnce(Rc<Disk>) -> F + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move |disk| {
            let future = make(Rc::clone(disk));
            disk.ring.spawn(async move { answer.send(future.await).unwrap() });
        });
        assert!(self.post.send(0, job).is_ok(), "the mailbox has room");
        answered.recv_timeout(PATIENCE).expect("the task ends")
    }

    #[track_caller]
    fn wait(&self, what: &str, is_true: impl Fn(&Disk) -> bool + Send + Clone + 'static) {
        let started = Instant::now();
        loop {
            let is_true = is_true.clone();
            if self.call(move |disk| is_true(disk)) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never: {what}");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn offer(&self, offers: Vec<Plain>) -> Vec<Result<(), NotTaken>> {
        self.call(|disk| offers.into_iter().map(|offer| disk.offer(Box::new(offer), false)).collect())
    }

    /// The bodies that are found under these numbers, with their keys.
    fn read(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Option<Vec<u8>>> {
        let numbers: Vec<u64> = numbers.into_iter().collect();
        self.block(|disk| async move {
            let mut bodies = Vec::new();
            for number in numbers {
                let read = disk.read(hash(number), hash(number)).await;
                bodies.push(read.map(|read| {
                    let record = read.record();
                    assert_eq!(record.front.key, key(number), "the record of its key");
                    record.body().to_vec()
                }));
            }
            bodies
        })
    }

    #[track_caller]
    fn wait_settled(&self) {
        self.wait("all is written", |disk| {
            disk.writes.queued_len() == 0
                && disk.volumes.iter().all(|mounted| mounted.volume.borrow().is_settled())
        });
    }

    fn flush(&self) -> bool {
        let gate = FlushGate::new();
        let part = gate.part();
        self.call(|disk| disk.flush(part));
        gate.wait(PATIENCE)
    }

    fn count(&self, counter: Counter) -> u64 {
        self.counters.value(counter)
    }

    fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let job: Job = Box::new(|disk| disk.ring.stop());
        assert!(self.post.send(0, job).is_ok(), "the mailbox has room");
        let ended = thread.join();
        if !std::thread::panicking() {
            ended.expect("the core ends without a panic");
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.end();
    }
}

/// Keys of even numbers are in the one shard, of odd ones in the other.
fn hash(number: u64) -> u128 {
    u128::from(number) << 127 | u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 63
}

fn key(number: u64) -> Vec<u8> {
    format!("key {number}").into_bytes()
}

fn body(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64).wrapping_mul(number + 7).to_le_bytes()[0] ^ (at >> 8) as u8).collect()
}

const FACTS: Facts<'static> =
    Facts { meta: StoredMeta::PLAIN, head: b"HTTP/1.1 200 OK\r\n", tags: Tags::NONE, variant: None };

/// A response with a body of so many bytes.
struct Plain {
    number: u64,
    len: usize,
    kind: RecordKind,
    /// Bytes of a key that is not the usual one.
    key_len: usize,
    /// Where it is noted that it was given up.
    given_up: Option<mpsc::Sender<u64>>,
}

impl Plain {
    fn new(number: u64, len: usize) -> Self {
        Plain { number, len, kind: RecordKind::Whole, key_len: 0, given_up: None }
    }
}

impl Offer for Plain {
    fn primary(&self) -> u128 {
        hash(self.number)
    }

    fn len(&self) -> u64 {
        self.len as u64
    }

    fn concerns(&self, hash: u128) -> bool {
        hash == self.primary()
    }

    fn step(&mut self, volume: &mut Volume, now: u32) -> Result<Step, Refused> {
        let key = if self.key_len > 0 { vec![b'k'; self.key_len] } else { key(self.number) };
        let body = body(self.number, self.len);
        let new = NewRecord {
            hash: self.primary(),
            key: &key,
            invalidation: self.number,
            created: now,
            expires: u32::MAX,
            content: match self.kind {
                RecordKind::Slice => Content::Slice { write_id: 1, number: 0 },
                _ => Content::Whole(FACTS),
            },
            body: &[&body],
        };
        volume.append(&new, now)?;
        Ok(Step::Done(self.len as u64))
    }

    fn give_up(&mut self) {
        if let Some(given_up) = &self.given_up {
            given_up.send(self.number).unwrap();
        }
    }
}

fn plain(numbers: std::ops::Range<u64>, len: usize) -> Vec<Plain> {
    numbers.map(|number| Plain::new(number, len)).collect()
}

#[track_caller]
fn assert_bodies(read: &[Option<Vec<u8>>], numbers: std::ops::Range<u64>, len: usize) {
    for (number, found) in numbers.zip(read) {
        assert!(
            found.as_ref().is_some_and(|found| *found == body(number, len)),
            "{number}: {:?}",
            found.as_ref().map(Vec::len)
        );
    }
}

#[test]
fn what_was_offered_is_read_at_once_and_after_a_restart() {
    let store = Store::format("restart");
    for flush in [true, false] {
        let core = Core::start(store.open());
        let base = if flush { 0 } else { 100 };
        assert!(core.offer(plain(base..base + 20, 30_000)).iter().all(Result::is_ok));
        core.wait("all is appended", |disk| disk.writes.queued_len() == 0);
        assert_bodies(&core.read(base..base + 20), base..base + 20, 30_000);
        assert!(core.read([7777]) == [None]);
        if flush {
            assert!(core.flush());
        } else {
            core.wait("all is written", |disk| {
                disk.volumes.iter().all(|mounted| mounted.volume.borrow().is_settled())
            });
        }
        core.stop();
        let core = Core::start(store.open());
        assert_bodies(&core.read(base..base + 20), base..base + 20, 30_000);
        if !flush {
            assert_bodies(&core.read(0..20), 0..20, 30_000);
        }
        core.stop();
    }
}

#[test]
fn some_bytes_of_a_slice_are_read_with_what_checks_them() {
    const LEN: usize = 900_000;
    const BLOCK: u64 = 65_536;
    let store = Store::format("slices");
    let core = Core::start(store.open());
    let read = |key: Vec<u8>, range: std::ops::Range<usize>| {
        core.block(move |disk| async move {
            let read = disk.read_slice(hash(2), (hash(2), &key), range).await;
            read.map(|read| read.bytes().to_vec())
        })
    };
    core.offer(vec![Plain { kind: RecordKind::Slice, ..Plain::new(2, LEN) }]);
    core.wait("it is appended", |disk| disk.writes.queued_len() == 0);
    for is_written in [false, true] {
        // A front is a block of its own, and so is what is checked as a whole; neighbours are read at once.
        for (range, bytes_read) in [
            (0..10, 4096 + BLOCK),
            (65_530..65_550, 4096 + 2 * BLOCK),
            (131_072..131_073, 4096 + BLOCK),
            (300_000..600_000, 4096 + 6 * BLOCK),
            (0..LEN, 917_504),
            (LEN - 1..LEN, 4096 + 917_504 - 4096 - 13 * BLOCK),
        ] {
            let before = core.count(Counter::DiskReadBytes);
            let bytes = read(key(2), range.clone());
            assert!(bytes.is_some_and(|bytes| bytes == body(2, LEN)[range.clone()]), "{range:?}");
            let read_len = core.count(Counter::DiskReadBytes) - before;
            assert!(read_len == bytes_read || !is_written && read_len == 0, "{range:?}: {read_len}");
        }
        assert!(read(key(2), LEN - 1..LEN + 1).is_none() && read(b"key".to_vec(), 0..10).is_none());
        core.wait_settled();
    }
    assert_eq!(core.count(Counter::DiskCheckFailures), 0);
    // Of a long key the front is longer than a block.
    core.offer(vec![Plain { kind: RecordKind::Slice, key_len: 9000, ..Plain::new(4, LEN) }]);
    assert!(core.flush());
    let bytes = core.block(|disk| async move {
        let read = disk.read_slice(hash(4), (hash(4), &[b'k'; 9000]), 300_000..300_010).await;
        read.map(|read| read.bytes().to_vec())
    });
    assert!(bytes.is_some_and(|bytes| bytes == body(4, LEN)[300_000..300_010]));
}

#[test]
fn what_was_removed_does_not_come_back() {
    let store = Store::format("removed");
    let core = Core::start(store.open());
    core.offer(plain(0..10, 5000));
    core.wait_settled();
    // What waits in line when it is removed is not written either.
    core.call(|disk| {
        disk.offer(Box::new(Plain::new(20, 5000)), false).unwrap();
        disk.offer(Box::new(Plain::new(22, 5000)), false).unwrap();
        (0..5).chain([20]).for_each(|number| disk.remove(hash(number), hash(number)));
    });
    core.wait_settled();
    let expected: Vec<bool> = (0..10).map(|number| number >= 5).chain([false, true]).collect();
    let is_there = |core: &Core| -> Vec<bool> {
        core.read((0..10).chain([20, 22])).iter().map(Option::is_some).collect()
    };
    assert_eq!(is_there(&core), expected);
    core.stop();
    let core = Core::start(store.open());
    assert_eq!(is_there(&core), expected);
}

#[test]
fn who_waits_for_a_removal_knows_that_it_outlives_the_process() {
    let store = Store::format("durable");
    for round in 0..10 {
        let core = Core::start(store.open());
        core.offer(plain(0..10, 5000));
        core.wait_settled();
        core.block(move |disk| async move {
            disk.remove(hash(round), hash(round));
            let volume = &disk.mounted(hash(round)).unwrap().volume;
            let mark = volume.borrow().mark();
            assert!(!volume.borrow().is_written(mark));
            disk.removals_written(hash(round)).await;
            assert!(volume.borrow().is_written(mark));
            // Nothing more is written: as if the process were killed.
            disk.ring.stop();
        });
        core.stop();
        let core = Core::start(store.open());
        let found: Vec<u64> =
            (0..10).zip(core.read(0..10)).filter(|(_, body)| body.is_some()).map(|(n, _)| n).collect();
        assert_eq!(found, (0..10).filter(|number| *number != round).collect::<Vec<_>>());
    }
}

/// Several times what the store holds goes through it: segments are reclaimed under way, and what is used stays.
#[test]
fn a_full_store_makes_room_and_keeps_what_is_used() {
    const LEN: usize = 60_000;
    let store = Store::format("full");
    let core = Core::start(store.open());
    for base in (10..610).step_by(10) {
        if base == 10 {
            core.offer(plain(0..10, LEN));
        }
        assert!(core.offer(plain(base..base + 10, LEN)).iter().all(Result::is_ok), "{base}");
        core.wait("all is appended", |disk| disk.writes.queued_len() == 0);
        assert_bodies(&core.read(base..base + 10), base..base + 10, LEN);
        // These are asked for all the time.
        core.read(0..4);
    }
    core.wait_settled();
    let found = |core: &Core| -> Vec<u64> {
        let read = core.read(0..610);
        let found = (0..).zip(read).filter(|(_, found)| found.is_some());
        found
            .map(|(number, found)| {
                assert!(found.is_some_and(|found| found == body(number, LEN)), "{number}");
                number
            })
            .collect()
    };
    let before = found(&core);
    assert!(before.starts_with(&[0, 1, 2, 3]) && before.ends_with(&[608, 609]), "{before:?}");
    assert!((130..260).contains(&before.len()), "most of 16 MiB: {}", before.len());
    core.call(|disk| disk.show_levels());
    assert!(core.count(Counter::DiskReclaimed) > 15 && core.count(Counter::DiskReinserted) > 0);
    core.stop();
    let core = Core::start(store.open());
    assert_eq!(found(&core), before);
}

#[test]
fn the_line_is_bounded_and_gives_way_when_memory_is_short() {
    let store = Store::format("line");
    let core = Core::start(store.open());
    let (sender, given_up) = mpsc::channel();
    let (taken, after) = core.call(move |disk| {
        let offer = |number| {
            let plain = Plain { given_up: Some(sender.clone()), ..Plain::new(number, 100_000) };
            disk.offer(Box::new(plain), false)
        };
        let taken: Vec<_> = (0..40).map(offer).collect();
        disk.relieve();
        (taken, disk.writes.queued_len())
    });
    let count = taken.iter().filter(|taken| taken.is_ok()).count();
    assert_eq!(count, (64 << 20) / 64 / 100_000, "a part of the limit");
    assert!(taken[count..].iter().all(|taken| *taken == Err(NotTaken::Queue)));
    assert_eq!((after, given_up.iter().count()), (0, 40));
    assert_eq!(core.count(Counter::DiskRefusedQueue), 40 - count as u64);
    assert_eq!(core.count(Counter::DiskRefusedMemory), count as u64);
}

#[test]
fn a_file_that_lost_its_end_is_off_line_until_it_has_it_again() {
    let store = Store::format("short");
    let core = Core::start(store.open());
    core.offer(plain(0..40, 5000));
    assert!(core.flush());
    let cut = |len| {
        for shard in 0..2 {
            OpenOptions::new().write(true).open(store.volume_path(shard)).unwrap().set_len(len).unwrap();
        }
    };
    cut(1 << 16);
    assert!(core.read(0..40).iter().all(Option::is_none));
    assert_eq!(core.count(Counter::DiskReadErrors), 5, "then it is left alone");
    assert!(store.directory.is_off_line());
    assert_eq!(core.offer(plain(40..41, 10)), [Err(NotTaken::OffLine)]);
    assert!(core.flush(), "nothing can be written: nobody waits for it");
    cut(GEOMETRY.file_len());
    core.wait("it is used again", |disk| !disk.is_off_line(&disk.volumes[0]));
    // The content is gone: that is noticed.
    assert!(core.read(0..40).iter().all(Option::is_none));
    assert!(core.count(Counter::DiskCheckFailures) > 0);
    core.offer(plain(100..120, 5000));
    core.wait_settled();
    assert_bodies(&core.read(100..120), 100..120, 5000);
}

#[test]
fn a_file_that_cannot_be_written_is_off_line_and_nothing_waits_for_it() {
    let store = Store::format("read-only");
    let core = Core::start(store.open());
    core.offer(plain(0..40, 5000));
    assert!(core.flush());
    core.stop();
    let core = Core::start(store.open_as(OpenOptions::new().read(true)));
    assert_bodies(&core.read(0..40), 0..40, 5000);
    core.offer(plain(40..60, 5000));
    core.wait("it is off line", |disk| disk.is_off_line(&disk.volumes[0]));
    assert!(core.count(Counter::DiskWriteErrors) >= 5);
    assert!(core.read(0..60).iter().all(Option::is_none));
    core.call(|disk| (0..60).for_each(|number| disk.remove(hash(number), hash(number))));
    assert!(core.flush());
    core.stop();
    let core = Core::start(store.open());
    assert_bodies(&core.read(0..40), 0..40, 5000);
}

/// A device that does not answer: the reading end of a pipe.
#[test]
fn a_core_stops_over_a_disk_that_does_not_answer() {
    let store = Store::format("silent");
    let mut boot = store.open();
    let mut writers = Vec::new();
    for volume in &mut boot.volumes {
        let (reader, writer) = io::pipe().unwrap();
        volume.file = reader.into();
        writers.push(writer);
    }
    let core = Core::start_recovering(boot);
    core.offer(plain(0..10, 5000));
    assert!(!core.call(|disk| disk.may_hold(hash(1), hash(1))));
    assert_eq!(core.read([1]), [None]);
    assert!(core.flush());
    assert_eq!(core.call(|disk| disk.oldest_number()), 0, "what it holds is not known");
    core.stop();
}

#[test]
fn damage_is_a_miss_and_the_rest_is_found() {
    let store = Store::format("damage");
    let core = Core::start(store.open());
    assert!(core.offer(plain(0..20, 40_000)).iter().all(Result::is_ok));
    assert!(core.flush());
    // One byte in the body of some record of the first volume.
    let file = OpenOptions::new().write(true).open(store.volume_path(0)).unwrap();
    file.write_all_at(b"\xff\x00\xff", GEOMETRY.segment_offset(0) + 250_000).unwrap();
    let read = core.read(0..20);
    assert_eq!(read.iter().filter(|body| body.is_none()).count(), 1);
    for (number, found) in (0..20).zip(&read).filter(|(_, found)| found.is_some()) {
        assert!(found.as_deref() == Some(&*body(number, 40_000)));
    }
    assert_eq!(core.count(Counter::DiskCheckFailures), 1);
    assert_eq!(core.read(0..20).iter().filter(|body| body.is_none()).count(), 1);
    assert_eq!(core.count(Counter::DiskCheckFailures), 1, "it lost its place");
}

#[test]
fn many_readers_at_once_wait_for_each_other() {
    let store = Store::format("readers");
    let core = Core::start(store.open());
    core.offer(plain(0..10, 15_000));
    assert!(core.flush());
    let (sender, found) = mpsc::channel();
    core.call(move |disk| {
        for reader in 0..500_u64 {
            let (disk, sender) = (Rc::clone(disk), sender.clone());
            disk.clone().ring.spawn(async move {
                let number = reader % 10;
                let read = disk.read(hash(number), hash(number));
                // Some go away while they wait or read.
                if reader % 3 == 0 {
                    let _ = disk.ring.timeout(Duration::from_millis(reader / 100), read).await;
                } else {
                    let read = read.await;
                    sender
                        .send(read.is_some_and(|read| *read.record().body() == body(number, 15_000)))
                        .unwrap();
                }
            });
        }
    });
    let found: Vec<bool> = found.iter().collect();
    assert_eq!((found.len(), found.iter().filter(|found| **found).count()), (333, 333));
    core.wait("every buffer is back", |disk| disk.reads.is_at_rest());
}

#[test]
fn a_store_that_is_not_whole_or_too_large_for_the_memory_is_refused() {
    let store = Store::format("refused");
    let budget = Budget::new(64 << 20);
    let mut boot = store.open();
    boot.volumes.pop();
    assert!(deal(Some(boot), 1, &budget).is_err_and(|cause| cause.contains("2 volumes")));
    let mut boot = store.open();
    boot.index_slots_per_volume = 5 << 20;
    assert!(deal(Some(boot), 1, &budget).is_err_and(|cause| cause.contains("80 MiB")));
    assert_eq!(budget.used_total(), 0);
    let (sharding, dealt) = deal(Some(store.open()), 3, &budget).unwrap();
    let shards: Vec<_> = dealt.iter().map(|dealt| (dealt.first_shard, dealt.volumes.len())).collect();
    assert_eq!((sharding.count(), shards), (2, vec![(0, 1), (1, 1), (0, 0)]));
}
