//! The words between the machine and its driver: what happened, and what to do.
//!
//! The driver makes events and obeys actions; [`Exchange::step`](super::Exchange::step) turns one into the other. Invariant: events
//! borrow, actions are plain values.

use aspis_cache::range::ByteRange;
use aspis_cache::reuse::{Reuse, reuse_until};
use aspis_cache::status::ForwardReason;
use aspis_cache::stored::StoredMeta;
use aspis_wire::request::RequestHead;
use aspis_wire::response::ResponseHead;

use crate::failure::OriginFailure;
use crate::forwarded::ViewerFacts;

/// A stored response, as the machine looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'e> {
    /// Its facts.
    pub meta: &'e StoredMeta,
    /// Its head as [`crate::response_head::write_stored`] made it.
    pub head: &'e [u8],
    /// The length of its complete content.
    pub len: u64,
    /// The wall second at which it stopped being fresh, unless its facts end that before: an invalidation may have (soft rules).
    pub fresh_until: u64,
}

impl Stored<'_> {
    /// Tells whether it is fresh at wall second `now`.
    #[inline]
    pub fn reuse(&self, now: u64) -> Reuse {
        reuse_until(self.meta, self.fresh_until, now)
    }
}

/// A response whose fetch was shared, as the machine looks at it. Its content may still be coming.
#[derive(Clone, Copy, Debug)]
pub struct Arriving<'e> {
    /// Its facts.
    pub meta: &'e StoredMeta,
    /// Its head as [`crate::response_head::write_stored`] made it.
    pub head: &'e [u8],
    /// The length of its complete content; `None` while that is not known.
    pub length: Option<u64>,
    /// How much of it is there.
    pub published: u64,
    /// By what it was chosen, if its URI varies.
    pub variant: Option<Variant<'e>>,
    /// The origin confirmed it: it was stored before (RFC 9111 §4.3.3).
    pub validated: bool,
}

/// Which variant of a URI a response is.
#[derive(Clone, Copy, Debug)]
pub struct Variant<'e> {
    /// The names of the fields by which it was chosen, as storage keeps them.
    pub names: &'e str,
    /// Its key, which begins with the primary key.
    pub key: &'e [u8],
}

/// What a request has to do with the fetch that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The fetch was made for it.
    Lead,
    /// It waited for the fetch of another (RFC 9111 §4, RFC 9211 §2.6).
    Collapsed,
    /// Nobody fetched: what was stored comes back from disk, for all who ask.
    Restored,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'e> {
    /// A viewer's head is complete.
    Request {
        /// The head, still in the receive buffer.
        head: &'e RequestHead<'e, 'e>,
        /// Who sent it.
        viewer: &'e ViewerFacts,
        /// Receives the cache key if the answer is [`Action::Lookup`].
        key_buffer: &'e mut Vec<u8>,
    },
    /// The responses under this key vary by these names.
    Varies {
        /// The names, as storage keeps them.
        names: &'e str,
        /// The request.
        head: &'e RequestHead<'e, 'e>,
        /// Holds the primary key; receives the variant's.
        key_buffer: &'e mut Vec<u8>,
    },
    /// The lookup found a stored response with exactly this key; or the owner of the key has one that was not looked at yet.
    Found {
        /// It.
        stored: Stored<'e>,
        /// The request.
        head: &'e RequestHead<'e, 'e>,
    },
    /// The lookup found none, or could not be done. Also what the owner of the key says to [`Collapsing::OnlyStored`].
    NotFound,
    /// The lookup found none, but the owner of the key may have it: another core, or this one on disk.
    NotHere,
    /// The lookup found none, but the cache keeps parts of some responses.
    NotWhole {
        /// Holds the primary key; receives the part's.
        key_buffer: &'e mut Vec<u8>,
    },
    /// The origin's final head came, or 101. Other interim heads are no event.
    OriginHead {
        /// The head, still in its buffer.
        head: &'e ResponseHead<'e, 'e>,
        /// The request, as the viewer sent it.
        request: &'e RequestHead<'e, 'e>,
        /// What was found and not served.
        stored: Option<Stored<'e>>,
    },
    /// The origin gave no answer, and no further attempt is allowed.
    OriginFailed {
        /// Why.
        failure: OriginFailure,
        /// Whether the fetch was made for this request.
        role: Role,
        /// The request, as the viewer sent it.
        request: &'e RequestHead<'e, 'e>,
        /// What was found and not served.
        stored: Option<Stored<'e>>,
    },
    /// The origin's answer is an error that is not stored, and it was told to all that waited for it (C-8).
    OriginErred {
        /// Its status.
        status: u16,
        /// Whether the fetch was made for this request.
        role: Role,
        /// The request, as the viewer sent it.
        request: &'e RequestHead<'e, 'e>,
        /// What was found and not served.
        stored: Option<Stored<'e>>,
    },
    /// The fetch that this request waited for brought a response that is stored, or on its way into the store (C-1); or it comes from disk.
    Arrived {
        /// It.
        arriving: Arriving<'e>,
        /// Whether the fetch was made for this request.
        role: Role,
        /// The request, as the viewer sent it.
        request: &'e RequestHead<'e, 'e>,
        /// Holds the primary key; used to see whether the response's variant is this request's.
        key_buffer: &'e mut Vec<u8>,
    },
    /// After its head, the origin's body broke.
    OriginBodyFailed(OriginFailure),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look up the key in the key buffer; answer with `Found`, `Varies` or `NotFound`.
    Lookup {
        /// Its hash.
        hash: u128,
    },
    /// Send the stored response that was found, whole.
    RespondStored {
        /// For `Age`.
        age: u32,
        /// For `Cache-Status`.
        ttl: i64,
        /// False for HEAD.
        send_body: bool,
    },
    /// Answer from the stored response that was found, other than as a plain hit.
    Answer(StoredAnswer),
    /// Send the request to the origin; answer with `OriginHead` or `OriginFailed`.
    Forward(Forward),
    /// Send the origin's response on.
    RespondOrigin {
        /// With these facts it is stored on the way; `None` if it is not.
        store: Option<StoredMeta>,
        /// What of its content goes to the viewer.
        content: Content,
        /// Before anything is sent: take away what [`crate::invalidation::keys`] names.
        invalidate: bool,
        /// What becomes of the stored response that was found.
        found: FoundChange,
    },
    /// The origin confirmed what is stored: make the new head of [`crate::response_head::write_freshened`] and answer from it.
    Freshen {
        /// With these facts it takes the old one's place; `None`: it is used for this answer, and nothing stays stored.
        store: Option<StoredMeta>,
        /// The answer.
        answer: StoredAnswer,
    },
    /// The origin sent exactly what was missing: answer 200 with what is stored and what comes (RFC 9111 §3.4).
    Join {
        /// With these facts the whole is stored on the way.
        store: Option<StoredMeta>,
    },
    /// The response that arrived is not for this request: ask the owner of the key anew.
    AskAgain,
    /// Send the 101 on and join the two connections.
    Tunnel,
    /// Answer with an error of our own.
    Refuse {
        /// Its status.
        status: u16,
    },
    /// End the viewer's connection so that the broken transfer shows.
    Cut,
    /// The event cannot happen now: a fault in the driver. Close the viewer's connection.
    OutOfOrder,
}

