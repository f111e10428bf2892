"""Asks redbot and httplint about answers from the cache, and prints what they hold against it.

    python3 bench/conformance/lint.py --aspis PATH [--venv DIR] [-- FLAG...]

Both are asked twice about each resource, at the origin and at the cache before it. A warning about both is the origin's; one about
the cache alone is ours, and makes the command fail. FLAGs go to the product. The linters are installed into DIR if they are not there.
"""

import argparse
import email.utils
import gzip
import importlib.util
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = pathlib.Path(__file__).resolve().parent
BODY = b"".join(b"Line %03d of a text that compresses well.\n" % line for line in range(100))
MODIFIED = 1_700_000_000
ETAG = '"v1"'
# The linters' categories that a cache has a part in; what is left are the page's own matters, cookies and scripts.
CATEGORIES = {"CACHING", "VALIDATION", "RANGE", "CONNECTION", "CONNEG", "GENERAL"}

# Path: the status, the fields, and whether the cache answers alone.
RESOURCES = {
    "/fresh": (200, {"Cache-Control": "max-age=3600"}, True),
    "/expires": (200, {"Expires": 3600}, True),
    "/shared": (200, {"Cache-Control": "max-age=60, s-maxage=3600"}, True),
    "/windows": (200, {"Cache-Control": "max-age=3600, stale-while-revalidate=60, stale-if-error=600"}, True),
    "/vary": (200, {"Cache-Control": "max-age=3600", "Vary": "Accept-Encoding"}, True),
    "/validated": (200, {"Cache-Control": "no-cache"}, False),
    "/stale": (200, {"Cache-Control": "max-age=1"}, False),
    "/private": (200, {"Cache-Control": "private, max-age=60"}, False),
    "/missing": (404, {"Cache-Control": "max-age=3600"}, True),
    "/moved": (301, {"Cache-Control": "max-age=3600", "Location": "/fresh"}, True),
}

# Requests that redbot does not make, linted one by one: a name, the head, and the status to come.
MESSAGES = [
    ("HEAD", "HEAD /fresh HTTP/1.1", {}, 200),
    ("304 by ETag", "GET /fresh HTTP/1.1", {"If-None-Match": ETAG}, 304),
    ("304 by date", "GET /fresh HTTP/1.1", {"If-Modified-Since": email.utils.formatdate(MODIFIED, usegmt=True)}, 304),
    ("one range", "GET /fresh HTTP/1.1", {"Range": "bytes=10-19"}, 206),
    ("the last bytes", "GET /fresh HTTP/1.1", {"Range": "bytes=-5"}, 206),
    ("a range beyond the end", "GET /fresh HTTP/1.1", {"Range": "bytes=999999-"}, 416),
    ("a range of another version", "GET /fresh HTTP/1.1", {"Range": "bytes=0-1", "If-Range": '"v0"'}, 200),
    ("a precondition that fails", "GET /fresh HTTP/1.1", {"If-Match": '"v0"'}, 412),
]


class Origin(BaseHTTPRequestHandler):
    """An origin that does conditional requests, ranges and gzip as it should."""

    protocol_version = "HTTP/1.1"
    requests = 0

    def do_GET(self):
        Origin.requests += 1
        status, fields, _ = RESOURCES.get(self.path, (404, {"Cache-Control": "no-store"}, False))
        fields = {"Content-Type": "text/plain; charset=utf-8", **fields}
        if isinstance(fields.get("Expires"), int):
            fields["Expires"] = email.utils.formatdate(time.time() + fields["Expires"], usegmt=True)
        body = BODY
        etag = ETAG
        if self.path == "/vary" and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, etag = gzip.compress(BODY, mtime=0), '"v1-gzip"'
            fields["Content-Encoding"] = "gzip"
        if status == 200:
            fields |= {"ETag": etag, "Last-Modified": email.utils.formatdate(MODIFIED, usegmt=True), "Accept-Ranges": "bytes"}
            status, body = self.selected(etag, body, fields)
        if status == 304:
            # RFC 9110 section 15.4.5: no metadata of what the viewer has.
            fields = {name: value for name, value in fields.items() if name not in ("Content-Type", "Content-Encoding")}
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET" and status != 304:
            self.wfile.write(body)

    do_HEAD = do_GET

    def selected(self, etag, body, fields):
        match, none_match, since = (self.headers.get(name) for name in ("If-Match", "If-None-Match", "If-Modified-Since"))
        if match is not None and match not in (etag, "*"):
            return 412, b""
        if none_match is not None:
            if etag in re.findall(r'"[^"]*"', none_match):
                return 304, b""
        elif since is not None and email.utils.parsedate_to_datetime(since).timestamp() >= MODIFIED:
            return 304, b""
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or self.headers.get("If-Range", etag) != etag or wanted.group() == "bytes=-":
            return 200, body
        first, last = wanted.groups()
        start = int(first) if first else max(0, len(body) - int(last))
        end = min(int(last) + 1, len(body)) if first and last else len(body)
        if start >= end:
            fields["Content-Range"] = f"bytes */{len(body)}"
            return 416, b""
        fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        return 206, body[start:end]

    def log_message(self, *_):
        pass


def install(venv):
    """Goes on in the virtual environment that has the linters, made first if it is missing."""
    if importlib.util.find_spec("redbot") and importlib.util.find_spec("httplint"):
        return
    python = venv / "bin" / "python"
    if os.environ.get("ASPIS_LINT_VENV") == str(venv):
        sys.exit(f"lint: redbot is not in {venv}: remove it and try again")
    if not python.exists():
        print(f"installing redbot and httplint into {venv}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", HERE / "requirements.txt"], check=True)
    os.environ["ASPIS_LINT_VENV"] = str(venv)
    os.execv(python, [str(python), str(HERE / "lint.py"), *sys.argv[1:]])


