"""Which files make up a bag, and opening them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import yaml
import zstandard

from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.mcap_file import McapFile
from upsnet_ros.bags.sqlite_file import SqliteFile
from upsnet_ros.bags.storage import StorageFile

__all__ = ["METADATA", "open_files"]

METADATA = "metadata.yaml"
_COMPRESSED = ".zstd"
_FORMATS: dict[str, Callable[[Path], StorageFile]] = {".mcap": McapFile, ".db3": SqliteFile}


def open_files(path: Path, stack: ExitStack, losses: list[str]) -> list[StorageFile]:
    """Open the files of a bag.

    Args:
        path: The bag's folder, or a single file.
        stack: Closes the files, and removes what was unpacked.
        losses: Takes a line for each file that is missing or unreadable.

    Raises:
        BagError: It is no bag, or none of its files can be read.
    """
    if not path.exists():
        raise BagError(f"there is no bag {path}")
    names = _files_of(path, losses) if path.is_dir() else [path]
    files: list[StorageFile] = []
    errors: list[str] = []
    for name in names:
        try:
            file = _open(name, stack)
        except (BagError, OSError) as error:
            errors.append(str(error))
            continue
        stack.enter_context(closing(file))
        files.append(file)
    if not files:
        raise BagError(errors[0] if errors else f"{path} has none of its files: {losses[0]}")
    losses.extend(errors)
    return files


def _files_of(folder: Path, losses: list[str]) -> list[Path]:
    present = sorted(file for file in folder.iterdir() if _format(file) and file.is_file())
    named = _named_in_metadata(folder, losses)
    if named is None:
        if not present:
            raise BagError(f"{folder} is no bag: it holds no .mcap or .db3 file")
        return present
    # Of a bag that was moved or unpacked, the metadata may name what is no more.
    absent = [name for name in named if not (folder / name).exists()]
    losses.extend(f"{folder.name}: its file {name} is missing" for name in absent)
    return [folder / name for name in named if name not in absent]


def _named_in_metadata(folder: Path, losses: list[str]) -> list[str] | None:
    """Names of files that metadata.yaml lists; None where a killed recorder wrote none."""
    try:
        content = yaml.safe_load((folder / METADATA).read_text("utf-8"))
        names = content["rosbag2_bagfile_information"]["relative_file_paths"]
        return [PurePosixPath(str(name)).name for name in names]
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
        losses.append(f"{folder.name}: {METADATA} is unreadable ({type(error).__name__})")
        return None


def _open(path: Path, stack: ExitStack) -> StorageFile:
    kind = _format(path)
    if kind is None:
        hint = "; `rosbags-convert` turns ROS 1 bags into it" if path.suffix == ".bag" else ""
        raise BagError(f"{path} is no ROS 2 bag: a folder, or a .mcap or .db3 file{hint}")
    if path.suffix == _COMPRESSED:
        path = _unpacked(path, Path(stack.enter_context(TemporaryDirectory(prefix="upsnet_bag_"))))
    return _FORMATS[kind](path)


def _unpacked(path: Path, folder: Path) -> Path:
    target = folder / path.stem
    try:
        with path.open("rb") as packed, target.open("wb") as out:
            shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(packed), out, 1 << 20)
    except zstandard.ZstdError as error:
        raise BagError(f"{path} cannot be decompressed: {error}") from None
    return target


def _format(path: Path) -> str | None:
    """Ending that tells the format, compressed or not; None of other files."""
    name = path.name.removesuffix(_COMPRESSED)
    return next((ending for ending in _FORMATS if name.endswith(ending)), None)
