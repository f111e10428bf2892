//! `aspis invalidate` and `aspis explain`: ask a running server over its admin address.
//!
//! One request, one answer, over TCP or a Unix socket. What is printed on standard output is for people and scripts alike; what went wrong goes
//! to standard error. Exit codes: 0 done, 1 the server cannot be reached, refuses or is not through in time, 2 what was asked for is wrong.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use aspis_config::{AdminAddress, Raw, settings::REQUESTS};
use serde_json::{Value, json};

use crate::failure::{Failure, failed, finish, usage};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server answers within the time that it waits for its disk and for completion.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long `--wait` waits, in the server.
const WAIT_SECONDS: u64 = 60;
/// The longest answer that is read.
const ANSWER_LEN_MAX: u64 = 64 << 20;

/// Runs `aspis invalidate`.
pub(crate) fn invalidate(raw: &Raw, paths: &[String]) -> u8 {
    finish(invalidated(raw, paths))
}

/// Runs `aspis explain`.
pub(crate) fn explain(raw: &Raw, url: &str) -> u8 {
    finish(explained(raw, url))
}

fn invalidated(raw: &Raw, paths: &[String]) -> Result<String, Failure> {
    let values = |flag: &str| raw.values(flag).map(Value::from).collect::<Vec<Value>>();
    let (tags, hosts, all) = (values("tag"), values("host"), raw.contains("all"));
    if paths.is_empty() && tags.is_empty() && hosts.is_empty() && !all {
        return Err(usage(
            "nothing to invalidate: give paths, --tag, --host or --all\nExample: aspis invalidate '/images/*' --tag news",
        ));
    }
    let mut document =
        json!({ "paths": paths, "tags": tags, "hosts": hosts, "all": all, "soft": raw.contains("soft") });
    if let Some(reference) = raw.values("caller-reference").next() {
        document["caller_reference"] = json!(reference);
    }
    let waits = raw.contains("wait");
    let target =
        if waits { format!("/v1/invalidations?wait={WAIT_SECONDS}") } else { "/v1/invalidations".to_owned() };
    let answer = Server::of(raw)?.ask("POST", &target, Some(&document))?;
    let text = |name: &str| answer[name].as_str().unwrap_or("?").to_owned();
    let status = text("status");
    let line = format!("{} {status} (number {})\n", text("id"), answer["number"]);
    if waits && status != "Completed" {
        return Err(failed(
            format!("accepted, but not completed within {WAIT_SECONDS} s: {line}").trim_end(),
        ));
    }
    Ok(line)
}

fn explained(raw: &Raw, url: &str) -> Result<String, Failure> {
    let target = format!("/v1/explain?url={}", encoded(url));
    let answer = Server::of(raw)?.ask("GET", &target, None)?;
    Ok(described(&answer))
}

/// Lays an explanation out for people.
fn described(answer: &Value) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let list = |value: &Value| {
        let parts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        parts.collect::<Vec<_>>().join(" ")
    };
    lines.push(("why", answer["why"].as_str().unwrap_or("?").to_owned()));
    lines.push(("key", list(&answer["key"])));
    lines.push(("core", answer["core"].to_string()));
    match &answer["stored"] {
        Value::Null => lines.push(("stored", "no".to_owned())),
        stored => {
            lines.push((
                "stored",
                format!(
                    "yes: status {}, {} bytes, used {} time(s) lately",
                    stored["status"], stored["length"], stored["uses"]
                ),
            ));
            lines.push((
                "age",
                format!(
                    "{} s of {} s, fresh for {} s more",
                    stored["age"], stored["lifetime"], stored["fresh_for"]
                ),
            ));
            lines.push(("tags", stored["tags"].to_string()));
            lines.push((
                "number",
                format!(
                    "{}, held against invalidations up to {}",
                    stored["number"], answer["number_applied"]
                ),
            ));
        }
    }
    if answer["stored"].is_null() {
        lines.push(("number", format!("invalidations up to {} are applied", answer["number_applied"])));
    }
    if let Some(names) = answer["varies_by"].as_str().filter(|names| !names.is_empty()) {
        lines.push(("varies by", format!("{names}; {} variant(s) stored", answer["variants"])));
    }
    if answer["parts"].as_u64().is_some_and(|parts| parts > 0) {
        lines.push(("parts", answer["parts"].to_string()));
    }
    lines.iter().map(|(name, text)| format!("{name:<10} {text}\n")).collect()
}

/// A running server and what proves that we may ask it.
struct Server {
    address: AdminAddress,
    token: Option<String>,
}

