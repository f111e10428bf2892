//! An object that expires again and again under a steady load: how often the origin is asked to confirm it, and who waits for that.

use super::crowd::{self, Ask, Seen};
use super::script::{Answer, Asked, Script};
use super::{Figure, Stage};
use crate::content::Content;
use crate::stats::quantile;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The load.
const PER_SECOND: u32 = 500;
const LENGTH: Duration = Duration::from_secs(10);
/// How long a response stays fresh, as in the fields below, and how long the origin takes to confirm it.
const LIFETIME: Duration = Duration::from_secs(1);
const VALIDATION: Duration = Duration::from_millis(300);
/// A second request to the origin within this time after an answer is one too many: the stored response was fresh.
const TOO_SOON: Duration = Duration::from_millis(900);
/// Ages count in whole seconds, so a lifetime of 1 s may last 2 s; fewer expiries than this show nothing.
const EXPIRIES_MIN: f64 = 3.0;
/// An answer that took longer has waited for the origin; those that wait arrive over all of its time, so half of it finds half of them.
const WAIT: Duration = Duration::from_millis(150);
/// Most that anyone may wait where the stale response cannot be used: the origin's time and some of the machine's.
const WAIT_MS_MAX: f64 = 450.0;

const BRIEF: &str = "Cache-Control: max-age=1\r\nETag: \"one\"\r\n";
const REVALIDATE: &str = "Cache-Control: max-age=1, stale-while-revalidate=60\r\nETag: \"one\"\r\n";

/// Both kinds of object, one after the other.
pub(super) fn play(stage: &Stage) -> io::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let strict = load(stage, BRIEF)?;
    figures.extend(strict.validations("max-age=1"));
    figures.push(Figure::at_most("max-age=1: slowest answer", strict.latency(1.0), WAIT_MS_MAX, "ms"));
    let lenient = load(stage, REVALIDATE)?;
    let name = "with stale-while-revalidate";
    figures.extend(lenient.validations(name));
    let waited = lenient.seen.iter().filter(|each| each.took() > WAIT).count();
    figures.push(Figure::exactly(format!("{name}: viewers that waited"), waited as u64, 0));
    figures.push(Figure::told(format!("{name}: p99"), format!("{:.3} ms", lenient.latency(0.99))));
    figures.push(Figure::told(format!("{name}: slowest answer"), format!("{:.3} ms", lenient.latency(1.0))));
    Ok(figures)
}

struct Outcome {
    seen: Vec<Seen>,
    asked: Vec<Asked>,
}

fn load(stage: &Stage, fields: &'static str) -> io::Result<Outcome> {
    let path = "/expires";
    let mut body = vec![0; 2_000];
    Content::of(path).fill(0, &mut body);
    let body = Arc::new(body);
    let content = Arc::clone(&body);
    let origin = Script::start(move |_, head| {
        let conditional = head.field("if-none-match").is_some();
        let after = if conditional { VALIDATION } else { Duration::ZERO };
        let status = if conditional { 304 } else { 200 };
        Answer { status, ..Answer::whole(fields, &content, after) }
    })?;
    let product = stage.server(&origin, &[])?;
    // The first fetch is no validation and is not part of the load.
    let ask = Ask::now(path, &body);
    let mut seen = crowd::play(product.address, vec![ask.clone()], || {})?;
    seen.extend(crowd::steadily(product.address, &ask, PER_SECOND, LENGTH)?);
    Ok(Outcome { seen, asked: origin.asked() })
}

impl Outcome {
    /// What the origin saw: one request per expiry, all but the first conditional.
    fn validations(&self, name: &str) -> Vec<Figure> {
        let validations = self.asked.iter().skip(1);
        let plain = validations.clone().filter(|each| !each.conditional).count();
        vec![
            Figure::faults(&self.seen),
            Figure::at_least(format!("{name}: expiries"), validations.count() as f64, EXPIRIES_MIN, ""),
            Figure::exactly(format!("{name}: origin requests while it was fresh"), too_soon(&self.asked), 0),
            Figure::exactly(format!("{name}: origin requests without a condition"), plain as u64, 0),
        ]
    }

    /// Returns a quantile of the times of the answers in milliseconds.
    fn latency(&self, share: f64) -> f64 {
        let mut times: Vec<f64> = self.seen.iter().map(|each| each.took().as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        quantile(&times, share).unwrap_or(f64::INFINITY)
    }
}

/// Returns how many requests came before the answer to the one before them, or so soon after it that what it brought was fresh.
fn too_soon(asked: &[Asked]) -> u64 {
    let fresh_until = |each: &Asked| each.answered.map(|answered: Instant| answered + TOO_SOON);
    let pairs = asked.windows(2);
    pairs.filter(|pair| fresh_until(&pair[0]).is_none_or(|until| pair[1].at < until)).count() as u64
}

const _: () = assert!(TOO_SOON.as_millis() < LIFETIME.as_millis(), "an expiry is no fault");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_validation_of_one_expiry_is_found() {
        let start = Instant::now();
        let asked = |at: u64, answered: u64| Asked {
            path: "/".into(),
            conditional: true,
            at: start + Duration::from_millis(at),
            answered: Some(start + Duration::from_millis(answered)),
        };
        assert_eq!(too_soon(&[asked(0, 300), asked(1300, 1600), asked(2601, 2900)]), 0);
        assert_eq!(too_soon(&[asked(0, 300), asked(1, 301), asked(1301, 1601)]), 1);
        assert_eq!(too_soon(&[asked(0, 300), asked(1300, 1600), asked(1700, 1710)]), 1);
    }
}
