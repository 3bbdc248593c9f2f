"""Downloads one file over HTTP: with progress, and from where an earlier attempt broke off.

What has come so far lies in the folder under a hidden name that the URL decides, beside what the
server said of that version of the file. A server that has another version by now, or that cannot
send a part of a file, sends all of it again. Proxies are those of the environment
(``https_proxy``, ``no_proxy``).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, getproxies, proxy_bypass

from upsnet_ros import __version__
from upsnet_ros.errors import DownloadError, OutputError, printable
from upsnet_ros.output_files import write_whole, writing

#: Called with the bytes that are there and how many there will be; None if the server does not say.
Progress = Callable[[int, "int | None"], None]

_CHUNK = 1 << 18
_SECONDS = 30.0  # without a byte
#: Attempts in a row that bring nothing, and seconds before each but the first.
_PAUSES = (1.0, 3.0, 9.0)
#: What a server answers that may be better soon.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


def file_name(url: str) -> str:
    """Return the name of the file in a URL; empty if it has none.

    Raises:
        DownloadError: It is not a URL that can be downloaded.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port  # raises on a port that is not a number
    except ValueError as error:
        raise DownloadError(f"{printable(url)} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise DownloadError(
            f"{printable(url)} is not an http or https URL; a file on this machine goes to --file"
        )
    if "@" in parts.netloc:
        raise DownloadError(
            f"the URL of {host} has a name or password, which are not sent: get the file another"
            " way and pass it with --file"
        )
    return PurePosixPath(unquote(parts.path)).name


