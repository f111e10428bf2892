//! The step of a request whose fetch was shared: the response that the fetch brought answers it, or another question has to be asked.
//!
//! The driver gives [`Event::Arrived`](super::Event::Arrived) when the owner of the key says that a fetch brought something that is stored. Invariants:
//! a response answers only requests that select its variant; a range is followed only where the fetch will be soon.

use aspis_cache::conditional::{self, Validators};
use aspis_cache::range::{self, ByteRange, Selection};
use aspis_cache::request_directives::Asked;
use aspis_cache::reuse::{self, Reuse};
use aspis_cache::stored::Part;
use aspis_cache::vary;
use aspis_config::Behavior;
use aspis_wire::Field;
use aspis_wire::request::RequestHead;

use super::facts::{Facts, Sent};
use super::stored::answer_kind;
use super::{
    Action, Aged, AnswerKind, Arriving, Collapsing, Conditions, Exchange, Forward, ForwardReason, ResultType,
    Role, Variant,
};
use crate::Now;
use crate::response_head::stored_fields;

/// How far behind the last byte that came a range may begin and still wait for the running fetch (C-10); what lies further on
/// comes sooner by a request of its own.
pub(super) const RANGE_REACH: u64 = 8 * 1024 * 1024;

/// What arrived, for whom.
pub(super) struct Arrival<'e> {
    pub(super) arriving: Arriving<'e>,
    pub(super) role: Role,
    pub(super) request: &'e RequestHead<'e, 'e>,
    pub(super) key_buffer: &'e mut Vec<u8>,
}

impl Exchange {
    /// Step 4 for a shared fetch: answers with what it brought (C-1, C-4), or says what to do instead.
    pub(super) fn arrived(
        &mut self,
        behavior: &Behavior,
        (facts, sent): (Facts, Sent),
        arrival: Arrival<'_>,
        now: Now,
    ) -> Action {
        let Arrival { arriving, role, request, key_buffer } = arrival;
        if role != Role::Lead && !is_selected(behavior, arriving.variant, request, key_buffer) {
            return Action::AskAgain;
        }
        let (Reuse::Fresh { age, ttl } | Reuse::Stale { age, ttl }) = reuse::reuse(arriving.meta, now.wall);
        let aged = Aged { age, ttl };
        if role != Role::Lead && is_too_old(facts, sent, &arriving, aged) {
            return self.forward_apart(facts, sent.conditions, Collapsing::Never, now);
        }
        let Some(kind) = kind(facts, &arriving, request) else {
            // C-10: another part of the same content; it is fetched beside the running fetch, with those who want the same.
            let is_far = role != Role::Lead && facts.range && facts.may_store();
            let collapsing = if is_far { Collapsing::Apart } else { Collapsing::Never };
            return self.forward_apart(facts, Conditions::Viewer, collapsing, now);
        };
        self.collapsed = role == Role::Collapsed;
        if role == Role::Lead {
            self.fwd_status = Some(if arriving.validated { 304 } else { 206 });
        }
        if role == Role::Restored {
            // The disk answers, not the origin (RFC 9211 §2.2).
            self.reason = None;
        }
        // C-4: who waited for another's fetch has a hit.
        let result = match role {
            Role::Collapsed | Role::Restored => ResultType::Hit,
            Role::Lead if arriving.validated => ResultType::RefreshHit,
            Role::Lead => ResultType::Miss,
        };
        Action::Answer(self.stored_answer(facts, arriving.meta.status, kind, aged, result, false))
    }

    /// Sends the request on beside the fetch that it was told of.
    fn forward_apart(
        &mut self,
        facts: Facts,
        conditions: Conditions,
        collapsing: Collapsing,
        now: Now,
    ) -> Action {
        let reason = self.reason.unwrap_or(ForwardReason::Miss);
        match self.forward(facts, reason, conditions, now) {
            Action::Forward(forward) => Action::Forward(Forward { collapsing, ..forward }),
            other => other,
        }
    }
}

