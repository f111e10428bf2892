//! How the peers are configured: as their own documentation advises for a cache on one core with everything in memory.
//!
//! In all of them: one worker on one core, connections kept as long as viewers want, no limit on requests of a connection, no access log unless
//! the cell asks for one, no fields in answers beyond what the server adds by itself, files in memory.

use super::arms::{Arm, Site, Started};
use crate::process::{Server, find_program, free_port};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// What a configuration is made for.
pub(super) struct Place<'a> {
    pub(super) program: &'a Path,
    /// A new folder of the server's own.
    pub(super) folder: &'a Path,
    pub(super) site: Site<'a>,
    /// The access log, if there is to be one.
    pub(super) log: Option<&'a Path>,
}

/// Returns the name of the access log's file; Traffic Server makes one up from the name of the log.
pub(super) fn log_name(arm: Arm) -> &'static str {
    match arm {
        Arm::TrafficServer => "log/access.log",
        _ => "access.log",
    }
}

impl Place<'_> {
    fn write(&self, name: &str, text: &str) -> io::Result<String> {
        let file = self.folder.join(name);
        fs::write(&file, text)?;
        Ok(file.display().to_string())
    }

    /// Starts the program and waits until it accepts.
    fn start(&self, name: &'static str, arguments: &[&str], address: SocketAddr) -> io::Result<Started> {
        self.start_other(name, self.program, arguments, address)
    }

    fn start_other(
        &self,
        name: &'static str,
        program: &Path,
        arguments: &[&str],
        address: SocketAddr,
    ) -> io::Result<Started> {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let server = Server::start(name, program, &arguments, Some(self.site.core))?;
        server.accepts(address)?;
        Ok(Started { address, servers: vec![server] })
    }
}

fn free_address() -> io::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

/// Returns whether this process may become other users; servers then do, and could not write below our folder.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Bodies shorter than this leave nginx in one packet with their head.
const NGINX_CORKED_LEN: u64 = 32 * 1024;

/// nginx: `proxy_cache` on files in memory, which it sends by `sendfile` and keeps open.
pub(super) fn nginx(place: &Place<'_>) -> io::Result<Started> {
    let address = free_address()?;
    let (here, origin) = (place.folder.display(), place.site.origin);
    let user = if is_root() { "user root;" } else { "" };
    let affinity = 1_u64 << place.site.core.min(63);
    // Held back, the rest of a larger body waits 40 ms for an acknowledgement over loopback; a small one costs a packet more if it is not.
    let corked = if place.site.cell.size < NGINX_CORKED_LEN { "on" } else { "off" };
    let log = place
        .log
        .map_or_else(|| "off".to_owned(), |file| format!("{} combined buffer=64k flush=1s", file.display()));
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
    access_log {log};
    sendfile on;
    tcp_nopush {corked};
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
        }}
    }}
}}
"
    );
    let file = place.write("nginx.conf", &text)?;
    place.start("nginx", &["-p", &here.to_string(), "-e", "stderr", "-c", &file], address)
}

/// HAProxy: one thread and its cache; the log goes to standard output, which is a file.
pub(super) fn haproxy(place: &Place<'_>) -> io::Result<Started> {
    let address = free_address()?;
    let origin = place.site.origin;
    let log = if place.log.is_some() { "log stdout format raw local0\n    option httplog" } else { "no log" };
    let text = format!(
        "global
    nbthread 1
    maxconn 8192
defaults
    mode http
    {log}
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout http-keep-alive 300s
cache bench
    total-max-size 1024
    max-object-size 2097152
    max-age 3600
frontend viewers
    bind {address} backlog 4096
    http-request cache-use bench
    http-response cache-store bench
    default_backend origin
backend origin
    http-reuse always
    server origin {origin}
"
    );
    let file = place.write("haproxy.cfg", &text)?;
    let Some(log) = place.log else { return place.start("haproxy", &["-db", "-f", &file], address) };
    let command = format!("exec {} -db -f {file} >> {}", place.program.display(), log.display());
    place.start_other("haproxy", Path::new("/bin/sh"), &["-c", &command], address)
}

/// h2o: one thread serving files; it has no cache of responses.
pub(super) fn h2o(place: &Place<'_>) -> io::Result<Started> {
    let address = free_address()?;
    let cell = place.site.cell;
    let files = place.folder.join("files");
    let mut body = vec![0; cell.size as usize];
    for object in 0..cell.object_count() {
        let plan = cell.plan(object);
        let file = files.join(plan.to_string().trim_start_matches('/'));
        if object == 0 {
            fs::create_dir_all(file.parent().unwrap_or(&files))?;
        }
        plan.content().fill(0, &mut body);
        fs::write(file, &body)?;
    }
    let user = if is_root() { "user: root\n" } else { "" };
    let log = place.log.map_or_else(String::new, |file| format!("access-log: {}\n", file.display()));
    let (port, files) = (address.port(), files.display());
    let text = format!(
        "{user}num-threads: 1
max-connections: 8192
http1-request-timeout: 300
error-log: /dev/stderr
{log}file.send-compressed: OFF
file.mime.setdefaulttype: application/octet-stream
header.set: \"Cache-Control: public, max-age=3600\"
listen:
  host: 127.0.0.1
  port: {port}
hosts:
  default:
    paths:
      /:
        file.dir: {files}
"
    );
    let file = place.write("h2o.conf", &text)?;
    place.start("h2o", &["-c", &file], address)
}

