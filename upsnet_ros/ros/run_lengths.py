"""Masks as run lengths inside their bounds, as `PanopticInstance.mask_rle` holds them.

The pixels of a region of interest are read row by row; runs of pixels outside and inside the
segment take turns, beginning with one outside (of length 0 where the first pixel is inside). Like
COCO's uncompressed counts, which however go column by column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["Box", "decode", "encode"]

#: Inclusive pixel bounds (x1, y1, x2, y2), as in `upsnet_ros.inference.frame.Instance.box`.
Box = tuple[int, int, int, int]


def encode(
    labels: npt.NDArray[np.int32], segments: Iterable[tuple[int, Box]]
) -> Iterator[npt.NDArray[np.uint32]]:
    """Run lengths of many segments of one label image, in one pass over its pixels.

    Args:
        labels: int32 (H, W), not empty.
        segments: Id and bounds of each segment; all of an id's pixels lie within its bounds.

    Yields:
        For each segment its run lengths; their sum is the number of pixels within the bounds.
    """
    width = labels.shape[1]
    flat = labels.reshape(-1)
    begins_run = np.empty(flat.size, np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=begins_run[1:])
    begins_run[::width] = True  # no run goes over the end of a row
    starts = np.flatnonzero(begins_run)
    ends = np.append(starts[1:], flat.size)
    ids = flat[starts]
    by_id = np.argsort(ids, kind="stable")  # stable: an id's runs stay in the order of the pixels
    sorted_ids = ids[by_id]
    for segment_id, (x1, y1, x2, y2) in segments:
        first, last = np.searchsorted(sorted_ids, (segment_id, segment_id + 1))
        runs = by_id[first:last]
        rows, columns = np.divmod(starts[runs], width)
        begin = (rows - y1) * (x2 - x1 + 1) + columns - x1
        yield _alternating(begin, begin + ends[runs] - starts[runs], (x2 - x1 + 1) * (y2 - y1 + 1))


def decode(runs: npt.ArrayLike, *, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask inside its region of interest.

    Args:
        runs: `PanopticInstance.mask_rle`.
        height: Of the region of interest, pixels.
        width: Likewise.

    Returns:
        bool (height, width), True inside the segment.

    Raises:
        ValueError: Where the runs do not add up to the region.
    """
    lengths = np.asarray(runs, np.int64)
    if lengths.sum() != height * width:
        raise ValueError(
            f"runs of {lengths.sum()} pixels do not fill a region of {width}x{height} pixels"
        )
    return np.repeat(np.arange(lengths.size) % 2 == 1, lengths).reshape(height, width)


def _alternating(
    begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.uint32]:
    """Lengths of the runs outside and inside, of runs inside that are given in order."""
    # A run that fills a row up to the right bound goes on at the left bound of the next row.
    apart = np.flatnonzero(begin[1:] != end[:-1])
    begin = begin[np.concatenate(([0], apart + 1))]
    end = end[np.append(apart, end.size - 1)]
    edges = np.stack((begin, end), axis=1).reshape(-1)
    lengths = np.diff(edges, prepend=0, append=size)
    return (lengths if lengths[-1] else lengths[:-1]).astype(np.uint32)
