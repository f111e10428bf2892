//! A core that has a disk tier and nothing else, over a small store in real files: for tests of reading, writing, recovery and faults.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use aspis_cache::stored::StoredMeta;
use aspis_runtime::mailbox::{self, Post};
use aspis_runtime::{CoreOptions, CoreThread, Handler, spawn_core};
use aspis_storage::disk::format::Geometry;
use aspis_storage::disk::record::{Content, Facts, NewRecord, RecordKind, Tags};
use aspis_storage::disk::volume::Refused;

use super::writing::NotTaken;
use super::*;

/// Longer than anything here takes; a test that hangs fails instead.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Of its stores.
pub(super) const GEOMETRY: Geometry = Geometry { segment_shift: 20, segment_count: 8 };

type Job = Box<dyn FnOnce(&Rc<Disk>) + Send>;

/// A core that has a disk tier and nothing else.
struct Bare {
    disk: Rc<Disk>,
    jobs: mailbox::Receiver<Job>,
}

impl Handler for Bare {
    fn on_turn(&self) -> bool {
        let Some(job) = self.jobs.pop() else { return false };
        job(&self.disk);
        true
    }
    fn has_mail(&self) -> bool {
        !self.jobs.is_empty()
    }
}

pub(super) struct Core {
    post: Post<Job>,
    thread: Option<CoreThread>,
    counters: Arc<CoreCounters>,
}

impl Core {
    /// A core that owns all of a store; it is recovered.
    pub(super) fn start(boot: DiskBoot) -> Self {
        let core = Self::start_recovering(boot);
        core.wait("recovery", |disk| {
            disk.volumes.iter().all(|mounted| mounted.volume.borrow().is_recovered())
        });
        core
    }

    pub(super) fn start_recovering(boot: DiskBoot) -> Self {
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

    pub(super) fn call<T: Send + 'static>(&self, job: impl FnOnce(&Rc<Disk>) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move |disk| answer.send(job(disk)).unwrap());
        assert!(self.post.send(0, job).is_ok(), "the mailbox has room");
        answered.recv_timeout(PATIENCE).expect("the core answers")
    }

    pub(super) fn block<T: Send + 'static, F: Future<Output = T> + 'static>(
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
    pub(super) fn wait(&self, what: &str, is_true: impl Fn(&Disk) -> bool + Send + Clone + 'static) {
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

    pub(super) fn offer(&self, offers: Vec<Plain>) -> Vec<Result<(), NotTaken>> {
        self.call(|disk| offers.into_iter().map(|offer| disk.offer(Box::new(offer), false)).collect())
    }

    /// The bodies that are found under these numbers, with their keys.
    pub(super) fn read(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Option<Vec<u8>>> {
        let numbers: Vec<u64> = numbers.into_iter().collect();
        self.block(|disk| async move {
            let mut bodies = Vec::new();
            for number in numbers {
                let read = disk.read(hash(number), hash(number), None).await;
                bodies.push(read.map(|(read, body)| {
                    assert_eq!(read.front().key, key(number), "the record of its key");
                    body.bytes().to_vec()
                }));
            }
            bodies
        })
    }

    #[track_caller]
    pub(super) fn wait_settled(&self) {
        self.wait("all is written", |disk| {
            disk.writes.queued_len() == 0
                && disk.volumes.iter().all(|mounted| mounted.volume.borrow().is_settled())
        });
    }

    pub(super) fn flush(&self) -> bool {
        self.block(|disk| async move { disk.flush().await.is_ok() })
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.counters.value(counter)
    }

    pub(super) fn stop(mut self) {
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
pub(super) fn hash(number: u64) -> u128 {
    u128::from(number) << 127 | u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 63
}

pub(super) fn key(number: u64) -> Vec<u8> {
    format!("key {number}").into_bytes()
}

pub(super) fn body(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64).wrapping_mul(number + 7).to_le_bytes()[0] ^ (at >> 8) as u8).collect()
}

const FACTS: Facts<'static> =
    Facts { meta: StoredMeta::PLAIN, head: b"HTTP/1.1 200 OK\r\n", tags: Tags::NONE, variant: None };

/// A response with a body of so many bytes.
pub(super) struct Plain {
    pub(super) number: u64,
    pub(super) len: usize,
    pub(super) kind: RecordKind,
    /// Bytes of a key that is not the usual one.
    pub(super) key_len: usize,
    /// Where it is noted that it was given up.
    pub(super) given_up: Option<mpsc::Sender<u64>>,
}

impl Plain {
    pub(super) fn new(number: u64, len: usize) -> Self {
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

pub(super) fn plain(numbers: std::ops::Range<u64>, len: usize) -> Vec<Plain> {
    numbers.map(|number| Plain::new(number, len)).collect()
}

#[track_caller]
pub(super) fn assert_bodies(read: &[Option<Vec<u8>>], numbers: std::ops::Range<u64>, len: usize) {
    for (number, found) in numbers.zip(read) {
        assert!(
            found.as_ref().is_some_and(|found| *found == body(number, len)),
            "{number}: {:?}",
            found.as_ref().map(Vec::len)
        );
    }
}
