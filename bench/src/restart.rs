//! How soon does a store of very many small records serve again? The real server on a store that was filled offline, after an orderly end and after
//! kill -9.
//!
//! The times count from the start of the process: to the first hit, for a record among the newest, and to the moment when the server says
//! that its index is complete. Then records from all over the store are asked for: each must come from the disk with the right bytes, but for the few that
//! an index of twelve-bit tags loses. A store once filled stays in `--folder` and is used again.

mod generate;

use crate::aspis::{Aspis, figure, sum};
use crate::content::Content;
use crate::http::{self, Fault, Reader};
use crate::process::{self, Scratch};
use crate::random::Random;
use crate::stats::Spread;
use crate::wait;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The host of all records.
const HOST: &str = "restart.example";
/// Bytes of a record's body.
const BODY_LEN: usize = 32;
/// Records that are asked for once the index is complete.
const SAMPLE: u64 = 2_000;
/// A server that does not answer for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);
/// The index is complete by then, or never.
const COMPLETE_MAX: Duration = Duration::from_secs(120);
/// Part of a store that is for nothing but the records: segments that are kept clean, the one that the server opens, rounding.
const SLACK_PERCENT: u64 = 4;
const SLACK: u64 = 256 << 20;
/// A new store takes at most so much of what is free.
const SHARE_OF_FREE_PERCENT: u64 = 90;
/// The least that `--disk-mean-object` takes.
const MEAN_MIN: u64 = 256;
/// Records that one index may lose to others with the same tag, in percent.
const LOST_MAX: f64 = 1.0;
const FIRST_HIT_MAX: f64 = 0.5;
const COMPLETE_BOUND: f64 = 2.0;
const INDEX_BYTES_MAX: f64 = 10.0;
/// What the server says of its volumes while it reads their footers, and of its index.
const VOLUMES: &str = "aspis_disk_volumes";
const RECOVERING: &str = "aspis_disk_volumes_recovering";
const RECORDS: &str = "aspis_disk_records";
const INDEX: &str = "aspis_disk_index_bytes";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) records: u64,
    /// Times that it is started after either end.
    pub(crate) rounds: usize,
    /// Where the store is; `None` for the temporary files, and then it goes at the end.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) aspis: Option<String>,
}

/// What one start took.
#[derive(Clone, Copy, Debug)]
struct Start {
    first_hit: f64,
    complete: f64,
    /// Hits of the sample.
    hits: u64,
    wrong: u64,
    resident: u64,
    index_len: f64,
    records: f64,
}

/// The path of a record.
fn path(number: u64) -> String {
    format!("/r/{number:08}")
}

/// Fills the store if it is not there, and measures; false when a figure is out of bounds.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let own;
    let folder = match &options.folder {
        Some(folder) => folder,
        None => {
            own = Scratch::of_state("restart", None)?;
            own.path()
        }
    };
    let store = Store::of(folder, options.records)?;
    let origin = Nothing::start()?;
    if !store.is_filled() {
        store.look_for_room()?;
        store.fill(&program, &origin)?;
    }
    println!("{} records of {} B in a store of {} MiB", store.records, store.record_len, store.size >> 20);
    let mut starts = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds {
        // An orderly end is what the last server before this had, be it that of the round before.
        let (mut server, start) = store.start(&program, &origin)?;
        server.server.kill()?;
        starts[0].push(start);
        let (mut server, start) = store.start(&program, &origin)?;
        server.server.terminate(SILENCE)?;
        starts[1].push(start);
        let [orderly, killed] = [&starts[0], &starts[1]].map(|starts| starts[round - 1].complete);
        eprintln!("round {round}: full index after {orderly:.3} s, after kill -9 {killed:.3} s");
    }
    println!(
        "| start, {} rounds | first hit, s | full index, s | of {SAMPLE} records hits, wrong | RSS, MiB | index, B/record |",
        options.rounds
    );
    println!("|---|---|---|---|---|---|");
    let mut is_held = true;
    for (after, starts) in ["an orderly end", "kill -9"].into_iter().zip(&starts) {
        is_held &= show(after, starts, store.records)?;
    }
    Ok(is_held)
}

