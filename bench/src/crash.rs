//! Does a store survive kill -9? Rounds of a real server with `--disk`, killed at a random moment under mixed load.
//!
//! Some tens of rounds share one store: each starts the server on what the one before left, with one core or two, has every object looked at, puts
//! it under load ([`witness`](crate::witness), some of it in ranges only) and kills it, sometimes before it has recovered, now and then in order instead. Between the
//! rounds `aspis store check` reads the volumes. A fault is: a wrong byte, an answer from before what was acknowledged as invalidated, by this
//! process or one before it, an answer that is staler than its lifetime allows, an error or a break without a cause, a server that ends by itself or
//! does not start, and whatever the check finds. What follows after `--from` depends on seed and round only, so a long run can be done in pieces.

mod story;

use crate::aspis::{Aspis, sum};
use crate::process;
use crate::random::Random;
use crate::wait;
use crate::witness::ledger::Ledger;
use crate::witness::origin::Origin;
use crate::witness::site::Site;
use crate::witness::viewer::Viewer;
use crate::witness::{Meeting, Tally, purger};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use story::{Ending, Story};

/// Rounds that share a store.
const LIFE: u64 = 25;
/// Objects of a site.
const OBJECTS: usize = 240;
/// Viewers that look at everything after a start, and those under whose load the server is killed.
const LOOKERS: usize = 4;
const VIEWERS: u64 = 8;
/// An orderly end takes so long at most.
const TERMINATE_MAX: Duration = Duration::from_secs(20);
/// One answer in so many may break off, and two in any case.
const BROKEN_SHARE: u64 = 1000;
/// Faults that are shown.
const SHOWN: usize = 20;
/// What a server takes: little memory, so that objects leave it, and a store that a life fills more than once.
const FLAGS: [&str; 4] = ["--memory", "64MiB", "--disk-write-budget", "1GiB"];

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: u64,
    pub(crate) seed: u64,
    /// The first round.
    pub(crate) from: u64,
    /// Where the store is; `None` for the temporary files.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) aspis: Option<String>,
}

/// What is summed over the rounds.
#[derive(Debug, Default)]
struct Sums {
    looked: Tally,
    loaded: Tally,
    kills: u64,
    early_kills: u64,
    orderly: u64,
    checks: u64,
    /// Requests that reached the origin while everything was looked at after a restart.
    asked_origin: u64,
    disk: Vec<(String, f64)>,
    faults: Vec<String>,
}

/// One store, its site, and what is known of it.
struct Life {
    ledger: Arc<Ledger>,
    origin: Origin,
    store: PathBuf,
    disk_size: String,
}

/// Plays the rounds; false when there was a fault.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let base = process::state_path("crash", options.folder.as_deref());
    let end = options.from + options.rounds;
    println!("crash: seed {}, rounds {} to {end}, store in {}", options.seed, options.from, base.display());
    let began = Instant::now();
    let (mut sums, mut life) = (Sums::default(), None);
    for round in options.from..end {
        if life.is_none() || round.is_multiple_of(LIFE) {
            life = Some(Life::begin(options.seed, round / LIFE, &base)?);
        }
        let Some(life) = &life else { break };
        let story = Story::draw(options.seed, round);
        let result = life.play(&program, &story, &mut sums);
        if let Err(error) = result {
            sums.faults.push(error.to_string());
        }
        let faults = sums.faults.len();
        eprintln!(
            "round {round} ({story}): {} answers so far, {} from the store after a start, {faults} fault(s)",
            sums.looked.answers + sums.loaded.answers,
            sums.looked.hits
        );
        if faults > 0 {
            println!("go on with --seed {} --from {round}; the store is kept", options.seed);
            break;
        }
    }
    // A version that is invalidated while it is read is rarely out of reach at once.
    let (answers, broken) =
        (sums.looked.answers + sums.loaded.answers, sums.looked.broken + sums.loaded.broken);
    if broken * BROKEN_SHARE > answers + BROKEN_SHARE * 2 {
        sums.faults.push(format!("{broken} of {answers} answers broke off"));
    }
    report(&sums, began.elapsed());
    if sums.faults.is_empty() {
        std::fs::remove_dir_all(&base)?;
    }
    // Rounds in which nothing came back from the store, or no range, show nothing.
    let is_telling = options.rounds < 4 || sums.looked.hits > 0 && sums.looked.part_hits > 0;
    if !is_telling {
        println!("nothing came from the store after any start, or no range: nothing was shown");
    }
    Ok(sums.faults.is_empty() && is_telling)
}

impl Life {
    /// Empties the folder and begins with a site of its own.
    fn begin(seed: u64, number: u64, base: &Path) -> io::Result<Self> {
        let store = base.join("store");
        if store.exists() {
            std::fs::remove_dir_all(&store)?;
        }
        std::fs::create_dir_all(&store)?;
        let mut random = Random::new(seed ^ number.wrapping_mul(0x9e37_79b9));
        let ledger = Arc::new(Ledger::new(Site::new(random.next() >> 40, OBJECTS)));
        let origin = Origin::start(&ledger)?;
        // Two cores need two volumes of at least 128 MiB.
        let disk_size = format!("{}MiB", random.weighted(&[(256, 2), (384, 1), (512, 1)]));
        let mib = ledger.site.footprint() >> 20;
        eprintln!("life {number}: {OBJECTS} objects, {mib} MiB, --disk-size {disk_size}");
        Ok(Self { ledger, origin, store, disk_size })
    }

