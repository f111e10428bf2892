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
/// How long the origin takes to confirm the response, which stays fresh for a second.
const VALIDATION: Duration = Duration::from_millis(300);
/// Clocks may differ so much where a second begins.
const TICK: Duration = Duration::from_millis(50);
/// Fewer expiries than this show nothing.
const EXPIRIES_MIN: f64 = 5.0;
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
            Figure::exactly(
                format!("{name}: origin requests beyond one per expiry"),
                too_soon(&self.asked),
                0,
            ),
            Figure::told(format!("{name}: shortest time between two"), format!("{:.0} ms", self.shortest())),
            Figure::exactly(format!("{name}: origin requests without a condition"), plain as u64, 0),
        ]
    }

    /// Returns the shortest time from one origin request to the next in milliseconds.
    fn shortest(&self) -> f64 {
        let gaps = self.asked.windows(2).map(|pair| pair[1].at.saturating_duration_since(pair[0].at));
        gaps.min().map_or(f64::NAN, |gap| gap.as_secs_f64() * 1e3)
    }

    /// Returns a quantile of the times of the answers in milliseconds.
    fn latency(&self, share: f64) -> f64 {
        let mut times: Vec<f64> = self.seen.iter().map(|each| each.took().as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        quantile(&times, share).unwrap_or(f64::INFINITY)
    }
}

/// Returns how many requests were not the first of their expiry.
///
/// Times of HTTP are in whole seconds, and the time of an answer counts into its age (RFC 9111 section 4.2.3), so what was asked for within one
/// second expires when the next one begins. A request before the answer to the one before it, or within the same second, is one too many.
fn too_soon(asked: &[Asked]) -> u64 {
    let expired = |first: &Asked, next: &Asked| {
        let answered = first.answered.is_some_and(|answered: Instant| answered <= next.at);
        answered && (next.wall + TICK).as_secs() > first.wall.as_secs()
    };
    asked.windows(2).filter(|pair| !expired(&pair[0], &pair[1])).count() as u64
}

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
            wall: Duration::from_millis(at),
            answered: Some(start + Duration::from_millis(answered)),
        };
        assert_eq!(
            too_soon(&[asked(1900, 1900), asked(2001, 2301), asked(3000, 3301), asked(3999, 4299)]),
            0
        );
        assert_eq!(too_soon(&[asked(1001, 1301), asked(1002, 1302), asked(2001, 2301)]), 1);
        assert_eq!(too_soon(&[asked(1001, 1301), asked(1700, 1710)]), 1);
        assert_eq!(too_soon(&[asked(1001, 2301), asked(2200, 2400)]), 1);
    }
}
