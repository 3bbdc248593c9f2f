"""An HTTP server on this machine that sends one file, well or badly."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server sends, which tests change, and what it was asked.

    Attributes:
        data: The file; every path leads to it.
        url: Address of the server, without a slash at its end.
        ranges: Whether it can send a part of the file.
        shift: Bytes by which a part begins earlier than was asked.
        says_total: Whether it says with a part how large the file is.
        redirects: Addresses to which the next answers lead, in order, in place of the file.
        etag: Tag of this version of the file; empty for none.
        stop_after: Bytes after which each of the next answers breaks off, in order.
        hold_after: Bytes after which an answer waits for `held` to be set.
        status: Codes of the next answers, in order, in place of the file.
        content_type: Of the file.
        requests: Path and headers of what was asked.
        sent: Bytes of the file that were sent, in all.
    """

    data: bytes
    url: str = ""
    ranges: bool = True
    shift: int = 0
    says_total: bool = True
    redirects: list[str] = field(default_factory=list)
    etag: str = '"v1"'
    stop_after: list[int] = field(default_factory=list)
    hold_after: int | None = None
    held: threading.Event = field(default_factory=threading.Event)
    status: list[int] = field(default_factory=list)
    content_type: str = "application/octet-stream"
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0


@contextmanager
def serve(data: bytes) -> Iterator[FileServer]:
    """Serve a file from a free port of the loopback address."""
    state = FileServer(data)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.requests.append((self.path, headers))
            if state.status:
                self.send_error(state.status.pop(0))
                return
            if state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects.pop(0))
                self.end_headers()
                return
            data = state.data
            asked = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
            current = headers.get("if-range", state.etag) == state.etag
            begin = int(asked[1]) if asked and state.ranges and current else 0
            if begin and begin >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if begin else 200)
            if begin:
                begin -= state.shift
                total = len(data) if state.says_total else "*"
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{total}")
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Type", state.content_type)
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            body = data[begin:]
            if state.stop_after:
                body = body[: state.stop_after.pop(0)]
            if state.hold_after is not None:
                self.wfile.write(body[: state.hold_after])
                state.held.wait(60)
                body = body[state.hold_after :]
            state.sent += len(body)  # before the client has all of it, and the test looks
            self.wfile.write(body)
            if len(body) < len(data) - begin:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients may leave in the middle of an answer."""

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