/// Prints the medians of some starts; false when one is out of bounds, or a single answer was wrong.
fn show(after: &str, starts: &[Start], records: u64) -> io::Result<bool> {
    let spread = |figure: fn(&Start) -> f64| {
        let values: Vec<f64> = starts.iter().map(figure).collect();
        Spread::of(&values).ok_or_else(|| io::Error::other("no rounds"))
    };
    let (first_hit, complete) = (spread(|start| start.first_hit)?, spread(|start| start.complete)?);
    let index = spread(|start| start.index_len)?.median / records.max(1) as f64;
    let hits = spread(|start| start.hits as f64)?.median;
    let wrong: u64 = starts.iter().map(|start| start.wrong).sum();
    println!(
        "| after {after} | {} | {} | {hits:.0}, {wrong} | {:.0} | {index:.2} |",
        first_hit.show(3),
        complete.show(3),
        spread(|start| (start.resident >> 20) as f64)?.median,
    );
    let lost = (SAMPLE as f64 - hits) * 100.0 / SAMPLE as f64;
    let bounds = [
        ("seconds to the first hit", first_hit.median, FIRST_HIT_MAX),
        ("seconds to the full index", complete.median, COMPLETE_BOUND),
        ("bytes of index for a record", index, INDEX_BYTES_MAX),
        ("percent of the sample lost", lost, LOST_MAX),
        ("wrong answers", wrong as f64, 0.0),
    ];
    let mut is_held = true;
    for (what, value, most) in bounds {
        if value.is_nan() || value > most {
            println!("OUT OF BOUNDS: after {after}: {what}: {value:.3}, at most {most}");
            is_held = false;
        }
    }
    let known = spread(|start| start.records)?.median;
    println!("  {known:.0} records are known, {lost:.2} % of the sample was not there");
    Ok(is_held)
}

/// A store of so many records.
struct Store {
    folder: PathBuf,
    records: u64,
    record_len: u64,
    size: u64,
}

impl Store {
    fn of(folder: &Path, records: u64) -> io::Result<Self> {
        let record_len = generate::record_len()?;
        let content = records * record_len;
        let needed = content + content * SLACK_PERCENT / 100 + SLACK;
        // The index is made for records of a mean length, and none is made for shorter ones.
        let size = needed.max(records * MEAN_MIN).next_multiple_of(64 << 20);
        Ok(Self { folder: folder.to_owned(), records, record_len, size })
    }

    fn disk(&self) -> PathBuf {
        self.folder.join(format!("store-{}", self.records))
    }

    /// The file that says that everything was written.
    fn mark(&self) -> PathBuf {
        self.folder.join(format!("store-{}.filled", self.records))
    }

    fn is_filled(&self) -> bool {
        self.mark().is_file()
    }

