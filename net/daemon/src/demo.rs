//! `aspis demo`: an origin of its own, Aspis before it, and lines to try.
//!
//! The origin listens on a free loopback port on its own thread; Aspis then serves as `aspis serve` would, with the
//! same contract on standard output, with a disk tier in a temporary folder. What to try goes to standard error, for the person who started it.

mod content;
mod origin;
mod range;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aspis_config::{Cores, Raw};

use crate::failure::failed;
use crate::store::Temporary;
use crate::{boot, cores, stdout};

/// Runs the demo until a signal ends it; returns the exit code.
pub(crate) fn run(mut raw: Raw) -> u8 {
    let origin = match origin::start() {
        Ok(address) => address,
        Err(error) => {
            return failed(format!("the demo's origin cannot start: {error}")).tell();
        }
    };
    raw.push("origin", format!("http://{origin}"));
    // Held until everything has ended.
    let _folder = store_folder(&mut raw);
    match crate::settings(&raw) {
        Ok(settings) => boot::run(settings, |announced| {
            if let Some(viewers) = announced.viewers {
                stdout::complain(&lines_to_try(reachable(viewers), announced.admin.map(reachable), origin));
            }
        }),
        Err(code) => code,
    }
}

/// Gives the demo a disk tier of its own, unless the flags name one or there is no room.
fn store_folder(raw: &mut Raw) -> Option<Temporary> {
    if raw.contains("disk") {
        return None;
    }
    let available = aspis_runtime::bind::available_cpus();
    // A wrong value is told by whoever checks all flags.
    let wanted = raw
        .values("cores")
        .next()
        .and_then(|text| aspis_config::values::cores(text).ok())
        .unwrap_or(Cores::All);
    let cores = cores::choose(&wanted, &available).map_or(available.len(), |cpus| cpus.len());
    match Temporary::new(cores) {
        Ok(Some(folder)) => {
            raw.push("disk", folder.path().to_string_lossy());
            if !raw.contains("disk-size") {
                raw.push("disk-size", folder.size.to_string());
            }
            Some(folder)
        }
        Ok(None) => {
            tracing::info!("too little room for a disk tier among the temporary files; the demo has none");
            None
        }
        Err(error) => {
            tracing::warn!("no folder for a disk tier can be made: {error}; the demo has none");
            None
        }
    }
}

/// Returns an address at which a program on this machine reaches a listener, which may listen on all addresses.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn lines_to_try(aspis: SocketAddr, admin: Option<SocketAddr>, origin: SocketAddr) -> String {
    let admin = admin.map_or_else(String::new, |admin| {
        format!("\n  # What it counted.\n  curl -s http://{admin}/metrics | grep aspis_requests_total\n\n  \
             # What is on disk: it would outlive a restart, but the demo removes it when it ends.\n  curl -s http://{admin}/v1/store\n"
        )
    });
    format!(
        "
Aspis listens on http://{aspis}/ ; its origin, which it shields, on http://{origin}/ .
Open the first in a browser, or try these lines in another terminal:

  # A second of work at the origin, done once for everybody in 30 s. Run it twice and watch X-Cache and the time.
  curl -si -w '%{{time_total}} s\\n' http://{aspis}/slow

  # How often was the origin really asked for it? (Never answered from memory itself.)
  curl -s 'http://{aspis}/asked?path=/slow'

  # The same counter from the inside: the number stands still for 10 s.
  for i in 1 2 3 4 5; do curl -s http://{aspis}/count; done

  # Allowed to be kept, and not.
  curl -sI http://{aspis}/images/wave.svg | grep -iE 'x-cache|age|cache-'
  curl -sI http://{aspis}/private | grep -iE 'x-cache|age|cache-'

  # A 32 MiB object: a piece of it, then all of it.
  curl -s -o /dev/null -D - -r 1000-1999 http://{aspis}/video
  curl -s -o /dev/null -w '%{{speed_download}} bytes/s\\n' http://{aspis}/video
{admin}
End with Ctrl-C.

"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_to_try_name_the_address_that_was_taken() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let text = lines_to_try(
            reachable(address("0.0.0.0:1234")),
            Some(address("127.0.0.1:9")),
            address("127.0.0.1:5678"),
        );
        assert!(text.contains("curl -s 'http://127.0.0.1:1234/asked?path=/slow'"), "{text}");
        assert!(text.contains("http://127.0.0.1:5678/"), "{text}");
        assert!(text.contains("curl -s http://127.0.0.1:9/metrics"), "{text}");
        assert_eq!(reachable(address("[::]:1")), address("[::1]:1"));
        assert_eq!(reachable(address("192.0.2.1:1")), address("192.0.2.1:1"));
    }

    #[test]
    fn every_line_to_try_asks_for_something_that_the_origin_has() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let text = lines_to_try(address("127.0.0.1:1"), None, address("127.0.0.1:2"));
        assert!(!text.contains("metrics"), "{text}");
        let asked = text.split("http://127.0.0.1:1/").skip(1).map(|rest| {
            let end = rest.find(|c: char| c.is_whitespace() || c == '\'').expect("an end");
            format!("/{}", rest[..end].split('?').next().expect("a path").trim_end_matches(';'))
        });
        for path in asked {
            assert!(origin::PATHS.contains(&path.as_str()) || path == "/", "{path}");
        }
    }
}
