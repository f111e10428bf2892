//! Answers of the admin server: text, JSON, and problems as RFC 9457 has them.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use aspis_wire::date;
use aspis_wire::head_writer::{HeadWriter, reason_phrase};
use serde::Serialize;

/// What every route returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The status.
    pub(crate) status: u16,
    /// The type of the content.
    pub(crate) content_type: &'static str,
    /// The content.
    pub(crate) body: Vec<u8>,
    /// One more field.
    pub(crate) field: Option<(&'static str, Cow<'static, str>)>,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It stays.
    Keep,
    /// It stays, and the answer says so: HTTP/1.0.
    KeepAndSay,
    /// It ends.
    Close,
}

/// Answers with text for people.
pub(crate) fn text(status: u16, text: &'static str) -> Reply {
    reply(status, "text/plain; charset=utf-8", text)
}

/// Answers with JSON, and a line end for those who read it in a terminal.
pub(crate) fn json(status: u16, document: &impl Serialize) -> Reply {
    reply(status, "application/json", line(document))
}

/// Answers with any content.
pub(crate) fn reply(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, content_type, body: body.into(), field: None }
}

fn line(document: &impl Serialize) -> Vec<u8> {
    // Room for most answers.
    let mut body = Vec::with_capacity(512);
    serde_json::to_writer(&mut body, document).expect("documents have text keys, and a vector takes all");
    body.push(b'\n');
    body
}

impl Reply {
    /// Adds a field.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some((name, value.into()));
        self
    }

    /// Writes the answer; without its content if that was not asked for.
    pub(super) fn write(&self, out: &mut Vec<u8>, is_head: bool, after: After) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut head = HeadWriter::new(out);
        head.status_line(self.status)
            .field("date", &date::format(now))
            .field("content-type", self.content_type.as_bytes())
            .field("cache-control", b"no-store")
            .field_number("content-length", self.body.len() as u64);
        if let Some((name, value)) = &self.field {
            head.field(name, value.as_bytes());
        }
        match after {
            After::Keep => {}
            After::KeepAndSay => drop(head.field("connection", b"keep-alive")),
            After::Close => drop(head.field("connection", b"close")),
        }
        head.end();
        if !is_head {
            out.extend_from_slice(&self.body);
        }
    }
}

/// Why a request is not obeyed, for programs (`name`) and for people (`detail`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The answer's status.
    pub(crate) status: u16,
    /// The end of the problem's type, `urn:aspis:problem:NAME`.
    pub(crate) name: &'static str,
    /// What happened, and what to do.
    pub(crate) detail: String,
    /// Where in the request: a JSON pointer into its body, such as `/paths/3`.
    pub(crate) pointer: Option<Box<str>>,
    /// What stands there.
    pub(crate) item: Option<Box<str>>,
    /// Whether the request was carried out nevertheless, where that is a question.
    pub(crate) applied: Option<bool>,
    /// One more field.
    pub(crate) field: Option<(&'static str, &'static str)>,
}

impl Problem {
    /// A problem of the request as a whole.
    pub(crate) fn new(status: u16, name: &'static str, detail: impl Into<String>) -> Self {
        Problem { status, name, detail: detail.into(), pointer: None, item: None, applied: None, field: None }
    }

    /// A body that is refused.
    pub(crate) fn bad(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(400, name, detail)
    }

    /// Names the place in the body, and what stands there.
    pub(crate) fn at(mut self, pointer: String, item: Option<String>) -> Self {
        self.pointer = Some(pointer.into());
        self.item = item.map(Into::into);
        self
    }

    /// Says whether it was carried out.
    pub(crate) fn applied(mut self, applied: bool) -> Self {
        self.applied = Some(applied);
        self
    }

    /// Adds a field to the answer.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.field = Some((name, value));
        self
    }

    /// Returns it as an answer.
    pub(crate) fn reply(&self) -> Reply {
        #[derive(Serialize)]
        struct Document<'p> {
            #[serde(skip_serializing_if = "Option::is_none")]
            applied: Option<bool>,
            detail: &'p str,
            #[serde(skip_serializing_if = "Option::is_none")]
            item: Option<&'p str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pointer: Option<&'p str>,
            status: u16,
            title: &'p str,
            #[serde(rename = "type")]
            kind: &'p str,
        }
        let document = Document {
            applied: self.applied,
            detail: &self.detail,
            item: self.item.as_deref(),
            pointer: self.pointer.as_deref(),
            status: self.status,
            title: reason_phrase(self.status),
            kind: &format!("urn:aspis:problem:{}", self.name),
        };
        let answer = reply(self.status, "application/problem+json", line(&document));
        match self.field {
            Some((name, value)) => answer.with(name, value),
            None => answer,
        }
    }
}
