//! The objects of a site, drawn from its seed: how long they are, how long they live, in how many variants they come, which tag they carry, and
//! every byte of every version.

use crate::content::Content;
use crate::random::Random;

/// The languages in which an object comes that has variants.
pub(crate) const VARIANTS: [&str; 3] = ["en", "de", "fr"];
/// Tags of a site.
pub(crate) const TAGS: u64 = 7;
/// Ranges that are asked for of an object in parts, and ranges within them; those of the longest objects are longer than a slice of the store.
const PARTS: u64 = 3;
/// Seconds that an object lives which has to be validated all the time, and one that leaves by invalidation only.
const SHORT: u64 = 1;
const LONG: u64 = 86_400;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) path: String,
    /// The least length of a version, and by how much versions differ.
    len: (u64, u64),
    /// `max-age`.
    pub(crate) lifetime: u64,
    /// 1, or as many as there are languages.
    pub(crate) variants: usize,
    pub(crate) tag: u64,
    /// It is mostly asked for in ranges, so that the store has parts of it and rarely all.
    pub(crate) in_parts: bool,
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) objects: Vec<Object>,
}

impl Site {
    /// Draws a site of so many objects; those above one slice of the store are few, and there are always some.
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        let mut random = Random::new(seed ^ 0x7369_7465);
        let objects = (0..count).map(|number| {
            let len = match number % 20 {
                0 => (1_100_000, 3_000_000),
                1..=5 => (65_000, 700_000),
                6..=11 => (2_000, 60_000),
                _ => (1, 2_000),
            };
            let len = (random.between(len.0, len.0 + len.1), len.1.min(50_000));
            let lifetime = if random.chance(35) { SHORT } else { LONG };
            let variants = if random.chance(20) && len.0 < 65_000 { VARIANTS.len() } else { 1 };
            Object {
                path: format!("/w{seed:x}/{number}"),
                len,
                lifetime,
                variants,
                tag: random.next() % TAGS,
                in_parts: variants == 1 && matches!(number % 40, 0 | 2 | 7 | 8),
            }
        });
        Self { objects: objects.collect() }
    }

    /// Returns the object of that path.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        let number = path.rsplit('/').next()?.parse::<usize>().ok()?;
        self.objects.get(number).is_some_and(|object| object.path == path).then_some(number)
    }

    /// Returns the bytes of one of each object in its first version, for sizing.
    pub(crate) fn footprint(&self) -> u64 {
        let lengths = self.objects.iter().flat_map(|object| {
            (0..object.variants).map(|variant| object.content_len(Edition { version: 1, variant }))
        });
        lengths.sum()
    }
}

/// One variant of one version of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edition {
    pub(crate) version: u64,
    pub(crate) variant: usize,
}

impl Edition {
    /// Returns its entity tag.
    pub(crate) fn tag(self) -> String {
        format!("\"v{}.{}\"", self.version, self.variant)
    }

    /// Reads an entity tag.
    pub(crate) fn parse(tag: &str) -> Option<Self> {
        let (version, variant) = tag.strip_prefix("\"v")?.strip_suffix('"')?.split_once('.')?;
        Some(Self { version: version.parse().ok()?, variant: variant.parse().ok()? })
    }
}

impl Object {
    /// Returns every byte of an edition.
    pub(crate) fn content(&self, edition: Edition) -> Content {
        Content::of(&format!("{} {} {}", self.path, edition.version, edition.variant))
    }

    /// Returns how many bytes every edition has at the least.
    pub(crate) fn least_len(&self) -> u64 {
        self.len.0
    }

    /// Draws a range of what is asked for in parts: one of a few, or some bytes in one of them.
    pub(crate) fn draw_part(&self, random: &mut Random) -> (u64, u64) {
        let step = (self.least_len() / PARTS).max(1);
        let from = random.next() % PARTS * step;
        match random.chance(50) {
            true => (from, from + step),
            false => {
                let skipped = random.next() % step;
                (from + skipped, from + skipped + random.between(1, step - skipped))
            }
        }
    }

    /// Returns how many bytes an edition has: another number in nearly every version.
    pub(crate) fn content_len(&self, edition: Edition) -> u64 {
        let mut drawn = [0; 8];
        Content::of(&format!("{} {} {} length", self.path, edition.version, edition.variant))
            .fill(0, &mut drawn);
        self.len.0 + u64::from_le_bytes(drawn) % (self.len.1 + 1)
    }
}