    /// Plays one round; errors are faults, too: whatever does not start or answer was killed by nobody.
    fn play(&self, program: &Path, story: &Story, sums: &mut Sums) -> io::Result<()> {
        if !self.is_empty() {
            check(program, &self.store)?;
            sums.checks += 1;
        }
        let (cores, store) = (story.cores.to_string(), self.store.display().to_string());
        let own = ["--cores", &cores, "--disk", &store, "--disk-size", &self.disk_size];
        let flags: Vec<&str> = FLAGS.iter().copied().chain(own).collect();
        let mut server = Aspis::start(program, self.origin.address(), None, &flags)?;
        let asked = self.origin.requests();
        let meeting = Meeting::new(&self.ledger, server.address, server.admin);
        let result = thread::scope(|scope| {
            let lookers: Vec<_> = (0..LOOKERS)
                .map(|share| {
                    let viewer = Viewer::new(&meeting, story.seed ^ share as u64);
                    scope.spawn(move || viewer.look_at_all(share, LOOKERS))
                })
                .collect();
            if let Ending::KillEarly(after) = story.ending {
                wait::pause(after);
                meeting.kill();
                return server.server.kill();
            }
            wait::until(Duration::from_secs(60), || lookers.iter().all(|looker| looker.is_finished()));
            Ok(())
        });
        result?;
        sums.looked.add(&meeting.tally());
        sums.asked_origin += self.origin.requests() - asked;
        if matches!(story.ending, Ending::KillEarly(_)) {
            sums.early_kills += 1;
        } else {
            self.load(&mut server, story, sums)?;
        }
        self.ledger.restarted();
        sums.faults.append(&mut sums.looked.faults);
        sums.faults.append(&mut sums.loaded.faults);
        let panics = server.server.errors().into_iter().filter(|line| line.contains("panicked"));
        sums.faults.extend(panics);
        Ok(())
    }

    fn load(&self, server: &mut Aspis, story: &Story, sums: &mut Sums) -> io::Result<()> {
        let meeting = Meeting::new(&self.ledger, server.address, server.admin);
        let result = thread::scope(|scope| {
            for viewer in 0..VIEWERS {
                let viewer = Viewer::new(&meeting, story.seed ^ (viewer + 100));
                scope.spawn(move || viewer.run());
            }
            scope.spawn(|| purger::run(&meeting, story.seed ^ 99));
            match story.ending {
                Ending::Kill(after) | Ending::KillEarly(after) => {
                    wait::until(after, || !server.server.runs());
                    let metrics = server.metrics();
                    if !server.server.runs() {
                        meeting.end();
                        return Err(io::Error::other("the server ended by itself"));
                    }
                    sums.disk = metrics?;
                    meeting.kill();
                    server.server.kill()
                }
                Ending::Terminate(after) => {
                    wait::until(after, || !server.server.runs());
                    meeting.end();
                    Ok(())
                }
            }
        });
        result?;
        sums.loaded.add(&meeting.tally());
        if let Ending::Terminate(_) = story.ending {
            sums.orderly += 1;
            match server.server.terminate(TERMINATE_MAX)? {
                Some(status) if status.success() => {}
                status => sums.faults.push(format!("SIGTERM ended in {status:?}")),
            }
        } else {
            sums.kills += 1;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.store).map_or(true, |mut entries| entries.next().is_none())
    }
}

/// Has the product read its own volumes offline.
fn check(program: &Path, store: &Path) -> io::Result<()> {
    let output = Command::new(program).args(["store", "check"]).arg(store).output()?;
    if output.status.success() {
        return Ok(());
    }
    let told = [output.stdout, output.stderr].concat();
    Err(io::Error::other(format!(
        "store check ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&told)
    )))
}

fn report(sums: &Sums, took: Duration) {
    let Sums { looked, loaded, .. } = sums;
    println!("| what | count |\n|---|---|");
    println!("| kills under load | {} |", sums.kills);
    println!("| kills just after the start | {} |", sums.early_kills);
    println!("| orderly ends | {} |", sums.orderly);
    println!("| stores checked offline | {} |", sums.checks);
    println!("| answers after a start | {} |", looked.answers);
    println!("| of these hits | {} |", looked.hits);
    println!("| of these ranges of what is stored in parts | {} |", looked.part_hits);
    println!("| origin requests meanwhile | {} |", sums.asked_origin);
    println!("| answers under load | {} |", loaded.answers);
    println!("| of these hits, parts, 304 | {}, {}, {} |", loaded.hits, loaded.parts, loaded.unchanged);
    println!("| hits among ranges of what is stored in parts | {} |", loaded.part_hits);
    println!("| viewers that left | {} |", loaded.left);
    println!("| answers that broke off within an old version | {} |", looked.broken + loaded.broken);
    println!("| POST | {} |", loaded.posts);
    println!("| invalidations completed, accepted | {}, {} |", loaded.purges.0, loaded.purges.1);
    println!("| MiB compared | {} |", (looked.bytes + loaded.bytes) >> 20);
    for name in
        ["aspis_disk_lookups_total", "aspis_disk_written_bytes_total", "aspis_disk_reclaimed_segments_total"]
    {
        if let Some(value) = sum(&sums.disk, name) {
            println!("| {name} before the last kill | {value} |");
        }
    }
    println!("| faults | {} |", sums.faults.len());
    for fault in sums.faults.iter().take(SHOWN) {
        println!("FAULT {fault}");
    }
    println!("{:.0} s", took.as_secs_f64());
}
