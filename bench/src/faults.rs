//! What does a disk that fails cost the viewers? A real server on a file system that fails on command, under the load of [`witness`](crate::witness).
//!
//! Each fault comes under load, stays for some seconds, and goes. Never may a byte be wrong, an answer be an error, a connection break or the process
//! end; and some time after the fault has gone, hits must come from the disk again. Mounting needs the rights for it and `/dev/fuse`: without
//! them nothing is shown, and the command says so.

mod filesystem;

use crate::aspis::{Aspis, figure, sample};
use crate::process::{self, Scratch};
use crate::wait;
use crate::witness::ledger::Ledger;
use crate::witness::origin::Origin;
use crate::witness::site::Site;
use crate::witness::viewer::Viewer;
use crate::witness::{Meeting, Tally, purger};
use filesystem::{Fault, Mounted};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Objects of the site: twice as many bytes as the server may hold in memory.
const OBJECTS: usize = 500;
const VIEWERS: u64 = 6;
/// A fault lasts so long under load, after as long without one.
const FAULTY: Duration = Duration::from_secs(4);
/// So long after a fault has gone hits come from the disk again: longer than a failed folder is left alone at first.
const RECOVERED: Duration = Duration::from_secs(30);
/// Faults that viewers saw of each kind, as far as they are shown.
const SHOWN: usize = 5;
/// The hits that show it.
const HITS_AGAIN: f64 = 20.0;
const HITS: &str = "aspis_disk_lookups_total{answer=\"hit\"}";
/// What the server takes.
const FLAGS: [&str; 8] =
    ["--memory", "64MiB", "--cores", "2", "--disk-size", "512MiB", "--disk-write-budget", "1GiB"];

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// The faults to play; none for all.
    pub(crate) only: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) aspis: Option<String>,
}

/// Returns the names of all faults.
pub(crate) fn names() -> Vec<&'static str> {
    Fault::ALL.iter().map(|fault| fault.name()).collect()
}

/// Plays the faults one after the other before one server; false when one was seen by a viewer.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let folder = Scratch::of_state("faults", None)?;
    let [backing, disk, state] = ["backing", "disk", "state"].map(|name| folder.path().join(name));
    for each in [&backing, &disk, &state] {
        std::fs::create_dir_all(each)?;
    }
    let mounted = match Mounted::mount(&backing, &disk) {
        Ok(mounted) => mounted,
        Err(error) => {
            println!("skipped: no file system of our own can be mounted here: {error}");
            return Ok(true);
        }
    };
    let ledger = Arc::new(Ledger::new(Site::new(options.seed & 0xffff, OBJECTS)));
    let origin = Origin::start(&ledger)?;
    let (disk, state) = (disk.display().to_string(), state.display().to_string());
    let own = ["--disk", &disk, "--state", &state];
    let flags: Vec<&str> = FLAGS.iter().copied().chain(own).collect();
    let mut server = Aspis::start(&program, origin.address(), None, &flags)?;
    println!("| fault | answers | hits from disk before, meanwhile | injected | again after | faults seen |");
    println!("|---|---|---|---|---|---|");
    let mut is_sound = true;
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == fault.name()) {
            continue;
        }
        let seed = options.seed ^ (number as u64) << 32;
        let tally = play(&mut server, &ledger, &mounted, fault, seed)?;
        is_sound &= tally.faults.is_empty();
        for fault in tally.faults.iter().take(SHOWN) {
            println!("FAULT {fault} (seed {})", options.seed);
        }
        if !server.server.runs() {
            println!("the server has ended");
            is_sound = false;
            break;
        }
    }
    for line in server.server.errors() {
        if line.contains("panicked") {
            println!("FAULT {line}");
            is_sound = false;
        }
    }
    // The server lets go of its files before they are unmounted.
    drop(server);
    drop(mounted);
    Ok(is_sound)
}

fn play(
    server: &mut Aspis,
    ledger: &Ledger,
    mounted: &Mounted,
    fault: Fault,
    seed: u64,
) -> io::Result<Tally> {
    let meeting = Meeting::new(ledger, server.address, server.admin);
    let hits = |server: &Aspis| -> io::Result<f64> {
        sample(&server.metrics()?, HITS).ok_or_else(|| io::Error::other(format!("/metrics has no {HITS}")))
    };
    let injected = mounted.injected();
    let (mut marks, mut again) = (Vec::new(), None);
    let result = thread::scope(|scope| -> io::Result<()> {
        for viewer in 0..VIEWERS {
            let viewer = Viewer::new(&meeting, seed ^ (viewer + 1));
            scope.spawn(move || viewer.run());
        }
        scope.spawn(|| purger::run(&meeting, seed));
        let mut act = || -> io::Result<()> {
            marks.push(hits(server)?);
            wait::pause(FAULTY);
            marks.push(hits(server)?);
            mounted.inject(fault)?;
            wait::pause(FAULTY);
            marks.push(hits(server)?);
            mounted.heal()?;
            let (healed, began) = (hits(server)?, Instant::now());
            if wait::until(RECOVERED, || hits(server).is_ok_and(|hits| hits >= healed + HITS_AGAIN)) {
                again = Some(began.elapsed());
            }
            Ok(())
        };
        let acted = act();
        // Nobody may wait for a driver that failed.
        meeting.end();
        acted
    });
    mounted.heal()?;
    if let Err(error) = result {
        meeting.fault(format!("{}: {error}", fault.name()));
    }
    let injected = mounted.injected() - injected;
    if again.is_none() {
        let metrics = server.metrics()?;
        let told = |name| figure(&metrics, name);
        meeting.fault(format!(
            "{}: nothing came from the disk for {RECOVERED:?} after it was healed; {} volumes off line, {} records, {} segments free, {} bad",
            fault.name(),
            told("aspis_disk_volumes_off_line"),
            told("aspis_disk_records"),
            told("aspis_disk_segments{state=\"free\"}"),
            told("aspis_disk_segments{state=\"bad\"}")
        ));
    }
    if injected == 0 {
        meeting
            .fault(format!("{}: nothing was read or written meanwhile, so nothing was shown", fault.name()));
    }
    let tally = meeting.tally();
    let between =
        |first: usize| marks.get(first + 1).zip(marks.get(first)).map_or(0.0, |(to, from)| to - from);
    println!(
        "| {} | {} | {}, {} | {injected} | {} | {} |",
        fault.name(),
        tally.answers,
        between(0),
        between(1),
        again.map_or_else(|| "never".to_owned(), |again| format!("{:.1} s", again.as_secs_f64())),
        tally.faults.len()
    );
    Ok(tally)
}
