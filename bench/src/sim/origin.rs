//! The simulated origin: versioned objects, and answers in all the manners of their sites, good and bad.
//!
//! Fed with the text of each request that the product sends, it answers with a script of what comes when, and keeps a record of what each
//! answer is. It shares no code with the product: fields are read and written here by themselves.
//!
//! Invariant: each head carries the number of its record, so whatever a viewer gets can be traced to what was said about it.

use std::collections::VecDeque;

use crate::content::Content;
use crate::random::Random;

use super::scenario::{Framing, Policy, Scenario, Site, Tag};
use super::text::{Head, date};

/// The second at which simulated time begins.
pub(crate) const WALL: u64 = 1_788_256_800;

/// What one answer is.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) site: usize,
    pub(crate) version: u64,
    /// Of the content, where it depends on it.
    pub(crate) language: Option<String>,
    pub(crate) status: u16,
    pub(crate) policy: Policy,
    /// Milliseconds.
    pub(crate) generated_at: u64,
    /// When the product asked for it, and when its head reached the product.
    pub(crate) sent_at: u64,
    pub(crate) received_at: Option<u64>,
    /// How many batches of rules had been accepted when the product asked for it.
    pub(crate) rules: usize,
    /// The whole content, whatever part of it this answer has.
    pub(crate) content: Content,
    pub(crate) len: u64,
    /// The viewer for whose request it was made.
    pub(crate) leader: Option<usize>,
}

/// One thing that the product receives.
#[derive(Debug)]
pub(crate) enum Item {
    /// The head of the answer with this record.
    Head(usize, Vec<u8>),
    Chunk(Vec<u8>),
    Whole,
    Broken,
    /// No head comes; the second is by a connection that was refused, the first by silence.
    Silence,
    Refused,
}

/// What the origin's side knows.
#[derive(Debug)]
pub(crate) struct Origin {
    versions: Vec<u64>,
    pub(crate) records: Vec<Record>,
    /// GETs that reached each site.
    pub(crate) gets: Vec<u64>,
    random: Random,
}

impl Origin {
    /// An origin whose objects are all in version 0.
    pub(crate) fn new(seed: u64, scenario: &Scenario) -> Origin {
        let count = scenario.sites.len();
        Origin {
            versions: vec![0; count],
            records: Vec::new(),
            gets: vec![0; count],
            random: Random::new(seed ^ 0x0419_1400),
        }
    }

    pub(crate) fn version(&self, site: usize) -> u64 {
        self.versions[site]
    }

    /// A new version takes the place of the old one.
    pub(crate) fn change(&mut self, site: usize) {
        self.versions[site] += 1;
    }

    /// Answers a request: what comes after how many milliseconds, each counted from the one before.
    pub(crate) fn answer(
        &mut self,
        scenario: &Scenario,
        number: usize,
        request: &Head,
        leader: Option<usize>,
        now: u64,
    ) -> VecDeque<(u64, Item)> {
        let site = &scenario.sites[number];
        let (low, high) = site.head_millis;
        let first = self.random.between(low, high);
        let mut script = VecDeque::new();
        if request.word(0) == "POST" {
            script.push_back((first, self.posted(site, number, leader, now)));
            script.push_back((0, Item::Chunk(b"done".to_vec())));
            script.push_back((0, Item::Whole));
            return script;
        }
        self.gets[number] += u64::from(request.word(0) == "GET");
        if self.random.chance(site.faults.failures) {
            let item = if self.random.chance(50) { Item::Silence } else { Item::Refused };
            script.push_back((first, item));
            return script;
        }
        let mut reply = self.reply(site, number, request, now);
        reply.record.leader = leader;
        let serial = self.records.len();
        let head = reply.head(site, serial, now);
        let Reply { record, range, has_content, .. } = reply;
        script.push_back((first, Item::Head(serial, head.into_bytes())));
        let (start, end) = range.unwrap_or((0, record.len));
        let breaks = has_content && end > start && self.random.chance(site.faults.breaks);
        let end = if breaks { self.random.between(start, end - 1) } else { end };
        if breaks && self.random.chance(30) {
            // It breaks since it is being replaced.
            self.change(number);
        }
        if has_content {
            self.chunks(site, &record, start, end, &mut script);
        }
        script.push_back((self.random.between(0, 2), if breaks { Item::Broken } else { Item::Whole }));
        self.records.push(record);
        script
    }

    /// An unsafe request changes the object, mostly.
    fn posted(&mut self, site: &Site, number: usize, leader: Option<usize>, now: u64) -> Item {
        let works = self.random.chance(85);
        if works {
            self.change(number);
        }
        let serial = self.records.len();
        let status = if works { 200 } else { 403 };
        self.records.push(Record {
            site: number,
            version: self.versions[number],
            language: None,
            status,
            policy: Policy::BARE,
            generated_at: now,
            sent_at: now,
            received_at: None,
            rules: 0,
            content: Content::of("posted"),
            len: 4,
            leader,
        });
        let location = if self.random.chance(30) { "Location: /s0\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status} X\r\nDate: {}\r\nX-Serial: {serial}\r\n{location}Content-Length: 4\r\nX-Site: {}\r\n\r\n",
            date(WALL + now / 1000),
            site.path
        );
        Item::Head(serial, head.into_bytes())
    }

