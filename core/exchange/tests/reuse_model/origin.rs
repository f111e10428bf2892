//! A simulated origin: honest about what it serves, with settings that change under way.
//!
//! Content names its URI, its version and the variant, so that whoever sees a body knows what it is a copy of.

use std::collections::BTreeMap;

use crate::text::{Fields, date, format_date, selecting};

/// How a URI is served.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) version: u64,
    modified_at: i64,
    pub(crate) status: u16,
    control: &'static str,
    targeted: &'static str,
    etag: Tag,
    modified: bool,
    expires: Expires,
    date: Clock,
    age: &'static str,
    vary: &'static str,
    framing: Framing,
    cookie: bool,
    confirms: Confirms,
    failure: Failure,
    pub(crate) delay: i64,
    location: (&'static str, &'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    None,
    Strong,
    Weak,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expires {
    None,
    In(i64),
    Invalid,
    Twice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Missing,
    Off(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// What a 304 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirms {
    /// All that the 200 would.
    Full,
    /// Date and ETag.
    Lean,
    /// Not even Date.
    Undated,
    /// New fields.
    Updated,
    /// A strong ETag that nobody has.
    Another,
    /// There is none: always 200.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    None,
    NoAnswer,
    Status(u16),
    /// The body ends too early.
    Broken,
}

/// One change of a site.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Content,
    Status(u16),
    Control(&'static str),
    Targeted(&'static str),
    Etag(Tag),
    Modified(bool),
    Expires(Expires),
    Date(Clock),
    Age(&'static str),
    Vary(&'static str),
    Framing(Framing),
    Cookie(bool),
    Confirms(Confirms),
    Failure(Failure),
    Delay(i64),
    Location(&'static str, &'static str),
}

/// An answer that came.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) framing: Framing,
    pub(crate) is_broken: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Origin {
    sites: BTreeMap<String, Site>,
    versions: u64,
}

impl Origin {
    pub(crate) fn site(&mut self, uri: &str, now: i64) -> &mut Site {
        let versions = &mut self.versions;
        self.sites.entry(uri.to_string()).or_insert_with(|| {
            *versions += 1;
            Site {
                version: *versions,
                modified_at: now - 1000,
                status: 200,
                control: "max-age=60",
                targeted: "",
                etag: Tag::Strong,
                modified: false,
                expires: Expires::None,
                date: Clock::Off(0),
                age: "",
                vary: "",
                framing: Framing::Length,
                cookie: false,
                confirms: Confirms::Full,
                failure: Failure::None,
                delay: 0,
                location: ("", ""),
            }
        })
    }

    pub(crate) fn change(&mut self, uri: &str, change: Change, now: i64) {
        self.versions += 1;
        let version = self.versions;
        let site = self.site(uri, now);
        match change {
            Change::Content => {}
            Change::Status(status) => site.status = status,
            Change::Vary(names) => site.vary = names,
            Change::Control(value) => return site.control = value,
            Change::Targeted(value) => return site.targeted = value,
            Change::Etag(tag) => return site.etag = tag,
            Change::Modified(is_told) => return site.modified = is_told,
            Change::Expires(expires) => {
                // It decides only where Cache-Control says nothing.
                site.control = "";
                return site.expires = expires;
            }
            Change::Date(clock) => return site.date = clock,
            Change::Age(value) => return site.age = value,
            Change::Framing(framing) => return site.framing = framing,
            Change::Cookie(is_set) => return site.cookie = is_set,
            Change::Confirms(confirms) => return site.confirms = confirms,
            Change::Failure(failure) => return site.failure = failure,
            Change::Delay(seconds) => return site.delay = seconds,
            Change::Location(location, content) => return site.location = (location, content),
        }
        site.version = version;
        // Two versions never have one Last-Modified, or that would be no validator.
        site.modified_at = (site.modified_at + 1).max(now - 1000);
    }

    /// Answers a request; nothing is returned if the origin cannot be reached.
    pub(crate) fn answer(&mut self, method: &str, uri: &str, fields: &Fields, now: i64) -> Option<Reply> {
        let failure = self.site(uri, now).failure;
        let is_safe = matches!(method, "GET" | "HEAD" | "OPTIONS");
        match failure {
            Failure::NoAnswer => return None,
            Failure::Status(status) => return Some(plain(status, format!("{uri} failed"))),
            Failure::None | Failure::Broken => {}
        }
        if !is_safe && self.site(uri, now).status < 400 {
            self.change(uri, Change::Content, now);
        }
        let site = self.site(uri, now);
        let mut reply = site.whole(uri, fields, now);
        let (location, content_location) = site.location;
        for (name, value) in [("Location", location), ("Content-Location", content_location)] {
            if !value.is_empty() && !is_safe {
                reply.fields.add(name, value);
            }
        }
        reply.is_broken = failure == Failure::Broken && method != "HEAD" && !reply.body.is_empty();
        if is_safe && site.confirms != Confirms::Never && site.status == 200 && site.is_unchanged(uri, fields)
        {
            return Some(site.confirmation(reply, now));
        }
        Some(reply)
    }

    /// The ETag that a request would get.
    pub(crate) fn etag(&mut self, uri: &str, fields: &Fields, now: i64) -> Option<String> {
        self.site(uri, now).tag(fields)
    }

    pub(crate) fn modified_at(&mut self, uri: &str, now: i64) -> i64 {
        self.site(uri, now).modified_at
    }
}

/// The content of a version for a request with these fields.
pub(crate) fn content(uri: &str, version: u64, variant: &str) -> Vec<u8> {
    let line = format!("{uri}|v{version}|{variant}|");
    line.bytes().cycle().take(line.len() + 30 + version as usize * 7 % 60).collect()
}

/// What Vary makes of a request.
pub(crate) fn variant(vary: &str, fields: &Fields) -> String {
    let names = vary.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "*");
    names.map(|name| format!("{}={:?};", name.to_ascii_lowercase(), selecting(fields, name))).collect()
}

fn plain(status: u16, text: String) -> Reply {
    let fields = Fields(vec![("X-Failure".into(), "yes".into())]);
    Reply { status, fields, body: text.into_bytes(), framing: Framing::Length, is_broken: false }
}

impl Site {
    fn whole(&self, uri: &str, request: &Fields, now: i64) -> Reply {
        let mut fields = Fields::default();
        let dated_at = match self.date {
            Clock::Missing => now,
            Clock::Off(seconds) => now + seconds,
        };
        if self.date != Clock::Missing {
            fields.add("Date", format_date(dated_at));
        }
        for (name, value) in [
            ("Cache-Control", self.control),
            ("CDN-Cache-Control", self.targeted),
            ("Age", self.age),
            ("Vary", self.vary),
            ("Set-Cookie", if self.cookie { "a=b" } else { "" }),
        ] {
            if !value.is_empty() {
                fields.add(name, value);
            }
        }
        match self.expires {
            Expires::None => {}
            Expires::In(seconds) => fields.add("Expires", format_date(dated_at + seconds)),
            Expires::Invalid => fields.add("Expires", "0"),
            Expires::Twice => {
                fields.add("Expires", format_date(dated_at + 50));
                fields.add("Expires", format_date(dated_at + 50));
            }
        }
        if let Some(tag) = self.tag(request) {
            fields.add("ETag", tag);
        }
        if self.modified {
            fields.add("Last-Modified", format_date(self.modified_at));
        }
        fields.add("X-Secret", format!("s{}", self.version));
        fields.add("X-Version", self.version.to_string());
        fields.add("Connection", "X-Hop");
        fields.add("X-Hop", "1");
        let variant = variant(self.vary, request);
        let body = if self.status == 204 { Vec::new() } else { content(uri, self.version, &variant) };
        Reply { status: self.status, fields, body, framing: self.framing, is_broken: false }
    }

    fn tag(&self, request: &Fields) -> Option<String> {
        let opaque = format!("\"v{}{}\"", self.version, variant(self.vary, request).replace('"', "'"));
        match self.etag {
            Tag::None => None,
            Tag::Strong => Some(opaque),
            Tag::Weak => Some(format!("W/{opaque}")),
        }
    }

    /// RFC 9110 §13.2.2 as far as an origin's 304 goes.
    fn is_unchanged(&self, _uri: &str, request: &Fields) -> bool {
        if request.get("if-match").is_some() || request.get("if-unmodified-since").is_some() {
            return false;
        }
        if let Some(tags) = request.get("if-none-match") {
            let own = self.tag(request);
            return tags == "*" || own.is_some_and(|own| tags.contains(own.trim_start_matches("W/")));
        }
        let since = request.get("if-modified-since").and_then(date);
        since.is_some_and(|since| self.modified_at <= since)
    }

    fn confirmation(&self, whole: Reply, now: i64) -> Reply {
        let keeps = |name: &str| match self.confirms {
            Confirms::Full => true,
            Confirms::Lean | Confirms::Updated => matches!(name, "Date" | "ETag"),
            Confirms::Undated => name == "ETag",
            Confirms::Another | Confirms::Never => name == "Date",
        };
        let mut fields = Fields(whole.fields.0.into_iter().filter(|(name, _)| keeps(name)).collect());
        match self.confirms {
            Confirms::Updated => {
                fields.add("X-Extra", now.to_string());
                fields.add("Cache-Control", "max-age=30");
                fields.add("Content-Encoding", "br");
                fields.add("Content-Length", "3");
            }
            Confirms::Another => fields.add("ETag", "\"nobody\""),
            _ => {}
        }
        Reply { status: 304, fields, body: Vec::new(), framing: Framing::Length, is_broken: false }
    }
}
