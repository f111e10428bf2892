//! The servers that are compared: found, started on one core before the same origin, and read while they are loaded.

use super::cell::{Cell, Logging};
use super::configs;
use crate::aspis::Aspis;
use crate::process::{self, Scratch, Server, find_program};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arm {
    /// Our ring with next to nothing on it: what any server on it must cost at least.
    Floor,
    /// The product.
    Aspis,
    /// nginx with `proxy_cache`.
    Nginx,
    /// HAProxy with its cache.
    Haproxy,
    /// h2o, which has no cache of responses: it serves the same bytes from files.
    H2o,
    /// Varnish with memory storage.
    Varnish,
    /// Apache Traffic Server with its RAM cache.
    TrafficServer,
    /// Squid with its memory cache.
    Squid,
}

impl Arm {
    /// Every arm, in the order of the tables.
    pub(crate) const ALL: [Self; 8] = [
        Self::Floor,
        Self::Aspis,
        Self::Nginx,
        Self::Haproxy,
        Self::H2o,
        Self::Varnish,
        Self::TrafficServer,
        Self::Squid,
    ];

    /// Reads a name of the command line.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arm| arm.name() == name)
    }

    /// Returns the name for tables and flags, which is the name of the Debian package, too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Aspis => "aspis",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::H2o => "h2o",
            Self::Varnish => "varnish",
            Self::TrafficServer => "trafficserver",
            Self::Squid => "squid",
        }
    }

    /// Returns what a reader of the tables must know of it.
    pub(crate) fn note(self) -> Option<&'static str> {
        match self {
            Self::Floor => Some("no cache: one fixed answer on the product's ring; it keeps no log"),
            Self::H2o => Some("no cache of responses: the same bytes from files in memory"),
            _ => None,
        }
    }

    /// Returns whether it is somebody else's server.
    pub(crate) fn is_peer(self) -> bool {
        !matches!(self, Self::Floor | Self::Aspis)
    }

    /// Returns the program, and the arguments that make it say its version.
    fn program(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Floor => ("aspis-bench", &["--version"]),
            Self::Aspis => ("aspis", &["version"]),
            Self::Nginx => ("nginx", &["-v"]),
            Self::Haproxy => ("haproxy", &["-v"]),
            Self::H2o => ("h2o", &["-v"]),
            Self::Varnish => ("varnishd", &["-V"]),
            Self::TrafficServer => ("traffic_server", &["-V"]),
            Self::Squid => ("squid", &["-v"]),
        }
    }
}

/// A server program of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) arm: Arm,
    pub(crate) path: PathBuf,
}

impl Program {
    /// Finds `arm`'s program; the product is as `given` or beside this program.
    pub(crate) fn find(arm: Arm, given: Option<&str>) -> io::Result<Self> {
        let path = match arm {
            Arm::Floor => std::env::current_exe()?,
            Arm::Aspis => process::find_aspis(given)?,
            _ => {
                let (name, package) = (arm.program().0, arm.name());
                find_program(name).ok_or_else(|| {
                    io::Error::other(format!("{name} is not installed (Debian package {package})"))
                })?
            }
        };
        Ok(Self { arm, path })
    }

    /// Returns the first line of what it says of itself.
    pub(crate) fn version(&self) -> String {
        let (_, arguments) = self.arm.program();
        if self.arm == Arm::Floor {
            return "this program".into();
        }
        let Ok(output) = std::process::Command::new(&self.path).args(arguments).output() else {
            return "unknown".into();
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let says = |line: &&str| line.bytes().any(|byte| byte.is_ascii_digit());
        text.lines().map(str::trim).find(says).unwrap_or("unknown").to_owned()
    }
}

/// Time on a CPU of a server so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    total: Duration,
    user: Duration,
    system: Duration,
}

impl Used {
    /// Returns the time that passed since `before`: all of it, and the part in user mode.
    ///
    /// The total is exact. Which mode it was spent in is known from the kernel's ticks alone, so the part is a share of the total.
    pub(crate) fn since(self, before: Self) -> (Duration, Duration) {
        let total = self.total.saturating_sub(before.total);
        let user = self.user.saturating_sub(before.user).as_secs_f64();
        let both = user + self.system.saturating_sub(before.system).as_secs_f64();
        let share = if both > 0.0 { user / both } else { 0.0 };
        (total, total.mul_f64(share))
    }
}

