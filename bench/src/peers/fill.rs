//! Brings a server's cache to what a cell is about, and proves that it answers from there with the right bytes.
//!
//! The proof is the origin's: it counts requests, so a server that asks it again has not answered from its cache, whatever it says of itself.

use super::arms::{Arm, Running};
use super::cell::Cell;
use crate::http::{Fault, Flow, Framing, Reader};
use crate::origin::Origin;
use crate::plan::Plan;
use crate::random::Random;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// Connections over which a large hot set is fetched.
const STREAMS: usize = 8;
/// Objects that are asked for again to see whether they are kept.
const SAMPLE: usize = 1000;
/// Passes over the sample; some servers store an object only when it is asked for again.
const PASSES: usize = 3;

/// Fetches everything that `cell` asks for, checks every byte, and asks again until the origin is asked no more.
pub(crate) fn fill(running: &Running, cell: &Cell, origin: &Origin) -> io::Result<()> {
    let all: Vec<u32> = (0..cell.object_count()).collect();
    if running.arm == Arm::Floor {
        return fetch_all(running, cell, &all[..1]);
    }
    fetch_all(running, cell, &all)?;
    let mut random = Random::new(u64::from(cell.connections));
    let mut pick = || random.between(0, all.len() as u64 - 1) as u32;
    let sample: Vec<u32> = (0..SAMPLE.min(all.len())).map(|_| pick()).collect();
    let mut asked = 0;
    for _ in 0..PASSES {
        let before = origin.requests();
        fetch_all(running, cell, &sample)?;
        asked = origin.requests() - before;
        if asked == 0 {
            return Ok(());
        }
    }
    Err(io::Error::other(format!(
        "{}: does not answer from its cache: {asked} of {} objects came from the origin again",
        running.arm.name(),
        sample.len()
    )))
}

fn fetch_all(running: &Running, cell: &Cell, objects: &[u32]) -> io::Result<()> {
    let part = objects.len().div_ceil(STREAMS).max(1);
    let results: Vec<Result<(), String>> = thread::scope(|scope| {
        let fetch = |part: &[u32]| fetch_part(running, cell, part);
        let started: Vec<_> = objects.chunks(part).map(|part| scope.spawn(move || fetch(part))).collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread died".into())))
            .collect()
    });
    let name = running.arm.name();
    results
        .into_iter()
        .collect::<Result<(), _>>()
        .map_err(|fault| io::Error::other(format!("{name}: {fault}")))
}

fn fetch_part(running: &Running, cell: &Cell, objects: &[u32]) -> Result<(), String> {
    let stream = TcpStream::connect(running.address).map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|error| error.to_string())?;
    let mut reader = Reader::new(stream);
    for object in objects {
        let plan = cell.plan(*object);
        fetch(&mut reader, running.arm, running.address, plan)
            .map_err(|fault| format!("{plan}: {fault:?}"))?;
    }
    Ok(())
}

/// Fetches one object as the generators do and checks it.
fn fetch(reader: &mut Reader, arm: Arm, address: SocketAddr, plan: Plan) -> Result<(), Fault> {
    let request = format!("GET {plan} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    reader.stream().write_all(request.as_bytes()).map_err(|_| Fault::Reset)?;
    let head = reader.head()?;
    let mut wrong = None;
    let length = reader.body(head.framing()?.unwrap_or(Framing::UntilClose), |at, piece| {
        // The floor has no origin, so its content is its own.
        wrong = wrong.or_else(|| plan.content().first_difference(at, piece).filter(|_| arm != Arm::Floor));
        Flow::Continue
    })?;
    if head.status()? == 200 && length == plan.size && wrong.is_none() {
        return Ok(());
    }
    Err(Fault::Malformed(format!("{}, {length} bytes, wrong at {wrong:?}", head.start_line)))
}
