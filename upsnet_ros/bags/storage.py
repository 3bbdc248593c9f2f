"""A bag's storage files: finding and opening them, their interface, limits for untrusted bags."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple, Protocol

import yaml
import zstandard

from upsnet_ros.errors import BagError, TooLargeError

#: Environment variable that raises or lowers limits, such as ``message_bytes=1G,chunk_bytes=1G``.
VARIABLE = "UPSNET_BAG_LIMITS"

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits for reading a bag; small files can claim, or decompress to, far more.

    Attributes:
        metadata_bytes: Size of metadata.yaml.
        unpacked_bytes: Disk space for a file that is decompressed (.zstd) or repaired.
        unpacked_ratio: A compressed file may exceed ``unpacked_bytes`` if it decompresses to at
            most this many times its size.
        message_bytes: Size of a message, decompressed.
        message_objects: Nested messages and strings in the sequences of one message, which take
            far more memory than their bytes. Counted as if each had its minimum size.
        chunk_bytes: Size of an MCAP chunk, decompressed.
        memory_bytes: Memory for all chunks held at once, i.e. chunks that overlap in time.
        record_bytes: Size of an MCAP record that is neither a chunk nor a message.
        definition_bytes: Size of a message definition, including the types that it uses.
        all_definitions_bytes: Size of all message definitions of a bag.
        definition_arrays: Elements of all arrays of fixed length in a bag's message definitions,
            except arrays of numbers.

    Raises:
        BagError: A limit is below 1.
    """

    metadata_bytes: int = 1 << 20
    unpacked_bytes: int = 2 << 30
    unpacked_ratio: int = 100
    message_bytes: int = 256 << 20
    message_objects: int = 8 << 20
    chunk_bytes: int = 256 << 20
    memory_bytes: int = 1 << 30
    record_bytes: int = 4 << 20
    definition_bytes: int = 256 << 10
    all_definitions_bytes: int = 4 << 20
    definition_arrays: int = 4096

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 1:
                raise BagError(f"limit {one.name} must be at least 1")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Limits:
        """Return the defaults, overridden by the environment variable UPSNET_BAG_LIMITS.

        Raises:
            BagError: The variable cannot be parsed.
        """
        values: dict[str, int] = {}
        known = [one.name for one in fields(cls)]
        for part in filter(None, re.split(r"[,\s]+", environment.get(VARIABLE, ""))):
            found = re.fullmatch(r"(\w+)=(\d+)([kmgt]?)", part, re.ASCII | re.IGNORECASE)
            if found is None or found[1] not in known:
                raise BagError(
                    f"{VARIABLE}: cannot understand {part!r}; give name=number, such as"
                    f" message_bytes=1G, of {', '.join(known)}"
                )
            values[found[1]] = int(found[2]) * _UNITS[found[3].lower()]
        return cls(**values)


def raise_it(name: str) -> str:
    """Return how to raise a limit, for the end of an error message."""
    return f"{VARIABLE}={name}=... allows more"


#: The first bytes of a zstd frame. A CDR message begins with a 0.
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: How all messages of ROS 2 are encoded; a topic in another encoding cannot be read.
CDR = "cdr"

_SECONDS = 10_000_000_000
_HOUR = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class StoredTopic:
    """A topic of one file.

    Attributes:
        name: As it was recorded.
        msgtype: For example "sensor_msgs/msg/Image"; empty where the file does not tell.
        count: Messages in the file.
        latched: Whether its publisher kept the last message for late joiners.
    """

    name: str
    msgtype: str
    count: int
    latched: bool = False


class StoredMessage(NamedTuple):
    """A message of one file: receive time in ns, topic, type and CDR bytes."""

    time_ns: int
    topic: str
    msgtype: str
    raw: bytes


def is_latched(offered_qos: object) -> bool:
    """Return whether QoS profiles in the format of rosbag2 are transient local (latched).

    Older releases write the durability as a number, newer ones as a name. Other writers leave the
    text empty or incomplete, so it is searched rather than parsed.
    """
    return isinstance(offered_qos, str) and (
        re.search(r"\bdurability[\"']?: *[\"']?(1|transient_local)\b", offered_qos) is not None
    )