@dataclass(frozen=True, slots=True)
class Download:
    """A file that came over HTTP.

    Attributes:
        path: Where it is, with the suffix that it has in the URL.
        note: What belongs to it.
    """

    path: Path
    note: Path

    def remove(self) -> None:
        """Remove the file, which is not needed any more, or is wrong."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


@contextmanager
def download(
    url: str,
    folder: Path,
    *,
    progress: Progress = lambda _have, _total: None,
    pauses: tuple[float, ...] = _PAUSES,
    seconds: float = _SECONDS,
) -> Iterator[Download]:
    """Download a file into a folder, and hold it there for as long as the block lasts.

    A transfer that breaks off is taken up again, and what has come is kept for the next call with
    the same URL and folder. Who is done with the file calls `Download.remove`.

    Args:
        url: What to download.
        folder: Where to; exists.
        progress: Told how far it is.
        pauses: Seconds to wait before each attempt that follows one that brought nothing.
        seconds: How long to wait for a byte.

    Raises:
        DownloadError: The server cannot be reached, has no such file, sends something else, or
            breaks off again and again.
        OutputError: The file cannot be written.
    """
    name = file_name(url)
    stem = f".{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    part = folder / f"{stem}.part{Path(name).suffix}"
    files = Download(part, folder / f"{stem}.json")
    with _opened(files) as file:
        transfer = _Transfer(url, file, files, progress=progress, seconds=seconds)
        left = list(pauses)
        while not transfer.attempt():
            if transfer.advanced:
                left = list(pauses)
            if not left:
                raise DownloadError(
                    f"the download from {transfer.host} broke off after"
                    f" {transfer.size / 1e6:.1f} MB ({transfer.reason})"
                    ": the same command continues it"
                )
            time.sleep(left.pop(0))
        yield files


@contextmanager
def _opened(files: Download) -> Iterator[IO[bytes]]:
    path = files.path
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with writing(path):
        handle = os.open(path, flags, 0o666)
    with os.fdopen(handle, "ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"another process is downloading {path} already") from None
        try:
            yield file
        finally:
            if not os.fstat(handle).st_size:  # leave no trace of an attempt that brought nothing
                files.remove()


class _Transfer:
    """One download, in as many attempts as it takes.

    Attributes:
        host: Of the URL.
        advanced: Whether the last attempt brought more than all before it.
        reason: Why it broke off.
    """

    def __init__(
        self, url: str, file: IO[bytes], files: Download, *, progress: Progress, seconds: float
    ) -> None:
        self.host = urlsplit(url).hostname
        self.advanced, self.reason = False, ""
        self._url, self._file, self._files = url, file, files
        self._progress, self._seconds = progress, seconds
        self._started = False
        self._version = _read_note(files.note, url)
        if not self._version:
            self._file.truncate(0)
        self._most = self.size

    @property
    def size(self) -> int:
        """How many bytes have come."""
        return os.fstat(self._file.fileno()).st_size

    def attempt(self) -> bool:
        """Get what is missing; False if the transfer broke off."""
        before = self.size
        if before and self._version.get("total") == str(before):
            return True
        try:
            with self._open(before) as response:
                done = self._receive(response)
        except HTTPError as error:
            with error:
                done = self._refused(error, before)
        except (URLError, HTTPException, OSError) as error:
            self.reason = _describe(error)
            if not self._started:
                where = f"{self.host}{_proxy(self._url)}"
                raise DownloadError(f"cannot reach {where}: {self.reason}") from None
            done = False
        # More than ever: a server may break off after what an attempt before had to throw away.
        self.advanced = self.size > self._most
        self._most = max(self._most, self.size)
        return done

    def _open(self, have: int) -> HTTPResponse:
        headers = {"User-Agent": f"upsnet_ros/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._version.get("validator"):
                headers["If-Range"] = self._version["validator"]
        try:
            request = Request(self._url, headers=headers)
            # Of its own, for `urlopen` keeps the proxies of its first call.
            response: HTTPResponse = build_opener(_Redirects).open(request, timeout=self._seconds)
        except ValueError as error:  # of a URL with control characters, for one
            raise DownloadError(f"cannot open {printable(self._url)}: {error}") from None
        return response

    def _refused(self, error: HTTPError, have: int) -> bool:
        """Return whether everything is there, which is one reason to refuse the rest."""
        if error.code == 416 and have:
            total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if total and int(total[1]) == have:
                return True
            self._file.truncate(0)
            self._started, self.reason = True, "the server has another file by now"
            return False
        self.reason = f"HTTP {error.code} {printable(str(error.reason))[:80]}".strip()
        if error.code in _PASSING and self._started:
            return False
        raise DownloadError(f"{self.host} does not send {printable(self._url)}: {self.reason}")

    def _receive(self, response: HTTPResponse) -> bool:
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise DownloadError(f"{printable(self._url)} is a web page, not a file")
        have, total = self._start(response)
        self._started = True
        if total is not None:
            _check_space(self._files.path.parent, total - have)
        self._progress(have, total)
        while chunk := response.read1(_CHUNK):
            have += self._write(chunk)
            self._progress(have, total)
        if total is not None and have < total:
            self.reason = "the server closed the connection"
            return False
        if total is not None and have > total:
            self._file.truncate(0)
            raise DownloadError(f"{self.host} sent more than it said it would")
        return True

    def _start(self, response: HTTPResponse) -> tuple[int, int | None]:
        """Return how many bytes are there already, and how many there will be."""
        if response.status == 206:
            where = response.headers.get("Content-Range", "")
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", where)
            if found and int(found[1]) == self.size:
                if found[3] == "*":  # the rest was asked for, so its end is the file's
                    return self.size, int(found[2]) + 1
                return self.size, int(found[3])
            self._file.truncate(0)
            raise OSError(f"the server sent {printable(where)[:80] or 'no range'}")
        self._file.truncate(0)
        headers = response.headers
        etag = headers.get("ETag", "")
        # A weak tag does not promise that the bytes are the same.
        validator = headers.get("Last-Modified", "") if etag[:2] in ("", "W/") else etag
        length = headers.get("Content-Length", "")
        self._version = {"url": self._url, "validator": validator, "total": length}
        write_whole(self._files.note, json.dumps(self._version).encode(), durable=False)
        return 0, int(length) if length.isdecimal() else None

    def _write(self, chunk: bytes) -> int:
        with writing(self._files.path):
            written = self._file.write(chunk)
            while written < len(chunk):  # what the disk has no room for comes as an error next
                written += self._file.write(chunk[written:])
        return written


class _Redirects(HTTPRedirectHandler):
    """Follows to http and https alone, and from https to https alone."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme, req.type) != ("http", "http"):
            raise HTTPError(req.full_url, code, f"a redirect to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_note(path: Path, url: str) -> dict[str, str]:
    """Return what is known of the version that a part is of; empty if nothing is."""
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(note, dict) and all(isinstance(one, str) for one in note.values())
    # Without a validator nobody can tell whether the rest is of the same file.
    return note if known and note.get("url") == url and note.get("validator") else {}


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder} has {free / 1e6:.0f} MB free, and {needed / 1e6:.0f} MB are needed"
        )


def _proxy(url: str) -> str:
    """Return in words which proxy of the environment a URL goes through; empty if none."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme, "")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return ""
    return f" through the proxy {printable(proxy.rpartition('@')[2].rpartition('/')[2] or proxy)}"


def _describe(error: Exception) -> str:
    inner = error.reason if isinstance(error, URLError) else error
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return printable(str(text))[:200]
