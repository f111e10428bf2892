//! What an invalidation costs: how soon many objects are gone everywhere, what hits pay while the memory comes back, and a stream of them.
//!
//! The origin numbers its versions and writes the number into every body, so that a viewer sees what it got. Two scenarios: `effect` stores
//! many small objects and invalidates all, a prefix and a tag over and over; `rate` sends a thousand invalidations a second.

mod effect;
mod origin;
mod rate;
mod viewer;

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::aspis::Aspis;
use crate::process;
use origin::VersionOrigin;
use viewer::Viewer;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Objects that are stored.
    pub(crate) objects: u64,
    /// Rounds of each kind of rule.
    pub(crate) rounds: usize,
    /// Seconds of the stream; 0 leaves it out.
    pub(crate) seconds: u64,
    /// Invalidations in each of them.
    pub(crate) rate: u64,
    pub(crate) cores: u64,
    /// The server's limit; `None` is what the objects need.
    pub(crate) memory: Option<u64>,
    pub(crate) aspis: Option<String>,
}

/// Viewers that load the objects.
const LOADERS: usize = 24;
/// Requests that each of them has under way.
const PIPELINED: u64 = 16;
/// What an object needs with all that is charged for it, generously.
const OBJECT_COST: u64 = 1800;
/// What the server needs beside them.
const BASE: u64 = 384 << 20;

/// Runs the scenarios; false when a figure is out of bounds or a rule was lost.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    process::raise_open_files();
    let state = std::env::temp_dir().join(format!("aspis-bench-state-{}", std::process::id()));
    std::fs::create_dir_all(&state)?;
    let held = play(options, &state);
    std::fs::remove_dir_all(&state)?;
    held
}

fn play(options: &Options, state: &Path) -> io::Result<bool> {
    let origin = VersionOrigin::start()?;
    let memory = options.memory.unwrap_or(BASE + options.objects * OBJECT_COST).to_string();
    let (cores, state) = (options.cores.to_string(), state.display().to_string());
    // Viewers of one part wait while another is measured.
    let flags = ["--memory", &memory, "--cores", &cores, "--state", &state, "--idle-timeout", "1h"];
    let program = process::find_aspis(options.aspis.as_deref())?;
    let server = Aspis::start(&program, origin.address(), None, &flags)?;
    let started = std::time::Instant::now();
    load(&server, options.objects)?;
    println!(
        "{} objects stored in {:.0} s, {} origin requests, {:.0} MiB resident",
        options.objects,
        started.elapsed().as_secs_f64(),
        origin.requests(),
        mib(server.server.status_bytes("VmRSS"))
    );
    let effect = effect::run(&server, &origin, options)?;
    let rate = options.seconds == 0 || rate::run(&server, &origin, options)?;
    Ok(effect && rate)
}

/// The path of an object. Those with even numbers carry the tag `half`.
fn object(number: u64) -> String {
    format!("/o/{number}")
}

/// Has every object asked for once.
fn load(server: &Aspis, objects: u64) -> io::Result<()> {
    let next = AtomicU64::new(0);
    let fault: Mutex<Option<io::Error>> = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..LOADERS {
            scope.spawn(|| {
                if let Err(error) = ask_all(server, objects, &next) {
                    fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    match fault.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

fn ask_all(server: &Aspis, objects: u64, next: &AtomicU64) -> io::Result<()> {
    let mut viewer = Viewer::connect(server.address)?;
    loop {
        let first = next.fetch_add(PIPELINED, Ordering::Relaxed);
        let numbers = first..(first + PIPELINED).min(objects);
        if numbers.is_empty() {
            return Ok(());
        }
        let paths: Vec<String> = numbers.map(object).collect();
        viewer.ask_for(&paths)?;
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// One figure beside its bound; false when it is over.
fn figure(name: &str, value: f64, unit: &str, most: f64) -> bool {
    let held = value <= most;
    println!("| {name} | {value:.2} {unit} | {most:.2} {unit} | {} |", if held { "held" } else { "OVER" });
    held
}
