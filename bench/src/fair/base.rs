//! The ordinary viewers: connections that each ask for a small hit at a steady pace, and how long each answer took.
//!
//! Runs in a process of its own on the CPU beside the server's, before all that shares it, so that what it measures is the server. A thread per
//! connection sleeps until its next request is due; it spins on nothing, because the CPU is the disturbers', too. How late it wakes from that
//! sleep is what the CPU adds to every answer, whatever the server does: it is noted beside the answers.

use crate::stats::quantile;
use crate::wait;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// An answer that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const ANSWER_LEN_MAX: usize = 128 * 1024;

/// Time between the moment when all are ready and the first request.
const READY: Duration = Duration::from_millis(50);

/// What is asked for and how fast.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    pub(crate) connections: u32,
    /// Requests per second of all together.
    pub(crate) rate: u32,
    pub(crate) length: Duration,
}

/// What the viewers saw, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) requests: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) worst: f64,
    /// How late the viewers' own timers woke them, its 99th percentile.
    pub(crate) late: f64,
}

/// Plays the viewers and returns the times of all answers.
pub(crate) fn play(base: &Base) -> io::Result<Seen> {
    let period = Duration::from_secs_f64(f64::from(base.connections) / f64::from(base.rate));
    let connect = |_| connect(base.address);
    let streams: Vec<TcpStream> = (0..base.connections).map(connect).collect::<io::Result<_>>()?;
    // A thread that starts late must not look like an answer that is late.
    let (ready, start) = (Barrier::new(base.connections as usize), OnceLock::new());
    let times: Vec<io::Result<Times>> = thread::scope(|scope| {
        let viewers: Vec<_> = (0..base.connections)
            .zip(streams)
            .map(|(number, stream)| {
                let (ready, start) = (&ready, &start);
                scope.spawn(move || {
                    ready.wait();
                    let start = *start.get_or_init(|| Instant::now() + READY);
                    let first = start + period * number / base.connections;
                    ask(stream, base, first, start + base.length, period)
                })
            })
            .collect();
        let died = |_| Err(io::Error::other("a viewer's thread panicked"));
        viewers.into_iter().map(|viewer| viewer.join().unwrap_or_else(died)).collect()
    });
    let mut all = Times::default();
    for each in times {
        let Times { answers, wakes } = each?;
        all.answers.extend(answers);
        all.wakes.extend(wakes);
    }
    all.answers.sort_by(f64::total_cmp);
    all.wakes.sort_by(f64::total_cmp);
    let at = |share| quantile(&all.answers, share).unwrap_or(f64::NAN);
    let late = quantile(&all.wakes, 0.99).unwrap_or(f64::NAN);
    Ok(Seen {
        requests: all.answers.len(),
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        worst: at(1.0),
        late,
    })
}

/// How long answers took, and how late the viewer woke before its requests.
#[derive(Default)]
struct Times {
    answers: Vec<f64>,
    wakes: Vec<f64>,
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks at each due time until `end`. A request that the answer before it held up counts from when it was due, any other from when it left.
fn ask(
    mut stream: TcpStream,
    base: &Base,
    first: Instant,
    end: Instant,
    period: Duration,
) -> io::Result<Times> {
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", base.path, base.address);
    let mut buffer = vec![0; ANSWER_LEN_MAX];
    let (mut due, mut times) = (first, Times::default());
    while due < end {
        let now = Instant::now();
        let was_free = now < due;
        if was_free {
            wait::pause(due - now);
            times.wakes.push(due.elapsed().as_secs_f64() * 1e6);
        }
        let from = if was_free { Instant::now() } else { due };
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream, &mut buffer)?;
        times.answers.push(from.elapsed().as_secs_f64() * 1e6);
        due += period;
    }
    Ok(times)
}

/// Reads one 200 with a length.
fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Err(io::Error::other("the server closed an ordinary viewer's connection"));
        }
        filled += count;
        let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = crate::http::Head::parse(&buffer[..end + 4])?;
        let length = head.field("content-length").and_then(|text| text.parse::<usize>().ok());
        let (Ok(200), Some(length)) = (head.status(), length) else {
            return Err(io::Error::other(format!("an ordinary viewer got {:?}", head.start_line)));
        };
        while filled < end + 4 + length {
            let count = stream.read(&mut buffer[filled..])?;
            if count == 0 {
                return Err(io::Error::other("an ordinary viewer's answer was cut"));
            }
            filled += count;
        }
        return Ok(());
    }
}
