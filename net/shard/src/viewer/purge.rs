//! PURGE: a viewer in `--purge-from` invalidates what it names, and is answered when every core holds its answers against that.
//!
//! `viewer/hot.rs` comes here before the cache is asked; without `--purge-from` the method is the origin's, like any other. The control thread
//! accepts the rules ([`Purges`]) and says when they took effect. Invariants: nobody else invalidates anything; a
//! request that waits holds its connection and nothing more; it is answered whether or not the word of it gets through.

use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use aspis_cache::invalidation::{Rule, RuleError, What, Wildcards};
use aspis_exchange::ResultType;
use aspis_exchange::response_head::error::write_own;
use aspis_runtime::Close;
use aspis_runtime::future::{Either, race};
use aspis_runtime::mailbox::Post;
use aspis_runtime::sync::Notify;
use aspis_telemetry::Counter;
use aspis_wire::fields;
use aspis_wire::request::RequestHead;

use super::exchange::{parked_head, viewer_gone};
use crate::limits::{LINGER, PURGE_LOOK_INTERVAL, PURGES_MAX};
use crate::log::{Answered, Ended};
use crate::messages::Message;
use crate::numbered::Numbered;
use crate::rules::{Purged, Purges};
use crate::shard::Shard;
use crate::viewer::{Deadline, Viewer, ViewerState};

/// The method's name.
pub(super) const METHOD: &str = "PURGE";

/// The PURGE requests of one core.
pub(crate) struct Purging {
    purges: Option<Arc<dyn Purges>>,
    waiting: Numbered<Notify>,
}

impl Purging {
    pub(crate) fn new(purges: Option<Arc<dyn Purges>>) -> Self {
        Purging { purges, waiting: Numbered::default() }
    }
}

/// Tells a core what became of a purge, from whatever thread.
struct Teller {
    outcome: Arc<OnceLock<Purged>>,
    post: Post<Message>,
    core: usize,
    number: u64,
}

impl Teller {
    fn tell(&self, purged: Purged) {
        if self.outcome.set(purged).is_ok() {
            // Where the mailbox is full, be it this thread's own, the request looks for itself before long.
            let _ = self.post.send(self.core, Message::Purged(self.number));
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell(Err("the server is ending".to_owned()));
    }
}

impl Shard {
    /// Takes a PURGE request: refuses it, or has its rules accepted and answers when they took effect. The connection is busy or ends.
    pub(super) fn purge(
        &self,
        viewer: &Rc<Viewer>,
        head: &RequestHead<'_, '_>,
        raw: &[u8],
        started: Instant,
    ) {
        let address = viewer.address.get().ip().to_canonical();
        let may_purge = self.settings.purge_from.iter().any(|block| block.contains(&address));
        let waiting = self.purging.waiting.len();
        let (rules, purges) = match (rules_of(head), &self.purging.purges) {
            _ if !may_purge => return self.refuse(viewer, Some(head), 403, started),
            (Err(_), _) => return self.refuse(viewer, Some(head), 400, started),
            (Ok(_), None) => return self.refuse(viewer, Some(head), 503, started),
            (Ok(_), Some(_)) if waiting >= PURGES_MAX => {
                return self.refuse(viewer, Some(head), 503, started);
            }
            (Ok(rules), Some(purges)) => (rules, Arc::clone(purges)),
        };
        viewer.state.set(ViewerState::Busy);
        viewer.expect(Deadline::None, 0);
        self.counters.add(Counter::RequestsRunning, 1);
        self.ring.spawn(run(self.handle(), Rc::clone(viewer), raw.into(), (purges, rules), started));
    }

    /// The word about a purge came.
    pub(crate) fn purged(&self, number: u64) {
        if let Some(changed) = self.purging.waiting.find(number) {
            changed.notify_all();
        }
    }

