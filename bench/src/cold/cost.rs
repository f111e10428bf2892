//! Server CPU of a 64 KiB hit that comes from disk, in rounds of which each measures all: one server that copies what it reads into memory, one that
//! sends it from the page cache through its mapping, nginx with its own disk cache whose files are in the page cache too, and a hit from memory.
//!
//! The device bounds how many hits are read in a second, so that between them the viewers sleep, and the core does. A send to a viewer that sleeps takes an
//! interrupt of another CPU, and the core's own sleep takes time too, wherever the bytes came from: what reading adds is told beside hits from memory
//! that come as often. Beside as many of them as a core can serve, which meets nobody asleep, it is a few microseconds more, and is told too.

use super::{CPUS, DISK_SHARE_MIN, HITS, MAPPED, OBJECTS_PER_LOST, Options, READ_COST_MAX};
use crate::aspis::{Aspis, sample};
use crate::fair::{self, Base};
use crate::origin::Origin;
use crate::peers::arms::{self, Arm as Peer, Program, Running, Site};
use crate::peers::cell::Cell;
use crate::peers::fill::{self, Body};
use crate::peers::wrk::{Script, Wrk};
use crate::process::Scratch;
use crate::stats::Spread;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// A hit from the page cache costs at most what nginx takes.
const NGINX_RATIO_MAX: f64 = 1.0;

/// The servers whose stores are full.
pub(super) struct Servers<'s> {
    pub(super) copying: &'s Aspis,
    /// Another build of the same.
    pub(super) beside: Option<&'s Aspis>,
    pub(super) mapping: Option<&'s Aspis>,
}

/// CPU of one request, and the part of them that came from disk.
#[derive(Clone, Copy, Debug)]
struct Cost {
    micros: f64,
    from_disk: f64,
    per_second: f64,
}

/// Whose CPU is measured, and the metric that says which requests came from disk.
#[derive(Clone, Copy)]
enum Measured<'m> {
    Aspis(&'m Aspis, &'static str),
    Peer(&'m Running),
}

impl Measured<'_> {
    fn address(&self) -> SocketAddr {
        match self {
            Measured::Aspis(server, _) => server.address,
            Measured::Peer(peer) => peer.address,
        }
    }
}

/// One of those that are measured in turn.
struct Arm<'a> {
    name: &'static str,
    measured: Measured<'a>,
    script: &'a Script,
    costs: Vec<Cost>,
}

/// Measures in rounds; false when a figure is out of bounds.
pub(super) fn run(
    options: &Options,
    servers: &Servers<'_>,
    origin: &Origin,
    (cell, objects): (&Cell, &[u32]),
) -> io::Result<bool> {
    let wrk = Wrk::find()?;
    let paths: Vec<String> = objects.iter().map(|object| cell.plan(*object).to_string()).collect();
    let (all, one) = (wrk.script(&paths, 1)?, wrk.script(&paths[..1], 1)?);
    let scratch = Scratch::new()?;
    let nginx = match servers.mapping.map(|_| Program::find(Peer::Nginx, None)).transpose() {
        Ok(None) => None,
        Ok(Some(program)) => {
            let site = Site { scratch: &scratch, core: CPUS.0, origin: origin.address(), cell };
            let running = arms::start(&program, site)?;
            fill::fetch_all(running.address, Body::Planned, objects, |object| cell.plan(object))?;
            Some(running)
        }
        Err(error) => {
            println!("without nginx: {error}");
            None
        }
    };
    let arm = |name, measured, script| Arm { name, measured, script, costs: Vec::new() };
    let of_aspis = |name, server, metric| arm(name, Measured::Aspis(server, metric), &all);
    let mut warm = arm("from memory", Measured::Aspis(servers.copying, HITS), &one);
    let mut read =
        options.wants("read").then(|| of_aspis("read and copied into memory", servers.copying, HITS));
    let mut beside = servers.beside.map(|server| of_aspis("the same of the other build", server, HITS));
    let mut mapped = servers.mapping.map(|server| of_aspis("from the mapping", server, MAPPED));
    let mut paced = Vec::new();
    let own = std::env::current_exe()?;
    let mut peer =
        nginx.as_ref().map(|nginx| arm("nginx, files in the page cache", Measured::Peer(nginx), &all));
    for _ in 0..options.rounds {
        let others = [&mut read, &mut beside, &mut mapped, &mut peer];
        for arm in others.into_iter().flatten().chain([&mut warm]) {
            let cost = load(options, &wrk, origin, arm)?;
            arm.costs.push(cost);
        }
        if let Some(read) = read.as_ref().and_then(|read| read.costs.last()) {
            paced.push(as_often(options, &own, servers.copying, (&paths[0], read.per_second))?);
        }
    }
    println!(
        "\n| 64 KiB, {} connections, {} rounds | CPU us/request | from disk | requests/s |",
        options.connections, options.rounds
    );
    println!("|---|---|---|---|");
    for arm in [&read, &beside, &mapped, &peer].into_iter().flatten().chain([&warm]) {
        println!("{}", row(arm.name, &arm.costs));
    }
    if !paced.is_empty() {
        println!("{}", row("from memory, as often as they are read", &paced));
    }
    let spread = |values: Vec<f64>| Spread::of(&values).ok_or_else(|| io::Error::other("no rounds"));
    let mut is_held = true;
    let added = |arm: &Arm<'_>, to: &[Cost]| -> io::Result<Spread> {
        let each = from_disk(&arm.costs, &warm.costs)?;
        spread(each.iter().zip(to).map(|(each, to)| each - to.micros).collect())
    };
    if let Some(read) = &read {
        let (often, busy) = (added(read, &paced)?, added(read, &warm.costs)?);
        println!(
            "reading, checking and copying add {} us to a hit, at most {READ_COST_MAX}; {} to one of a busy core",
            often.show(1),
            busy.show(1)
        );
        is_held &= often.median <= READ_COST_MAX;
    }
    if let Some(beside) = &beside {
        let (often, busy) = (added(beside, &paced)?, added(beside, &warm.costs)?);
        println!("of the other build they add {} us; {} to one of a busy core", often.show(1), busy.show(1));
    }
    if let Some(peer) = &peer {
        let by_peer = |arm: &Arm<'_>| {
            let each = from_disk(&arm.costs, &warm.costs)?;
            spread(each.iter().zip(&peer.costs).map(|(each, peer)| each / peer.micros).collect())
        };
        if let Some(read) = &read {
            println!("CPU of a hit that is copied by nginx's: {}", by_peer(read)?.show(3));
        }
        if let Some(mapped) = &mapped {
            let ratio = by_peer(mapped)?;
            println!(
                "CPU of a hit from the mapping by nginx's: {}, at most {NGINX_RATIO_MAX}",
                ratio.show(3)
            );
            is_held &= ratio.median <= NGINX_RATIO_MAX;
        }
    }
    Ok(is_held)
}