/// Varnish: memory storage, threads enough for every connection; the log is a program of its own, pinned and counted with it.
pub(super) fn varnish(place: &Place<'_>) -> io::Result<Started> {
    let address = free_address()?;
    let origin = place.site.origin;
    let text = format!(
        "vcl 4.1;
backend origin {{
    .host = \"{}\";
    .port = \"{}\";
}}
sub vcl_recv {{
    return (hash);
}}
",
        origin.ip(),
        origin.port()
    );
    let file = place.write("default.vcl", &text)?;
    let work = place.folder.join("work").display().to_string();
    let listen = address.to_string();
    // The jail would become a user that cannot read our folder.
    let mut arguments = vec!["-F", "-j", "none", "-a", &listen, "-f", &file, "-n", &work, "-s", "malloc,1g"];
    for parameter in [
        "timeout_idle=300",
        "thread_pools=1",
        "thread_pool_min=200",
        "thread_pool_max=4000",
        "listen_depth=4096",
    ] {
        arguments.extend(["-p", parameter]);
    }
    let mut started = place.start("varnish", &arguments, address)?;
    if let Some(log) = place.log {
        let program =
            find_program("varnishncsa").ok_or_else(|| io::Error::other("varnishncsa is not installed"))?;
        let arguments = ["-n", &work, "-w", &log.display().to_string()].map(str::to_owned);
        started.servers.push(Server::start("varnishncsa", &program, &arguments, Some(place.site.core))?);
    }
    Ok(started)
}

/// Traffic Server: one event thread, a RAM cache that takes the largest of our objects, and its store on a file in memory.
pub(super) fn traffic_server(place: &Place<'_>) -> io::Result<Started> {
    let address = free_address()?;
    let (here, origin, port) = (place.folder.display(), place.site.origin, address.port());
    for name in ["etc", "cache", "log", "run"] {
        fs::create_dir_all(place.folder.join(name))?;
    }
    let installed = place.program.parent().unwrap_or(Path::new("/usr/bin"));
    let (programs, prefix) = (installed.display(), installed.parent().unwrap_or(Path::new("/usr")).display());
    let layout = format!(
        "prefix: {prefix}
exec_prefix: {prefix}
bindir: {programs}
sbindir: {programs}
sysconfdir: {here}/etc
datadir: {prefix}/share/trafficserver
includedir: {prefix}/include
libdir: {prefix}/lib/trafficserver
libexecdir: {prefix}/lib/trafficserver/modules
localstatedir: {here}/run
runtimedir: {here}/run
logdir: {here}/log
cachedir: {here}/cache
"
    );
    let logging = if place.log.is_some() { 2 } else { 0 };
    let user = if is_root() { "CONFIG proxy.config.admin.user_id STRING #-1" } else { "" };
    let records = format!(
        "CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 1
CONFIG proxy.config.exec_thread.affinity INT 0
CONFIG proxy.config.accept_threads INT 0
CONFIG proxy.config.task_threads INT 1
CONFIG proxy.config.cache.threads_per_disk INT 1
CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.http.insert_request_via_str INT 0
CONFIG proxy.config.http.insert_response_via_str INT 0
CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 300
CONFIG proxy.config.cache.ram_cache.size INT 1024M
CONFIG proxy.config.cache.ram_cache_cutoff INT 4194304
CONFIG proxy.config.cache.min_average_object_size INT 2000
CONFIG proxy.config.log.logging_enabled INT {logging}
CONFIG proxy.config.log.max_secs_per_buffer INT 1
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.crash_log_helper STRING NULL
{user}
"
    );
    place.write("etc/records.config", &records)?;
    place.write("etc/storage.config", &format!("{here}/cache 1G\n"))?;
    place.write("etc/remap.config", &format!("map / http://{origin}/\n"))?;
    place.write(
        "etc/ip_allow.yaml",
        "ip_allow:\n  - apply: in\n    ip_addrs: 127.0.0.1\n    action: allow\n    methods: ALL\n",
    )?;
    place.write(
        "etc/logging.yaml",
        "logging:
  formats:
  - name: combined
    format: '%<chi> - %<caun> [%<cqtn>] \"%<cqtx>\" %<pssc> %<pscl> \"%<{Referer}cqh>\" \"%<{User-Agent}cqh>\"'
  logs:
  - filename: access
    format: combined
    mode: ascii
",
    )?;
    let file = place.write("runroot.yaml", &layout)?;
    let environment = format!("TS_RUNROOT={file}");
    let program = place.program.display().to_string();
    place.start_other("trafficserver", Path::new("/usr/bin/env"), &[&environment, &program], address)
}

/// Squid: one process before the origin, everything in its memory cache.
pub(super) fn squid(place: &Place<'_>) -> io::Result<Started> {
    let address = free_address()?;
    let (here, origin) = (place.folder.display(), place.site.origin);
    // It becomes another user, which is to write its logs here.
    fs::set_permissions(place.folder, fs::Permissions::from_mode(0o777))?;
    let log = place
        .log
        .map_or_else(|| "none".to_owned(), |file| format!("daemon:{} logformat=combined", file.display()));
    let text = format!(
        "http_port {address} accel defaultsite=bench no-vhost
cache_peer {} parent {} 0 no-query no-digest originserver
http_access allow all
cache_mem 1024 MB
maximum_object_size_in_memory 4 MB
access_log {log}
cache_log {here}/cache.log
cache_store_log none
pid_filename none
pinger_enable off
digest_generation off
client_idle_pconn_timeout 300 seconds
client_lifetime 1 day
pipeline_prefetch 16
max_filedescriptors 16384
memory_cache_mode always
shutdown_lifetime 1 seconds
coredump_dir none
",
        origin.ip(),
        origin.port()
    );
    let file = place.write("squid.conf", &text)?;
    place.start("squid", &["-N", "-f", &file], address)
}