    async fn wait_for_purge(&self, purges: &dyn Purges, rules: Vec<Rule>) -> Purged {
        let place = self.purging.waiting.place(Rc::new(Notify::new()));
        let outcome = Arc::new(OnceLock::new());
        let teller = Teller {
            outcome: Arc::clone(&outcome),
            post: self.post_box(),
            core: self.core,
            number: place.number,
        };
        purges.purge(rules, Box::new(move |purged| teller.tell(purged)));
        loop {
            let changed = place.told.notified();
            if let Some(purged) = outcome.get() {
                return purged.clone();
            }
            race(changed, self.ring.sleep(PURGE_LOOK_INTERVAL)).await;
        }
    }
}

/// Waits until the rules took effect, and answers.
async fn run(
    shard: Rc<Shard>,
    viewer: Rc<Viewer>,
    raw: Box<[u8]>,
    (purges, rules): (Arc<dyn Purges>, Vec<Rule>),
    started: Instant,
) {
    let mut fields = Vec::new();
    let head = parked_head(&raw, &mut fields, &shard.head_limits);
    let waited = race(shard.wait_for_purge(&*purges, rules), viewer_gone(&viewer)).await;
    let Either::Left(purged) = waited else {
        shard.count_abort(&viewer);
        shard.counters.sub(Counter::RequestsRunning, 1);
        return shard.close_viewer(&viewer, Close::Reset);
    };
    let (status, body) = match purged {
        Ok(number) => (200, format!("{{\"number\":{number},\"status\":\"Completed\"}}\n")),
        Err(why) => (503, format!("{{\"status\":\"Failed\",\"detail\":\"{}\"}}\n", escaped(&why))),
    };
    // Where the next request begins is not known behind content that nobody reads.
    let keep_alive = head.keep_alive && !head.has_content() && !shard.draining.get();
    let mut out = Vec::with_capacity(256);
    let wall = shard.ring.wall_seconds();
    write_own(
        &shard.behavior,
        status,
        "application/json",
        body.as_bytes(),
        (head.version, keep_alive),
        wall,
        &mut out,
    );
    let ended = Ended {
        status,
        sent_len: out.len() as u64,
        // None of the words fits: the origin was not asked, nor the cache.
        result: if status == 200 { ResultType::Miss } else { ResultType::Error },
        forward: None,
        collapsed: false,
        started,
        answered: Answered::Last,
    };
    shard.ring.send_owned(viewer.socket, out);
    shard.record(&viewer, Some(&head), &ended);
    shard.counters.sub(Counter::RequestsRunning, 1);
    if keep_alive {
        shard.resume(&viewer);
    } else {
        shard.close_viewer(&viewer, Close::Linger(LINGER));
    }
}

/// What a PURGE request names: the tags of its `Surrogate-Key` or `xkey` fields, wherever they are stored; else its own URL, of its host, with
/// all that is stored under it (I-11). `Soft-Purge: 1` makes it stale instead.
fn rules_of(head: &RequestHead<'_, '_>) -> Result<Vec<Rule>, RuleError> {
    let is_one = |name| head.field(name).is_some_and(|value| fields::trim(value) == b"1");
    let soft = is_one("soft-purge") || is_one("fastly-soft-purge");
    let tags = ["surrogate-key", "xkey"].into_iter().flat_map(|name| head.fields_named(name));
    let mut tags = tags
        .flat_map(|value| value.split(|byte| b" \t".contains(byte)))
        .filter(|tag| !tag.is_empty())
        .peekable();
    if tags.peek().is_some() {
        let text = |tag| std::str::from_utf8(tag).map_err(|_| RuleError::TagByte);
        return tags.map(|tag| Rule::tag(text(tag)?, None, soft)).collect();
    }
    // The URL is meant as it is: a `*` at its end is a character like any other.
    let what = What::Exact(head.path_and_query.into());
    let checked = Rule::path(head.path_and_query, Some(head.authority), soft, Wildcards::Trailing)?;
    Ok(vec![Rule { what, ..checked }])
}

/// Text as it stands in a JSON string.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspis_wire::request::parse_request;
    use aspis_wire::{FieldSlots, HeadLimits};

    fn rules(target: &str, fields: &str) -> Result<Vec<Rule>, RuleError> {
        let text = format!("PURGE {target} HTTP/1.1\r\nHost: A.example:80\r\n{fields}\r\n");
        let mut slots = FieldSlots::new();
        rules_of(&parse_request(text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap())
    }

    #[test]
    fn a_request_names_its_url_or_tags() {
        let tag = |text| Rule::tag(text, None, false).unwrap();
        let url =
            |path: &str| Rule { host: Some("a.example".into()), what: What::Exact(path.into()), soft: false };
        assert_eq!(rules("/a?b*", ""), Ok(vec![url("/a?b*")]));
        assert_eq!(rules("/", "Soft-Purge: 1\r\n"), Ok(vec![Rule { soft: true, ..url("/") }]));
        assert_eq!(rules("/", "Fastly-Soft-Purge: 0\r\n"), Ok(vec![url("/")]));
        assert_eq!(rules("/", "Surrogate-Key: a  b\r\nxkey: c\r\n"), Ok(vec![tag("a"), tag("b"), tag("c")]));
        let long = "x".repeat(257);
        assert_eq!(rules("/", &format!("xkey: {long}\r\n")), Err(RuleError::TagTooLong));
        assert_eq!(rules(&format!("/{}", long.repeat(16)), ""), Err(RuleError::PathTooLong));
    }

    #[test]
    fn a_detail_cannot_end_its_string() {
        assert_eq!(escaped("no \"room\" \\ \n left"), "no \\\"room\\\" \\\\   left");
    }
}
