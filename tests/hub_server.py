"""A server on this machine that speaks the part of the Hugging Face hub's protocol by which one file is downloaded."""

import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"
GPT = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97, "n_positions": 24}
TOKEN = "hf_of_the_tests"  # noqa: S105
FILES = {
    "owner/model": GPT,
    "gpt": GPT,
    "owner/private": GPT,
    "owner/renamed": GPT,
    "owner/elsewhere": GPT,
    "owner/damaged": b'{"model_type": "gpt2", ',
    "owner/list": b"[1, 2]",
    "owner/large": b" " * 6_000_000,
    "owner/slow": GPT,
}
_HEADER = json.dumps(
    {"a.weight": {"dtype": "F16", "shape": [4, 2], "data_offsets": [0, 16]},
     "a.bias": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}}
).encode()  # fmt: skip
WEIGHTS = {
    "owner/weights": len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(32),
    "owner/damaged-weights": (99).to_bytes(8, "little") + b"{" + bytes(200),
}
"""The ``model.safetensors`` of repositories without a configuration."""
PLAIN = "owner/plain-server"
"""A server that sends the whole file whatever part is asked for."""
MODELS: dict[str, dict[str, bytes]] = {}
"""The files in GGUF of repositories that hold nothing else, by repository; tests fill it."""
ERRORS = {
    "owner/no-config": (404, "EntryNotFound"),
    "owner/gated": (403, "GatedRepo"),
    "owner/gated-unknown": (401, "GatedRepo"),
    "owner/unavailable": (503, None),
    "owner/forbidden": (403, None),
}


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        self.server.seen.append((self.command, self.path, self.headers.get("authorization")))
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("cdn/"):  # the place of another host, to which no token may be sent
            self.send(200, {}, self.content(path.removeprefix("cdn/")), body)
            return
        if path.startswith("api/models/"):
            self.listing(path.removeprefix("api/models/").partition("/revision/")[0], body)
            return
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        authorised = self.headers.get("authorization") == f"Bearer {TOKEN}"
        if name == "owner/hanging":
            time.sleep(8)
            self.close_connection = True
        elif name == "owner/no-hub":
            self.send(200, {}, b"<html>", body)
        elif self.headers.get("authorization") not in (None, f"Bearer {TOKEN}"):
            self.send(401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"", body)
        elif name in ERRORS:
            status, code = ERRORS[name]
            self.send(status, {"X-Error-Code": code} if code else {}, b"", body)
        elif name in MODELS or name in WEIGHTS:
            self.part((MODELS.get(name) or {"model.safetensors": WEIGHTS[name]}).get(file), name, body)
        elif name not in FILES or (name == "owner/private" and not authorised):
            self.send(401, {"X-Error-Code": "RepoNotFound"}, b"", body)
        elif revision not in ("main", "old", COMMIT, OLDER):
            self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"", body)
        elif file != "config.json":
            self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b"", body)
        elif name == "owner/renamed":
            self.send(307, {"Location": f"/owner/model/resolve/{revision}/{file}"}, b"", body)
        else:
            self.file(name, COMMIT if revision == "main" else OLDER if revision == "old" else revision, body=body)

    def listing(self, name, body):
        """The names of the files of a repository."""
        files = MODELS.get(name, {"config.json": b""} if name in FILES else {})
        found = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": one} for one in files]}
        self.send(200, {}, json.dumps(found).encode(), body)

    def part(self, data, name, body):
        """The bytes that the request asks for, of a file that may be absent."""
        if data is None:
            self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b"", body)
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(data).hexdigest()}"'}  # noqa: S324
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if asked is None or name == PLAIN:
            self.send(200, headers, data, body)
            return
        piece = data[int(asked[1]) : int(asked[2]) + 1]
        self.server.sent.append(len(piece))
        self.send(206, headers | {"Content-Range": f"bytes {asked[1]}-{asked[2]}/{len(data)}"}, piece, body)

    def content(self, name):
        found = FILES[name]
        return found if isinstance(found, bytes) else json.dumps(found).encode()

    def file(self, name, commit, *, body):
        data = self.content(name)
        if commit == OLDER:
            data = data.replace(b'"n_layer": 2', b'"n_layer": 3')
        headers = {"X-Repo-Commit": commit, "ETag": f'"{sha1(data).hexdigest()}"'}  # noqa: S324
        if name == "owner/elsewhere":
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
            self.send(302, {**headers, "Location": f"{self.server.elsewhere}/cdn/{name}"}, b"", body)
        elif name == "owner/slow" and body:
            self.send(200, headers | {"Content-Length": str(len(data))}, b"", body)
            with suppress(OSError):  # the reader has given up
                for at in range(len(data)):
                    self.wfile.write(data[at : at + 1])
                    self.wfile.flush()
                    time.sleep(0.5)
        else:
            self.send(200, headers, data, body)

    def send(self, status, headers, data, body):
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextmanager
def hub():
    """A hub, and a server that it redirects to; ``seen`` are the requests of both, ``sent`` the lengths of parts of files."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Hub) for _ in range(2)]
    seen, sent = [], []
    for server in servers:
        server.daemon_threads, server.block_on_close, server.seen, server.sent = True, False, seen, sent
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    servers[0].elsewhere = servers[1].address
    try:
        yield servers[0]
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
