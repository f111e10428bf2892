//! What a server that nobody asks anything costs.

use crate::aspis::Aspis;
use crate::origin::Origin;
use crate::process;
use crate::wait;
use std::io;
use std::time::{Duration, Instant};

/// A server has so long to come to rest after its start.
const SETTLE: Duration = Duration::from_secs(3);
/// Most that an idle server may use of one core, in percent.
const SHARE_MAX: f64 = 0.1;

/// Measures the CPU share of an idle server; false when it is over the bound.
pub(crate) fn run(length: Duration, aspis: Option<&str>) -> io::Result<bool> {
    let origin = Origin::start()?;
    let product = Aspis::start(&process::find_aspis(aspis)?, origin.address(), None, &[])?;
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
    Ok(share <= SHARE_MAX)
}
