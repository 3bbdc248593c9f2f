"""What a command may write: folders and files that are new, or that it wrote itself.

A folder for output is new, empty, or one that the same command filled before. The latter is known
by a marker file, which lists every file that was written with its size and time of modification.
Running the command again replaces those files if nobody changed them since; whatever else lies in
the folder stays. Everything that is in the way is found before any work is done.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from upsnet_ros.errors import OutputError

_LOG = logging.getLogger(__name__)

#: Name of the file that tells what a command wrote into its folder.
MARKER = ".upsnet_output.json"
_FORMAT = 1
# Signatures for paths that are not files; no file has them.
_FOLDER, _OTHER = [-1, 0], [-2, 0]


def user_cache(name: str) -> Path | None:
    """Return a folder of this package in the user's cache (XDG); None for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "upsnet_ros" / name


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `OutputError` with the name of the file for errors of the system in the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the path of a new, empty file that takes the place of ``path`` when the block ends.

    Whoever looks sees the old file or the new one, whole. The new file lies in the same folder
    under a name that nobody can guess, and its mode follows the umask.

    Args:
        path: The file to replace or to make; a link is replaced, not followed.
        durable: Whether that also holds for a power cut; costs milliseconds.

    Raises:
        OutputError: The file cannot be written. The old one is still there.
    """
    new = path.parent / f".upsnet-{os.urandom(8).hex()}.part"
    with writing(path):
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
        finally:
            os.close(handle)
        try:
            yield new
            new.chmod(mode)  # some libraries write a private file of their own in its place
            if durable:
                _sync(new)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)  # where the disk is full it needs the room
            raise
        if durable:
            with suppress(OSError):  # not every file system can; the file is there all the same
                _sync(path.parent)


def write_whole(path: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a file that is never seen half done; see `replacing`."""
    with replacing(path, durable=durable) as new:
        new.write_bytes(data)


def check_file(path: Path | None, *, overwrite: bool, option: str = "--overwrite") -> None:
    """Raise `OutputError` where `write_file` would; call it before the work whose result it is."""
    if path is None or _is_stream(path):
        return
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if os.path.lexists(path):
        if not overwrite:
            raise OutputError(f"{path} exists: {option} replaces it")
        path = _target(path)
    if not os.path.lexists(path.parent):
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    _check_writable(path.parent, of=path)


def check_distinct(paths: Mapping[str, Path | None]) -> None:
    """Raise `OutputError` if two options name the same file; devices and pipes may be shared.

    Args:
        paths: By the names of the options; None for a file that is not asked for.
    """
    seen: dict[str, str] = {}
    for option, path in paths.items():
        if path is None or _is_stream(path):
            continue
        first = seen.setdefault(os.path.realpath(path), option)
        if first != option:
            raise OutputError(f"{first} and {option} name the same file, {path}: give each its own")


def write_file(
    path: Path, content: str | bytes, *, overwrite: bool, option: str = "--overwrite"
) -> None:
    """Write a file of which the user gave the name, in a folder that exists.

    Args:
        path: Where to. Devices and pipes, such as /dev/stdout, are written to as they are.
        content: Its content.
        overwrite: Whether to replace a file.
        option: What the user sets to have a file replaced, for the message.

    Raises:
        OutputError: It exists and is to stay, its folder does not, or it cannot be written.
    """
    check_file(path, overwrite=overwrite, option=option)
    data = content.encode() if isinstance(content, str) else content
    if _is_stream(path):
        try:
            with path.open("wb") as stream:
                stream.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        return
    write_whole(_target(path), data)