@dataclass(frozen=True, slots=True)
class Definition:
    """A message definition stored in a bag.

    Attributes:
        msgtype: For example "sensor_msgs/msg/Image".
        encoding: "ros2msg" or "ros2idl"; others are ignored.
        text: The definition, including the types that it uses.
    """

    msgtype: str
    encoding: str
    text: str


class StorageFile(Protocol):
    """One file of a bag, open for reading."""

    topics: list[StoredTopic]
    definitions: list[Definition]
    start_ns: int
    end_ns: int
    losses: list[str]

    def messages(self, topics: Collection[str], start: int, stop: int) -> Iterator[StoredMessage]:
        """Yield messages of some topics from ``start`` to ``stop`` (ns, exclusive), by time.

        Unreadable messages are left out and added to `losses`.
        """
        ...

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield first and last time (ns) of runs of messages without a clock jump, by time."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def is_leap(before_ns: int, after_ns: int) -> bool:
    """Return whether the clock jumped between two messages (ns), as opposed to a pause.

    Simulations and robots without a real-time clock start at time 0 until they receive the time.
    """
    return after_ns - before_ns > (_SECONDS if before_ns <= 0 else _HOUR)


def zstd_blocks(packed: IO[bytes] | bytes, limit: int) -> Iterator[bytes]:
    """Yield decompressed zstd data in blocks, regardless of the size its header claims.

    Raises:
        TooLargeError: The decompressed size exceeds ``limit`` bytes.
        zstandard.ZstdError: The data is damaged.
    """
    size = 0
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
        while block := reader.read(1 << 20):
            size += len(block)
            if size > limit:
                raise TooLargeError(f"it decompresses to more than {limit} bytes")
            yield block


METADATA = "metadata.yaml"
_COMPRESSED = ".zstd"
_FORMATS = (".mcap", ".db3")


def open_files(
    path: Path, stack: ExitStack, losses: list[str], limits: Limits
) -> list[StorageFile]:
    """Open the files of a bag.

    Args:
        path: Folder of the bag, or a single file.
        stack: Receives callbacks that close the files and remove temporary copies.
        losses: Receives one line for each file that is missing or unreadable.
        limits: Limits on disk space and memory.

    Raises:
        BagError: The path is not a bag, or none of its files can be read.
    """
    if not path.exists():
        raise BagError(f"there is no bag {path}")
    names = _files_of(path, losses, limits) if path.is_dir() else [path]
    files: list[StorageFile] = []
    errors: list[str] = []
    for name in names:
        try:
            file = _open(name, stack, limits)
        except (BagError, OSError) as error:
            errors.append(str(error))
            continue
        stack.enter_context(closing(file))
        files.append(file)
    if not files:
        raise BagError(errors[0] if errors else f"{path} has none of its files: {losses[0]}")
    losses.extend(errors)
    return files


def _files_of(folder: Path, losses: list[str], limits: Limits) -> list[Path]:
    """Return the files listed in metadata.yaml, or all bag files if it lists none."""
    present = sorted(file for file in folder.iterdir() if _format(file) and file.is_file())
    # If a file exists both compressed and uncompressed, either one is used.
    by_stem = {_stem(file.name): file for file in reversed(present)}
    named = _named_in_metadata(folder, losses, limits) or []
    absent = [name for name in named if _stem(name) not in by_stem]
    losses.extend(f"{folder.name}: its file {name} is missing" for name in absent)
    if len(absent) == len(named):
        # No metadata (killed recorder), or it belongs to another folder.
        if not present:
            reason = f": {losses[0]}" if losses else ""
            raise BagError(f"{folder} is not a bag: it holds no .mcap or .db3 file{reason}")
        return list(by_stem.values())[::-1]
    stems = dict.fromkeys(_stem(name) for name in named if name not in absent)
    losses.extend(
        f"{folder.name}: {file.name} is left out, because {METADATA} does not name it"
        for stem, file in by_stem.items()
        if stem not in stems
    )
    return [_chosen(folder, stem, named, by_stem) for stem in stems]


