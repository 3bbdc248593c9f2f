"""Converts a `PanopticFrame` to this package's ROS messages; run-length masks and topic names.

Masks are run-length encoded row by row inside their region of interest. Runs of pixels outside and
inside the segment alternate, starting with one outside (of length 0 if the first pixel is inside).
This is COCO's uncompressed RLE, except that COCO goes column by column.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import LABEL_DIVISOR, Instance, PanopticFrame, StuffSegment
from upsnet_ros.msg import (
    PanopticClass,
    PanopticInstance,
    PanopticInstanceArray,
    PanopticLabelInfo,
    UnknownRegion,
)


def absolute_namespace(namespace: str) -> str:
    """Return the absolute namespace: ``/front/eye`` for ``front/eye/``, ``/`` for the root."""
    return "/" + namespace.strip("/")


def compressed_topic(base: str) -> str:
    """Return image_transport's compressed topic for a base topic.

    A name that already ends in ``/compressed`` is returned unchanged: users pass either.
    """
    return base if base.endswith("/compressed") else f"{base}/compressed"


def full_name(name: str, *, namespace: str) -> str:
    """Return the absolute name of a topic; absolute names are returned unchanged."""
    if name.startswith("/"):
        return name
    return f"{absolute_namespace(namespace).rstrip('/')}/{name}"


#: Inclusive pixel bounds (x1, y1, x2, y2), as in `upsnet_ros.inference.frame.Instance.box`.
Box = tuple[int, int, int, int]


def encode(
    labels: npt.NDArray[np.int32], segments: Iterable[tuple[int, Box]]
) -> Iterator[npt.NDArray[np.uint32]]:
    """Run-length encode the segments of a label image, in one pass over its pixels.

    Args:
        labels: int32 (H, W), not empty.
        segments: (id, box) of each segment; the box contains all pixels with that id.

    Yields:
        The run lengths of each segment, uint32 (R,); their sum is the number of pixels in the box.
    """
    width = labels.shape[1]
    flat = labels.reshape(-1)
    begins_run = np.empty(flat.size, np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=begins_run[1:])
    begins_run[::width] = True  # runs do not cross the end of a row
    starts = np.flatnonzero(begins_run)
    ends = np.append(starts[1:], flat.size)
    ids = flat[starts]
    by_id = np.argsort(ids, kind="stable")  # stable: the runs of an id stay in pixel order
    sorted_ids = ids[by_id]
    for segment_id, (x1, y1, x2, y2) in segments:
        first, last = np.searchsorted(sorted_ids, (segment_id, segment_id + 1))
        runs = by_id[first:last]
        rows, columns = np.divmod(starts[runs], width)
        begin = (rows - y1) * (x2 - x1 + 1) + columns - x1
        yield _alternating(begin, begin + ends[runs] - starts[runs], (x2 - x1 + 1) * (y2 - y1 + 1))


def decode(runs: npt.ArrayLike, *, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Decode run lengths to a mask inside the region of interest.

    Args:
        runs: `PanopticInstance.mask_rle`.
        height: Height of the region of interest, pixels.
        width: Width of the region of interest, pixels.

    Returns:
        bool (height, width), True inside the segment.

    Raises:
        ValueError: If the runs do not add up to ``height * width``.
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
    """Return alternating run lengths (outside, inside, ...) from the ordered runs inside."""
    # A run that reaches the right edge of the box may continue at the left edge of the next row.
    apart = np.flatnonzero(begin[1:] != end[:-1])
    begin = begin[np.concatenate(([0], apart + 1))]
    end = end[np.append(apart, end.size - 1)]
    edges = np.stack((begin, end), axis=1).reshape(-1)
    lengths = np.diff(edges, prepend=0, append=size)
    return (lengths if lengths[-1] else lengths[:-1]).astype(np.uint32)


_DTYPES = {
    "mono8": np.uint8,
    "bgr8": np.uint8,
    "rgb8": np.uint8,
    "16UC1": np.uint16,
    "32SC1": np.int32,
}


def check_dtype(pixels: npt.NDArray[Any], encoding: str) -> None:
    """Raise TypeError unless the pixels have exactly the encoding's dtype."""
    if pixels.dtype != _DTYPES[encoding]:
        raise TypeError(f"{encoding} requires {_DTYPES[encoding].__name__}, not {pixels.dtype}")


def image_message(pixels: npt.NDArray[Any], encoding: str, header: Header) -> Image:
    """Return an Image message of an array (H, W) or (H, W, C) of exactly the encoding's dtype."""
    check_dtype(pixels, encoding)
    pixels = np.ascontiguousarray(pixels)
    # rclpy accepts an array.array without checking every element.
    data = array.array("B")
    data.frombytes(pixels.reshape(-1).view(np.uint8).data)
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=pixels.strides[0],
        data=data,
    )


