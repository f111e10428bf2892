//! What is the least that a read from disk costs, and how often is a large one looked at?
//!
//! The floor: a core of the product's runtime that does nothing but read past the page cache, from anywhere in a file, so many reads at a time; into
//! pages of 4 KiB and into huge ones; then with the check of what was read and with a copy of it. Beside it the product: CPU of a hit of 1 MiB
//! that comes from disk, and how many of its bytes were copied after the check, which looks at each once.

use super::{CPUS, DISK_SHARE_MIN, HITS, OBJECTS_PER_LOST, READ_COST_MAX, WRITTEN_MAX};
use crate::aspis::{Aspis, sample, sum};
use crate::http::{Fault, Flow, Reader};
use crate::origin::Origin;
use crate::peers::cell::Cell as Load;
use crate::process::{self, Scratch};
use crate::random::Random;
use crate::stats::Spread;
use crate::wait;
use aspis_runtime::{CoreOptions, DiskFile, Handler, Ring, spawn_core};
use aspis_storage::budget::Budget;
use aspis_storage::mapping::aligned::AlignedBuf;
use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// As the kernel's headers have it.
const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };
const PAGE_LEN: u64 = 4096;
const MIB: usize = 1 << 20;
const FILE_LEN: u64 = 512 << 20;
/// Bytes that each arm reads in a round.
const ARM_LEN: usize = 192 * MIB;
/// What is copied goes to another place each time: more than a cache holds.
const COPIES_LEN: usize = 64 * MIB;
/// Objects of 1 MiB in the store, all of which find room in memory.
const LARGE_OBJECTS: u32 = 640;
/// The share of the bytes read from disk that may be copied: more is a second pass over them.
const COPIED_MAX: f64 = 0.05;
/// A server that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);
/// A server writes what waits and ends by then.
const STOP_MAX: Duration = Duration::from_secs(30);
/// The index is whole by then.
const RECOVERED_MAX: Duration = Duration::from_secs(30);

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) aspis: Option<String>,
}

/// Pages of the memory that is read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    Small,
    Huge,
}

/// What becomes of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    CheckAndCopy,
}

/// One way to read.
#[derive(Clone, Copy, Debug)]
struct Way {
    len: usize,
    at_once: usize,
    pages: Pages,
    then: Then,
}

const fn way(len: usize, at_once: usize, pages: Pages, then: Then) -> Way {
    Way { len, at_once, pages, then }
}

const WAYS: &[Way] = &[
    way(64 * 1024, 1, Pages::Small, Then::Nothing),
    way(64 * 1024, 1, Pages::Huge, Then::Nothing),
    way(64 * 1024, 4, Pages::Small, Then::Nothing),
    way(64 * 1024, 4, Pages::Huge, Then::Nothing),
    way(64 * 1024, 4, Pages::Huge, Then::CheckAndCopy),
    way(64 * 1024, 16, Pages::Small, Then::Nothing),
    way(64 * 1024, 16, Pages::Huge, Then::Nothing),
    way(MIB, 4, Pages::Small, Then::Nothing),
    way(MIB, 4, Pages::Huge, Then::Nothing),
    way(MIB, 4, Pages::Huge, Then::CheckAndCopy),
];

/// Microseconds of a core for one read.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    cpu: f64,
    check: f64,
    copy: f64,
}