def _chosen(folder: Path, stem: str, named: Sequence[str], by_stem: dict[str, Path]) -> Path:
    exact = next(folder / name for name in named if _stem(name) == stem)
    return exact if exact.is_file() else by_stem[stem]


def _named_in_metadata(folder: Path, losses: list[str], limits: Limits) -> list[str] | None:
    """Return the file names listed in metadata.yaml; None if it is missing or unreadable."""
    path = folder / METADATA
    if not path.exists():
        return None
    try:
        names = list(_names(_regular(path), limits))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0] if isinstance(error, BagError) else ""
        reason = reason or type(error).__name__
        losses.append(f"{folder.name}: {METADATA} is unreadable ({reason})")
        return None
    return [PurePosixPath(name).name for name in names]


def _names(path: Path, limits: Limits) -> Iterator[str]:
    with path.open("rb") as file:
        content = file.read(limits.metadata_bytes + 1)
    if len(content) > limits.metadata_bytes:
        raise BagError(f"above {limits.metadata_bytes} bytes; {raise_it('metadata_bytes')}")
    # The node tree is about as large as the text. Constructed objects can be far larger, because
    # each alias and merge key expands to a whole subtree.
    node = yaml.compose(content, Loader=yaml.SafeLoader)
    for key in ("rosbag2_bagfile_information", "relative_file_paths"):
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((value for name, value in pairs if name.value == key), None)
    if not isinstance(node, yaml.SequenceNode):
        raise BagError("it names no list of files")
    for one in node.value:
        if not isinstance(one, yaml.ScalarNode):
            raise BagError("names of files must be text")
        yield one.value


def _open(path: Path, stack: ExitStack, limits: Limits) -> StorageFile:
    kind = _format(path)
    if kind is None:
        hint = "; `rosbags-convert` turns ROS 1 bags into it" if path.suffix == ".bag" else ""
        raise BagError(f"{path} is not a ROS 2 bag: a folder, or a .mcap or .db3 file{hint}")
    path = _regular(path)
    if path.suffix == _COMPRESSED:
        path = _unpacked(path, stack, limits)
    # Imported here, because both import this module.
    if kind == ".mcap":
        from upsnet_ros.bags.mcap_file import McapFile

        return McapFile(path, limits)
    from upsnet_ros.bags.sqlite_file import SqliteFile

    return SqliteFile(path, limits)


def _regular(path: Path) -> Path:
    """Return the path if it is a regular file; opening a pipe or device could block forever."""
    if not path.is_file():
        raise BagError(f"{path} is not a file" if path.exists() else f"there is no file {path}")
    return path


def _unpacked(path: Path, stack: ExitStack, limits: Limits) -> Path:
    limit = max(limits.unpacked_bytes, limits.unpacked_ratio * path.stat().st_size)
    with ExitStack() as unfinished:
        folder = unfinished.enter_context(TemporaryDirectory(prefix="upsnet_bag_"))
        target = Path(folder, path.stem)
        try:
            with path.open("rb") as packed, target.open("wb") as out:
                for block in zstd_blocks(packed, limit):
                    out.write(block)
        except zstandard.ZstdError as error:
            raise BagError(f"{path} cannot be decompressed: {error}") from None
        except TooLargeError as error:
            raise BagError(f"{path}: {error}; {raise_it('unpacked_bytes')}") from None
        except OSError as error:
            raise BagError(f"{path} cannot be decompressed: {error.strerror}") from None
        stack.push(unfinished.pop_all())
    return target


def _format(path: Path) -> str | None:
    """Return the extension of the storage format, ignoring compression; None for other files."""
    name = _stem(path.name)
    return next((ending for ending in _FORMATS if name.endswith(ending)), None)


def _stem(name: str) -> str:
    """Return a file name without the compression extension."""
    return name.removesuffix(_COMPRESSED)