def labels_pixels(frame: PanopticFrame, *, encoding: str) -> npt.NDArray[Any]:
    """Return the label map in ``encoding``: uint16 (16UC1) or int32 (32SC1), (H, W)."""
    return frame.labels.astype(_DTYPES[encoding], copy=False)


def labels_message(frame: PanopticFrame, header: Header, *, encoding: str) -> Image:
    """Return the message of the `labels` topic, in ``encoding`` 16UC1 or 32SC1."""
    return image_message(labels_pixels(frame, encoding=encoding), encoding, header)


def unknown_mask_pixels(frame: PanopticFrame) -> npt.NDArray[np.uint8]:
    """Return the unknown mask, uint8 (H, W): 255 where the unknown channel won, else 0."""
    return frame.unknown.astype(np.uint8) * np.uint8(255)


def unknown_mask_message(frame: PanopticFrame, header: Header) -> Image:
    """Return the message of the `unknown_mask` topic, mono8."""
    return image_message(unknown_mask_pixels(frame), "mono8", header)


def instances_message(
    frame: PanopticFrame, header: Header, *, unknown_min_area: int = 1
) -> PanopticInstanceArray:
    """Return the message of the `instances` topic: all segments with masks, and unknown regions.

    Args:
        frame: The segmentation.
        header: Header of the camera image.
        unknown_min_area: Unknown regions with fewer pixels are not listed.
    """
    segments: tuple[Instance | StuffSegment, ...] = (*frame.instances, *frame.stuff)
    masks = encode(frame.labels, ((one.id, one.box) for one in segments))
    messages = [_segment(one, mask) for one, mask in zip(segments, masks, strict=True)]
    things = len(frame.instances)
    return PanopticInstanceArray(
        header=header,
        instances=messages[:things],
        stuff=messages[things:],
        unknown_regions=unknown_regions(frame, min_area=unknown_min_area),
    )


def unknown_regions(frame: PanopticFrame, *, min_area: int = 1) -> list[UnknownRegion]:
    """Return the 8-connected regions of the unknown mask, the largest first.

    `mean_score` is NaN if the frame has no unknown score.
    """
    if not frame.unknown.any():
        return []
    count, components, stats, _ = cv2.connectedComponentsWithStats(
        frame.unknown.view(np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA]
    means = np.full(count, np.nan)
    if frame.unknown_score is not None:
        inside, score = components[frame.unknown], frame.unknown_score[frame.unknown]
        sums = np.bincount(inside, weights=score, minlength=count)
        means = sums / (255.0 * np.maximum(areas, 1))  # component 0, what is known, may be empty
    listed = [region for region in range(1, count) if areas[region] >= min_area]
    listed.sort(key=lambda region: -areas[region])
    return [
        UnknownRegion(
            roi=_roi(*(int(value) for value in stats[region, :4])),
            area=int(areas[region]),
            mean_score=float(means[region]),
        )
        for region in listed
    ]


def label_info_message(taxonomy: Taxonomy, header: Header) -> PanopticLabelInfo:
    """Return the message of the `label_info` topic: the classes that label values refer to."""
    return PanopticLabelInfo(
        header=header,
        dataset=taxonomy.name,
        label_divisor=LABEL_DIVISOR,
        classes=[
            PanopticClass(
                id=info.id,
                name=info.name,
                is_thing=info.is_thing,
                color=np.array(info.color, np.uint8),
            )
            for info in taxonomy.classes
        ],
    )


def decode_mask(segment: PanopticInstance) -> npt.NDArray[np.bool_]:
    """Return the mask inside the segment's roi: bool (roi.height, roi.width).

    Raises:
        ValueError: If the run lengths do not add up to the roi's area.
    """
    return decode(segment.mask_rle, height=segment.roi.height, width=segment.roi.width)


def _segment(segment: Instance | StuffSegment, mask: npt.NDArray[np.uint32]) -> PanopticInstance:
    is_thing = isinstance(segment, Instance)
    x1, y1, x2, y2 = segment.box
    return PanopticInstance(
        id=segment.id,
        is_thing=is_thing,
        class_id=segment.class_id,
        class_name=segment.class_name,
        instance_id=segment.id % LABEL_DIVISOR if is_thing else 0,
        track_id=segment.track_id if isinstance(segment, Instance) else 0,
        score=segment.score if isinstance(segment, Instance) else 1.0,
        roi=_roi(x1, y1, x2 - x1 + 1, y2 - y1 + 1),
        area=segment.area,
        mask_rle=array.array("I", mask.tobytes()),
    )


def _roi(x: int, y: int, width: int, height: int) -> RegionOfInterest:
    return RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