/// An answer from a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// What of it.
    pub kind: AnswerKind,
    /// For `Age`.
    pub age: u32,
    /// For `Cache-Status`.
    pub ttl: i64,
    /// False for HEAD.
    pub send_body: bool,
    /// Start a task that validates it, unless one runs already (RFC 5861 §3).
    pub refresh: bool,
}

/// What of a stored response is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// All.
    Whole,
    /// 304 with its fields.
    NotModified,
    /// 206 with this range.
    Part(ByteRange),
    /// 206 with the ranges that [`aspis_cache::range::select`] gives for this request.
    Parts,
    /// 416 with its length.
    Unsatisfiable,
    /// 412.
    PreconditionFailed,
}

/// What becomes of the stored response that was found, when the origin's answer is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundChange {
    /// It stays, until something takes its place.
    Keep,
    /// It is out of date (RFC 9111 §4.3.5).
    Forget,
    /// The answer to a HEAD brings it new fields, with these facts (RFC 9111 §4.3.5).
    Update(StoredMeta),
}

/// What of an origin's answer goes to the viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of it.
    Follows,
    /// There is none.
    None,
    /// None of it: the viewer has it already and gets a 304 (RFC 9110 §13.1.2).
    NotModified,
}

/// Whether a request shares its fetch with others for the same key (C-1 to C-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collapsing {
    /// It is answered by a running fetch, else it starts one for all.
    LeadOrFollow,
    /// It shares a fetch only with those who want the same range: a running fetch of the whole is too far from it (C-10).
    Apart,
    /// It is answered by a running fetch, else it goes alone (C-3).
    FollowOnly,
    /// It fetches nothing, and is answered by what the owner has stored (`only-if-cached`, RFC 9111 §5.2.1.7).
    OnlyStored,
    /// It goes alone (C-5).
    Never,
}

/// How a request goes to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Why the cache did not answer.
    pub reason: ForwardReason,
    /// The response may be stored if its head allows; false: it certainly is not.
    pub may_store: bool,
    /// The viewer asked for another protocol; `Upgrade` is passed on.
    pub upgrade: bool,
    /// Which preconditions the origin sees.
    pub conditions: Conditions,
    /// Whether the fetch is shared.
    pub collapsing: Collapsing,
}

/// Which preconditions an origin request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// The viewer's, and its Range. A fetch that is shared carries the Range alone: what it brings is for all.
    Viewer,
    /// Those that validate the stored response, in place of the viewer's (RFC 9111 §4.3.1).
    Stored,
    /// None at all.
    None,
    /// `Range: bytes=N-`: the rest of the stored prefix, with If-Range where its ETag is strong (rule 14).
    Rest,
}

impl AnswerKind {
    /// Returns the status that the viewer gets.
    pub const fn status(self, stored: u16) -> u16 {
        match self {
            Self::Whole => stored,
            Self::NotModified => 304,
            Self::Part(_) | Self::Parts => 206,
            Self::Unsatisfiable => 416,
            Self::PreconditionFailed => 412,
        }
    }
}
