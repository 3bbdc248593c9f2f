"""The page's server: this machine's browsers only, and nothing that changes anything."""

from __future__ import annotations

import json
import socketserver
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

from upsnet_ros.view.feed import Feed

__all__ = ["ADDRESS", "ViewServer"]

#: The only address that is listened on. There is no way to name another: the page has no password.
ADDRESS = "127.0.0.1"

# Names under which a browser may ask. Any other is a name that somebody made point here, so that a
# page from elsewhere could read this one (DNS rebinding). The port may be that of a tunnel.
_HOSTS = {ADDRESS, "localhost"}
_FOLDER = Path(__file__).parent
_REPORT = _FOLDER.parent / "evaluation" / "report"
_FILES = {
    "/": (_FOLDER / "page.html", "text/html; charset=utf-8"),
    "/page.js": (_FOLDER / "page.js", "text/javascript; charset=utf-8"),
    "/page.css": (_FOLDER / "page.css", "text/css; charset=utf-8"),
    "/report.css": (_REPORT / "page.css", "text/css; charset=utf-8"),
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
    """Serves the page on 127.0.0.1, a thread for each request; `serve_forever` does the work.

    Args:
        feed: What the page shows.
        port: 0 takes any free one; see `port`.

    Raises:
        OSError: If the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, *, feed: Feed, port: int) -> None:
        self.feed = feed
        super().__init__((ADDRESS, port), _Handler)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Binds, without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.port


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "upsnet_view", ""
    timeout = 30  # seconds until a connection on which nothing is asked is closed
    server: ViewServer

    def do_GET(self) -> None:
        """Answers with a file of the page, the figures as they come, or a picture."""
        place, _, query = self.path.partition("?")
        refused = self._refusal(place)
        try:
            if refused:
                self._text(HTTPStatus.FORBIDDEN, refused)
            elif place in _FILES:
                path, media_type = _FILES[place]
                self._answer(HTTPStatus.OK, path.read_bytes(), media_type)
            elif place == "/events":
                self._events()
            elif place == "/picture":
                self._picture(parse_qs(query))
            else:
                self._text(HTTPStatus.NOT_FOUND, f"there is no {place}")
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser has gone, or takes nothing any more

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal is for what the user has to know."""

    def _refusal(self, place: str) -> str:
        """Why this request is none of our page's; empty where it is."""
        host = self.headers.get("Host", "").partition(":")[0]
        if host.lower() not in _HOSTS:
            return f"ask for this page as http://{ADDRESS}:{self.server.port}/"
        site = self.headers.get("Sec-Fetch-Site", "none")
        if place != "/" and site not in ("none", "same-origin"):
            return "this page answers to itself alone"
        return ""

    def _events(self) -> None:
        self.close_connection = True  # the stream has no other end
        self._head(HTTPStatus.OK, "text/event-stream", {"Connection": "close"})
        version = -1
        while not self.server.feed.closed:
            version, figures = self.server.feed.figures(after=version, timeout=_EVENT_SECONDS)
            self.wfile.write(f"retry: 1000\ndata: {json.dumps(figures)}\n\n".encode())
            self.wfile.flush()

    def _picture(self, query: dict[str, list[str]]) -> None:
        topic, after = query.get("topic", [""])[0], query.get("after", ["0"])[0]
        if not after.isdecimal() or len(after) > 18:
            self._text(HTTPStatus.BAD_REQUEST, "after must be the number of a picture")
            return
        try:
            picture = self.server.feed.picture(topic, after=int(after), timeout=_PICTURE_SECONDS)
        except KeyError:
            self._text(HTTPStatus.NOT_FOUND, f"no node shows an overlay on {topic}")
            return
        if picture is None:
            self._answer(HTTPStatus.NO_CONTENT, b"", "text/plain")
            return
        more = {"X-Number": str(picture.number), "X-Stamp": f"{picture.stamp:.9f}"}
        self._answer(HTTPStatus.OK, picture.data, picture.media_type, more)

    def _text(self, status: HTTPStatus, text: str) -> None:
        self._answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8")

    def _answer(
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