/// RFC 9111 §4.1: a response that varies answers the requests that select it.
fn is_selected(
    behavior: &Behavior,
    variant: Option<Variant<'_>>,
    request: &RequestHead<'_, '_>,
    key_buffer: &mut Vec<u8>,
) -> bool {
    variant.is_none_or(|variant| {
        vary::extend_key(behavior, variant.names, request.fields, key_buffer) && *key_buffer == variant.key
    })
}

/// Whether the request's own directives want the origin asked, and the response came before the request did (RFC 9111 §5.2.1).
fn is_too_old(facts: Facts, sent: Sent, arriving: &Arriving<'_>, aged: Aged) -> bool {
    let asked = facts.directives.map(|directives| directives.judge(arriving.meta, aged.age, aged.ttl));
    arriving.meta.received_at < sent.at.wall && asked == Some(Asked::Validate)
}

/// What of the response the request gets; `None` if it has to be fetched in another way.
fn kind(facts: Facts, arriving: &Arriving<'_>, request: &RequestHead<'_, '_>) -> Option<AnswerKind> {
    let fields: Vec<Field<'_>> = stored_fields(arriving.head).collect();
    let validators = Validators::of(&fields, arriving.meta.generated_at);
    if let Some(part) = arriving.meta.part {
        let applies = conditional::range_applies(request.fields, &validators);
        return part_of(part, arriving, request)
            .filter(|_| facts.range && applies && !facts.conditional)
            .map(AnswerKind::Part);
    }
    let whole_len = arriving.length.unwrap_or(u64::MAX);
    let is_whole = arriving.length == Some(arriving.published);
    match answer_kind(facts, arriving.meta.status, &validators, request, whole_len) {
        AnswerKind::Part(_) | AnswerKind::Parts | AnswerKind::Unsatisfiable if arriving.length.is_none() => {
            None
        }
        AnswerKind::Part(range) if range.start > arriving.published.saturating_add(RANGE_REACH) => None,
        AnswerKind::Parts if !is_whole => None,
        kind => Some(kind),
    }
}

