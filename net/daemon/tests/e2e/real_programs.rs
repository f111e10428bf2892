//! Programs that others wrote: nginx as origin, curl, Chromium and a WebSocket client on node as viewers.
//!
//! A program that is not installed is said and left out; the scripted tests cover the same ground.

use crate::support::{Aspis, Directory, Launch, Origin, Viewer, eventually, pattern, pause};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Whether the program can be run; says so when not.
fn installed(program: &str, argument: &str) -> bool {
    let there =
        Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("left out: {program} is not installed");
    }
    there
}

/// A child that is ended with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, for at most a minute.
#[track_caller]
fn finish(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("an installed program starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    // Both pipes are read while it runs, so that it never waits for us.
    let (output, errors) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let drain = |mut pipe: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    };
    let (output, errors) = (drain(Box::new(output)), drain(Box::new(errors)));
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        pause();
    };
    Output { status, stdout: output.join().expect("a reader"), stderr: errors.join().expect("a reader") }
}

/// nginx with a document root of its own, in front of nothing.
struct Nginx {
    _running: Running,
    directory: Directory,
    port: u16,
}

impl Nginx {
    fn start() -> Self {
        let directory = Directory::new();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a port")
            .port();
        let root = directory.path().display().to_string();
        std::fs::create_dir(directory.path().join("www")).expect("the directory is ours");
        let configuration = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;
             events {{ worker_connections 256; }}
             http {{
               access_log off; default_type text/plain; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
               fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; client_max_body_size 1g;
               types {{ text/html html; image/png png; }}
               server {{
                 listen 127.0.0.1:{port}; root {root}/www;
                 location / {{ add_header Cache-Control max-age=60; }}
                 location /upload {{ dav_methods PUT; }}
               }}
             }}"
        );
        let path = directory.file("nginx.conf");
        std::fs::write(&path, configuration).expect("the directory is ours");
        let error_log = directory.file("error.log");
        let mut command = Command::new("nginx");
        command
            .args(["-p", &root, "-c", &path, "-e", &error_log])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = Running(command.spawn().expect("nginx starts"));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        eventually("nginx listens", || std::net::TcpStream::connect(address).ok());
        Self { _running: running, directory, port }
    }

    fn put(&self, name: &str, content: &[u8]) {
        std::fs::write(self.directory.path().join("www").join(name), content).expect("the directory is ours");
    }

    fn before(&self) -> Aspis {
        Launch::before(&format!("http://127.0.0.1:{}", self.port)).with("--memory", "512MiB").start()
    }
}

#[test]
fn nginx_is_served_to_curl_and_hit() {
    if !installed("nginx", "-v") || !installed("curl", "-V") {
        return;
    }
    let nginx = Nginx::start();
    nginx.put("page.html", b"<p>from nginx</p>");
    nginx.put("large.bin", &pattern(0, 20 << 20));
    let aspis = nginx.before();
    for (name, content) in [("page.html", b"<p>from nginx</p>".to_vec()), ("large.bin", pattern(0, 20 << 20))]
    {
        for result in ["Miss", "Hit"] {
            let heads = nginx.directory.file("heads");
            let url = format!("http://{}/{name}", aspis.address());
            let output = finish(Command::new("curl").args(["-sS", "--http1.1", "-D", &heads, &url]));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == content, "{name}: {} bytes", output.stdout.len());
            let heads = std::fs::read_to_string(&heads).expect("curl wrote it");
            assert!(
                heads
                    .to_ascii_lowercase()
                    .contains(&format!("x-cache: {} from aspis", result.to_ascii_lowercase())),
                "{heads}"
            );
        }
    }
    // Compressed transfer, ranges and conditions of a real server pass through.
    let url = format!("http://{}/large.bin", aspis.address());
    let output = finish(Command::new("curl").args(["-sS", "-r", "100-299", &url]));
    assert!(output.stdout == pattern(100, 200), "{} bytes", output.stdout.len());
    let missing = Viewer::connect(&aspis).get("/missing");
    assert_eq!(missing.status(), 404);
}

