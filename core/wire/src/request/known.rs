//! Remembers header sections, so that what a viewer repeats with each request is parsed once.
//!
//! Between two requests of one viewer, or of many with the same program, often nothing differs but the request line: players that fetch
//! segment after segment, other caches, clients of an API. Their header section is found by its bytes, and what was read in it then
//! holds now, since nothing in a section is read differently for what stands before it; what depends on both is judged anew.
//!
//! Asked by the shard's viewer side, one for each core. Invariants: the answer is that of [`parse_request`] for the same bytes, errors
//! included; a section is kept when it comes a third time and no other came to its place meanwhile, so that those which differ
//! each time (a number of the request, a cookie) displace nothing and are never copied.

#[cfg(test)]
mod tests;

use std::ops::Range;

use arrayvec::ArrayVec;
use httparse::EMPTY_HEADER;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{RequestError, RequestHead, host_of, judge, judge_fields, line, parse_request};
use crate::framing::{self, Facts};
use crate::limits::{KNOWN_FIELDS_MAX, KNOWN_SECTION_LEN_MAX};
use crate::{Field, FieldSlots, HeadLimits};

/// Sections that are kept at most; a power of two.
const PLACE_COUNT: usize = 256;
/// Bytes at three places of a section make its key.
const SAMPLE_LEN: usize = 64;

/// Header sections that came more than once lately.
#[derive(Debug)]
pub struct KnownSections {
    sections: Vec<Section>,
    places: Box<[Place]>,
    /// The one that was found last: most often the next is the same.
    last: usize,
}

/// Room for the fields of one head that is perhaps known, on the caller's stack; see [`FieldSlots`].
#[derive(Debug, Default)]
pub struct KnownSlots<'b> {
    parsed: FieldSlots<'b>,
    known: ArrayVec<Field<'b>, KNOWN_FIELDS_MAX>,
}

impl KnownSlots<'_> {
    /// Returns empty slots, without touching their memory.
    #[inline]
    pub const fn new() -> Self {
        Self { parsed: FieldSlots::new(), known: ArrayVec::new_const() }
    }
}

/// What is known of the sections whose key leads here.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The key of the last one that was looked for and not found.
    missed: u64,
    /// The hash of all of it, from the second time on.
    missed_again: Option<u64>,
    /// Which section is kept.
    kept: Option<usize>,
}

/// What was read in a section.
#[derive(Debug)]
struct Section {
    /// All of it, with its empty line.
    bytes: Box<[u8]>,
    fields: Box<[KnownField]>,
    facts: Facts,
    /// The value of `Host`, which was checked.
    host: Option<Box<str>>,
}

#[derive(Debug)]
struct KnownField {
    name: Box<str>,
    /// Where the value lies in the section.
    value: Range<usize>,
}

/// What a search brought.
enum Found {
    /// Which of the sections it is. Its head is within the limits.
    At(usize),
    /// It is not known, and has this key.
    Not(u64),
    /// It cannot be told where the section ends, or it is too long.
    Unclear,
}

impl Default for KnownSections {
    fn default() -> Self {
        Self { sections: Vec::new(), places: vec![Place::default(); PLACE_COUNT].into(), last: 0 }
    }
}

