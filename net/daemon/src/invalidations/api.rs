//! `/v1/invalidations`: create, read and list (I-2 to I-6, as JSON).
//!
//! A request is obeyed as a whole or not at all, and answered when its invalidation cannot be lost any more. What refuses it is a problem
//! document that names the item. The guard has been asked before.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{error::Elapsed, timeout};

use super::batch::{ItemKind, Parsed, parse};
use super::limits::{LOG_WAIT_MAX, PAGE_LEN, PAGE_LEN_MAX, WAIT_MAX};
use super::record::Front;
use super::registry::{Outcome, Refusal, Until, View};
use super::{Invalidations, time};
use crate::admin::{Alarm, Problem, Query, Reply, reply};
use aspis_telemetry::Counter;

/// Where an invalidation is found.
const PATH: &str = "/v1/invalidations";

/// One that was accepted, and is not answered yet.
pub(crate) struct Accepted {
    number: u64,
    /// How long its sender waits for completion.
    wait: Duration,
}

/// Takes the content of `POST /v1/invalidations`. What the query says of waiting goes before what the content says.
pub(crate) fn accept(
    invalidations: &Invalidations,
    content: &[u8],
    asked_wait: Option<Duration>,
) -> Result<Accepted, Problem> {
    let Parsed { batch, wait } = parse(content, invalidations.wildcards)?;
    let accepted = invalidations.accept(batch, Counter::InvalidationsApi);
    let number = accepted.map_err(|refusal| problem(&refusal))?;
    Ok(Accepted { number, wait: asked_wait.unwrap_or(wait) })
}

/// Answers it when it cannot be lost any more.
pub(crate) async fn kept(invalidations: &Invalidations, accepted: Accepted, alarm: &mut Alarm) -> Reply {
    let Accepted { number, wait } = accepted;
    let view = match alarm.within(LOG_WAIT_MAX, until(invalidations, number, Until::Logged)).await {
        Some(Ok(view)) => view,
        Some(Err(cause)) => return not_kept(&cause).reply(),
        None => return not_kept("rules.log: the disk did not answer in time").reply(),
    };
    // It is kept, whatever becomes of the wait.
    let view = completed(invalidations, view.clone(), wait).await.unwrap_or(view);
    let front = view.front();
    reply::json(201, &Document::whole(&view, &front)).with("location", format!("{PATH}/{}", front.id))
}

/// Waits until it is completed; if that takes longer, the state is told as it is.
async fn completed(invalidations: &Invalidations, view: View, wait: Duration) -> Outcome {
    if view.is_completed || wait.is_zero() {
        return Ok(view);
    }
    // Who finds too many waiting before learns the state as it is, and may ask again.
    let Ok(_place) = invalidations.waiting.try_acquire() else { return Ok(view) };
    match timeout(wait, until(invalidations, view.number, Until::Completed)).await {
        Ok(outcome) => outcome,
        Err(Elapsed { .. }) => Ok(invalidations.view(view.number).unwrap_or(view)),
    }
}

async fn until(invalidations: &Invalidations, number: u64, until: Until) -> Outcome {
    let (tell, told) = oneshot::channel();
    // The one who asked may have gone away.
    invalidations.wait(number, until, Box::new(move |outcome| drop(tell.send(outcome))));
    told.await.unwrap_or_else(|_| Err("the server is ending".into()))
}

/// Answers `GET /v1/invalidations/ID`.
pub(crate) async fn read(invalidations: &Invalidations, id: &str, query: &Query) -> Reply {
    let found = invalidations.up_to_date().by_id(id);
    let Some(view) = found else {
        return Problem::new(
            404,
            "no-such-invalidation",
            format!("no invalidation has the id '{id}'; completed ones are forgotten, the oldest first"),
        )
        .reply();
    };
    let wait = match wait_of(query) {
        Ok(wait) => wait.unwrap_or_default(),
        Err(problem) => return problem.reply(),
    };
    match completed(invalidations, view, wait).await {
        Ok(view) => reply::json(200, &Document::whole(&view, &view.front())),
        Err(cause) => not_kept(&cause).reply(),
    }
}

