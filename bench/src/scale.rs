//! What a hit costs, and what the server holds, as things grow: objects, connections, the size of an object, cores.
//!
//! Each curve varies one of them and leaves the rest plain. A point is a new server, filled through its front door with every byte checked, then loaded
//! at saturation by `wrk`. Beside each figure stands by what it grows when the varied number grows tenfold: 1 is what one hopes for, 10 is
//! proportional. For cores it is told for twice as many.

use crate::aspis::Aspis;
use crate::origin::Origin;
use crate::peers::cell::size as size_text;
use crate::peers::fill::{self, Body};
use crate::peers::wrk::Wrk;
use crate::plan::{Kind, Plan};
use crate::popularity;
use crate::process::{self, find_aspis};
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Core of the load; the server begins on the other one.
const LOAD_CORE: usize = 1;
/// Requests after which the list of picks begins again.
const PICKS: usize = 1 << 18;
/// Length of the objects of the curve of objects.
const SMALL: u64 = 100;
/// Objects of this size and more are asked for over few connections, and for longer.
const HUGE: u64 = 10 << 20;
const HUGE_CONNECTIONS: u32 = 2;
const HUGE_LENGTHS: u32 = 3;
/// And for at least so long, in which even a slow machine sends the largest once.
const HUGE_LENGTH_MIN: Duration = Duration::from_secs(8);
/// A crowd takes a while to connect, in which little is asked; a load is longer by that.
const CONNECTED_PER_SECOND: u32 = 1000;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// The curves.
    pub(crate) only: Vec<String>,
    pub(crate) length: Duration,
    /// Ten million objects, too.
    pub(crate) full: bool,
    pub(crate) aspis: Option<String>,
}

/// One point of a curve, before it is measured.
#[derive(Clone, Copy, Debug)]
struct Point {
    objects: u32,
    size: u64,
    connections: u32,
    cores: u32,
    memory_mib: u64,
}

/// What was measured there.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// What the curve varies.
    x: f64,
    cpu_us: f64,
    cpu_us_per_mib: f64,
    resident_mib: f64,
}

const PLAIN: Point = Point { objects: 1, size: 1024, connections: 64, cores: 1, memory_mib: 256 };

/// A curve: its name, what it varies as text, and its points with what is varied in each.
type Curve = (&'static str, fn(f64) -> String, Vec<(f64, Point)>);

/// Names of the curves.
pub(crate) const CURVES: [&str; 4] = ["objects", "connections", "size", "cores"];

/// Measures the curves and prints them.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    let program = find_aspis(options.aspis.as_deref())?;
    let wrk = Wrk::find()?;
    process::raise_open_files();
    for (name, show, points) in curves(options.full) {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        let mut figures = Vec::new();
        for (x, point) in points {
            let measured = measure(&program, &wrk, point, options.length)?;
            eprintln!("{name} {}: {:.2} us, {:.1} MiB", show(x), measured.cpu_us, measured.resident_mib);
            figures.push(Figures { x, ..measured });
        }
        println!("{}", table(name, show, &figures));
    }
    Ok(())
}

fn curves(full: bool) -> [Curve; 4] {
    let number = |x: f64| format!("{x:.0}");
    let decades = |from: u32, to: u32| (from..=to).map(|power| 10_u32.pow(power));
    let objects = decades(3, if full { 7 } else { 6 }).map(|objects| {
        // About 1300 bytes each: content, head, key, the index and what the allocator adds.
        let memory_mib = 256 + u64::from(objects) * 1536 / (1 << 20);
        (f64::from(objects), Point { objects, size: SMALL, memory_mib, ..PLAIN })
    });
    let connections =
        decades(0, 4).map(|connections| (f64::from(connections), Point { connections, ..PLAIN }));
    let sizes = [100, 1 << 10, 10 << 10, 100 << 10, 1 << 20, HUGE, 100 << 20, 1 << 30].map(|size| {
        let connections = if size >= HUGE { HUGE_CONNECTIONS } else { PLAIN.connections };
        (size as f64, Point { size, connections, memory_mib: 256 + (size >> 20) * 2, ..PLAIN })
    });
    let cores = [1, 2].map(|cores| (f64::from(cores), Point { cores, ..PLAIN }));
    [
        ("objects", number, objects.collect()),
        ("connections", number, connections.collect()),
        ("size", |x| size_text(x as u64), sizes.to_vec()),
        ("cores", number, cores.to_vec()),
    ]
}

