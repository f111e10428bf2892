//! Who may ask the admin server for what?
//!
//! Reading under `/v1/` and every change ask here before anything else is looked at. A page in a browser on this machine, or on one that
//! reaches the admin address, must not be able to act for its user: it may have made its own name point here (DNS rebinding), or send a
//! form. So a request that names this server by a name other than `localhost`, or that a page of another origin makes, is refused. Over the
//! network a change needs the token besides. Health and metrics are for everybody.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::sync::{PoisonError, RwLock};

use aspis_wire::request::RequestHead;

use super::listener::Reach;
use super::reply::Problem;

/// A shorter token could be guessed.
const TOKEN_LEN_MIN: usize = 16;
/// A longer line is no token.
const TOKEN_LEN_MAX: usize = 4096;

/// The rules for one admin address.
#[derive(Debug)]
pub(crate) struct Guard {
    reach: Reach,
    /// The file of `--admin-token`, and the token read from it last.
    token: Option<(String, RwLock<Box<[u8]>>)>,
}

impl Guard {
    /// Makes the rules for an address that can be reached so. The error names the flag.
    pub(crate) fn new(reach: Reach, token_file: Option<&str>) -> Result<Self, String> {
        let token = match token_file {
            Some(path) => Some((path.to_owned(), RwLock::new(read_token(path)?))),
            None => None,
        };
        Ok(Guard { reach, token })
    }

    /// Reads the token's file again; if that fails the token read before stays in use.
    pub(crate) fn reload(&self) {
        let Some((path, token)) = &self.token else { return };
        match read_token(path) {
            Ok(fresh) => {
                *token.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                tracing::info!("the admin token was read again");
            }
            Err(error) => tracing::error!("{error}; the token read before stays in use"),
        }
    }

    /// May this request read what is stored and what was invalidated?
    pub(crate) fn may_read(&self, head: &RequestHead<'_, '_>) -> Result<(), Problem> {
        self.is_ours(head)
    }

    /// May this request change something?
    pub(crate) fn may_change(&self, head: &RequestHead<'_, '_>) -> Result<(), Problem> {
        self.is_ours(head)?;
        if self.reach == Reach::Network && !self.has_token(head) {
            return Err(match (&self.token, head.field("authorization").is_some()) {
                (Some(_), was_sent) => Problem::new(
                    401,
                    "token",
                    if was_sent {
                        "this is not the token in the file of --admin-token"
                    } else {
                        "send the token in the file of --admin-token: Authorization: Bearer TOKEN"
                    },
                )
                .with("www-authenticate", "Bearer"),
                (None, _) => Problem::new(
                    403,
                    "no-token",
                    "this address is open to others: start the server with --admin-token FILE, or with --admin on loopback or a Unix socket",
                ),
            });
        }
        Ok(())
    }

    /// Refuses what a page of a foreign origin makes, and what reached us by a name that anybody may have pointed here.
    fn is_ours(&self, head: &RequestHead<'_, '_>) -> Result<(), Problem> {
        // Pages cannot open Unix sockets, and who knows the token is no page.
        if self.reach == Reach::Unix || self.has_token(head) {
            return Ok(());
        }
        // The authority is the target's if that has one, and else it is `Host`.
        let host = head.field("host").map(|host| std::str::from_utf8(host).unwrap_or_default());
        let named = [host, head.scheme.map(|_| head.authority)];
        if let Some(foreign) = named.into_iter().flatten().find(|name| !is_own(name)) {
            return Err(Problem::new(
                403,
                "foreign-host",
                format!(
                    "Host '{foreign}' could be anybody's: call this server localhost or by its address, or send its token"
                ),
            ));
        }
        let own = format!("http://{}", host.unwrap_or_default());
        match head.fields_named("origin").find(|origin| *origin != own.as_bytes()) {
            Some(origin) => Err(Problem::new(
                403,
                "foreign-origin",
                format!("pages of '{}' may not ask here", String::from_utf8_lossy(origin)),
            )),
            None => Ok(()),
        }
    }

