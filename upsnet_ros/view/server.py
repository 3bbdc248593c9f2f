"""Read-only HTTP server of the web page, for browsers on this machine only."""

from __future__ import annotations

import json
import socketserver
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

from upsnet_ros.view.feed import Feed

#: The server only listens on this address, and it is not configurable: the page has no password.
ADDRESS = "127.0.0.1"

# Accepted host names. Any other name may point here to let a foreign page read this one (DNS
# rebinding). The port is not checked, since it may be that of a tunnel.
_HOSTS = {ADDRESS, "localhost"}
_FOLDER = Path(__file__).parent
_REPORT_STYLE = _FOLDER.parent / "evaluation" / "report.css"
_FILES = {
    "/": (_FOLDER / "page.html", "text/html; charset=utf-8"),
    "/page.js": (_FOLDER / "page.js", "text/javascript; charset=utf-8"),
    "/page.css": (_FOLDER / "page.css", "text/css; charset=utf-8"),
    "/report.css": (_REPORT_STYLE, "text/css; charset=utf-8"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_EVENT_SECONDS = 1.0
_PICTURE_SECONDS = 5.0


class ViewServer(ThreadingHTTPServer):
    """Serves the page on 127.0.0.1, one thread per request; call `serve_forever`.

    Args:
        feed: Source of statistics and overlays.
        port: TCP port; 0 selects a free one, see `port`.

    Raises:
        OSError: If the port is not available.
    """

    daemon_threads = True

    def __init__(self, *, feed: Feed, port: int) -> None:
        self.feed = feed
        super().__init__((ADDRESS, port), _Handler)

    @property
    def port(self) -> int:
        """The TCP port of the server."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Print the traceback of a failed request, unless only its connection was lost.

        A browser may reset a connection that it kept open between two requests.
        """
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Bind without a reverse DNS look-up of the host name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.port


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "upsnet_view", ""
    timeout = 30  # seconds until an idle connection is closed
    server: ViewServer

    def do_GET(self) -> None:
        """Send a file of the page, a stream of statistics, or an overlay."""
        path, _, query = self.path.partition("?")
        refused = self._refusal(path)
        try:
            if refused:
                self._text(HTTPStatus.FORBIDDEN, refused)
            elif path in _FILES:
                file, media_type = _FILES[path]
                self._respond(HTTPStatus.OK, file.read_bytes(), media_type)
            elif path == "/events":
                self._events()
            elif path == "/picture":
                self._picture(parse_qs(query))
            else:
                self._text(HTTPStatus.NOT_FOUND, f"not found: {path}")
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser has closed the connection or stopped reading

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests to the terminal."""

    def _refusal(self, path: str) -> str:
        """Return why a request is not from this page; empty if it is."""
        host = self.headers.get("Host", "").partition(":")[0]
        if host.lower() not in _HOSTS:
            return f"open this page as http://{ADDRESS}:{self.server.port}/"
        site = self.headers.get("Sec-Fetch-Site", "none")
        if path != "/" and site not in ("none", "same-origin"):
            return "requests from other sites are not accepted"
        return ""

    def _events(self) -> None:
        self.close_connection = True  # closing the connection marks the end of the stream
        self._head(HTTPStatus.OK, "text/event-stream", {"Connection": "close"})
        version = -1
        while not self.server.feed.closed:
            version, statistics = self.server.feed.figures(after=version, timeout=_EVENT_SECONDS)
            self.wfile.write(
                f"retry: 1000\ndata: {json.dumps(statistics, allow_nan=False)}\n\n".encode()
            )
            self.wfile.flush()

    def _picture(self, query: dict[str, list[str]]) -> None:
        topic, after = query.get("topic", [""])[0], query.get("after", ["0"])[0]
        if not after.isdecimal() or len(after) > 18:
            self._text(HTTPStatus.BAD_REQUEST, "after must be the number of an overlay")
            return
        try:
            picture = self.server.feed.picture(topic, after=int(after), timeout=_PICTURE_SECONDS)
        except KeyError:
            self._text(HTTPStatus.NOT_FOUND, f"no node publishes an overlay on {topic}")
            return
        if picture is None:
            self._respond(HTTPStatus.NO_CONTENT, b"", "text/plain")
            return
        more = {
            "X-Number": str(picture.number),
            "X-Stamp": f"{picture.stamp:.9f}",
            "X-Age": f"{time.monotonic() - picture.received:.3f}",
        }
        self._respond(HTTPStatus.OK, picture.data, picture.media_type, more)

    def _text(self, status: HTTPStatus, text: str) -> None:
        self._respond(status, f"{text}\n".encode(), "text/plain; charset=utf-8")

    def _respond(
        self,
        status: HTTPStatus,
        body: bytes,
        media_type: str,
        more: dict[str, str] | None = None,
    ) -> None:
        self._head(status, media_type, {"Content-Length": str(len(body)), **(more or {})})
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, media_type: str, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media_type, **_HEADERS, **more}.items():
            self.send_header(name, value)
        self.end_headers()