    /// Says what the store takes, and whether that is there.
    fn look_for_room(&self) -> io::Result<()> {
        let needed = self.size / SHARE_OF_FREE_PERCENT * 100;
        let output = Command::new("df").args(["-B1", "--output=avail"]).arg(&self.folder).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let free = text.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok());
        let told = format!(
            "{} records take {} MiB of memory, and {} MiB of disk, of which {} MiB have to be free in {}",
            self.records,
            self.memory() >> 20,
            self.size >> 20,
            needed >> 20,
            self.folder.display()
        );
        eprintln!("{told}");
        match free {
            Some(free) if free < needed => Err(io::Error::other(format!("{told}: {} MiB are", free >> 20))),
            _ => Ok(()),
        }
    }

    /// The limit that the server is given.
    fn memory(&self) -> u64 {
        (self.records * 24).max(256 << 20)
    }

    /// Has the server make the store, and fills it while no server runs.
    fn fill(&self, program: &Path, origin: &Nothing) -> io::Result<()> {
        let disk = self.disk();
        drop(std::fs::remove_dir_all(&disk));
        std::fs::create_dir_all(&disk)?;
        let mut server = self.serve(program, origin)?;
        server.server.terminate(SILENCE)?;
        let began = Instant::now();
        let written = generate::fill(&disk, self.records)?;
        eprintln!(
            "{} records written in {:.1} s, {} MiB",
            self.records,
            began.elapsed().as_secs_f64(),
            written >> 20
        );
        std::fs::write(self.mark(), "")
    }

    fn serve(&self, program: &Path, origin: &Nothing) -> io::Result<Aspis> {
        let (disk, size) = (self.disk().display().to_string(), self.size.to_string());
        // The index is as long as these records need.
        let mean = (self.size / self.records.max(1)).max(MEAN_MIN).to_string();
        let memory = self.memory().to_string();
        let flags = ["--cores", "2", "--memory", &memory, "--disk", &disk, "--disk-size", &size];
        let flags: Vec<&str> = flags.into_iter().chain(["--disk-mean-object", &mean]).collect();
        Aspis::start(program, origin.address, None, &flags)
    }

    fn start(&self, program: &Path, origin: &Nothing) -> io::Result<(Aspis, Start)> {
        let began = Instant::now();
        let server = self.serve(program, origin)?;
        let mut viewer = Viewer::connect(server.address)?;
        let mut random = Random::new(7);
        // The newest records are known first; which they are is known to nobody who asks for one alone.
        let newest = (self.records / 50).max(1);
        let first_hit = loop {
            let answer = viewer.ask(self.records - 1 - random.next() % newest)?;
            if answer == Answer::Hit || began.elapsed() > COMPLETE_MAX {
                break began.elapsed().as_secs_f64();
            }
        };
        let volumes = generate::volume_count(&self.disk())?;
        let mut complete = f64::NAN;
        wait::until(COMPLETE_MAX, || {
            let metrics = server.metrics().unwrap_or_default();
            // A core that has said nothing yet has no volumes that recover either.
            let is_known = sum(&metrics, VOLUMES) == Some(volumes as f64);
            if is_known && sum(&metrics, RECOVERING) == Some(0.0) {
                complete = began.elapsed().as_secs_f64();
            }
            !complete.is_nan()
        });
        let (mut hits, mut wrong) = (0, 0);
        for _ in 0..SAMPLE {
            match viewer.ask(random.next() % self.records)? {
                Answer::Hit => hits += 1,
                Answer::Wrong => wrong += 1,
                Answer::Miss => {}
            }
        }
        let metrics = server.metrics()?;
        let figure = |name| figure(&metrics, name);
        let start = Start {
            first_hit,
            complete,
            hits,
            wrong,
            resident: server.server.status_bytes("VmRSS"),
            index_len: figure(INDEX),
            records: figure(RECORDS),
        };
        Ok((server, start))
    }
}

/// What came for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Hit,
    /// The origin was asked.
    Miss,
    Wrong,
}

struct Viewer {
    reader: Reader,
}

impl Viewer {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { reader: Reader::connect(address, SILENCE)? })
    }

    fn ask(&mut self, number: u64) -> io::Result<Answer> {
        let path = path(number);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        self.reader.stream().write_all(request.as_bytes())?;
        self.answer(&path).map_err(|fault| io::Error::other(format!("{path}: {fault:?}")))
    }

    fn answer(&mut self, path: &str) -> Result<Answer, Fault> {
        let (head, body) = self.reader.answer()?;
        Ok(match head.status()? {
            404 => Answer::Miss,
            200 if is_right(path, &body) => Answer::Hit,
            _ => Answer::Wrong,
        })
    }
}

fn is_right(path: &str, body: &[u8]) -> bool {
    body.len() == BODY_LEN && Content::of(path).first_difference(0, body).is_none()
}

/// An origin that has nothing, and nobody may remember that: what is answered with content came from the store.
struct Nothing {
    address: SocketAddr,
}

impl Nothing {
    fn start() -> io::Result<Self> {
        let answer = b"HTTP/1.1 404 Not Found\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n";
        Ok(Self { address: http::serve(|mut stream, _| stream.write_all(answer))? })
    }
}
