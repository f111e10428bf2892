//! Reads the recorded traces and makes the synthetic one.
//!
//! Files are those of public repositories, compressed or JSON, never committed here; their folder is an argument. What a trace is made of and what its
//! caches hold is in `oracle.rs`.

use crate::memory::sizes::Sizes;
use crate::random::Random;
use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Requests by dense object numbers.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) name: &'static str,
    pub(crate) requests: Vec<u32>,
    /// Bytes of each object.
    pub(crate) sizes: Vec<u64>,
    /// For each request the number of the next one for the same object, or `u32::MAX`.
    pub(crate) next_uses: Vec<u32>,
    /// Bytes that one byte stands for: objects without sizes are of one byte each, and no real tier holds such.
    pub(crate) unit: u64,
}

/// Bytes of an object of a trace without sizes, to the product's policy.
const UNSIZED_UNIT: u64 = 32 * 1024;

/// How many times fewer keys than recorded the synthetic trace has, and its requests, which are a key's renewal period too.
const CHURN_DIVISOR: u64 = 18;
const CHURN_REQUESTS: u64 = 2_000_000;

/// Seeds of the synthetic trace, and of drawn sizes.
const CHURN_SEED: u64 = 1;
const SIZES_SEED: u64 = 2;

impl Trace {
    pub(super) fn new(name: &'static str, requests: Vec<u32>, sizes: Vec<u64>, unit: u64) -> Trace {
        let mut next_uses = vec![u32::MAX; requests.len()];
        let mut last = vec![u32::MAX; sizes.len()];
        for (at, object) in requests.iter().enumerate().rev() {
            next_uses[at] = std::mem::replace(&mut last[*object as usize], at as u32);
        }
        Trace { name, requests, sizes, next_uses, unit }
    }

    /// Returns the bytes of all objects.
    pub(crate) fn footprint(&self) -> u64 {
        self.sizes.iter().sum()
    }
}

/// Gives each identity a dense number, in the order in which they come.
struct Numbers<K> {
    known: HashMap<K, u32>,
    sizes: Vec<u64>,
}

impl<K: Eq + Hash> Numbers<K> {
    fn new() -> Self {
        Numbers { known: HashMap::new(), sizes: Vec::new() }
    }

    fn number(&mut self, identity: K, len: u64) -> u32 {
        *self.known.entry(identity).or_insert_with(|| {
            self.sizes.push(len);
            self.sizes.len() as u32 - 1
        })
    }
}

/// SplitMix64's last step.
pub(crate) fn mix(number: u64) -> u64 {
    Random::new(number).next()
}

/// Reads or makes the trace of that name.
pub(crate) fn named(name: &str, folder: &Path) -> io::Result<Trace> {
    match name {
        "adaptsize" => adaptsize(folder),
        "web07" => web07(folder),
        "scarab-recs" => scarab(folder),
        "web07-sized" => sized("web07-sized", web07(folder)?, folder),
        "scarab-sized" => sized("scarab-sized", scarab(folder)?, folder),
        "churn" => churn(folder),
        _ => Err(io::Error::other(format!("no such trace: {name}"))),
    }
}

/// Reads the sized trace: `time key size` in each line; key and size together are the identity.
pub(crate) fn adaptsize(folder: &Path) -> io::Result<Trace> {
    let bytes = unpacked(&folder.join("adaptsize-request.trace.xz"))?;
    let text = std::str::from_utf8(&bytes).map_err(io::Error::other)?;
    let mut numbers = Numbers::new();
    let mut requests = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
        let (Some(Ok(key)), Some(Ok(len))) = (words.next(), words.next()) else {
            return Err(io::Error::other(format!("a line is no request: {line}")));
        };
        requests.push(numbers.number((key, len), len));
    }
    Ok(Trace::new("adaptsize", requests, numbers.sizes, 1))
}

/// Reads a trace of keys of four bytes; objects are of one byte each.
pub(crate) fn web07(folder: &Path) -> io::Result<Trace> {
    keys::<4>("web07", &folder.join("web07.trace.xz"))
}

/// Reads a trace of keys of eight bytes; objects are of one byte each.
fn scarab(folder: &Path) -> io::Result<Trace> {
    keys::<8>("scarab-recs", &folder.join("scarab-recs.trace.xz"))
}

fn keys<const LEN: usize>(name: &'static str, path: &Path) -> io::Result<Trace> {
    let bytes = unpacked(path)?;
    let (keys, rest) = bytes.as_chunks::<LEN>();
    if !rest.is_empty() {
        return Err(io::Error::other(format!("{} ends within a key", path.display())));
    }
    let mut numbers = Numbers::new();
    let requests = keys.iter().map(|key| numbers.number(*key, 1)).collect();
    Ok(Trace::new(name, requests, numbers.sizes, UNSIZED_UNIT))
}

/// Gives the objects of a trace without sizes those of a production CDN, whose popularity they have nothing to do with.
fn sized(name: &'static str, trace: Trace, folder: &Path) -> io::Result<Trace> {
    let drawn = Sizes::read(&folder.join("meta-cdn-sizes.json"))?;
    let sizes = (0..trace.sizes.len() as u64).map(|object| drawn.length(SIZES_SEED, object)).collect();
    Ok(Trace { name, sizes, unit: 1, ..trace })
}

fn unpacked(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    lzma_rust2::XzReader::new(BufReader::new(file), true).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Draws a number with given weights.
struct Weighted {
    cumulative: Vec<u64>,
}

impl Weighted {
    fn new(weights: &[u64]) -> Weighted {
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Weighted { cumulative: sums.collect() }
    }

    fn of(&self, chance: u64) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(1).max(1);
        self.cumulative.partition_point(|sum| *sum <= chance % total)
    }
}

/// Makes the churn model: keys by a production CDN's popularity, each of which becomes another object once during the trace.
fn churn(folder: &Path) -> io::Result<Trace> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        popularity_buckets: Vec<f64>,
        popularity_weights: Vec<f64>,
    }
    let document: Document = json(&folder.join("meta-cdn-pop.json"))?;
    let sizes = Sizes::read(&folder.join("meta-cdn-sizes.json"))?;
    let counts = document.popularity_buckets.iter().map(|count| (*count as u64 / CHURN_DIVISOR).max(1));
    let firsts: Vec<(u64, u64)> = counts
        .scan(0, |first, count| {
            let bucket = (*first, count);
            *first += count;
            Some(bucket)
        })
        .collect();
    let weights: Vec<u64> = document.popularity_weights.iter().map(|weight| *weight as u64).collect();
    let buckets = Weighted::new(&weights);
    let mut random = Random::new(CHURN_SEED);
    let mut numbers = Numbers::new();
    let mut requests = Vec::with_capacity(CHURN_REQUESTS as usize);
    for at in 0..CHURN_REQUESTS {
        let (first, count) = firsts[buckets.of(random.next())];
        let key = first + random.next() % count;
        let phase = mix(key ^ 0x0070_6861_7365) % CHURN_REQUESTS;
        let generation = (at + phase) / CHURN_REQUESTS;
        requests.push(numbers.number((key, generation), sizes.length(CHURN_SEED, key << 8 | generation)));
    }
    Ok(Trace::new("churn", requests, numbers.sizes, 1))
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    let file = File::open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    serde_json::from_reader(BufReader::new(file)).map_err(io::Error::other)
}
