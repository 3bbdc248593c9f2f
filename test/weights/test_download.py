"""Downloads from a real server: whole, broken off and continued, and refused."""

from __future__ import annotations

import fcntl
import random
import socket
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import pytest
from file_server import FileServer, serve
from small_disk import small_disk

from upsnet_ros.errors import DownloadError, OutputError
from upsnet_ros.weights.download import _Redirects, download, file_name

DATA = random.Random(0).randbytes(1 << 20)
MIB = 1 << 20


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serve(DATA) as state:
        yield state


def get(url: str, folder: Path, *, keep: bool = False, pauses=(0.0,), **options) -> bytes:
    with download(url, folder, pauses=pauses, seconds=10, **options) as found:
        data = found.path.read_bytes()
        if not keep:
            found.remove()
    return data


def test_a_whole_file_comes_with_its_suffix_and_progress(server: FileServer, tmp_path: Path):
    told = []
    with download(
        f"{server.url}/a/model.pkl?x=1", tmp_path, progress=lambda *step: told.append(step)
    ) as found:
        assert found.path.suffix == ".pkl"
        assert found.path.read_bytes() == DATA
        found.remove()
    assert told[0] == (0, MIB) and told[-1] == (MIB, MIB)
    assert told == sorted(told)
    assert list(tmp_path.iterdir()) == []
    ((path, headers),) = server.requests
    assert path == "/a/model.pkl?x=1"
    assert headers["user-agent"].startswith("upsnet_ros/") and "range" not in headers


def test_a_transfer_that_breaks_off_is_continued_at_once(server: FileServer, tmp_path: Path):
    server.stop_after = [300_000, 200_000]
    assert get(f"{server.url}/x.pkl", tmp_path) == DATA
    assert [headers.get("range") for _, headers in server.requests] == [
        None, "bytes=300000-", "bytes=500000-",
    ]  # fmt: skip
    assert server.sent == MIB, "nothing came twice"


def test_what_has_come_is_kept_for_the_next_call(server: FileServer, tmp_path: Path):
    server.stop_after = [300_000, 0]
    url = f"{server.url}/x.pkl"
    with pytest.raises(DownloadError, match=r"broke off after 0\.3 MB.*continues"):
        get(url, tmp_path)
    assert get(url, tmp_path) == DATA
    assert server.requests[-1][1]["range"] == "bytes=300000-"
    assert server.requests[-1][1]["if-range"] == '"v1"'


def test_another_file_does_not_continue_it(server: FileServer, tmp_path: Path):
    server.stop_after = [300_000, 0]
    with pytest.raises(DownloadError):
        get(f"{server.url}/x.pkl", tmp_path)
    assert get(f"{server.url}/y.pkl", tmp_path) == DATA
    assert "range" not in server.requests[-1][1]


def test_a_new_version_on_the_server_comes_whole(server: FileServer, tmp_path: Path):
    url = f"{server.url}/x.pkl"
    server.stop_after = [300_000, 0]
    with pytest.raises(DownloadError):
        get(url, tmp_path)
    server.data, server.etag = DATA[::-1], '"v2"'
    assert get(url, tmp_path) == DATA[::-1]


def test_a_shorter_version_on_the_server_comes_whole(server: FileServer, tmp_path: Path):
    url = f"{server.url}/x.pkl"
    server.stop_after = [300_000, 0]
    with pytest.raises(DownloadError):
        get(url, tmp_path)
    server.data = DATA[:1000]
    assert get(url, tmp_path) == DATA[:1000]


def test_a_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path):
    server.ranges, server.stop_after = False, [300_000]
    assert get(f"{server.url}/x.pkl", tmp_path) == DATA
    assert server.sent == MIB + 300_000


def test_a_server_that_sends_another_part_and_breaks_off_is_given_up(
    server: FileServer, tmp_path: Path
):
    """Else what every second attempt brings would count as new for ever."""
    server.shift, server.stop_after = 3, [300_000, 5] * 10
    with pytest.raises(DownloadError, match="broke off"):
        get(f"{server.url}/x.pkl", tmp_path)
    assert len(server.requests) <= 4


