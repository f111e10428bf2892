//! `/v1/invalidations`: create, read and list (I-2 to I-6, as JSON).
//!
//! A request is obeyed as a whole or not at all, and answered when its invalidation cannot be lost any more. What refuses it is a problem
//! document that names the item. The guard has been asked before.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_LENGTH, HeaderValue, LOCATION};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{error::Elapsed, timeout};

use super::batch::{Batch, Item, ItemKind, Parsed, parse};
use super::limits::{BODY_LEN_MAX, BODY_TIMEOUT, LOG_WAIT_MAX, PAGE_LEN, PAGE_LEN_MAX, WAIT_MAX};
use super::record::Invalidation;
use super::registry::{Outcome, Refusal, Until, View};
use super::{Invalidations, time};
use crate::admin::{Problem, Query, Reply, reply};
use aspis_telemetry::Counter;

/// Where an invalidation is found.
const PATH: &str = "/v1/invalidations";

/// Answers `POST /v1/invalidations`.
pub(crate) async fn create<B>(invalidations: &Invalidations, request: Request<B>) -> Reply
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match created(invalidations, request).await {
        Ok(view) => {
            let document = document(&view);
            let location = format!("{PATH}/{}", document["id"].as_str().unwrap_or_default());
            let mut answer = reply::json(StatusCode::CREATED, &document);
            if let Ok(location) = HeaderValue::from_str(&location) {
                answer.headers_mut().insert(LOCATION, location);
            }
            answer
        }
        Err(problem) => problem.reply(),
    }
}

async fn created<B>(invalidations: &Invalidations, request: Request<B>) -> Result<View, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let asked_wait = wait_of(&Query::of(request.uri(), &["wait"])?)?;
    let body = body(invalidations, request).await?;
    let Parsed { batch, wait } = parse(&body, invalidations.wildcards)?;
    drop(body);
    accept(invalidations, batch, asked_wait.unwrap_or(wait)).await
}

async fn accept(invalidations: &Invalidations, batch: Batch, wait: Duration) -> Result<View, Problem> {
    let accepted = invalidations.accept(batch, Counter::InvalidationsApi);
    let number = accepted.map_err(|refusal| problem(&refusal))?;
    let view = match timeout(LOG_WAIT_MAX, until(invalidations, number, Until::Logged)).await {
        Ok(Ok(view)) => view,
        Ok(Err(cause)) => return Err(not_kept(&cause)),
        Err(Elapsed { .. }) => return Err(not_kept("rules.log: the disk did not answer in time")),
    };
    // It is kept, whatever becomes of the wait.
    Ok(completed(invalidations, view.clone(), wait).await.unwrap_or(view))
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

/// Reads a body within its limits.
async fn body<B>(invalidations: &Invalidations, request: Request<B>) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let too_long = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-long",
            format!("the body is longer than {BODY_LEN_MAX} bytes: send several requests"),
        )
    };
    let stated =
        request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if stated.is_some_and(|len| len > BODY_LEN_MAX as u64) {
        return Err(too_long());
    }
    let read = async {
        let _place = invalidations.bodies.acquire().await;
        Limited::new(request.into_body(), BODY_LEN_MAX).collect().await
    };
    match timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err(Problem::bad("body", format!("the body broke off: {error}"))),
        Err(Elapsed { .. }) => {
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body", "the body did not come in time"))
        }
    }
}

/// Answers `GET /v1/invalidations/ID`.
pub(crate) async fn read(invalidations: &Invalidations, id: &str, query: &Query) -> Reply {
    let found = invalidations.up_to_date().by_id(id);
    let Some(view) = found else {
        return Problem::new(
            StatusCode::NOT_FOUND,
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
        Ok(view) => reply::json(StatusCode::OK, &document(&view)),
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
    let items: Vec<Value> = page.iter().map(|view| summary(view, &view.read())).collect();
    let next = items.last().filter(|_| is_truncated).map(|last| last["id"].clone());
    let mut list = json!({
        "quantity": items.len(),
        "max_items": count,
        "is_truncated": is_truncated,
        "items": items,
    });
    if let Some(next) = next {
        list["next_marker"] = next;
    }
    reply::json(StatusCode::OK, &list)
}

fn wait_of(query: &Query) -> Result<Option<Duration>, Problem> {
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
        Refusal::OtherItems(_) => Problem::new(StatusCode::CONFLICT, "caller-reference", detail),
        Refusal::TooMany => Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-in-progress", detail)
            .with("retry-after", "1"),
        Refusal::Log(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log", detail).with("retry-after", "1")
        }
    }
    .applied(false)
}

/// The log failed after the cores were told.
fn not_kept(cause: &str) -> Problem {
    let detail = format!(
        "{cause}. The invalidation is in force in this process, but would be lost with it: send it again when that is mended"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log", detail).with("retry-after", "1").applied(true)
}

/// Status as I-3 has it.
fn status(view: &View) -> &'static str {
    if view.is_completed { "Completed" } else { "InProgress" }
}

/// What a list tells of one.
fn summary(view: &View, invalidation: &Invalidation) -> Value {
    let mut summary = json!({
        "id": invalidation.id,
        "number": view.number,
        "status": status(view),
        "create_time": time::text(invalidation.created_ms),
        "soft": invalidation.batch.soft,
        "item_count": invalidation.batch.items.len(),
    });
    if let Some(reference) = &invalidation.batch.reference {
        summary["caller_reference"] = json!(reference);
    }
    summary
}

/// The whole of one.
fn document(view: &View) -> Value {
    let invalidation = view.read();
    let mut document = summary(view, &invalidation);
    let items = &invalidation.batch.items;
    let of = |kind: ItemKind| {
        let texts = items.iter().filter(|item| item.kind == kind).map(|Item { text, .. }| json!(text));
        texts.collect::<Vec<Value>>()
    };
    for (name, kind) in [
        ("paths", ItemKind::Path),
        ("tags", ItemKind::Tag),
        ("hosts", ItemKind::Host),
        ("tag_hashes", ItemKind::TagHash),
    ] {
        let texts = of(kind);
        if !texts.is_empty() {
            document[name] = texts.into();
        }
    }
    if !of(ItemKind::All).is_empty() {
        document["all"] = json!(true);
    }
    document
}