/// Answers `GET /v1/invalidations`: newest first, in pages (I-2).
pub(crate) fn list(invalidations: &Invalidations, query: &Query) -> Reply {
    let count = match query.value("max_items").map(|text| (text, text.parse())) {
        None => PAGE_LEN,
        Some((_, Ok(count))) if (1..=PAGE_LEN_MAX).contains(&count) => count,
        Some((text, _)) => {
            return Problem::bad(
                "max-items",
                format!("expected max_items from 1 to {PAGE_LEN_MAX}, not '{text}'"),
            )
            .reply();
        }
    };
    let Some((page, is_truncated)) = invalidations.up_to_date().list(query.value("marker"), count) else {
        return Problem::bad("marker", "no invalidation has the id in marker; begin without it").reply();
    };
    #[derive(Serialize)]
    struct List<'l> {
        is_truncated: bool,
        items: Vec<Document<'l>>,
        max_items: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_marker: Option<&'l str>,
        quantity: usize,
    }
    let fronts: Vec<Front<'_>> = page.iter().map(View::front).collect();
    let items = page.iter().zip(&fronts).map(|(view, front)| Document::summary(view, front)).collect();
    let next_marker = fronts.last().filter(|_| is_truncated).map(|last| last.id);
    reply::json(200, &List { is_truncated, items, max_items: count, next_marker, quantity: page.len() })
}

/// Reads how long the query says to wait.
pub(crate) fn wait_of(query: &Query) -> Result<Option<Duration>, Problem> {
    let Some(text) = query.value("wait") else { return Ok(None) };
    let seconds = match text {
        "" | "true" => Some(WAIT_MAX.as_secs_f64()),
        "false" => Some(0.0),
        text => text.parse::<f64>().ok().filter(|seconds| (0.0..=WAIT_MAX.as_secs_f64()).contains(seconds)),
    };
    match seconds {
        Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        None => Err(Problem::bad(
            "wait",
            format!("expected wait=true, or seconds from 0 to {}, not '{text}'", WAIT_MAX.as_secs()),
        )),
    }
}

/// Says in words why a batch was not accepted.
pub(crate) fn describe(refusal: &Refusal) -> String {
    match refusal {
        Refusal::OtherItems(id) => {
            format!("this caller_reference belongs to the invalidation {id}, which has other items")
        }
        Refusal::TooMany => "too many invalidations are in progress: try again in a moment".to_owned(),
        Refusal::Log(cause) => format!("{cause}. Nothing was applied; try again when that is mended"),
    }
}

/// I-5: a reference with other items is a conflict.
fn problem(refusal: &Refusal) -> Problem {
    let detail = describe(refusal);
    match refusal {
        Refusal::OtherItems(_) => Problem::new(409, "caller-reference", detail),
        Refusal::TooMany => Problem::new(429, "too-many-in-progress", detail).with("retry-after", "1"),
        Refusal::Log(_) => Problem::new(503, "log", detail).with("retry-after", "1"),
    }
    .applied(false)
}

/// The log failed after the cores were told.
fn not_kept(cause: &str) -> Problem {
    let detail = format!(
        "{cause}. The invalidation is in force in this process, but would be lost with it: send it again when that is mended"
    );
    Problem::new(503, "log", detail).with("retry-after", "1").applied(true)
}

/// Status as I-3 has it.
fn status(view: &View) -> &'static str {
    if view.is_completed { "Completed" } else { "InProgress" }
}

/// What is told of one. The fields stand in the order of their names.
#[derive(Serialize)]
struct Document<'v> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller_reference: Option<&'v str>,
    create_time: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<&'v str>,
    id: &'v str,
    item_count: usize,
    number: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths: Vec<&'v str>,
    soft: bool,
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tag_hashes: Vec<&'v str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<&'v str>,
}

impl<'v> Document<'v> {
    /// What a list tells: all but the items.
    fn summary(view: &View, front: &Front<'v>) -> Self {
        Document {
            all: false,
            caller_reference: front.reference,
            create_time: time::text(front.created_ms),
            hosts: Vec::new(),
            id: front.id,
            item_count: front.items.len(),
            number: view.number,
            paths: Vec::new(),
            soft: front.soft,
            status: status(view),
            tag_hashes: Vec::new(),
            tags: Vec::new(),
        }
    }

    /// The whole of one.
    fn whole(view: &View, front: &Front<'v>) -> Self {
        let mut document = Self::summary(view, front);
        for &(kind, text) in &front.items {
            match kind {
                ItemKind::Path => document.paths.push(text),
                ItemKind::Tag => document.tags.push(text),
                ItemKind::Host => document.hosts.push(text),
                ItemKind::TagHash => document.tag_hashes.push(text),
                ItemKind::All => document.all = true,
            }
        }
        document
    }
}