/// Measures both; false when a read takes too long, or when what is read of a large hit is copied.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let scratch = Scratch::of_state("cold-reads", options.folder.as_deref())?;
    let path = scratch.path().join("bytes");
    write_file(&path)?;
    let mut costs = vec![Vec::new(); WAYS.len()];
    for _ in 0..options.rounds {
        for (way, costs) in WAYS.iter().zip(&mut costs) {
            costs.push(measure(&path, *way)?);
        }
    }
    println!("| direct reads of | at once | into pages | CPU us a read | the check us | a copy us |");
    println!("|---|---|---|---|---|---|");
    for (way, costs) in WAYS.iter().zip(&costs) {
        println!("{}", row(*way, costs));
    }
    std::fs::remove_file(&path)?;
    let median = |len: usize, figure: fn(&Cost) -> f64| -> io::Result<f64> {
        let is_meant = |(way, _): &(&Way, _)| way.len == len && way.then == Then::CheckAndCopy;
        let found = WAYS.iter().zip(&costs).find(is_meant);
        let figures: Vec<f64> = found.into_iter().flat_map(|(_, costs)| costs).map(figure).collect();
        Ok(Spread::of(&figures).ok_or_else(|| io::Error::other("no rounds"))?.median)
    };
    let read = median(64 * 1024, |cost| cost.cpu)?;
    println!("a read of 64 KiB, its check and a copy take {read:.1} us, at most {READ_COST_MAX}");
    let is_copied_once = large_hits(options, &program, scratch.path(), median(MIB, |cost| cost.check)?)?;
    Ok(read <= READ_COST_MAX && is_copied_once)
}

fn row(way: Way, costs: &[Cost]) -> String {
    let show = |figure: fn(&Cost) -> f64| Spread::show_of(costs, figure, 1);
    let (check, copy) = match way.then {
        Then::Nothing => (String::new(), String::new()),
        Then::CheckAndCopy => (show(|cost| cost.check), show(|cost| cost.copy)),
    };
    let pages = if way.pages == Pages::Huge { "huge" } else { "4 KiB" };
    let (len, cpu) = (way.len / 1024, show(|cost| cost.cpu));
    format!("| {len} KiB | {} | {pages} | {cpu} | {check} | {copy} |", way.at_once)
}

/// Writes what is read: bytes that no disk finds to be the same.
fn write_file(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut random = Random::new(1);
    let mut bytes = vec![0; MIB];
    for _ in 0..FILE_LEN / MIB as u64 {
        bytes.chunks_exact_mut(8).for_each(|eight| eight.copy_from_slice(&random.next().to_le_bytes()));
        file.write_all(&bytes)?;
    }
    file.sync_all()
}

/// What the readers of one core share.
struct Shared {
    ring: Ring,
    file: DiskFile,
    way: Way,
    /// Reads that are not begun.
    left: Cell<usize>,
    readers: Cell<usize>,
    random: RefCell<Random>,
    copies: RefCell<AlignedBuf>,
    copied: Cell<usize>,
    check: Cell<Duration>,
    copy: Cell<Duration>,
    /// CPU of this thread when they began.
    began: Cell<u64>,
    done: mpsc::Sender<io::Result<Cost>>,
}

/// A core that only reads.
struct Idle;

impl Handler for Idle {}

/// Reads as `way` says on a core of its own.
fn measure(path: &Path, way: Way) -> io::Result<Cost> {
    let file = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path)?;
    let budget = Budget::new(1 << 30);
    let (buffers, copies) =
        buffers(way, &budget).ok_or_else(|| io::Error::other("no memory to read into"))?;
    let (done, answer) = mpsc::channel();
    let make = move |ring: Ring| {
        let shared = Rc::new(Shared {
            ring: ring.clone(),
            file: DiskFile::new(file.into()),
            way,
            left: Cell::new(ARM_LEN / way.len),
            readers: Cell::new(way.at_once),
            random: RefCell::new(Random::new(7)),
            copies: RefCell::new(copies),
            copied: Cell::new(0),
            check: Cell::default(),
            copy: Cell::default(),
            began: Cell::new(thread_cpu()),
            done,
        });
        for buffer in buffers {
            ring.spawn(read(Rc::clone(&shared), buffer));
        }
        Rc::new(Idle)
    };
    let options = CoreOptions { name: "reads".into(), cpu: Some(CPUS.0), ..CoreOptions::default() };
    let core = spawn_core(options, None, make).map_err(|error| io::Error::other(error.to_string()))?;
    let cost = answer.recv().map_err(|_| io::Error::other("the core ended before its reads"))?;
    core.join().map_err(|_| io::Error::other("the core's thread panicked"))?;
    cost
}