/// A server that is up.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) arm: Arm,
    pub(crate) address: SocketAddr,
    /// The server, and what it cannot write a log without.
    servers: Vec<Server>,
    log: Option<PathBuf>,
}

/// Where and for what a server is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) core: usize,
    pub(crate) origin: SocketAddr,
    pub(crate) cell: &'a Cell,
}

/// What one start came to.
pub(super) struct Started {
    pub(super) address: SocketAddr,
    pub(super) servers: Vec<Server>,
}

/// Starts a server in a new folder of the site.
pub(crate) fn start(program: &Program, site: Site<'_>) -> io::Result<Running> {
    let folder = site.scratch.path().join(program.arm.name());
    // What an earlier cell left must not be in this one's cache.
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder)?;
    let log = match site.cell.logging {
        Logging::Off => None,
        Logging::On if program.arm == Arm::Floor => None,
        Logging::On => Some(folder.join(configs::log_name(program.arm))),
    };
    let place = configs::Place { program: &program.path, folder: &folder, site, log: log.as_deref() };
    let started = match program.arm {
        Arm::Floor => floor(&program.path, site),
        Arm::Aspis => aspis(&program.path, site, log.as_deref()),
        Arm::Nginx => configs::nginx(&place),
        Arm::Haproxy => configs::haproxy(&place),
        Arm::H2o => configs::h2o(&place),
        Arm::Varnish => configs::varnish(&place),
        Arm::TrafficServer => configs::traffic_server(&place),
        Arm::Squid => configs::squid(&place),
    }?;
    Ok(Running { arm: program.arm, address: started.address, servers: started.servers, log })
}

impl Running {
    /// Returns its time on a CPU so far.
    pub(crate) fn used(&self) -> Used {
        let modes: Vec<_> = self.servers.iter().map(Server::modes).collect();
        Used {
            total: self.servers.iter().map(Server::cpu).sum(),
            user: modes.iter().map(|(user, _)| *user).sum(),
            system: modes.iter().map(|(_, system)| *system).sum(),
        }
    }

    /// Returns the same as one exact time.
    pub(crate) fn cpu(&self) -> Duration {
        self.servers.iter().map(Server::cpu).sum()
    }

    /// Returns the bytes of memory that it holds.
    pub(crate) fn resident(&self) -> u64 {
        self.servers.iter().map(Server::resident).sum()
    }

    /// Returns whether its access log has anything in it; true when it is to have none.
    pub(crate) fn has_logged(&self) -> bool {
        let len = |file: &PathBuf| fs::metadata(file).map_or(0, |file| file.len());
        self.log.as_ref().is_none_or(|file| len(file) > 0)
    }

    /// Empties the access log, so that one cell's lines do not fill the memory.
    pub(crate) fn empty_log(&self) {
        // A log that is not there yet needs no emptying.
        drop(self.log.as_ref().map(|file| fs::OpenOptions::new().write(true).truncate(true).open(file)));
    }
}

fn floor(program: &Path, site: Site<'_>) -> io::Result<Started> {
    let arguments = ["floor".to_owned(), "--size".to_owned(), site.cell.size.to_string()];
    let mut server = Server::start("floor", program, &arguments, Some(site.core))?;
    let address = server.announced("listening on ")?;
    Ok(Started { address, servers: vec![server] })
}

fn aspis(program: &Path, site: Site<'_>, log: Option<&Path>) -> io::Result<Started> {
    let log = log.map_or_else(|| "off".to_owned(), |file| file.display().to_string());
    let flags = ["--cores", "1", "--memory", "1GiB", "--access-log", &log];
    let aspis = Aspis::start(program, site.origin, Some(site.core), &flags)?;
    Ok(Started { address: aspis.address, servers: vec![aspis.server] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_is_found_by_its_name() {
        for arm in Arm::ALL {
            assert_eq!(Arm::named(arm.name()), Some(arm));
        }
        assert_eq!(Arm::named("apache"), None);
    }

    #[test]
    fn user_mode_is_a_share_of_the_exact_total() {
        let millis = Duration::from_millis;
        let before = Used { total: millis(100), user: millis(10), system: millis(90) };
        let after = Used { total: millis(304), user: millis(60), system: millis(240) };
        assert_eq!(after.since(before), (millis(204), millis(51)));
        assert_eq!(before.since(before), (Duration::ZERO, Duration::ZERO));
    }
}