def test_a_part_without_the_size_of_the_file_may_break_off_too(server: FileServer, tmp_path: Path):
    server.says_total, server.stop_after = False, [300_000, 200_000]
    assert get(f"{server.url}/x.pkl", tmp_path) == DATA
    assert server.sent == MIB


def test_redirects_are_followed_also_where_it_broke_off(server: FileServer, tmp_path: Path):
    server.redirects, server.stop_after = ["/other/y.pkl"], [300_000]
    assert get(f"{server.url}/x.pkl", tmp_path) == DATA
    assert [path for path, _ in server.requests] == ["/x.pkl", "/other/y.pkl", "/x.pkl"]


@pytest.mark.parametrize("to", ["ftp://127.0.0.1/x.pkl", "file:///etc/passwd", "/x.pkl", "?", ""])
def test_redirects_that_lead_nowhere(server: FileServer, tmp_path: Path, to: str):
    server.redirects = [to] * 50
    with pytest.raises(DownloadError, match=r"does not send .*HTTP 302"):
        get(f"{server.url}/x.pkl", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("before", "follows"), [("https", False), ("http", True)])
def test_no_redirect_leaves_https(before: str, follows: bool):
    handler, request = _Redirects(), Request(f"{before}://one.invalid/x.pkl")
    call = (request, None, 302, "Found", Message(), "http://other.invalid/x.pkl")
    if follows:
        assert handler.redirect_request(*call).full_url == "http://other.invalid/x.pkl"
    else:
        with pytest.raises(HTTPError, match="redirect to http://other"):
            handler.redirect_request(*call)


def test_without_a_tag_or_time_nothing_of_an_earlier_call_is_trusted(
    server: FileServer, tmp_path: Path
):
    server.etag, server.stop_after = "", [300_000, 0]
    url = f"{server.url}/x.pkl"
    with pytest.raises(DownloadError):
        get(url, tmp_path)
    server.data = DATA[::-1]
    assert get(url, tmp_path) == DATA[::-1]
    assert "range" not in server.requests[-1][1]


def test_a_file_that_is_there_is_not_asked_for_again(server: FileServer, tmp_path: Path):
    url = f"{server.url}/x.pkl"
    get(url, tmp_path, keep=True)
    assert get(url, tmp_path) == DATA
    assert len(server.requests) == 1


