"""Reading image files, with errors that name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import DatasetError

#: Values below this are looked up in a table of that size, larger ones are searched for.
_COUNTABLE = 1 << 17


def _read(path: Path, flags: int) -> npt.NDArray[np.generic]:
    if not path.is_file():
        raise DatasetError(f"there is no file {path}")
    pixels = cv2.imread(str(path), flags)
    if pixels is None:
        raise DatasetError(f"{path} is no image, or it is damaged")
    return pixels


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read uint8 (H, W, 3), BGR, as stored: labels know nothing of an EXIF orientation.

    Raises:
        DatasetError: The file is missing or no image.
    """
    pixels = _read(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return pixels.astype(np.uint8, copy=False)


def read_labels(path: Path, *, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Read a map of ids: int32 (H, W) from one channel of 8 or 16 bits.

    Args:
        path: A PNG or other lossless image.
        size: Height and width it must have, those of its image.

    Raises:
        DatasetError: The file is missing, no image, of several channels or of another size.
    """
    labels = _read(path, cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2:
        raise DatasetError(f"{path} has {labels.shape[2]} channels; labels need one")
    check_size(path, (labels.shape[0], labels.shape[1]), size)
    return labels.astype(np.int32)


def check_size(path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Raise `DatasetError` unless labels are as large as their image (height, width)."""
    if size != wanted:
        raise DatasetError(
            f"{path} is {size[1]}x{size[0]} pixels, but its image is {wanted[1]}x{wanted[0]}"
        )


def values_of(ids: npt.NDArray[np.int32]) -> list[int]:
    """Return the values that occur in a map of ids from 0, ascending."""
    if ids.max() < _COUNTABLE:
        return np.flatnonzero(np.bincount(ids.reshape(-1))).tolist()
    return np.unique(ids).tolist()


def semantic_of(
    ids: npt.NDArray[np.int32],
    table: Mapping[int, int],
    *,
    source: Path | str,
    complaint: str = "ids outside the taxonomy",
) -> npt.NDArray[np.uint8]:
    """Translate ids (H, W) by a table to uint8 (H, W).

    Raises:
        DatasetError: Ids are not in the table; ``source`` and the ids are named.
    """
    present = values_of(ids)
    strangers = [value for value in present if value not in table]
    if strangers:
        shown = ", ".join(str(value) for value in strangers[:5])
        raise DatasetError(f"{source}: {complaint}: {shown}")
    classes = np.array([table[value] for value in present], np.uint8)
    if present[-1] < _COUNTABLE:
        lookup = np.zeros(present[-1] + 1, np.uint8)
        lookup[present] = classes
        return lookup[ids]
    return classes[np.searchsorted(present, ids)]