/// What is read into and what is copied to; the kernel gives the memory of both here.
fn buffers(way: Way, budget: &Arc<Budget>) -> Option<(Vec<AlignedBuf>, AlignedBuf)> {
    let mut buffers = match way.pages {
        Pages::Small => {
            (0..way.at_once).map(|_| AlignedBuf::new(way.len, budget)).collect::<Option<Vec<_>>>()?
        }
        // Behind them as much as makes the last page a huge one too.
        Pages::Huge => {
            AlignedBuf::several(std::iter::repeat_n(way.len, way.at_once).chain([2 * MIB]), budget)?
        }
    };
    buffers.truncate(way.at_once);
    let mut copies = AlignedBuf::several([COPIES_LEN], budget)?.pop()?;
    buffers.iter_mut().chain([&mut copies]).for_each(|buffer| buffer.as_mut().fill(1));
    Some((buffers, copies))
}

/// One of the readers: it reads again as soon as it can.
async fn read(shared: Rc<Shared>, mut buffer: AlignedBuf) {
    let len = shared.way.len;
    while let Some(left) = shared.left.get().checked_sub(1) {
        shared.left.set(left);
        let offset = shared.random.borrow_mut().between(0, (FILE_LEN - len as u64) / PAGE_LEN) * PAGE_LEN;
        let (result, back) = shared.ring.read_at(&shared.file, offset, buffer, 0..len).await;
        buffer = back;
        match result {
            Ok(read) if read == len => shared.look_at(buffer.as_ref()),
            Ok(_) => return shared.end(Err(io::Error::other("a short read"))),
            Err(errno) => return shared.end(Err(io::Error::from_raw_os_error(errno))),
        }
    }
    shared.readers.set(shared.readers.get() - 1);
    if shared.readers.get() == 0 {
        let reads = (ARM_LEN / len) as f64;
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6 / reads;
        let cpu = Duration::from_nanos(thread_cpu() - shared.began.get());
        let (check, copy) = (micros(shared.check.get()), micros(shared.copy.get()));
        shared.end(Ok(Cost { cpu: micros(cpu), check, copy }));
    }
}

impl Shared {
    fn look_at(&self, bytes: &[u8]) {
        if self.way.then == Then::Nothing {
            return;
        }
        let began = Instant::now();
        std::hint::black_box(xxh3_64(bytes));
        let checked = Instant::now();
        let at = self.copied.get();
        self.copies.borrow_mut().as_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        self.copied.set((at + bytes.len()) % COPIES_LEN);
        self.check.set(self.check.get() + (checked - began));
        self.copy.set(self.copy.get() + checked.elapsed());
    }

    /// The first to end says how it was.
    fn end(&self, cost: io::Result<Cost>) {
        let _ = self.done.send(cost);
        self.ring.stop();
    }
}

/// Returns the time that this thread was on a CPU so far, in nanoseconds.
fn thread_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}