impl Server {
    fn of(raw: &Raw) -> Result<Self, Failure> {
        let default =
            REQUESTS.iter().find(|setting| setting.flag == "admin").and_then(|setting| setting.default);
        let text = raw.values("admin").next().or(default).unwrap_or_default();
        let address = aspis_config::values::admin(text).map_err(|accepted| {
            usage(format!("invalid value '{text}' for '--admin': expected {accepted}"))
        })?;
        let token = match raw.values("admin-token").next() {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| failed(format!("--admin-token {path}: {error}")))?;
                Some(text.lines().next().unwrap_or_default().trim().to_owned())
            }
            None => None,
        };
        Ok(Server { address, token })
    }

    /// Sends one request and returns the answer's document; a problem becomes a failure.
    fn ask(&self, method: &str, target: &str, document: Option<&Value>) -> Result<Value, Failure> {
        let bytes = self
            .exchange(&self.request(method, target, document))
            .map_err(|error| self.unreachable(&error))?;
        let (status, body) =
            split(&bytes).ok_or_else(|| failed(format!("{} is no admin address of Aspis", self.address)))?;
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        if (200..300).contains(&status) && answer.is_object() {
            return Ok(answer);
        }
        let mut text = answer["detail"].as_str().map_or_else(
            || format!("{} answered {status}: is it an admin address of Aspis?", self.address),
            str::to_owned,
        );
        if let (Some(item), Some(pointer)) = (answer["item"].as_str(), answer["pointer"].as_str()) {
            text = format!("{text}\n  {pointer}: {item}");
        }
        Err(if status == 400 { usage(text) } else { failed(format!("{status}: {text}")) })
    }

    fn request(&self, method: &str, target: &str, document: Option<&Value>) -> Vec<u8> {
        let host = match &self.address {
            AdminAddress::Address(address) => address.to_string(),
            AdminAddress::Unix(_) | AdminAddress::Off => "localhost".to_owned(),
        };
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        if let Some(token) = &self.token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        match document.map(Value::to_string) {
            Some(body) => {
                request.push_str(&format!(
                    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ));
            }
            None => request.push_str("\r\n"),
        }
        request.into_bytes()
    }

    fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        match &self.address {
            AdminAddress::Address(address) => {
                let socket = TcpStream::connect_timeout(&reachable(*address), CONNECT_TIMEOUT)?;
                socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                converse(socket, request)
            }
            AdminAddress::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                converse(socket, request)
            }
            AdminAddress::Off => Err(io::Error::other("`off` is no address")),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        failed(match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => format!(
                "nobody listens on {}: give --admin what the server printed as `admin listening on`",
                self.address
            ),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{} did not answer in time", self.address)
            }
            _ => format!("{}: {error}", self.address),
        })
    }
}

/// An address that means all of this machine's is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], address.port())) } else { address }
}

fn converse(mut socket: impl Read + Write, request: &[u8]) -> io::Result<Vec<u8>> {
    // A server that refuses a long body answers before it read all of it, so what counts is the answer.
    let sent = socket.write_all(request);
    let mut answer = Vec::new();
    match socket.take(ANSWER_LEN_MAX).read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ if answer.is_empty() => sent.and(Err(io::ErrorKind::UnexpectedEof.into())),
        _ => Ok(answer),
    }
}

/// Splits an answer into its status and its content.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let status = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let status = std::str::from_utf8(status).ok()?.parse().ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((status, &answer[end + 4..]))
}

/// Encodes a URL as the value of a parameter.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EXIT_FAILED, EXIT_USAGE};

    #[test]
    fn answers_are_split() {
        assert_eq!(split(b"HTTP/1.1 201 Created\r\nA: b\r\n\r\n{}"), Some((201, b"{}".as_slice())));
        for answer in [b"HTTP/1.1 2".as_slice(), b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b""] {
            assert_eq!(split(answer), None);
        }
    }

    #[test]
    fn a_request_has_host_token_and_document() {
        let address = AdminAddress::Address("127.0.0.1:9080".parse().expect("an address"));
        let server = Server { address, token: Some("secret".to_owned()) };
        let request = server.request("POST", "/v1/x", Some(&json!({"a": 1})));
        assert_eq!(
            String::from_utf8(request).expect("text"),
            "POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:9080\r\nConnection: close\r\nAuthorization: Bearer secret\r\n\
             Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
        );
        assert_eq!(encoded("http://a/b?c=d&e"), "http%3A%2F%2Fa%2Fb%3Fc%3Dd%26e");
    }

    #[test]
    fn nobody_there_and_nothing_asked_are_said() {
        let raw: Raw = [("admin", "unix:/nowhere/admin.sock")].into_iter().collect();
        let failure = invalidated(&raw, &["/a".to_owned()]).expect_err("nobody listens");
        assert_eq!(failure.code, EXIT_FAILED);
        assert!(failure.text.starts_with("nobody listens on unix:/nowhere/admin.sock"), "{}", failure.text);
        assert_eq!(invalidated(&raw, &[]).expect_err("nothing asked").code, EXIT_USAGE);
        let raw: Raw = [("admin", "nowhere")].into_iter().collect();
        let failure = explained(&raw, "http://a/").expect_err("no address");
        assert!(failure.code == EXIT_USAGE && failure.text.contains("--admin"), "{}", failure.text);
    }
}