impl KnownSections {
    /// Does what [`parse_request`] does. The fields may borrow what is remembered instead of `bytes`.
    ///
    /// # Errors
    ///
    /// Those of [`parse_request`].
    #[inline]
    pub fn parse_request<'b, 'h>(
        &'b mut self,
        bytes: &'b [u8],
        slots: &'h mut KnownSlots<'b>,
        limits: &HeadLimits,
    ) -> Result<Option<RequestHead<'b, 'h>>, RequestError> {
        let Some((line, section)) = line::read(bytes, limits) else {
            return parse_request(bytes, &mut slots.parsed, limits);
        };
        let line_len = bytes.len() - section.len();
        let key = match self.find(section, line_len, limits) {
            Found::At(at) => {
                self.last = at;
                return self.sections[at].judge(line, line_len, &mut slots.known, limits).map(Some);
            }
            Found::Not(key) => key,
            Found::Unclear => return parse_request(bytes, &mut slots.parsed, limits),
        };
        // What is wrong with it, if anything, the plain way tells.
        let fits = |&(len, fields): &(usize, &[Field<'_>])| is_within(line_len + len, fields.len(), limits);
        let Some((len, fields)) = parse_fields(section, &mut slots.known).filter(fits) else {
            return parse_request(bytes, &mut slots.parsed, limits);
        };
        let head = &bytes[..line_len + len];
        let parsed = judge_fields(head, line, fields, limits)?;
        if len == section.len() {
            self.note(key, head, section, fields);
        }
        Ok(Some(parsed))
    }

    /// Returns the bytes of the heap that it holds; looks at all sections.
    pub fn heap_len(&self) -> usize {
        let held: usize = self.sections.iter().map(Section::heap_len).sum();
        held + size_of_val(&*self.places) + self.sections.capacity() * size_of::<Section>()
    }

    /// Finds the section that begins `rest`: the last one wherever it ends, any other only where nothing stands behind it.
    #[inline]
    fn find(&self, rest: &[u8], line_len: usize, limits: &HeadLimits) -> Found {
        let known = |at: usize| {
            let fits = |known: &&Section| is_within(line_len + known.bytes.len(), known.fields.len(), limits);
            self.sections.get(at).filter(fits)
        };
        if known(self.last).is_some_and(|known| rest.starts_with(&known.bytes)) {
            return Found::At(self.last);
        }
        if rest.len() > KNOWN_SECTION_LEN_MAX || !rest.ends_with(b"\r\n\r\n") {
            return Found::Unclear;
        }
        let key = key_of(rest);
        match self.places[place_of(key)].kept {
            Some(at) if known(at).is_some_and(|known| *known.bytes == *rest) => Found::At(at),
            _ => Found::Not(key),
        }
    }

    /// Keeps a section if it was the last one that was looked for in its place, twice.
    #[inline]
    fn note(&mut self, key: u64, head: &[u8], section: &[u8], fields: &[Field<'_>]) {
        let place = &mut self.places[place_of(key)];
        if place.missed == key {
            self.note_again(key, head, section, fields);
        } else {
            (place.missed, place.missed_again) = (key, None);
        }
    }

    #[inline(never)]
    fn note_again(&mut self, key: u64, head: &[u8], section: &[u8], fields: &[Field<'_>]) {
        let place = &mut self.places[place_of(key)];
        let hash = Some(xxh3_64(section));
        if std::mem::replace(&mut place.missed_again, hash) != hash {
            return;
        }
        let Some(section) = Section::of(head, section, fields) else { return };
        match place.kept {
            Some(at) => self.sections[at] = section,
            None => {
                place.kept = Some(self.sections.len());
                self.sections.push(section);
            }
        }
    }
}

/// What tells most sections apart: all of a short one; of a longer one its front with the host, its middle, and its end, where proxies add
/// what is different each time.
#[inline]
fn key_of(section: &[u8]) -> u64 {
    let len = section.len();
    if len <= 3 * SAMPLE_LEN {
        return xxh3_64(section);
    }
    let starts = [0, (len - SAMPLE_LEN) / 2, len - SAMPLE_LEN];
    starts.iter().fold(len as u64, |key, &at| xxh3_64_with_seed(&section[at..at + SAMPLE_LEN], key))
}

fn place_of(key: u64) -> usize {
    key as usize % PLACE_COUNT
}

/// Whether a head is within the limits that [`judge`] does not look at.
#[inline]
fn is_within(head_len: usize, field_count: usize, limits: &HeadLimits) -> bool {
    head_len <= limits.head_len_max && field_count <= limits.field_count_max
}

/// Reads the fields at the front of `bytes`; `None` if there are too many for these slots, or anything is wrong with them.
#[inline]
fn parse_fields<'b, 'h>(
    bytes: &'b [u8],
    slots: &'h mut ArrayVec<Field<'b>, KNOWN_FIELDS_MAX>,
) -> Option<(usize, &'h [Field<'b>])> {
    slots.clear();
    slots.extend([EMPTY_HEADER; KNOWN_FIELDS_MAX]);
    match httparse::parse_headers(bytes, slots) {
        Ok(httparse::Status::Complete(parsed)) => Some(parsed),
        Ok(httparse::Status::Partial) | Err(_) => None,
    }
}

impl Section {
    /// Keeps what is read in the section of a head; `None` if the fields are not its own.
    fn of(head: &[u8], section: &[u8], fields: &[Field<'_>]) -> Option<Self> {
        let facts = framing::collect(head, fields)?;
        let start = section.as_ptr() as usize;
        let field = |field: &Field<'_>| {
            let at = (field.value.as_ptr() as usize).checked_sub(start)?;
            let value = at..at + field.value.len();
            section.get(value.clone()).map(|_| KnownField { name: field.name.into(), value })
        };
        let host = host_of(fields, &facts).ok()?;
        Some(Self {
            bytes: section.into(),
            fields: fields.iter().map(field).collect::<Option<_>>()?,
            facts,
            host: host.map(Box::from),
        })
    }

    fn heap_len(&self) -> usize {
        let names: usize = self.fields.iter().map(|field| field.name.len()).sum();
        let host = self.host.as_deref().map_or(0, str::len);
        self.bytes.len() + size_of_val(&*self.fields) + names + host
    }

    #[inline]
    fn judge<'b, 'h>(
        &'b self,
        line: line::Line<'b>,
        line_len: usize,
        slots: &'h mut ArrayVec<Field<'b>, KNOWN_FIELDS_MAX>,
        limits: &HeadLimits,
    ) -> Result<RequestHead<'b, 'h>, RequestError> {
        let fields = self.fields.iter();
        slots.clear();
        slots
            .extend(fields.map(|field| Field { name: &field.name, value: &self.bytes[field.value.clone()] }));
        let len = line_len + self.bytes.len();
        judge(line, slots, &self.facts, || Ok(self.host.as_deref()), len, limits)
    }
}
