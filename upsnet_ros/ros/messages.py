"""A `PanopticFrame` as ROS messages, and a segment's mask back from one."""

from __future__ import annotations

import array
import sys
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
from upsnet_ros.ros import run_lengths

__all__ = [
    "check_dtype",
    "decode_mask",
    "image_message",
    "instances_message",
    "label_info_message",
    "labels_message",
    "labels_pixels",
    "unknown_mask_message",
    "unknown_mask_pixels",
    "unknown_regions",
]

_DTYPES = {"mono8": np.uint8, "rgb8": np.uint8, "16UC1": np.uint16, "32SC1": np.int32}


def check_dtype(pixels: npt.NDArray[Any], encoding: str) -> None:
    """Raises TypeError where the pixels are not of exactly the encoding's type."""
    if pixels.dtype != _DTYPES[encoding]:
        raise TypeError(f"{encoding} is made of {_DTYPES[encoding].__name__}, not {pixels.dtype}")


def image_message(pixels: npt.NDArray[Any], encoding: str, header: Header) -> Image:
    """An Image of an array (H, W) or (H, W, C) of exactly the encoding's type."""
    check_dtype(pixels, encoding)
    pixels = np.ascontiguousarray(pixels)
    # An array of bytes is what the message takes over without a look at every element.
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
    """The pixels of `labels`: 16UC1 or 32SC1, as `NodeSettings.resolved_labels_encoding` says."""
    return frame.labels.astype(_DTYPES[encoding], copy=False)


def labels_message(frame: PanopticFrame, header: Header, *, encoding: str) -> Image:
    """The `labels` topic."""
    return image_message(labels_pixels(frame, encoding=encoding), encoding, header)


def unknown_mask_pixels(frame: PanopticFrame) -> npt.NDArray[np.uint8]:
    """The pixels of `unknown_mask`: 255 where the unknown channel won, else 0."""
    return frame.unknown.astype(np.uint8) * np.uint8(255)


def unknown_mask_message(frame: PanopticFrame, header: Header) -> Image:
    """The `unknown_mask` topic: mono8."""
    return image_message(unknown_mask_pixels(frame), "mono8", header)


def instances_message(
    frame: PanopticFrame, header: Header, *, unknown_min_area: int = 1
) -> PanopticInstanceArray:
    """The `instances` topic: every segment of the frame with its mask, and the unknown regions."""
    segments: tuple[Instance | StuffSegment, ...] = (*frame.instances, *frame.stuff)
    masks = run_lengths.encode(frame.labels, ((one.id, one.box) for one in segments))
    messages = [_segment(one, mask) for one, mask in zip(segments, masks, strict=True)]
    things = len(frame.instances)
    return PanopticInstanceArray(
        header=header,
        instances=messages[:things],
        stuff=messages[things:],
        unknown_regions=unknown_regions(frame, min_area=unknown_min_area),
    )


def unknown_regions(frame: PanopticFrame, *, min_area: int = 1) -> list[UnknownRegion]:
    """The 8-connected regions of the unknown mask, the largest first.

    `mean_score` is NaN where the frame has no unknown score.
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
        means = np.bincount(inside, weights=score, minlength=count) / (255.0 * areas)
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
    """The `label_info` topic: what the values of `labels` mean."""
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
    """The mask inside the segment's roi: bool (roi.height, roi.width).

    Raises:
        ValueError: Where the run lengths do not fill the roi.
    """
    return run_lengths.decode(segment.mask_rle, height=segment.roi.height, width=segment.roi.width)


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
