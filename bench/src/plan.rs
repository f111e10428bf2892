//! What a URL of the drivers' origin promises: kind, size and content are written in its path.
//!
//! The viewer side makes a plan and knows from it what a right answer is; the origin reads the plan back and behaves so, however badly.

use crate::content::Content;
use std::fmt;

/// Most bytes in the answer to an upload.
const UPLOAD_ANSWER_LEN: u64 = 64 * 1024;

/// How the origin behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Storable for an hour, with a length.
    Fresh,
    /// The same with a date, without which some caches keep nothing.
    Dated,
    /// Storable for an hour, chunked.
    FreshChunked,
    /// Storable for a second.
    Brief,
    /// Not storable, with a length.
    Private,
    /// Not storable, chunked in uneven pieces.
    PrivateChunked,
    /// Not storable, ended by the end of the connection.
    UntilClose,
    /// The head comes after a while.
    Late,
    /// The body comes in pieces with pauses.
    Trickle,
    /// An interim response comes first.
    Interim,
    /// Reads a body and answers with its own.
    Upload,
    /// Answers before the body of the request came, then reads on.
    EarlyAnswer,
    /// Accepts an upgrade and echoes.
    Tunnel,
    /// More bytes than the length says.
    Overrun,
    /// Fewer bytes than the length says, then an orderly end. Claims to be storable.
    CutLength,
    /// No last chunk, then an orderly end. Claims to be storable.
    CutChunked,
    /// A reset within the body.
    ResetBody,
    /// A reset before any byte.
    ResetHead,
    /// An answer that is no HTTP.
    Garbage,
    /// Silence within the body, past every timeout.
    StallBody,
    /// Silence instead of a head, past every timeout.
    StallHead,
    /// Storable for a while, and another content every now and then and after each POST; has parts and validators.
    Changing,
    /// The same from an origin that also fails and breaks off.
    Ragged,
}

/// Every kind and the word for it in a path.
const KINDS: &[(Kind, &str)] = &[
    (Kind::Fresh, "fresh"),
    (Kind::Dated, "dated"),
    (Kind::FreshChunked, "fresh-chunked"),
    (Kind::Brief, "brief"),
    (Kind::Private, "private"),
    (Kind::PrivateChunked, "private-chunked"),
    (Kind::UntilClose, "until-close"),
    (Kind::Late, "late"),
    (Kind::Trickle, "trickle"),
    (Kind::Interim, "interim"),
    (Kind::Upload, "upload"),
    (Kind::EarlyAnswer, "early-answer"),
    (Kind::Tunnel, "tunnel"),
    (Kind::Overrun, "overrun"),
    (Kind::CutLength, "cut-length"),
    (Kind::CutChunked, "cut-chunked"),
    (Kind::ResetBody, "reset-body"),
    (Kind::ResetHead, "reset-head"),
    (Kind::Garbage, "garbage"),
    (Kind::StallBody, "stall-body"),
    (Kind::StallHead, "stall-head"),
    (Kind::Changing, "changing"),
    (Kind::Ragged, "ragged"),
];

/// What a viewer may get for a plan while the origin is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// 200 with the whole content.
    Whole,
    /// 200 that visibly breaks off, or an error response; never a whole answer.
    Broken,
    /// An error response.
    Failure,
    /// Any of these.
    Any,
}

impl Kind {
    /// Returns what a viewer may get.
    pub(crate) fn promise(self) -> Promise {
        match self {
            Self::CutLength | Self::CutChunked | Self::ResetBody | Self::StallBody => Promise::Broken,
            Self::ResetHead | Self::Garbage | Self::StallHead => Promise::Failure,
            Self::Ragged => Promise::Any,
            _ => Promise::Whole,
        }
    }

    /// Returns whether what a URL of this kind promises depends on its version.
    pub(crate) fn has_versions(self) -> bool {
        matches!(self, Self::Changing | Self::Ragged)
    }

    /// Returns the word that stands for the kind in paths and tables.
    pub(crate) fn word(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("unknown", |(_, word)| word)
    }
}

/// One URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) seed: u64,
    pub(crate) id: u64,
}

impl Plan {
    /// Reads a plan back from a path.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let word = parts.next()?;
        let kind = KINDS.iter().find(|(_, own)| *own == word)?.0;
        let plan = Self {
            kind,
            size: parts.next()?.parse().ok()?,
            seed: parts.next()?.parse().ok()?,
            id: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(plan)
    }

    /// Returns how many bytes the answer has; uploads are acknowledged by the first bytes of what they carry.
    pub(crate) fn answer_len(&self) -> u64 {
        match self.kind {
            Kind::Upload | Kind::EarlyAnswer => self.size.min(UPLOAD_ANSWER_LEN),
            _ => self.size,
        }
    }

    /// Returns the content that the path promises.
    pub(crate) fn content(&self) -> Content {
        Content::of(&self.to_string())
    }

    /// Returns the content that the path has in one version.
    pub(crate) fn content_in(&self, version: u64) -> Content {
        Content::of(&format!("{self}#{version}"))
    }

    /// Returns how long that is: neighbouring versions differ, so that one cannot end where the other does.
    pub(crate) fn length_in(&self, version: u64) -> u64 {
        self.size + version % 4 * 777
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/{}/{}/{}/{}", self.kind.word(), self.size, self.seed, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_survives_its_path() {
        for (kind, _) in KINDS {
            let plan = Plan { kind: *kind, size: 10, seed: 2, id: 3 };
            assert_eq!(Plan::parse(&plan.to_string()), Some(plan));
        }
        assert_eq!(Plan::parse("/fresh/10/2"), None);
        assert_eq!(Plan::parse("/fresh/10/2/3/4"), None);
        assert_eq!(Plan::parse("/other/10/2/3"), None);
    }
}