/// curl sends `Expect: 100-continue` for a large upload by itself.
#[test]
fn curl_uploads_through_to_nginx() {
    if !installed("nginx", "-v") || !installed("curl", "-V") {
        return;
    }
    let nginx = Nginx::start();
    std::fs::create_dir(nginx.directory.path().join("www/upload")).expect("the directory is ours");
    let aspis = nginx.before();
    let body = pattern(3, 10 << 20);
    let file = nginx.directory.file("sent");
    std::fs::write(&file, &body).expect("the directory is ours");
    for (name, extra) in [("counted", ""), ("chunked", "Transfer-Encoding: chunked")] {
        let url = format!("http://{}/upload/{name}", aspis.address());
        let mut command = Command::new("curl");
        command.args(["-sS", "--http1.1", "-o", "/dev/null", "-w", "%{http_code}", "-T", &file, &url]);
        if !extra.is_empty() {
            command.args(["-H", extra]);
        }
        let output = finish(&mut command);
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        if status == "405" {
            eprintln!("left out: this nginx has no DAV module");
            return;
        }
        assert_eq!(status, "201", "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let stored =
            std::fs::read(nginx.directory.path().join("www/upload").join(name)).expect("nginx stored it");
        assert!(stored == body, "{name}: {} bytes", stored.len());
    }
}

/// One pixel, as small as a PNG gets.
const PIXEL: &[u8] =
    b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x01\x00\x00\
    \x00\x01\x08\x00\x00\x00\x00\x3a\x7e\x9b\x55\x00\x00\x00\x0a\x49\x44\x41\x54\x78\x9c\x63\
    \x68\x00\x00\x00\x82\x00\x81\x77\xcd\x72\xb6\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\
    \x82";

#[test]
fn chromium_renders_a_page_with_an_image() {
    let Some(program) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| installed(name, "--version"))
    else {
        return;
    };
    let origin = Origin::start(|reply| match reply.request.target() {
        "/" => {
            let page = b"<!doctype html><title>t</title><body><p id=r>waiting</p><img src=/pixel.png \
                onload=\"document.getElementById('r').textContent='image of '+this.naturalWidth\" \
                onerror=\"document.getElementById('r').textContent='image failed'\"></body>";
            reply.answer(200, &[("Content-Type", "text/html"), ("Cache-Control", "max-age=60")], page);
        }
        "/pixel.png" => {
            reply.answer(200, &[("Content-Type", "image/png"), ("Cache-Control", "max-age=60")], PIXEL)
        }
        _ => reply.answer(404, &[], b""),
    });
    let aspis = Launch::before(&origin.url()).start();
    let profile = Directory::new();
    let mut command = Command::new(program);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--dump-dom",
    ]);
    command.args(["--disable-dev-shm-usage", "--no-first-run", "--virtual-time-budget=5000"]);
    command
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/", aspis.address()));
    let output = finish(&mut command);
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(page.contains("image of 1"), "{:?}\n{page}\n{errors}", output.status);
    assert_eq!(origin.count("/pixel.png"), 1);
}

/// node's own WebSocket client against a handwritten echo in node: real frames through the tunnel.
#[test]
fn node_websocket_talks_through_the_tunnel() {
    if !installed("node", "--version") {
        return;
    }
    const SERVER: &str = r#"
      const { createServer } = require('http'), { createHash } = require('crypto');
      const server = createServer((q, s) => s.end('plain'));
      server.on('upgrade', (q, socket, rest) => {
        const accept = createHash('sha1').update(q.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
        socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ' + accept + '\r\n\r\n');
        let held = rest;
        socket.on('error', () => {});
        socket.on('data', data => {
          held = Buffer.concat([held, data]);
          for (;;) {
            if (held.length < 6) return;
            let length = held[1] & 127, at = 2;
            if (length === 126) { if (held.length < 8) return; length = held.readUInt16BE(2); at = 4; }
            if (length === 127) { if (held.length < 14) return; length = Number(held.readBigUInt64BE(2)); at = 10; }
            if (held.length < at + 4 + length) return;
            const mask = held.subarray(at, at + 4), body = Buffer.from(held.subarray(at + 4, at + 4 + length));
            for (let i = 0; i < body.length; i++) body[i] ^= mask[i & 3];
            const code = held[0] & 15;
            held = held.subarray(at + 4 + length);
            if (code === 8) { socket.end(Buffer.from([0x88, 0])); return; }
            let head = Buffer.from([0x80 | code, body.length]);
            if (body.length > 65535) { head = Buffer.alloc(10); head[0] = 0x80 | code; head[1] = 127; head.writeBigUInt64BE(BigInt(body.length), 2); }
            else if (body.length > 125) { head = Buffer.alloc(4); head[0] = 0x80 | code; head[1] = 126; head.writeUInt16BE(body.length, 2); }
            socket.write(Buffer.concat([head, body]));
          }
        });
      });
      server.listen(0, '127.0.0.1', () => console.log(server.address().port));
    "#;
    const CLIENT: &str = r#"
      if (typeof WebSocket === 'undefined') { console.log('no client'); process.exit(0); }
      const socket = new WebSocket('ws://' + process.argv[1] + '/chat'), sizes = [1, 125, 126, 65535, 65536, 1000000];
      const texts = sizes.map(n => 'x'.repeat(n - 1) + 'y'); let next = 0;
      socket.onopen = () => texts.forEach(text => socket.send(text));
      socket.onmessage = event => {
        if (event.data !== texts[next++]) { console.log('wrong'); process.exit(1); }
        if (next === texts.length) socket.close();
      };
      socket.onclose = event => { console.log('closed after ' + next); process.exit(0); };
      socket.onerror = event => { console.log('error ' + event.message); process.exit(1); };
    "#;
    let mut server = Command::new("node");
    server.args(["-e", SERVER]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Running(server.spawn().expect("node starts"));
    let mut port = String::new();
    let output = server.0.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut port).expect("the port");
    let aspis = Launch::before(&format!("http://127.0.0.1:{}", port.trim())).start();
    Viewer::connect(&aspis).get("/").expect(200, b"plain");
    let output = finish(Command::new("node").args([
        "--experimental-websocket",
        "-e",
        CLIENT,
        &aspis.address().to_string(),
    ]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("no client") || errors.contains("bad option") {
        eprintln!("left out: this node has no WebSocket client");
        return;
    }
    assert_eq!(said.trim(), "closed after 6", "{errors}");
}
