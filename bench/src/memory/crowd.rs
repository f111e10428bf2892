//! A crowd: so many viewers at once that buffers, not objects, fill the memory.
//!
//! In turn: all of them connect and say nothing; all wait for one fetch that the origin holds back; all take a large object slowly. What
//! memory cannot hold must be refused with 503, and the rest must be right.

use super::origin::{FastOrigin, byte};
use super::{Options, judge, private, samples, tell_purposes};
use crate::aspis::{Aspis, sum};
use crate::{process, wait};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;

/// The object that all wait for.
const WAITED: u64 = 64 * 1024;
/// The object that all take slowly.
const TAKEN: u64 = 4 << 20;
/// How long all of them wait, and take slowly.
const HOLD: Duration = Duration::from_secs(5);
/// One small read of a slow viewer, and how many of them there are before it reads as fast as it can.
const SIP: usize = 8 * 1024;
const SIPS: u32 = 8;
/// Connections that are made at a time, and viewers with one source address.
const CONNECTING: usize = 256;
const PER_SOURCE: usize = 4_000;
/// Longest that one viewer may take for everything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Viewers that take the whole object; the others leave after their sips, lest the run last for minutes.
const WHOLE: usize = 64;
const HEAD_LEN_MAX: usize = 16 * 1024;

/// How many viewers saw what.
type Seen = BTreeMap<String, usize>;

/// Runs the crowd; false when the bound does not hold or an answer is wrong.
pub(super) fn run(options: &Options) -> io::Result<bool> {
    process::raise_open_files();
    let origin = FastOrigin::start(TAKEN)?;
    let (memory, cores) = (options.limit.to_string(), options.cores.to_string());
    let most = (options.connections + 16).to_string();
    let flags = ["--memory", &memory, "--cores", &cores, "--max-connections", &most, "--read-timeout", "60s"];
    let product =
        Aspis::start(&process::find_aspis(options.aspis.as_deref())?, origin.address, None, &flags)?;
    wait::pause(Duration::from_secs(1));
    let at_rest = private(&product.server);
    let over = AtomicBool::new(false);
    let (seen, played) = thread::scope(|scope| {
        let sampler = scope.spawn(|| samples(&product, &over));
        let played = play(&product, options.connections as usize, &origin, at_rest);
        over.store(true, Ordering::SeqCst);
        (sampler.join().unwrap_or_default(), played)
    });
    let wrong = played?;
    let held = judge("crowd", options, at_rest, &seen);
    tell_purposes(&product)?;
    Ok(held && wrong == 0)
}

/// Plays the three acts; returns how many answers were wrong.
fn play(product: &Aspis, count: usize, origin: &FastOrigin, at_rest: u64) -> io::Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut wrong = 0;
        let mut streams = connect(product.address, count).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let each = |now: u64| now.saturating_sub(at_rest) / count.max(1) as u64;
        println!("{} connected and silent: {} B each", streams.len(), each(private(&product.server)));

        let before = private(&product.server);
        let path: Rc<str> = format!("/slow/{WAITED}/1").into();
        let waiting: Vec<_> = streams
            .drain(..)
            .map(|stream| tokio::task::spawn_local(take(stream, Rc::clone(&path), WAITED, Pace::Fast)))
            .collect();
        tokio::time::sleep(HOLD).await;
        let waiters = sum(&product.metrics()?, "aspis_requests_waiting").unwrap_or(0.0);
        let grown = private(&product.server).saturating_sub(before);
        println!("{waiters} wait for one fetch: {:.0} B each", grown as f64 / waiters.max(1.0));
        origin.open();
        wrong += told("waited", waiting, &mut streams).await;

        // Those whose connection ended with its answer come again.
        let missing = count.saturating_sub(streams.len());
        streams.extend(connect(product.address, missing).await?);
        let path: Rc<str> = format!("/{TAKEN}/2").into();
        let taking: Vec<_> = streams
            .drain(..)
            .enumerate()
            .map(|(number, stream)| {
                let pace = if number < WHOLE { Pace::Slow } else { Pace::Sips };
                tokio::task::spawn_local(take(stream, Rc::clone(&path), TAKEN, pace))
            })
            .collect();
        wrong += told("took slowly", taking, &mut streams).await;
        Ok(wrong)
    })
}