class OutputFolder:
    """A folder that a command fills; use it in a ``with`` around the work.

    Making one only looks, and tries whether a file can be made. Entering makes the folder and
    removes what the command left there before, and says so in one line of the log; leaving writes
    the marker, however the block ends.

    Args:
        path: The folder.
        command: Who fills it, as in "demo"; nobody else may fill it again.
        names: The files it may write, relative to the folder: patterns such as "labels/*.png", in
            which ``*`` stands for slashes too; or a set of names.
        again: What becomes of the command's last output there. "replace": it is removed.
            "refuse": it is in the way. "update": it stays, and files of ``names`` may be
            replaced one by one.
        what: What the command writes, for the message that refuses it.
        resume: Whether to take over what a killed run left and could not list any more.
        adopt: Patterns; a folder without a marker that holds nothing else is the command's own
            too, from before there were markers.

    Raises:
        OutputError: Something is in the way; the message names it.
    """

    def __init__(
        self,
        path: Path,
        *,
        command: str,
        names: tuple[str, ...] | frozenset[str],
        again: Literal["replace", "refuse", "update"] = "replace",
        what: str = "output",
        resume: bool = False,
        adopt: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self._command, self._names, self._adopt, self._what = command, names, adopt, what
        self._update, self._resume = again == "update", resume
        self._before = self._check(refuse=again == "refuse")
        self._made = False

    def __enter__(self) -> OutputFolder:
        self._made = not self.path.exists()
        _make_folder(self.path)
        if not self._update:
            self._remove()
        self._write_marker(self._before if self._update else {}, finished=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            files = {name: _signature(self.path / name) for name in self._walk()}
            if self._update:  # another run may have added files of its own
                marker = _read_marker(self.path / MARKER)
                files = {**(marker["files"] if marker else self._before), **files}
            if not files and not self._before:  # leave no trace of a run that wrote nothing
                (self.path / MARKER).unlink(missing_ok=True)
                if self._made:
                    with suppress(OSError):
                        self.path.rmdir()
                return
            self._write_marker(files, finished=True)
        except (OSError, OutputError):
            if error is None:  # else the disk may be full, which is what the other error tells
                raise

    def _check(self, *, refuse: bool) -> dict[str, list[int]]:
        """Look for what is in the way; returns the files of the last run."""
        path, command = self.path, self._command
        if not os.path.lexists(path):
            _check_writable(path.parent, of=path)
            return {}
        if not path.is_dir():
            raise OutputError(f"{path} is not a folder: name another one")
        _check_writable(path, of=path)
        marker = _read_marker(path / MARKER)
        if marker is None:
            self._check_unmarked()
            return {}
        if marker["command"] != command:
            raise OutputError(
                f"{path} holds the output of `upsnet {marker['command']}`: name another folder"
            )
        before: dict[str, list[int]] = marker["files"]
        killed = not marker["finished"]
        mine = [name for name in before if not self._update or self._is_ours(name)]
        there = sorted(name for name in mine if os.path.lexists(path / name))
        if refuse and there:
            raise OutputError(f"{path} already holds a {self._what}: --overwrite replaces it")
        for name in (*there, *self._literal_folders()):
            self._check_folders(name)
        if self._resume and killed:
            return before
        for name in there:
            if _signature(path / name) != before[name]:
                raise OutputError(
                    f"{path / name} was changed since `upsnet {command}` wrote it: move it away, or"
                    " name another folder"
                )
        for name in self._walk():
            if name not in before:
                why = " (or was killed before it could say so)" if killed else ""
                raise OutputError(
                    f"{path / name} is in the way: `upsnet {command}` did not write it{why}; move"
                    " it away, or name another folder"
                )
        return before

    def _check_unmarked(self) -> None:
        for entry in sorted(self.path.rglob("*")):
            name = entry.relative_to(self.path).as_posix()
            known = any(fnmatch.fnmatchcase(name, pattern) for pattern in self._adopt)
            plain = stat.S_ISREG(entry.lstat().st_mode)
            if not (known and plain) and not (self._adopt and stat.S_ISDIR(entry.lstat().st_mode)):
                raise OutputError(
                    f"{self.path} is not empty, and `upsnet {self._command}` did not write"
                    f" {name}: name a new or an empty folder"
                )

    def _check_folders(self, name: str) -> None:
        """Raise where a folder on the way to ``name`` is a link or a file."""
        for parent in reversed(list(Path(name).parents)[:-1]):
            folder = self.path / parent
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise OutputError(
                    f"{folder} is in the way: it is not a folder of `upsnet {self._command}`; move"
                    " it away, or name another folder"
                )

    def _literal_folders(self) -> Iterator[str]:
        """Names in those folders that are given without ``*``."""
        for name in self._names:
            literal = name.partition("*")[0].rpartition("/")[0]
            if literal:
                yield f"{literal}/file"

    def _is_ours(self, name: str) -> bool:
        if isinstance(self._names, frozenset):
            return name in self._names
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._names)

    def _walk(self) -> Iterator[str]:
        """Everything in the folder that bears a name of ours; links are not followed."""
        for root, folders, files in os.walk(self.path):
            for entry in (*files, *folders):
                name = (Path(root) / entry).relative_to(self.path).as_posix()
                if self._is_ours(name) and _signature(self.path / name) != _FOLDER:
                    yield name

    def _remove(self) -> None:
        folders = set()
        earlier = [name for name in self._before if os.path.lexists(self.path / name)]
        if earlier:
            files = "1 file" if len(earlier) == 1 else f"{len(earlier)} files"
            _LOG.warning(
                "replacing %s of an earlier `upsnet %s` in %s", files, self._command, self.path
            )
        for name, signature in self._before.items():
            full = self.path / name
            if name in earlier and _signature(full) == signature:  # nobody changed it by now
                full.unlink()
            folders |= set(Path(name).parents) - {Path()}
        for folder in sorted(folders, reverse=True):
            with suppress(OSError):  # the user has put something there, or it is gone
                (self.path / folder).rmdir()

    def _write_marker(self, files: Mapping[str, list[int]], *, finished: bool) -> None:
        content = {
            "about": f"Files that `upsnet {self._command}` wrote here: size, time of modification."
            " Its next run replaces those that nobody has changed.",
            "format": _FORMAT,
            "command": self._command,
            "finished": finished,
            "files": dict(sorted(files.items())),
        }
        write_whole(self.path / MARKER, (json.dumps(content, indent=0) + "\n").encode())


def bag_names(stem: str, *, folder: str = "") -> tuple[str, ...]:
    """Patterns of the files of a bag, for `OutputFolder`.

    Args:
        stem: Name of the bag.
        folder: Where it lies in the folder of output, with a slash at its end.
    """
    stem = glob.escape(stem)
    return tuple(f"{folder}{name}" for name in ("metadata.yaml", f"{stem}.mcap*", f"{stem}.db3*"))


def _read_marker(path: Path) -> dict[str, Any] | None:
    """The content of a marker; None where there is none that can be trusted."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return None
    content.setdefault("finished", False)
    files = content.get("files")
    if not isinstance(files, dict) or not isinstance(content.get("command"), str):
        return None
    return content if all(map(_is_inside, files)) else None


def _is_inside(name: str) -> bool:
    """Whether a path in a marker, which others may have written, stays in the folder."""
    return (
        bool(name)
        and "\0" not in name
        and not Path(name).is_absolute()
        and not ({"..", ""} & set(name.split("/")))
    )


def _signature(path: Path) -> list[int]:
    """Size, and time of modification in nanoseconds; something impossible for other than files."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return _OTHER
    if stat.S_ISDIR(status.st_mode):
        return _FOLDER
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else _OTHER


def _check_writable(folder: Path, *, of: Path) -> None:
    """Raise unless a file can be made in ``folder``, which may have to be made itself."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {of}: {folder} is not a folder")
    probe = folder / f".upsnet-{os.urandom(8).hex()}.part"
    try:  # a question about permissions is answered wrongly for root and by some file systems
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {of}: {folder}: {error.strerror}") from error


def _sync(path: Path) -> None:
    """Bring a file or the names in a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror}") from error


def _is_stream(path: Path) -> bool:
    """Whether it is a device or a pipe, which are written to and never replaced."""
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or path.absolute().parts[1] in ("dev", "proc")


def _target(path: Path) -> Path:
    """The file that a link of the user's stands for."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path
