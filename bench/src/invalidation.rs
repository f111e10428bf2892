//! What an invalidation costs: how soon many objects are gone everywhere, what hits pay while the memory comes back, and a stream of them.
//!
//! The origin numbers its versions and writes the number into every body, so that a viewer sees what it got. Two scenarios: `effect` stores
//! many small objects and invalidates all, a prefix and a tag over and over; `rate` sends a thousand invalidations a second.

mod effect;
mod fill;
mod hot;
mod origin;
mod rate;
mod viewer;

use std::io;
use std::time::Instant;

use crate::aspis::Aspis;
use crate::process::{self, Scratch};
use fill::fill;
use hot::Hot;
use origin::VersionOrigin;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Objects that are stored.
    pub(crate) objects: u64,
    /// Bytes of each body.
    pub(crate) object_size: u64,
    /// Rounds of each kind of rule.
    pub(crate) rounds: usize,
    /// Leaves out the part before the stream.
    pub(crate) only_stream: bool,
    /// Seconds of the stream; 0 leaves it out.
    pub(crate) seconds: u64,
    /// Invalidations in each of them.
    pub(crate) rate: u64,
    pub(crate) cores: u64,
    /// The server's limit; `None` is what the objects need.
    pub(crate) memory: Option<u64>,
    pub(crate) aspis: Option<String>,
}

/// What an object needs with all that is charged for it beside its body.
const OBJECT_COST: u64 = 1000;
/// The body has a block of at least this.
const BLOCK_LEN_MIN: u64 = 512;
/// What the server needs beside them.
const BASE: u64 = 384 << 20;
/// The stream does with so many objects, which are stored for it anew.
const RATE_OBJECTS_MAX: u64 = 300_000;

/// Runs the scenarios; false when a figure is out of bounds or a rule was lost.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    process::raise_open_files();
    let state = Scratch::of_state("invalidation", None)?;
    let began = Instant::now();
    let size = options.object_size as usize;
    let origin = VersionOrigin::start(size)?;
    let each = OBJECT_COST + options.object_size.next_power_of_two().max(BLOCK_LEN_MIN);
    let memory = options.memory.unwrap_or(BASE + options.objects * each).to_string();
    let (cores, state) = (options.cores.to_string(), state.path().display().to_string());
    // Viewers of one part wait while another is measured.
    let flags = ["--memory", &memory, "--cores", &cores, "--state", &state, "--idle-timeout", "1h"];
    let program = process::find_aspis(options.aspis.as_deref())?;
    let server = Aspis::start(&program, origin.address(), None, &flags)?;
    let streamed = options.objects.min(RATE_OBJECTS_MAX);
    let objects = if options.only_stream { streamed } else { options.objects };
    fill(&server, objects, size)?;
    println!(
        "{} objects of {size} bytes stored in {:.0} s, {} origin requests, {:.0} MiB resident of at most {:.0} MiB",
        objects,
        began.elapsed().as_secs_f64(),
        origin.requests(),
        mib(server.server.status_bytes("VmRSS")),
        memory.parse().map_or(0.0, mib)
    );
    let mut hot = Hot::connect(&server, options.cores)?;
    let effect = options.only_stream || effect::run(&server, &origin, &mut hot, options)?;
    let rate = options.seconds == 0 || {
        if !options.only_stream {
            fill(&server, streamed, size)?;
        }
        rate::run(&server, &origin, &mut hot, options, streamed)?
    };
    println!("\nThe whole run took {:.0} s.", began.elapsed().as_secs_f64());
    Ok(effect && rate)
}

/// The path of an object. Those with even numbers carry the tag `half`.
fn object(number: u64) -> String {
    format!("/o/{number}")
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