async fn connect(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for first in (0..count).step_by(CONNECTING) {
        let attempts: Vec<_> = (first..(first + CONNECTING).min(count))
            .map(|number| {
                tokio::task::spawn_local(async move {
                    let socket = TcpSocket::new_v4()?;
                    let last = 1 + u8::try_from(number / PER_SOURCE).unwrap_or(u8::MAX - 1);
                    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
                    socket.connect(address).await
                })
            })
            .collect();
        for attempt in attempts {
            streams.push(attempt.await.map_err(io::Error::other)??);
        }
    }
    Ok(streams)
}

/// How a viewer reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Fast,
    /// A few sips, then all the rest.
    Slow,
    /// A few sips, then it leaves.
    Sips,
}

/// What one viewer saw, and its connection if that goes on.
type Taken = (String, Option<TcpStream>);

/// Collects what the viewers saw; returns how many saw something wrong.
async fn told(what: &str, tasks: Vec<tokio::task::JoinHandle<Taken>>, streams: &mut Vec<TcpStream>) -> usize {
    let mut seen = Seen::new();
    for task in tasks {
        let (saw, stream) = task.await.unwrap_or_else(|error| (format!("wrong: {error}"), None));
        *seen.entry(saw).or_default() += 1;
        streams.extend(stream);
    }
    let list: Vec<String> = seen.iter().map(|(saw, count)| format!("{count} {saw}")).collect();
    println!("{what}: {}", list.join(", "));
    seen.iter().filter(|(saw, _)| saw.starts_with("wrong")).map(|(_, count)| count).sum()
}

async fn take(mut stream: TcpStream, path: Rc<str>, length: u64, pace: Pace) -> Taken {
    let answer = tokio::time::timeout(PATIENCE, answer(&mut stream, &path, length, pace)).await;
    match answer {
        Ok(Ok(saw)) if saw == "right" => (saw, Some(stream)),
        Ok(Ok(saw)) => (saw, None),
        // A connection that is refused may be reset before its 503 was read.
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => ("reset".into(), None),
        Ok(Err(error)) => (format!("wrong: {error}"), None),
        Err(_) => ("wrong: no end".into(), None),
    }
}

async fn answer(stream: &mut TcpStream, path: &str, length: u64, pace: Pace) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    // Whoever was refused at once may have been left already.
    let asked = stream.write_all(request.as_bytes()).await;
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > HEAD_LEN_MAX || stream.read_buf(&mut bytes).await? == 0 {
            asked?;
            return Ok(if bytes.is_empty() { "closed" } else { "wrong: half a head" }.into());
        }
    };
    if !bytes.starts_with(b"HTTP/1.1 200 ") {
        return Ok(String::from_utf8_lossy(&bytes[9..12.min(end)]).into_owned());
    }
    let mut at = 0;
    let mut piece = bytes.split_off(end);
    drop(bytes);
    for round in 0.. {
        let wrong = piece.iter().zip(at..).position(|(found, at)| *found != byte(at));
        if let Some(wrong) = wrong {
            return Ok(format!("wrong: byte {}", at + wrong as u64));
        }
        at += piece.len() as u64;
        if at == length {
            return Ok("right".into());
        }
        let sips = pace != Pace::Fast && round < SIPS;
        if pace == Pace::Sips && round >= SIPS {
            return Ok("left".into());
        }
        if sips {
            tokio::time::sleep(HOLD / SIPS).await;
        }
        piece.resize(if sips { SIP } else { 16 * SIP }, 0);
        let count = stream.read(&mut piece).await?;
        piece.truncate(count);
        if count == 0 {
            return Ok(format!("cut after {at} B"));
        }
    }
    Ok("right".into())
}
