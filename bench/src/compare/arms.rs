//! The servers that are compared, each started on one core before the same origin, and checked to answer from its cache.

use crate::aspis::Aspis;
use crate::http::{Fault, Flow, Framing, Reader};
use crate::plan::Plan;
use crate::process::{Scratch, Server, free_port};
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    /// Our ring with next to nothing on it: what any server on it must cost at least.
    Floor,
    /// The product.
    Aspis,
    /// nginx with proxy_cache.
    Nginx,
}

impl Arm {
    /// Reads a name of the command line.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Floor, Self::Aspis, Self::Nginx].into_iter().find(|arm| arm.name() == name)
    }

    /// Returns the name for tables and flags.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Aspis => "aspis",
            Self::Nginx => "nginx",
        }
    }
}

/// The programs on this machine.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) own: PathBuf,
    pub(crate) aspis: PathBuf,
    pub(crate) nginx: PathBuf,
}

/// A server that is up and warm.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) arm: Arm,
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
}

/// Starts `arm` on `core` and fetches `plan` through it until it comes from the cache.
pub(crate) fn start(
    arm: Arm,
    programs: &Programs,
    scratch: &Scratch,
    core: usize,
    origin: SocketAddr,
    plan: Plan,
) -> io::Result<Running> {
    let (server, address) = match arm {
        Arm::Floor => {
            let arguments = ["floor".to_owned(), "--size".to_owned(), plan.size.to_string()];
            let mut server = Server::start("floor", &programs.own, &arguments, Some(core))?;
            let address = server.announced("listening on ")?;
            (server, address)
        }
        Arm::Aspis => {
            let aspis =
                Aspis::start(&programs.aspis, origin, Some(core), &["--cores", "1", "--memory", "256MiB"])?;
            (aspis.server, aspis.address)
        }
        Arm::Nginx => nginx(&programs.nginx, scratch.path(), core, origin)?,
    };
    let running = Running { arm, server, address };
    running.warm(plan)?;
    Ok(running)
}

impl Running {
    /// Asks three times; the last answer must be whole and from the cache.
    fn warm(&self, plan: Plan) -> io::Result<()> {
        let mut source = String::new();
        for _ in 0..3 {
            source = fetch(self.address, plan, self.arm)
                .map_err(|fault| io::Error::other(format!("{}: no answer: {fault:?}", self.arm.name())))?;
        }
        let hit = match self.arm {
            Arm::Floor => true,
            Arm::Aspis => source.starts_with("Hit from "),
            Arm::Nginx => source == "HIT",
        };
        if hit {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{}: the third answer is no hit (X-Cache: {source:?})",
            self.arm.name()
        )))
    }
}

/// Fetches `plan`, checks it, and returns its `X-Cache`.
fn fetch(address: SocketAddr, plan: Plan, arm: Arm) -> Result<String, Fault> {
    let failed = |error: io::Error| Fault::Malformed(error.to_string());
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    write!(stream, "GET {plan} HTTP/1.1\r\nHost: bench\r\n\r\n").map_err(failed)?;
    let mut reader = Reader::new(stream);
    let head = reader.head()?;
    let mut wrong = None;
    let length = reader.body(head.framing()?.unwrap_or(Framing::UntilClose), |at, piece| {
        wrong = wrong.or_else(|| plan.content().first_difference(at, piece));
        Flow::Continue
    })?;
    // The floor has no origin, so its content is its own.
    if head.status()? != 200 || length != plan.size || (wrong.is_some() && arm != Arm::Floor) {
        return Err(Fault::Malformed(format!("{}, {length} bytes, wrong at {wrong:?}", head.start_line)));
    }
    Ok(head.field("x-cache").unwrap_or_default().to_owned())
}

/// Starts nginx as its own documentation advises for a cache: one pinned worker, no log, open files and connections kept.
fn nginx(
    program: &Path,
    scratch: &Path,
    core: usize,
    origin: SocketAddr,
) -> io::Result<(Server, SocketAddr)> {
    let folder = scratch.join("nginx");
    fs::create_dir_all(&folder)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let here = folder.display();
    // Workers change to an unprivileged user when the master is root, and then could not write below our folder.
    let user = if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        "user root;"
    } else {
        ""
    };
    let affinity = 1_u64 << core.min(63);
    let text = format!(
        "{user}
daemon off;
worker_processes 1;
worker_cpu_affinity {affinity:b};
worker_rlimit_nofile 16384;
pid {here}/nginx.pid;
error_log stderr crit;
events {{
    use epoll;
    worker_connections 8192;
    multi_accept on;
    accept_mutex off;
}}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    reset_timedout_connection on;
    open_file_cache max=10000 inactive=300s;
    open_file_cache_valid 300s;
    open_file_cache_min_uses 1;
    client_body_temp_path {here}/body;
    proxy_temp_path {here}/proxy;
    fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi;
    scgi_temp_path {here}/scgi;
    proxy_cache_path {here}/cache levels=1:2 keys_zone=bench:64m max_size=1g inactive=1h use_temp_path=off;
    upstream origin {{
        server {origin};
        keepalive 16;
    }}
    server {{
        listen {address} reuseport backlog=4096;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_cache bench;
            proxy_cache_key $scheme$host$request_uri;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            add_header X-Cache $upstream_cache_status;
        }}
    }}
}}
"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let arguments =
        ["-p", &here.to_string(), "-e", "stderr", "-c", &file.display().to_string()].map(str::to_owned);
    let server = Server::start("nginx", program, &arguments, Some(core))?;
    server.accepts(address)?;
    Ok((server, address))
}
