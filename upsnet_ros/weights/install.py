"""Brings published weights into the cache folder: read safely, checked, and written as safetensors.

Beside ``NAME.safetensors`` lies ``NAME.LICENSE.txt``. The file's metadata says where the weights
come from and under which licence they are, and has digests, by which damage is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from upsnet_ros import __version__
from upsnet_ros.errors import CheckpointError, OutputError, printable
from upsnet_ros.output_files import check_file, write_whole
from upsnet_ros.weights import CACHE_VARIABLE, cached_file
from upsnet_ros.weights.catalogue import Entry, File

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 20
_MAX_HEADER = 100 << 20  # bytes, as safetensors has it
#: In our metadata; whoever lacks it was not written here.
_WRITER = "written_by"
_CONTENT = "tensors_sha256"
_SOURCE = {"source", "source_md5", "source_sha256"}
_CHANGES = (
    "Tensors renamed, class rows reordered, zeros put in for the background, optimizer state left"
    " out, saved as safetensors. No value was trained further."
)


@dataclass(frozen=True, slots=True)
class Digests:
    """Digests of a file's bytes, as hexadecimal digits."""

    md5: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Installed:
    """Weights in the cache folder.

    Attributes:
        path: Their file.
        metadata: What it says of itself; see `install`.
    """

    path: Path
    metadata: Mapping[str, str]

    def is_intact(self) -> bool:
        """Whether every tensor has the bytes that were written; reads the whole file."""
        try:
            return _digest_of_file(self.path) == self.metadata[_CONTENT]
        except (OSError, ValueError, KeyError, TypeError):
            return False


def prepare_folder(entry: Entry) -> Path:
    """Make the cache folder, check that it can be written, and return where the weights will be.

    Raises:
        OutputError: It cannot be written, or a file that `install` did not write is in the way.
    """
    target = cached_file(entry.name)
    if target is None:
        raise OutputError(f"there is no home folder for downloads: set {CACHE_VARIABLE} to one")
    read_installed(entry)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_file(target, overwrite=True)
    except (OutputError, OSError) as error:
        reason = (
            error
            if isinstance(error, OutputError)
            else f"cannot write {target}: {error.filename}: {error.strerror}"
        )
        raise OutputError(
            f"{reason}; set {CACHE_VARIABLE} to a folder that can be written"
        ) from None
    return target