    fn reply(&mut self, site: &Site, number: usize, request: &Head, now: u64) -> Reply {
        let version = self.versions[number];
        let language = request.field("accept-language").unwrap_or_default().to_owned();
        let varies = site.varies(version);
        let tag = site.tag_of(version, &language);
        let language = varies.then_some(language);
        let fault = |chance: u64, random: &mut Random| random.chance(chance);
        let status = if fault(site.faults.errors, &mut self.random) {
            503
        } else if fault(site.faults.missing, &mut self.random) {
            404
        } else {
            200
        };
        let mut record = Record {
            site: number,
            version,
            status,
            policy: site.policy(version),
            generated_at: now,
            sent_at: now,
            received_at: None,
            rules: 0,
            content: content(site, version, language.as_deref(), status),
            len: site.len(version),
            language,
            leader: None,
        };
        let is_head = request.word(0) == "HEAD";
        let mut reply = Reply { record: record.clone(), tag, range: None, has_content: !is_head, varies };
        if status != 200 {
            record.policy = if self.random.chance(40) { Policy::BRIEF } else { Policy::BARE };
            record.len = 20;
            reply.tag = None;
            reply.record = record;
            return reply;
        }
        let misreads = self.random.chance(site.faults.misreadings);
        reply.judge(site, request, misreads);
        reply
    }

    /// Cuts content into pieces that come one after the other.
    fn chunks(
        &mut self,
        site: &Site,
        record: &Record,
        start: u64,
        end: u64,
        script: &mut VecDeque<(u64, Item)>,
    ) {
        let mut at = start;
        let mut left = self.random.between(1, site.chunks_max);
        while at < end {
            let len = if left <= 1 { end - at } else { self.random.between(1, end - at) };
            let mut bytes = vec![0; len as usize];
            record.content.fill(at, &mut bytes);
            let (low, high) = site.chunk_millis;
            script.push_back((self.random.between(low, high), Item::Chunk(bytes)));
            at += len;
            left = left.saturating_sub(1);
        }
    }
}

/// The bytes of one representation; nothing else has the same.
fn content(site: &Site, version: u64, language: Option<&str>, status: u16) -> Content {
    Content::of(&format!("{}|{version}|{language:?}|{status}", site.path))
}

/// An answer before it is written.
#[derive(Debug)]
struct Reply {
    record: Record,
    tag: Option<String>,
    /// Of a 206.
    range: Option<(u64, u64)>,
    has_content: bool,
    varies: bool,
}

impl Reply {
    /// Preconditions and ranges (RFC 9110 §13.2.2, §14.2), as far as requests here have them.
    fn judge(&mut self, site: &Site, request: &Head, misreads: bool) {
        let modified = modified(site, self.record.version);
        let names = |field: &str| request.field(field).map(str::to_owned);
        let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
        if let Some(wanted) = names("if-match")
            && self.tag.as_ref().is_none_or(|tag| tag.starts_with("W/") || *tag != wanted)
        {
            self.bare(412);
            return;
        }
        let unchanged = match (names("if-none-match"), names("if-modified-since")) {
            (Some(known), _) => self
                .tag
                .as_ref()
                .is_some_and(|tag| opaque(tag) == opaque(&known) || (misreads && site.tag == Tag::Strong)),
            (None, Some(since)) => modified.is_some_and(|modified| modified == since),
            (None, None) => false,
        };
        if unchanged {
            self.record.status = 304;
            self.has_content = false;
            return;
        }
        let Some(range) = names("range").filter(|_| site.ranges && request.word(0) == "GET") else { return };
        if let Some(wanted) = names("if-range").filter(|_| !misreads)
            && self.tag.as_ref().is_none_or(|tag| tag.starts_with("W/") || *tag != wanted)
        {
            return;
        }
        let Some((first, last)) = range.trim_start_matches("bytes=").split_once('-') else { return };
        let first: u64 = first.parse().unwrap_or(u64::MAX);
        let end = last.parse::<u64>().map_or(u64::MAX, |last| last.saturating_add(1)).min(self.record.len);
        if first >= self.record.len {
            self.bare(416);
            return;
        }
        if end > first {
            self.record.status = 206;
            self.range = Some((first, end));
        }
    }

    /// An answer that is about this request alone.
    fn bare(&mut self, status: u16) {
        self.record.status = status;
        self.record.policy = Policy::BARE;
        self.record.len = 0;
        self.tag = None;
    }

    fn head(&self, site: &Site, serial: usize, now: u64) -> String {
        let Record { status, version, len, policy, .. } = &self.record;
        let mut head = format!(
            "HTTP/1.1 {status} X\r\nDate: {}\r\nX-Serial: {serial}\r\nX-Version: {version}\r\n",
            date(WALL + now / 1000)
        );
        let mut line = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        if !policy.text.is_empty() {
            line("Cache-Control", policy.text);
        }
        if let Some(tag) = &self.tag {
            line("ETag", tag);
        }
        if matches!(status, 200 | 206 | 304)
            && let Some(modified) = modified(site, *version)
        {
            line("Last-Modified", &modified);
        }
        if !site.tags.is_empty() {
            // Every other site names them in the one or the other way.
            let (name, between) =
                if site.tags.len() == 2 { ("Surrogate-Key", " ") } else { ("Cache-Tag", ", ") };
            line(name, &site.tags.join(between));
        }
        if self.varies {
            line("Vary", "Accept-Language");
        }
        if let Some((start, end)) = self.range {
            line("Content-Range", &format!("bytes {start}-{}/{len}", end - 1));
        }
        let (start, end) = self.range.unwrap_or((0, *len));
        let framing = if *status == 200 { site.framing } else { Framing::Length };
        match framing {
            _ if *status == 304 => {}
            Framing::Length => line("Content-Length", &(end - start).to_string()),
            Framing::Chunked if self.has_content => line("Transfer-Encoding", "chunked"),
            Framing::Chunked | Framing::UntilClose => {}
        }
        head.push_str("\r\n");
        head
    }
}

/// Each version was modified in a second of its own.
fn modified(site: &Site, version: u64) -> Option<String> {
    site.dated.then(|| date(WALL - 10_000_000 + version * 1000))
}