fn measure(program: &Path, wrk: &Wrk, point: Point, length: Duration) -> io::Result<Figures> {
    let origin = Origin::start()?;
    let (cores, memory) = (point.cores.to_string(), format!("{}MiB", point.memory_mib));
    let flags = ["--cores", &cores, "--memory", &memory, "--object-size-max", &memory];
    let pin = (point.cores == 1).then_some(0);
    let product = Aspis::start(program, origin.address(), pin, &flags)?;
    let plan = |object: u32| Plan { kind: Kind::Dated, size: point.size, seed: 1, id: u64::from(object) };
    let all: Vec<u32> = (0..point.objects).collect();
    // Once to fetch, once to see that all of it is kept; the large sets are not asked for twice in full.
    fill::fetch_all(product.address, Body::Planned, &all, plan)?;
    let before = origin.requests();
    fill::fetch_all(product.address, Body::Planned, &all[..all.len().min(1000)], plan)?;
    let picks = popularity::zipf(point.objects, if point.objects > 1 { PICKS } else { 1 }, 1);
    let paths: Vec<String> = picks.into_iter().map(|object| plan(object).to_string()).collect();
    let script = wrk.script(&paths, 1)?;
    let length = if point.size >= HUGE { (length * HUGE_LENGTHS).max(HUGE_LENGTH_MIN) } else { length };
    let length = length + Duration::from_secs(u64::from(point.connections / CONNECTED_PER_SECOND));
    wrk.run(LOAD_CORE, product.address, &script, point.connections, length)?;
    let used = product.server.cpu();
    let load = wrk.run(LOAD_CORE, product.address, &script, point.connections, length)?;
    let used = product.server.cpu().saturating_sub(used).as_secs_f64() * 1e6;
    let misses = origin.requests() - before;
    if misses > 0 {
        return Err(io::Error::other(format!(
            "{point:?}: {misses} requests went to the origin: not all is kept"
        )));
    }
    // Bytes count answers that were under way at the end, too; of large ones they are a good part of the load.
    let mib = load.bytes as f64 / f64::from(1 << 20);
    let answers =
        if point.size >= HUGE { load.bytes as f64 / point.size as f64 } else { load.requests as f64 };
    let resident = product.server.resident() as f64 / f64::from(1 << 20);
    Ok(Figures {
        x: 0.0,
        cpu_us: used / answers.max(1.0),
        cpu_us_per_mib: used / mib,
        resident_mib: resident,
    })
}

/// Returns by what `y` grows when `x` grows by `step`, judged by two points.
fn growth(step: f64, from: (f64, f64), to: (f64, f64)) -> f64 {
    (to.1 / from.1).powf(step.ln() / (to.0 / from.0).ln())
}

fn table(name: &str, show: fn(f64) -> String, figures: &[Figures]) -> String {
    let step = if name == "cores" { 2.0 } else { 10.0 };
    let mut text = format!(
        "| {name} | CPU us/hit | x{step} | CPU us/MiB | x{step} | resident MiB | x{step} |\n|---|---|---|---|---|---|---|\n"
    );
    let columns: [fn(&Figures) -> f64; 3] =
        [|point| point.cpu_us, |point| point.cpu_us_per_mib, |point| point.resident_mib];
    for (place, point) in figures.iter().enumerate() {
        // Formatting into a string cannot fail.
        let _ = write!(text, "| {} |", show(point.x));
        for column in columns {
            let grown = place.checked_sub(1).map(|before| {
                let before = &figures[before];
                format!("{:.2}", growth(step, (before.x, column(before)), (point.x, column(point))))
            });
            let _ = write!(text, " {:.2} | {} |", column(point), grown.unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_for_a_tenfold_step() {
        assert!((growth(10.0, (1.0, 3.0), (10.0, 6.0)) - 2.0).abs() < 1e-9);
        assert!((growth(10.0, (1.0, 1.0), (100.0, 100.0)) - 10.0).abs() < 1e-9);
        assert!((growth(10.0, (1000.0, 5.0), (1_000_000.0, 5.0)) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn every_curve_is_there_and_ten_million_objects_only_in_full() {
        assert_eq!(curves(false).map(|(name, _, _)| name), CURVES);
        assert_eq!(curves(false)[0].2.len() + 1, curves(true)[0].2.len());
        let figures = |x| Figures { x, cpu_us: 5.0, cpu_us_per_mib: 50.0, resident_mib: 10.0 * x };
        let text = table("connections", |x| format!("{x}"), &[figures(1.0), figures(10.0)]);
        assert!(text.ends_with("| 10 | 5.00 | 1.00 | 50.00 | 1.00 | 100.00 | 10.00 |\n"), "{text}");
    }
}
