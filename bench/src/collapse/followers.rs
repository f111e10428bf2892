//! What followers wait for: the first byte of a body that trickles, and answers that cannot be shared.

use super::crowd::{self, Ask, Seen};
use super::script::{Answer, Script};
use super::{Figure, Stage};
use crate::content::Content;
use crate::stats::quantile;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Followers of each body.
const FOLLOWERS: u64 = 20;

/// Bodies that trickle at the same time, so that the 99th percentile is one of a hundred followers.
const BODIES: usize = 5;
/// Each comes in so many pieces of so many bytes.
const PIECES: usize = 40;
const PIECE_LEN: usize = 4 * 1024;
/// Time before the head, and from the first piece to the last.
const HEAD_AFTER: Duration = Duration::from_millis(300);
const TRICKLE: Duration = Duration::from_secs(4);
/// Most that the first byte of a follower may come after the origin's.
const FIRST_BYTE_MS_MAX: f64 = 50.0;

/// Followers of a trickle, half of them there before its head and half joining while it runs.
pub(super) fn trickle(stage: &Stage) -> io::Result<Vec<Figure>> {
    let mut body = vec![0; PIECES * PIECE_LEN];
    Content::of("/trickle").fill(0, &mut body);
    let body = Arc::new(body);
    let content = Arc::clone(&body);
    let origin = Script::start(move |_, _| Answer {
        pieces: PIECES,
        over: TRICKLE,
        ..Answer::whole("Cache-Control: max-age=3600\r\nETag: \"one\"\r\n", &content, HEAD_AFTER)
    })?;
    let product = stage.server(&origin, &[])?;
    let mut asks = Vec::new();
    for number in 0..BODIES {
        let path = format!("/trickle/{number}");
        for viewer in 0..=FOLLOWERS {
            let joins = viewer.saturating_sub(FOLLOWERS / 2) as u32;
            // Those that join spread over the trickle's time, at moments that are no multiple of a piece's.
            let gap = (TRICKLE - Duration::from_millis(170)) / (FOLLOWERS / 2) as u32;
            let after = if joins == 0 { Duration::ZERO } else { HEAD_AFTER + gap * joins };
            asks.push(Ask { after, ..Ask::now(&path, &body) });
        }
    }
    let paths: Vec<String> = asks.iter().map(|ask| ask.path.clone()).collect();
    let seen = crowd::play(product.address, asks, || {})?;
    let asked = origin.asked();
    let mut first: Vec<f64> = Vec::new();
    let mut last: Vec<f64> = Vec::new();
    for (each, path) in seen.iter().zip(&paths) {
        let own = asked.iter().find(|asked| asked.path == *path).and_then(|asked| asked.answered);
        // A viewer that came later counts from its own request.
        let began = own.unwrap_or(each.asked).max(each.asked);
        let late = |from: Instant, at: Instant| at.saturating_duration_since(from).as_secs_f64() * 1e3;
        first.push(each.first.map_or(f64::INFINITY, |at| late(began, at)));
        last.push(own.map_or(f64::INFINITY, |own| late(own + TRICKLE, each.done)));
    }
    first.sort_by(f64::total_cmp);
    last.sort_by(f64::total_cmp);
    let at = |sorted: &[f64], share| quantile(sorted, share).unwrap_or(f64::INFINITY);
    let median = format!("{:.3} ms", at(&first, 0.5));
    Ok(vec![
        Figure::exactly("origin requests", asked.len() as u64, BODIES as u64),
        Figure::faults(&seen),
        Figure::told("first byte after the origin's (or the request), p50", median),
        Figure::at_most("the same, p99", at(&first, 0.99), FIRST_BYTE_MS_MAX, "ms"),
        Figure::told("the same, worst", format!("{:.3} ms", at(&first, 1.0))),
        Figure::told("last byte after the origin's, p99", format!("{:.3} ms", at(&last, 0.99))),
    ])
}

/// Time that an answer that cannot be stored takes.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// The first time some wait for an answer that then is not theirs, and for their own: twice the origin's time cannot be helped.
const FIRST_ROUND_S_MAX: f64 = 2.1;
/// While it is known that nothing is stored nobody waits for anybody.
const MARKED_ROUND_S_MAX: f64 = 1.1;
/// Objects that are tried one after the other.
const TRIES: usize = 2;

/// Viewers of an answer with no-store, twice: unknown, then while the mark holds.
pub(super) fn no_store(stage: &Stage) -> io::Result<Vec<Figure>> {
    let mut body = vec![0; 10_000];
    Content::of("/no-store").fill(0, &mut body);
    let body = Arc::new(body);
    let content = Arc::clone(&body);
    let answer = move |_: &str, _: &_| Answer::whole("Cache-Control: no-store\r\n", &content, ANSWER_TIME);
    let origin = Script::start(answer)?;
    let product = stage.server(&origin, &[])?;
    let mut slowest = [0.0_f64; 2];
    let mut all: Vec<Seen> = Vec::new();
    for number in 0..TRIES {
        let path = format!("/no-store/{number}");
        for slowest in &mut slowest {
            let seen = crowd::play(product.address, vec![Ask::now(&path, &body); FOLLOWERS as usize], || {})?;
            let longest = seen.iter().map(|each| each.took().as_secs_f64()).fold(0.0, f64::max);
            *slowest = slowest.max(longest);
            all.extend(seen);
        }
    }
    let requests = FOLLOWERS * 2 * TRIES as u64;
    Ok(vec![
        Figure::exactly("origin requests", origin.asked().len() as u64, requests),
        Figure::faults(&all),
        Figure::at_most("the last of 20, the first time", slowest[0], FIRST_ROUND_S_MAX, "s"),
        Figure::at_most("the last of 20, while the mark holds", slowest[1], MARKED_ROUND_S_MAX, "s"),
    ])
}
