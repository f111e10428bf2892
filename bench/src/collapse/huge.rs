//! An object that memory cannot hold, before many who look at its beginning and few who read all of it: first from the origin, then from the disk.

use super::crowd::{self, Ask, Reads, Seen};
use super::script::{Answer, Script};
use super::{Figure, Stage, metric};
use crate::content::Content;
use crate::process::Scratch;
use crate::stats::quantile;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE: usize = 1 << 30;
/// Who reads the beginning, how much of it, and who reads all.
const GLANCERS: usize = 1_000;
const GLANCE_LEN: usize = 1 << 20;
const READERS: usize = 20;
/// The origin sends so many pieces, of a quarter of a slice each: the first after all have asked, the others after a rest, as fast as all readers together
/// can follow.
const PIECES: usize = 4096;
const HEAD_AFTER: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(1);
const OVER: Duration = Duration::from_secs(20);
/// Everything is on the disk by then.
const WRITTEN_MAX: Duration = Duration::from_secs(60);
const PATH: &str = "/huge";
const FIELDS: &str = "Cache-Control: public, max-age=3600\r\nETag: \"one\"\r\n";

/// Plays both passes.
pub(super) fn play(stage: &Stage) -> io::Result<Vec<Figure>> {
    let mut body = vec![0; SIZE];
    Content::of(PATH).fill(0, &mut body);
    let body = Arc::new(body);
    let content = Arc::clone(&body);
    let origin = Script::start(move |_, _| Answer {
        pieces: PIECES,
        over: OVER,
        rest: REST,
        ..Answer::whole(FIELDS, &content, HEAD_AFTER)
    })?;
    let folder = Scratch::of_state("collapse", None)?;
    let disk = folder.path().display().to_string();
    let product = stage.server(&origin, &["--disk", &disk, "--disk-size", "6GiB"])?;
    let crowd = |glance, readers| {
        let glancer = Ask { reads: glance, ..Ask::now(PATH, &body) };
        [vec![glancer; GLANCERS], vec![Ask::now(PATH, &body); readers]].concat()
    };
    let seen = crowd::play(product.address, crowd(Reads::Start(GLANCE_LEN), READERS), || {})?;
    let answered = origin.asked().iter().filter_map(|asked| asked.answered).min();
    let mut figures = vec![Figure::exactly("origin requests", origin.count(PATH), 1), Figure::faults(&seen)];
    // Nobody waits for the second piece, which comes when the rest is over.
    let mut late = late(&seen, answered);
    late.sort_by(f64::total_cmp);
    let at = |share| quantile(&late, share).unwrap_or(f64::INFINITY);
    let median = format!("{:.1} ms", at(0.5) * 1e3);
    figures.push(Figure::told("first byte after the origin's, p50", median));
    figures.push(Figure::at_most(
        "the same, worst: before the origin's next",
        at(1.0),
        REST.as_secs_f64(),
        "s",
    ));
    figures.push(Figure::told("the last reader has everything after", took(&seen)));
    let peak = product.server.status_bytes("VmHWM") >> 20;
    figures.push(Figure::told("peak memory of the server, for --memory 256MiB", format!("{peak} MiB")));

    product.written(WRITTEN_MAX)?;
    let before = (origin.asked().len() as u64, metric(&product, "aspis_disk_read_bytes_total")?);
    let seen = crowd::play(product.address, crowd(Reads::Range(GLANCE_LEN), READERS), || {})?;
    let read = metric(&product, "aspis_disk_read_bytes_total")? - before.1;
    figures.push(Figure::exactly("again, origin requests", origin.asked().len() as u64 - before.0, 0));
    figures.push(Figure::faults(&seen));
    figures.push(Figure::told("the last reader has everything after", took(&seen)));
    figures.push(Figure::told("read from disk", format!("{:.0} MiB", read / f64::from(1 << 20))));
    Ok(figures)
}

/// Seconds from the origin's first byte to each viewer's; endless for one that has none.
fn late(seen: &[Seen], answered: Option<Instant>) -> Vec<f64> {
    let late = |seen: &Seen| Some(seen.first?.saturating_duration_since(answered?).as_secs_f64());
    seen.iter().map(|each| late(each).unwrap_or(f64::INFINITY)).collect()
}

fn took(seen: &[Seen]) -> String {
    let longest = seen.iter().map(Seen::took).max().unwrap_or_default();
    format!("{:.1} s", longest.as_secs_f64())
}
