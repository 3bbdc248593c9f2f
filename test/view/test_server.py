"""The server, asked as browsers and as others ask."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.node import Node

from upsnet_ros.view.feed import Feed
from upsnet_ros.view.server import ViewServer

pytestmark = pytest.mark.dds


@pytest.fixture(scope="module")
def server(domain: int) -> Iterator[ViewServer]:
    """A server of a feed that hears nothing: its node is not spun."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node("upsnet_view", context=context)
    feed = Feed(node)
    with ViewServer(feed=feed, port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        feed.close()
        server.shutdown()
        thread.join()
    node.destroy_node()
    context.try_shutdown()


def ask(server: ViewServer, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers={"Host": f"127.0.0.1:{server.port}", **named})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_only_the_loopback_address_listens(server: ViewServer) -> None:
    assert server.socket.getsockname() == ("127.0.0.1", server.port)
    socket.create_connection(("127.0.0.1", server.port), timeout=10).close()
    # Another address of this machine, which a server of all addresses would answer.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=10)


@pytest.mark.parametrize(
    ("path", "media_type", "holds"),
    [
        ("/", "text/html", b"upsnet view"),
        ("/?from=somewhere", "text/html", b"upsnet view"),
        ("/page.js", "text/javascript", b"EventSource"),
        ("/page.css", "text/css", b"#curtain"),
        ("/report.css", "text/css", b"--accent"),
    ],
)
def test_files_of_the_page(server: ViewServer, path: str, media_type: str, holds: bytes) -> None:
    status, headers, body = ask(server, path)
    assert status == 200
    assert headers["Content-Type"].startswith(media_type)
    assert holds in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_connection_reset_between_requests_prints_nothing(
    server: ViewServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser may reset a connection that it kept open; a failed request still prints."""
    ended = threading.Semaphore(0)
    shutdown_request = server.shutdown_request

    def shut_down(request: socket.socket) -> None:  # a request thread's last step
        shutdown_request(request)
        ended.release()

    monkeypatch.setattr(server, "shutdown_request", shut_down)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as kept:
        kept.sendall(f"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        assert kept.recv(12) == b"HTTP/1.1 200"
        # To close at once, without waiting for what is unread or unsent, resets a connection.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ended.acquire(timeout=60)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(server, "feed", None)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(server, "/picture?topic=/a&after=0")
    assert ended.acquire(timeout=60)
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1"])
def test_names_of_this_machine_are_answered(server: ViewServer, host: str) -> None:
    assert ask(server, "/", Host=host)[0] == 200


@pytest.mark.parametrize("path", ["/", "/events", "/picture?topic=x", "/page.js"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1]:80", "[::"])
def test_names_that_were_made_point_here_are_not(server: ViewServer, host: str, path: str) -> None:
    status, _, body = ask(server, path, Host=host)
    assert status == 403
    assert f"http://127.0.0.1:{server.port}/" in body.decode()


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_others_may_link_here_but_read_nothing(server: ViewServer, site: str) -> None:
    assert ask(server, "/", Sec_Fetch_Site=site)[0] == 200
    for path in ("/events", "/picture?topic=x", "/page.js"):
        assert ask(server, path, Sec_Fetch_Site=site)[0] == 403


@pytest.mark.parametrize("path", ["/page.py", "/../server.py", "/%2e%2e/server.py", "//[::", "*"])
def test_there_is_nothing_else(server: ViewServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("topic=/panoptic/overlay", 404),
        ("", 404),
        ("topic=/x&after=-1", 400),
        ("topic=/x&after=" + "9" * 5000, 400),
    ],
)
def test_pictures_that_cannot_be(server: ViewServer, query: str, status: int) -> None:
    assert ask(server, f"/picture?{query}")[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(server: ViewServer, method: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, "/", body=b"")
    assert connection.getresponse().status == 501
    connection.close()


def test_events_are_json(server: ViewServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "text/event-stream"
    lines = [answer.readline().decode() for _ in range(3)]
    connection.close()
    assert lines[0] == "retry: 1000\n"
    assert json.loads(lines[1].removeprefix("data: ")) == {
        "nodes": [],
        "malformed": {},
        "left_out": 0,
    }
    assert lines[2] == "\n"


def test_a_taken_port_is_an_error(server: ViewServer) -> None:
    with pytest.raises(OSError, match="in use"):
        ViewServer(feed=server.feed, port=server.port)