/// The range that is asked for, if it lies in the part that arrives.
fn part_of(part: Part, arriving: &Arriving<'_>, request: &RequestHead<'_, '_>) -> Option<ByteRange> {
    let held = ByteRange { start: part.start, end: part.start + arriving.length? };
    match range::select(request.fields, part.total) {
        Selection::Parts(ranges) => match ranges.as_slice() {
            [one] if one.start >= held.start && one.end <= held.end => Some(*one),
            _ => None,
        },
        Selection::Whole | Selection::Unsatisfiable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{META, NOW, Run, STORED_HEAD};
    use super::*;
    use crate::exchange::Event;
    use aspis_cache::stored::StoredMeta;

    fn arriving(meta: &StoredMeta) -> Arriving<'_> {
        let head = STORED_HEAD;
        Arriving { meta, head, length: Some(100), published: 10, variant: None, validated: false }
    }

    /// Asks for `text`, misses, and is told that a fetch brought `arriving`.
    fn told(text: &str, arriving: Arriving<'_>, role: Role) -> (Action, Run) {
        let mut run = Run::new(&[]);
        run.request(text);
        run.step(Event::NotFound);
        let action = run.arrives(arriving, role);
        (action, run)
    }

    fn kind(action: Action) -> AnswerKind {
        let Action::Answer(answer) = action else { panic!("{action:?}") };
        answer.kind
    }

    /// C-4, RFC 9211 §2.6.
    #[test]
    fn leader_misses_and_followers_hit() {
        let get = "GET /x HTTP/1.1\nHost: a\n\n";
        for (role, validated, result) in [
            (Role::Lead, false, ResultType::Miss),
            (Role::Lead, true, ResultType::RefreshHit),
            (Role::Collapsed, false, ResultType::Hit),
            (Role::Collapsed, true, ResultType::Hit),
        ] {
            let (action, run) = told(get, Arriving { validated, ..arriving(&META) }, role);
            assert_eq!(kind(action), AnswerKind::Whole);
            assert_eq!(run.exchange.result(), result);
            assert_eq!(run.exchange.is_collapsed(), role == Role::Collapsed);
            assert_eq!(run.exchange.forward_reason(), Some(ForwardReason::UriMiss));
        }
    }

    /// What comes from disk is a hit as one from memory is: nothing was forwarded, nothing collapsed (RFC 9211 §2.1).
    #[test]
    fn what_comes_from_disk_is_a_plain_hit() {
        for (text, kind_of_answer) in [
            ("GET /x HTTP/1.1\nHost: a\n\n", AnswerKind::Whole),
            (
                "GET /x HTTP/1.1\nHost: a\nRange: bytes=5-9\n\n",
                AnswerKind::Part(ByteRange { start: 5, end: 10 }),
            ),
            ("GET /x HTTP/1.1\nHost: a\nIf-None-Match: \"a\"\n\n", AnswerKind::NotModified),
        ] {
            let (action, run) = told(text, arriving(&META), Role::Restored);
            assert_eq!(kind(action), kind_of_answer);
            assert_eq!(run.exchange.result(), ResultType::Hit);
            assert_eq!((run.exchange.forward_reason(), run.exchange.is_collapsed()), (None, false));
        }
        let far = format!("GET /x HTTP/1.1\nHost: a\nRange: bytes={0}-{0}\n\n", 2 * RANGE_REACH);
        let whole = Arriving { length: Some(10 * RANGE_REACH), ..arriving(&META) };
        let (action, run) = told(&far, whole, Role::Restored);
        assert!(matches!(action, Action::Forward(forward) if forward.collapsing == Collapsing::Apart));
        assert_eq!(run.exchange.forward_reason(), Some(ForwardReason::UriMiss));
    }

    /// RFC 9111 §5.2.1.7: who asks for nothing but what is stored gets what comes from disk.
    #[test]
    fn a_request_for_what_is_stored_follows_the_disk() {
        let mut run = Run::new(&[("request-directives", "on")]);
        run.request("GET /x HTTP/1.1\nHost: a\nCache-Control: only-if-cached\n\n");
        let Action::Forward(forward) = run.step(Event::NotHere) else { panic!("the owner is asked") };
        assert_eq!(forward.collapsing, Collapsing::OnlyStored);
        assert_eq!(kind(run.arrives(arriving(&META), Role::Restored)), AnswerKind::Whole);
        assert_eq!(run.exchange.result(), ResultType::Hit);
    }

    /// C-3: a HEAD is answered by a running fetch; it starts none.
    #[test]
    fn a_head_follows_and_gets_no_content() {
        let (action, _) = told("HEAD /x HTTP/1.1\nHost: a\n\n", arriving(&META), Role::Collapsed);
        assert!(matches!(action, Action::Answer(answer) if !answer.send_body));
        let mut run = Run::new(&[]);
        run.request("HEAD /x HTTP/1.1\nHost: a\n\n");
        let Action::Forward(forward) = run.step(Event::NotFound) else { panic!("a miss") };
        assert_eq!(forward.collapsing, Collapsing::FollowOnly);
    }

    /// C-10: what the running fetch covers soon is followed, the rest is asked for.
    #[test]
    fn ranges_follow_a_fetch_that_will_soon_be_there() {
        let asked = |range: &str, length, published| {
            let text = format!("GET /x HTTP/1.1\nHost: a\nRange: bytes={range}\n\n");
            told(&text, Arriving { length, published, ..arriving(&META) }, Role::Collapsed).0
        };
        let far = RANGE_REACH + 1000;
        let whole = Some(10 * RANGE_REACH);
        let part = |start, end| AnswerKind::Part(ByteRange { start, end });
        assert_eq!(kind(asked("5-9", whole, 0)), part(5, 10));
        assert_eq!(kind(asked(&format!("{far}-{far}"), whole, 1000)), part(far, far + 1));
        for (range, length, published) in [
            (format!("{far}-{far}"), whole, 999),
            ("-5".to_string(), None, 1000),
            ("0-1,4-5".to_string(), whole, 1000),
        ] {
            let action = asked(&range, length, published);
            let apart = matches!(action, Action::Forward(forward) if forward.collapsing == Collapsing::Apart);
            assert!(apart, "{range}: {action:?}");
        }
        assert_eq!(kind(asked("0-1,4-5", Some(1000), 1000)), AnswerKind::Parts);
        assert_eq!(kind(asked("2000-", Some(1000), 1000)), AnswerKind::Unsatisfiable);
    }

    #[test]
    fn a_shared_part_answers_the_ranges_that_lie_in_it() {
        let meta = StoredMeta { status: 206, part: Some(Part { start: 100, total: 1000 }), ..META };
        let asked = |fields: &str| {
            let text = format!("GET /x HTTP/1.1\nHost: a\n{fields}\n");
            told(&text, arriving(&meta), Role::Collapsed).0
        };
        assert_eq!(
            kind(asked("Range: bytes=150-159\n")),
            AnswerKind::Part(ByteRange { start: 150, end: 160 })
        );
        for fields in ["Range: bytes=150-200\n", "", "Range: bytes=150-159\nIf-None-Match: \"a\"\n"] {
            assert!(matches!(asked(fields), Action::Forward(_)), "{fields}");
        }
    }

    /// RFC 9111 §5.2.1.1, §5.2.1.4: what came before the request is older than such a request wants; what it waited for is not.
    #[test]
    fn a_request_that_wants_news_follows_only_what_came_after_it() {
        for directive in ["no-cache", "max-age=0", "min-fresh=1000000"] {
            let asked = |received_at| {
                let mut run = Run::new(&[("request-directives", "on")]);
                run.request(&format!("GET /x HTTP/1.1\nHost: a\nCache-Control: {directive}\n\n"));
                run.step(Event::NotFound);
                run.arrives(arriving(&StoredMeta { received_at, ..META }), Role::Collapsed)
            };
            let action = asked(NOW.wall - 1);
            let alone = matches!(action, Action::Forward(forward) if forward.collapsing == Collapsing::Never);
            assert!(alone, "{directive}: {action:?}");
            assert_eq!(kind(asked(NOW.wall)), AnswerKind::Whole, "{directive}");
        }
    }

    /// RFC 9110 §13.1.2: the shared fetch went out without the viewer's condition.
    #[test]
    fn a_follower_who_has_it_already_gets_a_304() {
        let text = "GET /x HTTP/1.1\nHost: a\nIf-None-Match: \"a\"\n\n";
        assert_eq!(kind(told(text, arriving(&META), Role::Collapsed).0), AnswerKind::NotModified);
    }

    /// RFC 9111 §4.1.
    #[test]
    fn a_follower_of_another_variant_asks_again() {
        let asked = |language: &str, role| {
            let text = format!("GET /x HTTP/1.1\nHost: a\nAccept-Language: {language}\n\n");
            let mut run = Run::new(&[]);
            run.request(&text);
            run.step(Event::NotFound);
            let mut key = run.key.clone();
            let field = Field { name: "Accept-Language", value: b"de" };
            assert!(vary::extend_key(&run.behavior, "accept-language", &[field], &mut key));
            let variant = Some(Variant { names: "accept-language", key: &key });
            run.arrives(Arriving { variant, ..arriving(&META) }, role)
        };
        assert_eq!(kind(asked("DE", Role::Collapsed)), AnswerKind::Whole);
        assert_eq!(asked("fr", Role::Collapsed), Action::AskAgain);
        assert_eq!(kind(asked("fr", Role::Lead)), AnswerKind::Whole);
    }

    /// C-8, C-9.
    #[test]
    fn an_error_that_is_not_stored_is_told_once_to_each() {
        let mut run = Run::new(&[]);
        run.request("GET /x HTTP/1.1\nHost: a\n\n");
        run.step(Event::NotFound);
        assert_eq!(run.errs(503), Action::Refuse { status: 503 });
        assert_eq!((run.exchange.status(), run.exchange.result()), (503, ResultType::Error));
        assert!(run.exchange.is_collapsed());
        // RFC 9110 §15.4.5.
        let mut run = Run::new(&[]);
        run.request("GET /x HTTP/1.1\nHost: a\n\n");
        run.step(Event::NotFound);
        assert_eq!(run.errs(304), Action::Refuse { status: 502 });
    }
}
