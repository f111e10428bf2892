//! What a server costs that nobody asks anything: CPU, and memory for connections that are only kept open.

use crate::aspis::Aspis;
use crate::http::{Fault, Reader};
use crate::memory;
use crate::origin::Origin;
use crate::plan::{Kind, Plan};
use crate::process::{self, raise_open_files};
use crate::viewer::{self, Body};
use crate::wait;
use std::io;
use std::time::{Duration, Instant};

/// A server has so long to come to rest after its start.
const SETTLE: Duration = Duration::from_secs(3);
/// Most that an idle server may use of one core, in percent.
const SHARE_MAX: f64 = 0.1;
/// Most user memory of a connection that waits for its next request, in bytes.
const CONNECTION_MAX: f64 = 1024.0;
/// Has the allocator do without huge pages: two MiB that are touched in one place would count in full, and hide what a connection takes.
const SMALL_PAGES: (&str, &str) = ("MIMALLOC_ALLOW_THP", "0");
/// Requests on one connection before memory is measured, so that every receive buffer was touched once.
const WARM_COUNT: usize = 4096;
/// A server that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(10);
/// One core, so that all connections are its.
const FLAGS: [&str; 4] = ["--cores", "1", "--memory", "64MiB"];

/// Measures the CPU share of an idle server, and the memory of `connections` idle ones if there are any; false when one is over its bound.
pub(crate) fn run(length: Duration, connections: usize, aspis: Option<&str>) -> io::Result<bool> {
    raise_open_files();
    let origin = Origin::start()?;
    let program = process::find_aspis(aspis)?;
    let product = if connections > 0 {
        Aspis::start_with(&program, origin.address(), None, &FLAGS, &[SMALL_PAGES])?
    } else {
        Aspis::start(&program, origin.address(), None, &[])?
    };
    let kept = keep(&product, connections)?;
    wait::pause(SETTLE);
    let (start, before) = (Instant::now(), product.server.cpu());
    wait::pause(length);
    let used = product.server.cpu().saturating_sub(before);
    let share = used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    let resident = product.server.status_bytes("VmRSS") as f64 / f64::from(1 << 20);
    println!("| idle for | CPU | of one core | at most | resident |\n|---|---|---|---|---|");
    println!(
        "| {:.0} s | {:.2} ms | {share:.4} % | {SHARE_MAX} % | {resident:.1} MiB |",
        length.as_secs_f64(),
        used.as_secs_f64() * 1e3
    );
    let Some(kept) = kept else { return Ok(share <= SHARE_MAX) };
    // Measured at rest: what the opening itself needed for a moment is given back by then.
    let grown = memory::private(&product.server).saturating_sub(kept.before) as f64 / connections as f64;
    println!("\n| idle connections | bytes each | at most |\n|---|---|---|");
    println!("| {connections} | {grown:.0} | {CONNECTION_MAX:.0} |");
    drop(kept.streams);
    Ok(share <= SHARE_MAX && grown <= CONNECTION_MAX)
}

/// Connections that stay open, and the server's memory before them.
struct Kept {
    streams: Vec<Reader>,
    before: u64,
}

/// Opens connections and asks once on each; the same hit, so that nothing but the connections is new.
fn keep(product: &Aspis, count: usize) -> io::Result<Option<Kept>> {
    if count == 0 {
        return Ok(None);
    }
    let failed = |fault: Fault| io::Error::other(format!("no hit: {fault:?}"));
    let mut first = Reader::connect(product.address, SILENCE)?;
    (0..WARM_COUNT).try_for_each(|_| ask(&mut first)).map_err(failed)?;
    wait::pause(SETTLE);
    let before = memory::private(&product.server);
    let mut streams = vec![first];
    for _ in 0..count {
        let mut reader = Reader::connect(product.address, SILENCE)?;
        ask(&mut reader).map_err(failed)?;
        streams.push(reader);
    }
    Ok(Some(Kept { streams, before }))
}

fn ask(reader: &mut Reader) -> Result<(), Fault> {
    let plan = Plan { kind: Kind::Fresh, size: 1024, seed: 1, id: 1 };
    viewer::fetch(reader, "bench", (plan, None), Body::Any)
}