def read_installed(entry: Entry) -> Installed | None:
    """Return what the cache folder holds under that name; None if nothing.

    Raises:
        OutputError: The file there was not written by `install`; it stays.
    """
    path = cached_file(entry.name)
    if path is None or not os.path.lexists(path):
        return None
    try:
        metadata = read_metadata(path)
    except (OSError, ValueError):
        metadata = {}
    if _WRITER not in metadata or metadata.get("name") != entry.name:
        raise OutputError(
            f"{path} is in the way: `upsnet weights get` did not write it; move it away"
        )
    return Installed(path, metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file.

    Raises:
        ValueError: It is not such a file.
        OSError: It cannot be read.
    """
    return _read_header(path)[0]


def digests_of(path: Path) -> Digests:
    """Return the digests of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
    return Digests(md5.hexdigest(), sha256.hexdigest())


def source_of(entry: Entry, path: Path) -> tuple[str, Digests]:
    """Return the source of a user's file, and the digests of that source.

    A file that `install` wrote on another machine has them in its metadata, if it is intact.
    """
    try:
        metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
    except ValueError:
        metadata = {}
    known = metadata.get("name") == entry.name and metadata.keys() >= _SOURCE
    if known and Installed(path, metadata).is_intact():
        return metadata["source"], Digests(metadata["source_md5"], metadata["source_sha256"])
    return str(path), digests_of(path)


def check_kind(path: Path, *, source: str) -> None:
    """Check that a file is not obviously something else or cut off, without torch.

    Args:
        path: The file.
        source: What the message calls it.

    Raises:
        CheckpointError: It is empty, a web page, a pointer of git-lfs, its first bytes are those of
            no file of weights, or it is cut off.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(512)
    start = content.lstrip().lower()
    if not start:
        raise CheckpointError(f"{source} is empty")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(f"{source} is a web page, not weights: get the file it links to")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{source} is a pointer of git-lfs: fetch the file with `git lfs pull`"
        )
    # A zip archive or a pickle of a binary protocol, as .pth and .pkl are; safetensors begins with
    # the length of its JSON header.
    if not (content.startswith((b"PK", b"\x80")) or content[8:9] == b"{"):
        raise CheckpointError(
            f"{source} is not a file of weights: it is neither a .pth, a .pkl nor a .safetensors"
        )
    if content.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{source} is damaged: it was cut off; get it again")
    elif not content.startswith(b"\x80"):
        _check_length(path, source=source)


def _check_length(path: Path, *, source: str) -> None:
    """Raise `CheckpointError` if a safetensors file is not as long as its header says."""
    try:
        _, tensors, start = _read_header(path)
        wanted = start + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        there = path.stat().st_size
    except (ValueError, KeyError, TypeError, IndexError):
        raise CheckpointError(f"{source} is damaged: its header cannot be read") from None
    if there != wanted:
        raise CheckpointError(
            f"{source} is damaged: it has {there} bytes, but its header asks for {wanted};"
            " get it again"
        )


def install(
    entry: Entry,
    path: Path,
    *,
    source: str,
    digests: Digests,
    published: File | None,
) -> Installed:
    """Convert a published file into the cache folder.

    Args:
        entry: What it should be.
        path: The file: a pickle of NumPy arrays, a ``.pth`` or ``.safetensors``.
        source: Where it is from, for messages and the metadata.
        digests: Of the file.
        published: The published file that it is, if known.

    Raises:
        CheckpointError: The file is damaged, holds code, or holds other weights.
        OutputError: The cache folder cannot be written.
    """
    # Only here: torch takes seconds to import.
    import torch
    from safetensors.torch import save

    from upsnet_ros.network.checkpoint import check_tensors, read_state_dict
    from upsnet_ros.network.variants import get_variant

    target = prepare_folder(entry)
    try:
        tensors = read_state_dict(path)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), source)) from None
    check_tensors(get_variant(entry.name), tensors, source=source)
    plain = (torch.float32, torch.float16)
    kept = {
        name: (tensor if tensor.dtype in plain else tensor.float()).contiguous()
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {
        "format": "pt",
        "name": entry.name,
        "licence": entry.licence.name,
        "licence_url": entry.licence.url,
        "attribution": entry.attribution,
        "page": entry.page,
        "source": public_source(source),
        "source_md5": digests.md5,
        "source_sha256": digests.sha256,
        "published": published.published if published else "",
        "changes": _CHANGES,
        _WRITER: f"upsnet_ros {__version__}",
        _CONTENT: _digest_of_tensors(kept),
    }
    notice = target.with_name(f"{entry.name}.LICENSE.txt")
    write_whole(notice, _notice(entry, metadata).encode())
    write_whole(target, save(kept, metadata=metadata))
    return Installed(target, metadata)


def licence_text(entry: Entry) -> str:
    """Return what a user is to agree to before getting weights, in a few lines."""
    licence = entry.licence
    return (
        f"{entry.name}: {entry.attribution}.\n{entry.page}\n"
        f"Licence: {licence.name}, {licence.url}\n{licence.summary}\n"
    )


def public_source(source: str) -> str:
    """Return a source without what others need not know: folders, passwords, signatures."""
    if "://" not in source:
        return printable(Path(source).name)
    parts = urlsplit(source)
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def _notice(entry: Entry, metadata: Mapping[str, str]) -> str:
    return (
        f"{licence_text(entry)}\n"
        f"Source: {metadata['source']}\n"
        f"MD5: {metadata['source_md5']}\nSHA-256: {metadata['source_sha256']}\n"
        f"Changes by {metadata[_WRITER]}: {_CHANGES}\n"
        "The weights come without warranty of any kind, as the licence says.\n"
    )


def _digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].numpy()
        digest.update(f"{name} {list(array.shape)} {array.nbytes}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    """The same of what a file holds, without torch."""
    _, tensors, start = _read_header(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for name in sorted(tensors):
            first, last = tensors[name]["data_offsets"]
            digest.update(f"{name} {tensors[name]['shape']} {last - first}\n".encode())
            file.seek(start + first)
            while first < last:
                chunk = file.read(min(_CHUNK, last - first))
                if not chunk:
                    raise ValueError("cut off")
                digest.update(chunk)
                first += len(chunk)
    return digest.hexdigest()


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """Return metadata, tensors by name, and where their bytes begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= _MAX_HEADER:
            raise ValueError("not safetensors")
        text = file.read(length)
    try:
        header = json.loads(text)
    except RecursionError as error:
        raise ValueError("not safetensors") from error
    if not isinstance(header, dict):
        raise ValueError("not safetensors")
    metadata = header.pop("__metadata__", {})
    known = isinstance(metadata, dict) and all(isinstance(x, str) for x in metadata.values())
    return metadata if known else {}, header, 8 + length
