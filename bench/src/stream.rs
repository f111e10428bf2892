//! Bodies larger than the memory limit through a server, both ways, each byte checked, with the growth of its memory.

use crate::aspis::Aspis;
use crate::http::{Fault, Flow, Reader};
use crate::origin::Origin;
use crate::plan::{Kind, Plan};
use crate::process;
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The limit that the server is given, and the most that its memory may grow by.
const MEMORY: &str = "128MiB";
const GROWTH_MAX: u64 = 128 << 20;
/// Pieces of an upload.
const PIECE_LEN: usize = 256 * 1024;

/// One passage.
#[derive(Clone, Copy)]
enum Passage {
    /// A response with a length, which says that it could be stored.
    Length,
    /// A chunked response, whose size shows only at its end.
    Chunked,
    /// A request with a length.
    UploadLength,
    /// A chunked request.
    UploadChunked,
}

const PASSAGES: &[(Passage, &str)] = &[
    (Passage::Length, "response, length"),
    (Passage::Chunked, "response, chunked"),
    (Passage::UploadLength, "request, length"),
    (Passage::UploadChunked, "request, chunked"),
];

/// Streams `size` bytes each way; false when a body was wrong or memory grew past the bound.
pub(crate) fn run(size: u64, aspis: Option<&str>) -> io::Result<bool> {
    let origin = Origin::start()?;
    let flags = ["--cores", "1", "--memory", MEMORY];
    let product = Aspis::start(&process::find_aspis(aspis)?, origin.address(), None, &flags)?;
    println!("| {size} B | MiB/s | server CPU us/MiB | growth of peak memory | at most | content |");
    println!("|---|---|---|---|---|---|");
    let mut sound = true;
    for (number, (passage, name)) in PASSAGES.iter().enumerate() {
        let kind = match passage {
            Passage::Length => Kind::Fresh,
            Passage::Chunked => Kind::FreshChunked,
            Passage::UploadLength | Passage::UploadChunked => Kind::Upload,
        };
        let plan = Plan { kind, size, seed: 1, id: number as u64 };
        product.server.reset_peak()?;
        let (resident, cpu) = (product.server.status_bytes("VmRSS"), product.server.cpu());
        let start = Instant::now();
        let verdict = pass(&product, plan, *passage);
        let seconds = start.elapsed().as_secs_f64();
        let growth = product.server.status_bytes("VmHWM").saturating_sub(resident);
        let mib = size as f64 / f64::from(1 << 20);
        let cpu = product.server.cpu().saturating_sub(cpu).as_secs_f64() * 1e6;
        let content =
            verdict.as_ref().map_or_else(|fault| format!("{fault:?}"), |()| "every byte right".into());
        println!(
            "| {name} | {:.0} | {:.0} | {:.1} MiB | {} MiB | {content} |",
            mib / seconds,
            cpu / mib,
            growth as f64 / f64::from(1 << 20),
            GROWTH_MAX >> 20
        );
        sound &= verdict.is_ok() && growth <= GROWTH_MAX;
    }
    for complaint in origin.complaints() {
        println!("origin: {complaint}");
        sound = false;
    }
    Ok(sound)
}

fn pass(product: &Aspis, plan: Plan, passage: Passage) -> Result<(), Fault> {
    let lost = |_: io::Error| Fault::Reset;
    let stream = TcpStream::connect(product.address).map_err(lost)?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(lost)?;
    stream.set_write_timeout(Some(Duration::from_secs(60))).map_err(lost)?;
    let mut writer = stream.try_clone().map_err(lost)?;
    let mut reader = Reader::new(stream);
    match passage {
        Passage::Length | Passage::Chunked => {
            write!(writer, "GET {plan} HTTP/1.1\r\nHost: bench\r\n\r\n").map_err(lost)?;
        }
        Passage::UploadLength => {
            write!(writer, "POST {plan} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", plan.size)
                .map_err(lost)?;
            upload(&mut writer, plan, Chunks::No).map_err(lost)?;
        }
        Passage::UploadChunked => {
            write!(writer, "POST {plan} HTTP/1.1\r\nHost: bench\r\nTransfer-Encoding: chunked\r\n\r\n")
                .map_err(lost)?;
            upload(&mut writer, plan, Chunks::Yes).map_err(lost)?;
        }
    }
    let head = reader.head()?;
    let content = plan.content();
    let mut wrong = None;
    let length = reader.content(&head, |at, piece| {
        wrong = wrong.or_else(|| content.first_difference(at, piece));
        if wrong.is_some() { Flow::Stop } else { Flow::Continue }
    })?;
    if head.status()? == 200 && length == plan.answer_len() && wrong.is_none() {
        return Ok(());
    }
    Err(Fault::Malformed(format!("{}, {length} bytes, wrong at {wrong:?}", head.start_line)))
}

/// Whether a request body is written in chunks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    No,
    Yes,
}

/// Writes the content of `plan` as a request body.
pub(crate) fn upload(writer: &mut impl Write, plan: Plan, chunks: Chunks) -> io::Result<()> {
    let content = plan.content();
    let mut bytes = Vec::with_capacity(PIECE_LEN + 16);
    let mut at = 0;
    while at < plan.size {
        let len = (plan.size - at).min(PIECE_LEN as u64) as usize;
        bytes.clear();
        if chunks == Chunks::Yes {
            write!(bytes, "{len:X}\r\n")?;
        }
        let start = bytes.len();
        bytes.resize(start + len, 0);
        content.fill(at, &mut bytes[start..]);
        if chunks == Chunks::Yes {
            bytes.extend_from_slice(b"\r\n");
        }
        writer.write_all(&bytes)?;
        at += len as u64;
    }
    if chunks == Chunks::Yes {
        writer.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}