    fn has_token(&self, head: &RequestHead<'_, '_>) -> bool {
        let Some((_, token)) = &self.token else { return false };
        let Some(given) = head.field("authorization").and_then(bearer) else {
            return false;
        };
        is_same(given, &token.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Refuses a body that says it is something else: what a form of a foreign page can send is never JSON.
pub(crate) fn is_json(head: &RequestHead<'_, '_>) -> Result<(), Problem> {
    let given =
        head.field("content-type").and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(415, "content-type", format!("expected Content-Type: application/json, not '{given}'")))
}

/// `localhost` or an address, with or without a port: what no other name server can point here.
fn is_own(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'));
    }
    let name = host.split(':').next().unwrap_or_default();
    name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok()
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that depends on the lengths only.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != token.len());
    for (at, byte) in given.iter().enumerate() {
        difference |= byte ^ token[at % token.len()];
        // Without this the compiler may end the loop at the first difference.
        difference = std::hint::black_box(difference);
    }
    difference == 0
}

fn read_token(path: &str) -> Result<Box<[u8]>, String> {
    let fail = |what: &dyn std::fmt::Display| format!("--admin-token {path}: {what}");
    let file = File::open(path).map_err(|error| fail(&error))?;
    let mode = file.metadata().map_err(|error| fail(&error))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            "--admin-token {path} can be read by others (mode {:o}); `chmod 600 {path}`",
            mode & 0o777
        );
    }
    let mut line = String::new();
    BufReader::new(file.take(TOKEN_LEN_MAX as u64 + 1)).read_line(&mut line).map_err(|error| fail(&error))?;
    let token = line.trim();
    if !(TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&token.len())
        || !token.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(fail(&format!(
            "expected a token of {TOKEN_LEN_MIN} to {TOKEN_LEN_MAX} visible ASCII characters in the first line, such as `openssl rand -hex 32` gives"
        )));
    }
    Ok(token.as_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use aspis_wire::request::RequestFraming;
    use aspis_wire::{Field, Method, Scheme, Version};

    const TOKEN: &str = "0123456789abcdef";

    struct TokenFile(PathBuf);

    impl TokenFile {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("aspis-token-{}-{name}", std::process::id()));
            std::fs::write(&path, text).expect("a file can be written");
            TokenFile(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().expect("a plain path")
        }
    }

    impl Drop for TokenFile {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.0));
        }
    }

    /// A head as the parser gives it. `Host` stands for the authority.
    fn with_head<T>(
        target: Option<&str>,
        pairs: &[(&str, &str)],
        look: impl Fn(&RequestHead<'_, '_>) -> T,
    ) -> T {
        let fields: Vec<Field<'_>> =
            pairs.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
        let host = pairs.iter().find(|(name, _)| *name == "host").map_or("", |(_, value)| *value);
        look(&RequestHead {
            method: Method::Post,
            version: Version::Http11,
            scheme: target.map(|_| Scheme::Http),
            authority: target.unwrap_or(host),
            path_and_query: "/v1/invalidations",
            fields: &fields,
            framing: RequestFraming::None,
            keep_alive: true,
            upgrade: false,
            expect_continue: false,
            len: 0,
        })
    }

    fn change(guard: &Guard, pairs: &[(&str, &str)]) -> u16 {
        with_head(None, pairs, |head| guard.may_change(head).map_or_else(|problem| problem.status, |()| 200))
    }

    #[test]
    fn a_name_that_could_be_anybodys_is_refused() {
        let guard = Guard::new(Reach::Loopback, None).expect("no file");
        for (host, status) in [
            ("127.0.0.1:9080", 200),
            ("localhost:9080", 200),
            ("LOCALHOST", 200),
            ("[::1]:9080", 200),
            ("rebound.example:9080", 403),
            ("localhost.example", 403),
            ("127.0.0.1.example", 403),
            ("[::1", 403),
            ("", 403),
        ] {
            assert_eq!(change(&guard, &[("host", host)]), status, "{host}");
        }
        let own = [("host", "127.0.0.1")];
        assert!(with_head(Some("rebound.example"), &own, |head| guard.may_read(head)).is_err());
        assert!(with_head(Some("localhost"), &own, |head| guard.may_read(head)).is_ok());
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let guard = Guard::new(Reach::Loopback, None).expect("no file");
        let host = ("host", "127.0.0.1:9080");
        assert_eq!(change(&guard, &[host, ("origin", "http://127.0.0.1:9080")]), 200);
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", "https://127.0.0.1:9080"] {
            assert_eq!(change(&guard, &[host, ("origin", origin)]), 403, "{origin}");
        }
    }

    #[test]
    fn over_the_network_a_change_needs_the_token() {
        let file = TokenFile::new("network", &format!("{TOKEN}\nmore\n"));
        let guard = Guard::new(Reach::Network, Some(file.path())).expect("a token");
        let host = ("host", "10.0.0.1:9080");
        assert_eq!(change(&guard, &[host]), 401);
        for wrong in ["0123456789abcdeF", "0123456789abcde", "0123456789abcdef0", "", "more"] {
            assert_eq!(
                change(&guard, &[host, ("authorization", &format!("Bearer {wrong}"))]),
                401,
                "{wrong}"
            );
        }
        assert_eq!(change(&guard, &[host, ("authorization", &format!("Basic {TOKEN}"))]), 401);
        assert_eq!(change(&guard, &[host, ("authorization", &format!("bearer {TOKEN}"))]), 200);
        // Who has the token may call the server by any name.
        assert_eq!(
            change(&guard, &[("host", "admin.example"), ("authorization", &format!("Bearer {TOKEN}"))]),
            200
        );
        assert!(with_head(None, &[host], |head| guard.may_read(head)).is_ok());
        let open = Guard::new(Reach::Network, None).expect("no file");
        assert_eq!(change(&open, &[host, ("authorization", &format!("Bearer {TOKEN}"))]), 403);
    }

    #[test]
    fn loopback_and_unix_sockets_need_none() {
        let file = TokenFile::new("loopback", TOKEN);
        let guard = Guard::new(Reach::Loopback, Some(file.path())).expect("a token");
        assert_eq!(change(&guard, &[("host", "127.0.0.1")]), 200);
        let guard = Guard::new(Reach::Unix, None).expect("no file");
        assert_eq!(change(&guard, &[("host", "anything")]), 200);
    }

    #[test]
    fn a_new_token_is_read_and_a_bad_one_is_not() {
        let file = TokenFile::new("reload", TOKEN);
        let guard = Guard::new(Reach::Network, Some(file.path())).expect("a token");
        let host = ("host", "10.0.0.1");
        std::fs::write(&file.0, "fedcba9876543210\n").expect("a file can be written");
        guard.reload();
        assert_eq!(change(&guard, &[host, ("authorization", &format!("Bearer {TOKEN}"))]), 401);
        assert_eq!(change(&guard, &[host, ("authorization", "Bearer fedcba9876543210")]), 200);
        std::fs::write(&file.0, "short\n").expect("a file can be written");
        guard.reload();
        assert_eq!(change(&guard, &[host, ("authorization", "Bearer fedcba9876543210")]), 200);
        assert!(Guard::new(Reach::Network, Some(file.path())).expect_err("short").contains("--admin-token"));
        assert!(Guard::new(Reach::Network, Some("/nowhere")).expect_err("not there").contains("/nowhere"));
    }

    #[test]
    fn only_json_is_read() {
        for (given, is_taken) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("application/jsonx", false),
        ] {
            assert_eq!(with_head(None, &[("content-type", given)], is_json).is_ok(), is_taken, "{given}");
        }
        assert_eq!(with_head(None, &[], is_json).expect_err("none").status, 415);
    }
}
