//! Brings a server's cache to what a cell is about, and proves that it answers from there with the right bytes.
//!
//! The proof is the origin's: it counts requests, so a server that asks it again has not answered from its cache, whatever it says of itself.

use super::arms::{Arm, Running};
use super::cell::Cell;
use crate::http::Reader;
use crate::origin::Origin;
use crate::plan::Plan;
use crate::random::Random;
use crate::viewer;
pub(crate) use crate::viewer::Body;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// Connections over which a large hot set is fetched.
const STREAMS: usize = 8;
/// A server that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);
/// Objects that are asked for again to see whether they are kept.
const SAMPLE: usize = 1000;
/// Passes over the sample; some servers store an object only when it is asked for again.
const PASSES: usize = 3;

/// Fetches everything that `cell` asks for, checks every byte, and asks again until the origin is asked no more.
pub(crate) fn fill(running: &Running, cell: &Cell, origin: &Origin) -> io::Result<()> {
    let name = running.arm.name();
    let all: Vec<u32> = (0..cell.object_count()).collect();
    let fetch = |objects: &[u32], body: Body| {
        let result = fetch_all(running.address, body, objects, |object| cell.plan(object));
        result.map_err(|fault| io::Error::other(format!("{name}: {fault}")))
    };
    if running.arm == Arm::Floor {
        return fetch(&all[..1], Body::Any);
    }
    fetch(&all, Body::Planned)?;
    let mut random = Random::new(u64::from(cell.connections));
    let mut pick = || random.between(0, all.len() as u64 - 1) as u32;
    let sample: Vec<u32> = (0..SAMPLE.min(all.len())).map(|_| pick()).collect();
    let mut asked = 0;
    for _ in 0..PASSES {
        let before = origin.requests();
        fetch(&sample, Body::Planned)?;
        asked = origin.requests() - before;
        if asked == 0 {
            return Ok(());
        }
    }
    let count = sample.len();
    Err(io::Error::other(format!(
        "{name}: does not answer from its cache: {asked} of {count} objects came from the origin again"
    )))
}

/// Fetches the plans of `objects` over a few connections and checks every byte.
pub(crate) fn fetch_all(
    address: SocketAddr,
    body: Body,
    objects: &[u32],
    plan: impl Fn(u32) -> Plan + Sync,
) -> io::Result<()> {
    let part = objects.len().div_ceil(STREAMS).max(1);
    let plan = &plan;
    let results: Vec<Result<(), String>> = thread::scope(|scope| {
        let fetch = |part: &[u32]| {
            let mut reader = Reader::connect(address, SILENCE).map_err(|error| error.to_string())?;
            part.iter().map(|object| plan(*object)).try_for_each(|plan| {
                viewer::fetch(&mut reader, address, (plan, None), body)
                    .map_err(|fault| format!("{plan}: {fault:?}"))
            })
        };
        let started: Vec<_> = objects.chunks(part).map(|part| scope.spawn(move || fetch(part))).collect();
        let died = |_| Err("a thread died".to_owned());
        started.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
    });
    results.into_iter().collect::<Result<(), _>>().map_err(io::Error::other)
}