/// Loads one of them once.
fn load(options: &Options, wrk: &Wrk, origin: &Origin, arm: &Arm<'_>) -> io::Result<Cost> {
    let used = || match arm.measured {
        Measured::Aspis(server, _) => server.server.cpu(),
        Measured::Peer(peer) => peer.cpu(),
    };
    let hits = || -> io::Result<f64> {
        let Measured::Aspis(server, metric) = arm.measured else { return Ok(0.0) };
        Ok(sample(&server.metrics()?, metric).unwrap_or(0.0))
    };
    let (before, hits_before, asked) = (used(), hits()?, origin.requests());
    let load = wrk.run(CPUS.1, arm.measured.address(), arm.script, options.connections, options.length)?;
    let (took, from_disk) = (used() - before, hits()? - hits_before);
    let misses = origin.requests() - asked;
    if misses * OBJECTS_PER_LOST > load.requests {
        return Err(io::Error::other(format!("{misses} of {} requests were misses", load.requests)));
    }
    let requests = load.requests.max(1) as f64;
    Ok(Cost {
        micros: took.as_secs_f64() * 1e6 / requests,
        from_disk: from_disk / requests,
        per_second: load.per_second,
    })
}

/// Has one object asked for so often in a second by viewers that sleep in between.
fn as_often(options: &Options, own: &Path, server: &Aspis, (path, rate): (&String, f64)) -> io::Result<Cost> {
    let base = Base {
        address: server.address,
        path: path.clone(),
        connections: fair::CONNECTIONS,
        rate: rate as u32,
        length: options.length,
    };
    let before = server.server.cpu();
    let seen = fair::measure(own, &base)?;
    let requests = seen.requests.max(1) as f64;
    Ok(Cost {
        micros: (server.server.cpu() - before).as_secs_f64() * 1e6 / requests,
        from_disk: 0.0,
        per_second: requests / options.length.as_secs_f64(),
    })
}

/// What a request from disk took in each round: of the others each cost what a hit from memory costs.
fn from_disk(costs: &[Cost], warm: &[Cost]) -> io::Result<Vec<f64>> {
    let shares: Vec<f64> = costs.iter().map(|cost| cost.from_disk).collect();
    let share = Spread::of(&shares).ok_or_else(|| io::Error::other("no rounds"))?.median;
    if share < DISK_SHARE_MIN {
        return Err(io::Error::other(format!("only {share:.2} of the requests came from disk")));
    }
    let each = |(cost, warm): (&Cost, &Cost)| {
        (cost.micros - warm.micros * (1.0 - cost.from_disk).max(0.0)) / cost.from_disk.max(f64::MIN_POSITIVE)
    };
    Ok(costs.iter().zip(warm).map(each).collect())
}

fn row(name: &str, costs: &[Cost]) -> String {
    let cell = |figure: fn(&Cost) -> f64, digits| Spread::show_of(costs, figure, digits);
    let (micros, share) = (cell(|cost| cost.micros, 1), cell(|cost| cost.from_disk, 2));
    format!("| {name} | {micros} | {share} | {} |", cell(|cost| cost.per_second, 0))
}
