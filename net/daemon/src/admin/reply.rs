//! Answers of the admin server: text, JSON, and problems as RFC 9457 has them.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

/// What every route returns.
pub(crate) type Reply = Response<Full<Bytes>>;

/// Answers with text for people.
pub(crate) fn text(status: StatusCode, text: &'static str) -> Reply {
    reply(status, "text/plain; charset=utf-8", text)
}

/// Answers with JSON, and a line end for those who read it in a terminal.
pub(crate) fn json(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", format!("{value}\n"))
}

/// Answers with any content.
pub(crate) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Why a request is not obeyed, for programs (`name`) and for people (`detail`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The answer's status.
    pub(crate) status: StatusCode,
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
    pub(crate) fn new(status: StatusCode, name: &'static str, detail: impl Into<String>) -> Self {
        Problem { status, name, detail: detail.into(), pointer: None, item: None, applied: None, field: None }
    }

    /// A body that is refused.
    pub(crate) fn bad(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, name, detail)
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
        let mut document = json!({
            "type": format!("urn:aspis:problem:{}", self.name),
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(pointer) = &self.pointer {
            document["pointer"] = json!(pointer);
        }
        if let Some(item) = &self.item {
            document["item"] = json!(item);
        }
        if let Some(applied) = self.applied {
            document["applied"] = json!(applied);
        }
        let mut response = reply(self.status, "application/problem+json", format!("{document}\n"));
        if let Some((name, value)) = &self.field {
            response.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        response
    }
}