/// CPU of the product for hits of 1 MiB that come from disk, each object once after a restart, and what of their bytes was copied.
fn large_hits(options: &Options, program: &Path, folder: &Path, check: f64) -> io::Result<bool> {
    let origin = Origin::start()?;
    let cell = Load::plain(MIB as u64, 4);
    let disk = folder.join("store").display().to_string();
    let len = u64::from(LARGE_OBJECTS) * MIB as u64;
    let size = (len * 2).to_string();
    let flags = ["--cores", "1", "--memory", &size, "--disk", &disk, "--disk-size", &size];
    let start = || Aspis::start(program, origin.address(), Some(CPUS.0), &flags);
    let objects: Vec<u32> = (0..LARGE_OBJECTS).collect();
    let mut server = start()?;
    fetch_all(server.address, &cell, &objects)?;
    server.written(WRITTEN_MAX)?;
    let (mut cold, mut warm, mut copied) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        server.server.terminate(STOP_MAX)?;
        server = start()?;
        let recovering = || sum(&server.metrics().ok()?, "aspis_disk_volumes_recovering");
        if !wait::until(RECOVERED_MAX, || recovering() == Some(0.0)) {
            return Err(io::Error::other("the store is never recovered"));
        }
        let asked = origin.requests();
        let pass = || -> io::Result<(f64, f64)> {
            let before = server.server.modes();
            fetch_all(server.address, &cell, &objects)?;
            let after = server.server.modes();
            let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(LARGE_OBJECTS);
            Ok((micros(after.0 - before.0), micros(after.1 - before.1)))
        };
        cold.push(pass()?);
        let metrics = server.metrics()?;
        let figure = |name| sum(&metrics, name).unwrap_or(f64::NAN);
        copied.push(figure("aspis_disk_copied_bytes_total") / figure("aspis_disk_read_bytes_total"));
        warm.push(pass()?);
        let (misses, hits) = (origin.requests() - asked, sample(&metrics, HITS).unwrap_or(0.0));
        if misses * OBJECTS_PER_LOST > objects.len() as u64
            || hits < f64::from(LARGE_OBJECTS) * DISK_SHARE_MIN
        {
            return Err(io::Error::other(format!("{hits} hits from disk, {misses} misses")));
        }
    }
    println!("\n| hits of 1 MiB | user us | kernel us |\n|---|---|---|");
    for (name, passes) in [("from disk", &cold), ("from memory", &warm)] {
        let show = |figure: fn(&(f64, f64)) -> f64| Spread::show_of(passes, figure, 1);
        println!("| {name} | {} | {} |", show(|pass| pass.0), show(|pass| pass.1));
    }
    println!("the check of 1 MiB takes {check:.1} us");
    let copied = Spread::of(&copied).ok_or_else(|| io::Error::other("no rounds"))?;
    println!("bytes copied of each that was read: {}, at most {COPIED_MAX}", copied.show(3));
    Ok(copied.median <= COPIED_MAX)
}

/// Asks for each object once over a few connections, and checks every byte. The name of the host is a part of what is stored, and outlives a server's port.
fn fetch_all(address: SocketAddr, cell: &Load, objects: &[u32]) -> io::Result<()> {
    let fetch = |reader: &mut Reader, object: u32| -> Result<bool, Fault> {
        let plan = cell.plan(object);
        let request = format!("GET {plan} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        reader.stream().write_all(request.as_bytes()).map_err(|_| Fault::Reset)?;
        let head = reader.head()?;
        let mut is_right = head.status()? == 200;
        let len = reader.content(&head, |at, piece| {
            is_right &= plan.content().first_difference(at, piece).is_none();
            Flow::Continue
        })?;
        Ok(is_right && len == plan.size)
    };
    let part = |objects: &[u32]| -> io::Result<()> {
        let mut reader = Reader::connect(address, SILENCE)?;
        objects.iter().try_for_each(|object| match fetch(&mut reader, *object) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::other(format!("object {object}: other bytes"))),
            Err(fault) => Err(io::Error::other(format!("object {object}: {fault:?}"))),
        })
    };
    thread::scope(|scope| {
        let len = objects.len().div_ceil(cell.connections as usize).max(1);
        let readers: Vec<_> = objects.chunks(len).map(|objects| scope.spawn(move || part(objects))).collect();
        let died = |_| Err(io::Error::other("a reader's thread panicked"));
        readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(died))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cost_something_and_those_that_are_looked_at_more() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().join("bytes");
        // Sparse: what is read is not the matter here.
        File::create(&path).unwrap().set_len(FILE_LEN).unwrap();
        let plain = measure(&path, way(MIB, 4, Pages::Small, Then::Nothing)).unwrap();
        let looked = measure(&path, way(MIB, 2, Pages::Huge, Then::CheckAndCopy)).unwrap();
        assert!(plain.cpu > 0.0 && plain.check == 0.0);
        assert!(looked.cpu > 0.0 && looked.check > 0.0 && looked.copy > 0.0);
        assert!(measure(&scratch.path().join("none"), WAYS[0]).is_err());
    }
}