def test_a_server_that_is_busy_during_a_download_is_asked_again(server: FileServer, tmp_path: Path):
    server.stop_after = [300_000]
    statuses = [503]

    def later(have: int, total: int | None) -> None:
        if have == 0:
            server.status = statuses

    assert get(f"{server.url}/x.pkl", tmp_path, progress=later, pauses=(0.0, 0.0)) == DATA
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", [403, 404, 410, 500, 503])
def test_a_refusal_names_host_and_reason(server: FileServer, tmp_path: Path, code: int):
    server.status = [code]
    with pytest.raises(DownloadError, match=f"127.0.0.1 does not send .*x.pkl: HTTP {code}"):
        get(f"{server.url}/x.pkl", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_is_not_a_file(server: FileServer, tmp_path: Path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page"):
        get(f"{server.url}/x.pkl", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_hosts_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for host in (f"127.0.0.1:{port}", "nowhere.invalid"):
            with pytest.raises(DownloadError, match=rf"cannot reach {host.partition(':')[0]}: \w"):
                get(f"http://{host}/x.pkl", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_that_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("no_proxy", raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", f"http://user:secret@{proxy}")
        with pytest.raises(
            DownloadError, match=rf"cannot reach weights.invalid through the proxy {proxy}: \w"
        ) as caught:
            get("http://weights.invalid/x.pkl", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with (
            pytest.raises(DownloadError, match="timed out"),
            download(f"http://127.0.0.1:{port}/x", tmp_path, pauses=(), seconds=0.2),
        ):
            pass


def test_a_server_that_speaks_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import threading

    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as one:
                one.recv(1000)
                one.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DownloadError, match="cannot reach"):
            get(f"http://127.0.0.1:{listener.getsockname()[1]}/x", tmp_path)
        thread.join()


def test_the_proxy_of_the_environment_is_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", server.url)
    assert get("http://weights.invalid/x.pkl", tmp_path) == DATA
    assert server.requests[0][0] == "http://weights.invalid/x.pkl"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/x", "x.pkl", "", "http://", "http://h:port/x", "//h/x"]
)
def test_what_is_not_an_address(tmp_path: Path, url: str):
    with pytest.raises(DownloadError, match="URL"):
        get(url, tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a b", "http://127.0.0.1:1/a\nb"])
def test_addresses_with_spaces_end_in_one_line(tmp_path: Path, url: str):
    with pytest.raises(DownloadError) as caught:
        get(url, tmp_path)
    assert "\n" not in str(caught.value)


def test_passwords_in_an_address_are_refused_and_not_shown(tmp_path: Path):
    with pytest.raises(DownloadError, match=r"URL of one\.invalid has a name") as caught:
        get("http://user:secret@one.invalid/x.pkl", tmp_path)
    assert "secret" not in str(caught.value)


def test_names_of_files():
    assert file_name("https://h/a/model%20x.pkl?v=1#f") == "model x.pkl"
    assert file_name("https://h") == ""


def test_two_downloads_of_one_file_exclude_each_other(server: FileServer, tmp_path: Path):
    url = f"{server.url}/x.pkl"
    with download(url, tmp_path), pytest.raises(DownloadError, match="already"):
        get(url, tmp_path)


def test_a_link_in_the_place_of_the_part_is_not_followed(server: FileServer, tmp_path: Path):
    url, mine = f"{server.url}/x.pkl", tmp_path / "mine"
    mine.write_text("mine")
    with download(url, tmp_path) as found:
        part = found.path
        found.remove()
    part.symlink_to(mine)
    with pytest.raises(OutputError):
        get(url, tmp_path)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("folder", ["/proc", "/dev/null", "/nowhere"])
def test_folders_that_cannot_be_written(server: FileServer, folder: str):
    with pytest.raises(OutputError, match=f"cannot write {folder}/"):
        get(f"{server.url}/x.pkl", Path(folder))


def test_a_disk_without_room_is_told_before_the_transfer(server: FileServer, tmp_path: Path):
    """The file system is full for whoever looks from outside too."""
    with small_disk(tmp_path, 64 << 10) as disk:
        with pytest.raises(OutputError, match=r"0 MB free, and 1 MB are needed"):
            get(f"{server.url}/x.pkl", disk.outside)
        assert list(disk.outside.iterdir()) == []


def test_a_disk_that_fills_up_is_told(server: FileServer, tmp_path: Path, monkeypatch):
    """Room that others took after it was looked for."""
    with small_disk(tmp_path, 512 << 10) as disk:
        monkeypatch.setattr("shutil.disk_usage", lambda _: _Free())
        with pytest.raises(OutputError, match=r"cannot write .*No space left"):
            get(f"{server.url}/x.pkl", disk.outside)


class _Free:
    free = 1 << 40


def test_a_damaged_note_starts_from_the_beginning(server: FileServer, tmp_path: Path):
    url = f"{server.url}/x.pkl"
    for note in (b"", b"[]", b'{"url": 5}', b"\xff", b"[" * 100_000):
        server.stop_after = [300_000, 0]
        with pytest.raises(DownloadError):
            get(url, tmp_path)
        (tmp_path / next(p.name for p in tmp_path.glob(".*.json"))).write_bytes(note)
        server.stop_after = []
        assert get(url, tmp_path) == DATA
        assert "range" not in server.requests[-1][1]


def test_the_lock_ends_with_the_block(server: FileServer, tmp_path: Path):
    with download(f"{server.url}/x.pkl", tmp_path) as found:
        path = found.path
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