def faults(notes):
    """Returns the warnings among a linter's notes, as texts that can be compared."""
    found = set()
    for note in notes:
        if note.level.name in ("WARN", "BAD") and note.category.name in CATEGORIES:
            found.add(f"{note.category.name.lower()} {note.level.name.lower()} {type(note).__name__}: {note.summary}")
        found |= faults(note.subnotes)
    return found


def clock_faults(fields):
    """Returns httplint's warnings that are mistaken about an answer with these fields.

    It reads fields in their order, so an Age after the Date counts for nothing and every old answer has a wrong clock.
    """
    if "age" not in fields:
        return set()
    generated = email.utils.parsedate_to_datetime(fields["date"]).timestamp()
    return {"DATE_INCORRECT"} if abs(generated + int(fields["age"]) - time.time()) <= 5 else set()


def without(found, mistaken):
    return {fault for fault in found if not any(f" {name}: " in fault for name in mistaken)}


def redbot(url):
    """Lets redbot examine a resource with all its own requests; prints what it found as JSON. Runs in a process of its own."""
    import configparser

    import thor
    from redbot.resource import HttpResource

    config = configparser.ConfigParser()
    config.read_dict({"redbot": {"enable_local_access": "True"}})
    resource = HttpResource(config["redbot"])
    resource.set_request(url)
    resource.on("check_done", thor.stop)
    resource.check()
    thor.run()
    found = set()
    for response in [resource.response, *(check.response for check in resource.subreqs.values())]:
        answered = {name.lower(): value.strip() for name, value in response.headers.text}
        found |= without(faults(response.notes), clock_faults(answered))
    print(json.dumps(sorted(found)))


def examine(base, path):
    command = [sys.executable, str(HERE / "lint.py"), "--examine", base + path]
    output = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    return set(json.loads(output.splitlines()[-1]))


def exchange(address, top, fields):
    """Sends one request and returns the whole answer."""
    host, port = address
    head = [top, f"Host: {host}:{port}", "Connection: close", *(f"{name}: {value}" for name, value in fields.items())]
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def lint(answer, is_head):
    """Returns the status of an answer and the warnings of httplint."""
    from httplint.message import HttpResponseLinter

    head, _, body = answer.partition(b"\r\n\r\n")
    top, *lines = head.split(b"\r\n")
    version, status, phrase = (top.split(b" ", 2) + [b""])[:3]
    fields = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    linter = HttpResponseLinter(start_time=time.time())
    linter.is_head_response = is_head
    linter.process_response_topline(version.removeprefix(b"HTTP/"), status, phrase)
    linter.process_headers(fields)
    linter.feed_content(body)
    linter.finish_content(True, [])
    answered = {name.lower().decode(): value.decode() for name, value in fields}
    return int(status), without(faults(linter.notes), clock_faults(answered))


def start(aspis, origin, flags):
    """Starts the product before the origin and returns it with its address."""
    command = [aspis, "serve", "--origin", f"http://127.0.0.1:{origin}", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    server = subprocess.Popen([*command, "--cores", "1", *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in server.stdout:
        if line.startswith("listening on "):
            host, _, port = line.removeprefix("listening on ").strip().rpartition(":")
            return server, (host, int(port))
    sys.exit("lint: the product never said where it listens")


def check(own, cache):
    """Compares all answers; returns the lines of what is wrong."""
    wrong = []

    def report(name, at_cache, at_origin):
        ours = sorted(at_cache - at_origin)
        print(f"{name}: {len(ours)} of ours" + "".join(f"\n  also at the origin: {fault}" for fault in sorted(at_cache & at_origin)))
        wrong.extend(f"{name}: {fault}" for fault in ours)

    for path, (_, _, alone) in RESOURCES.items():
        at_origin = examine(f"http://{own[0]}:{own[1]}", path)
        # The first time fills the cache, with each variant that redbot asks for.
        examine(f"http://{cache[0]}:{cache[1]}", path)
        asked = Origin.requests
        at_cache = examine(f"http://{cache[0]}:{cache[1]}", path)
        if alone and Origin.requests != asked:
            wrong.append(f"redbot {path}: the origin was asked {Origin.requests - asked} times")
        report(f"redbot {path}", at_cache, at_origin)
    for name, top, fields, expected in MESSAGES:
        is_head = top.startswith("HEAD")
        _, at_origin = lint(exchange(own, top, fields), is_head)
        asked = Origin.requests
        status, at_cache = lint(exchange(cache, top, fields), is_head)
        if Origin.requests != asked:
            wrong.append(f"httplint {name}: the origin was asked")
        if status != expected:
            wrong.append(f"httplint {name}: {status}, not {expected}")
        report(f"httplint {name}", at_cache, at_origin)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aspis", default="target/release/aspis", help="the product's binary")
    parser.add_argument("--venv", type=pathlib.Path, default=HERE / "venv", help="where the linters are installed")
    parser.add_argument("--examine", metavar="URL", help="only print what redbot says of URL, as JSON")
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="more flags of the product, after --")
    arguments = parser.parse_args()
    install(arguments.venv.absolute())
    if arguments.examine:
        redbot(arguments.examine)
        return
    origin = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    server, cache = start(arguments.aspis, origin.server_port, arguments.flags)
    try:
        wrong = check(("127.0.0.1", origin.server_port), cache)
    finally:
        server.terminate()
        server.wait(20)
    for line in wrong:
        print(f"WRONG {line}")
    print("no warning is ours" if not wrong else f"{len(wrong)} to mend")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
