//! Hits on something hot while something else happens, and how long each takes.
//!
//! One thread asks on connections of every core, one after the other. They stay open from load to load, so that each load finds the same ones at the
//! same cores. The thread goes before what else wants its processor, where that is allowed: a viewer is elsewhere, and what it waits for there is not
//! the server's time. Without that a load was also measured by how often the senders' threads ran in the viewer's place.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::aspis::Aspis;
use crate::process;
use crate::stats::quantile;
use crate::wait;

use super::viewer::Viewer;

/// What is asked for all the time; tags and the prefix leave it.
const HOT: &str = "/hot";
/// Between two hits.
const PACE: Duration = Duration::from_micros(300);

/// What the bench itself asks of the server's processors while hits are measured: its metrics, its memory. An answer or a page walk of a process with
/// 12 GiB takes the time of many hits, and what happens every quarter of a second would be the 99th percentile of them.
#[derive(Default)]
pub(super) struct Looks {
    /// Begun and ended ones; odd while one goes on.
    steps: AtomicU64,
}

impl Looks {
    /// Does what hits beside it are not counted for.
    pub(super) fn at<T>(&self, look: impl FnOnce() -> T) -> T {
        self.steps.fetch_add(1, Ordering::SeqCst);
        let seen = look();
        self.steps.fetch_add(1, Ordering::SeqCst);
        seen
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }
}

/// Who asks.
pub(super) struct Hot {
    viewers: Vec<Viewer>,
}

impl Hot {
    pub(super) fn connect(server: &Aspis, cores: u64) -> io::Result<Self> {
        if !process::may_go_first() {
            println!(
                "hits are asked for at usual priority, for no other is allowed: what delays the viewer counts"
            );
        }
        let mut viewers = Viewer::connect_to_all(cores, server.address)?;
        for viewer in &mut viewers {
            viewer.ask(HOT)?;
        }
        Ok(Hot { viewers })
    }

    /// Asks while `work` runs; returns how many microseconds each answer took, but for those beside a look.
    pub(super) fn beside(&mut self, work: impl FnOnce(&Looks) -> io::Result<()>) -> io::Result<Vec<f64>> {
        let (over, looks) = (AtomicBool::new(false), Looks::default());
        thread::scope(|scope| {
            let asking = scope.spawn(|| self.ask_until(&over, &looks));
            let worked = work(&looks);
            over.store(true, Ordering::Relaxed);
            let times = asking.join().map_err(|_| io::Error::other("the hot viewer panicked"))?;
            worked.and(times)
        })
    }

    fn ask_until(&mut self, over: &AtomicBool, looks: &Looks) -> io::Result<Vec<f64>> {
        process::go_first()?;
        let mut times = Vec::new();
        while !over.load(Ordering::Relaxed) {
            for viewer in &mut self.viewers {
                let (steps, began) = (looks.steps(), Instant::now());
                viewer.ask(HOT)?;
                let took = began.elapsed();
                if steps.is_multiple_of(2) && looks.steps() == steps {
                    times.push(took.as_secs_f64() * 1e6);
                }
                wait::pause(PACE);
            }
        }
        Ok(times)
    }
}

/// Returns the 99th percentile of what [`Hot::beside`] returned.
pub(super) fn p99(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.99).unwrap_or(f64::INFINITY)
}
