//! `GET /v1/explain?url=URL`: what the cache knows of a URL and what would become of a request for it now.
//!
//! The owner of the key answers on its core; here the URL becomes the head of a GET as a viewer would send it, and the answer becomes JSON.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use aspis_exchange::ViewerFacts;
use aspis_shard::{Explanation, Shards};
use aspis_wire::Scheme;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::admin::{Problem, Query, Reply, reply};

/// How long the owner's core may take.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// The longest URL.
pub(crate) const URL_LEN_MAX: usize = 16 << 10;

/// What is called with the answer, on the owner's core.
pub(crate) type Done = Box<dyn FnOnce(Explanation) + Send>;

/// Who knows: the cores.
pub(crate) trait Explains: Send + Sync {
    /// Asks the owner of a request's key. The error says what is wrong with the head.
    fn explain(&self, head: Box<[u8]>, viewer: &ViewerFacts, done: Done) -> Result<(), &'static str>;
}

impl Explains for Shards {
    fn explain(&self, head: Box<[u8]>, viewer: &ViewerFacts, done: Done) -> Result<(), &'static str> {
        Shards::explain(self, head, viewer, done)
    }
}

/// A URL as a request for it has its parts.
#[derive(Debug, PartialEq, Eq)]
struct Target<'u> {
    scheme: Scheme,
    authority: &'u str,
    path_and_query: &'u str,
}

/// Answers the request.
pub(crate) async fn answer(cores: &dyn Explains, query: &Query) -> Result<Reply, Problem> {
    let refuse = |why: &str| Problem::bad("url", why.to_owned());
    let url = query
        .value("url")
        .ok_or_else(|| refuse("give the URL, percent-encoded: ?url=http%3A%2F%2Fhost%2Fpath"))?;
    let target = target(url).ok_or_else(|| {
        refuse(
            "expected a URL with http or https, a host, and no blanks, such as http://www.example.com/a?b=1",
        )
    })?;
    let head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.path_and_query, target.authority);
    let viewer =
        ViewerFacts { scheme: target.scheme, address: IpAddr::V4(Ipv4Addr::LOCALHOST), trusted: false };
    let (tell, told) = oneshot::channel();
    // The one who asked may have gone away.
    let done: Done = Box::new(move |explanation| drop(tell.send(explanation)));
    cores.explain(head.into_bytes().into(), &viewer, done).map_err(refuse)?;
    match timeout(ANSWER_WAIT, told).await {
        Ok(Ok(explanation)) => Ok(reply::json(200, &document(&explanation))),
        _ => Err(Problem::new(503, "explain", "the core that owns this URL did not answer in time")),
    }
}

/// Splits a URL. What a request's line or field could not hold is none: it would begin another one.
fn target(url: &str) -> Option<Target<'_>> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let (authority, path_and_query) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let path_and_query = path_and_query.split('#').next().unwrap_or_default();
    let is_sound = !authority.is_empty()
        && path_and_query.starts_with('/')
        && url.len() <= URL_LEN_MAX
        && url.bytes().all(|byte| byte.is_ascii_graphic());
    is_sound.then_some(Target { scheme, authority, path_and_query })
}

fn document(explanation: &Explanation) -> Value {
    let Explanation { key, hash, owner_core, stored, varies_by, variants, parts, in_flight, .. } =
        explanation;
    json!({
        "key": String::from_utf8_lossy(key).split('\n').collect::<Vec<_>>(),
        "hash": format!("{hash:032x}"),
        "core": owner_core,
        "stored": stored.as_ref().map(|stored| json!({
            "status": stored.status,
            "age": stored.age,
            "lifetime": stored.lifetime,
            "fresh_for": stored.ttl,
            "length": stored.len,
            "tags": stored.tags,
            "number": stored.number,
            "uses": stored.uses,
            "can_be_validated": stored.can_be_validated,
            "mapped": stored.mapped,
        })),
        "varies_by": varies_by,
        "variants": variants,
        "parts": parts,
        "on_disk": explanation.on_disk,
        "in_flight": in_flight,
        "alone_for_ms": explanation.alone_for_millis,
        "number_applied": explanation.rules_applied,
        "why": explanation.why.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        let of = |url| target(url).map(|target| (target.scheme, target.authority, target.path_and_query));
        assert_eq!(of("http://a.example:81/b?c=1"), Some((Scheme::Http, "a.example:81", "/b?c=1")));
        assert_eq!(of("https://a"), Some((Scheme::Https, "a", "/")));
        assert_eq!(of("http://a/b#part"), Some((Scheme::Http, "a", "/b")));
        for url in [
            "/a",
            "a/b",
            "ftp://a/",
            "http://",
            "http:///a",
            "http://a?b",
            "http://a/ b",
            "http://a/\r\nX: y",
            "http://\u{e4}/",
        ] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
