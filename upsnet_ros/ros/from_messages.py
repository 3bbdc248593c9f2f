"""The node's messages back into a `PanopticFrame`, for those who receive them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from upsnet_ros.datasets.taxonomy import ClassInfo, Taxonomy
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment
from upsnet_ros.ros.image_codec import ImageError
from upsnet_ros.ros.plane import plane

if TYPE_CHECKING:  # messages out of a bag are read where no ROS is installed
    from sensor_msgs.msg import Image, RegionOfInterest

    from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo

__all__ = ["frame_from_messages", "plane", "segments_from_message", "taxonomy_from_message"]


def frame_from_messages(
    labels: Image, instances: PanopticInstanceArray, unknown_mask: Image
) -> PanopticFrame:
    """The frame that the node published under one stamp.

    What was not published cannot come back: ``detection_box`` is the box of the visible pixels.

    Raises:
        ImageError: Where an image is malformed, or the two differ in size.
    """
    values, unknown = plane(labels), plane(unknown_mask)
    if values.shape != unknown.shape:
        raise ImageError(f"labels are {values.shape}, the unknown mask is {unknown.shape}")
    things, stuff = segments_from_message(instances)
    return PanopticFrame(
        labels=values.astype(np.int32, copy=False),
        unknown=unknown != 0,
        instances=things,
        stuff=stuff,
    )


def segments_from_message(
    instances: PanopticInstanceArray,
) -> tuple[tuple[Instance, ...], tuple[StuffSegment, ...]]:
    """The things and the stuff of a frame, as in `frame_from_messages`."""
    things = tuple(
        Instance(
            id=message.id,
            class_id=message.class_id,
            class_name=message.class_name,
            score=message.score,
            box=_box(message.roi),
            detection_box=_box(message.roi),
            area=message.area,
            track_id=message.track_id,
        )
        for message in instances.instances
    )
    stuff = tuple(
        StuffSegment(
            id=message.id,
            class_id=message.class_id,
            class_name=message.class_name,
            box=_box(message.roi),
            area=message.area,
        )
        for message in instances.stuff
    )
    return things, stuff


def taxonomy_from_message(label_info: PanopticLabelInfo) -> Taxonomy:
    """The classes that a `label_info` message names, whichever node sent it.

    Raises:
        ValueError: Where they break the rules of a `Taxonomy`.
    """
    return Taxonomy(
        label_info.dataset,
        tuple(
            ClassInfo(
                id=message.id,
                name=message.name,
                is_thing=message.is_thing,
                color=(int(message.color[0]), int(message.color[1]), int(message.color[2])),
                semantic_id=place,
            )
            for place, message in enumerate(label_info.classes)
        ),
    )


def _box(roi: RegionOfInterest) -> tuple[int, int, int, int]:
    """Inclusive corners."""
    return (
        roi.x_offset,
        roi.y_offset,
        roi.x_offset + roi.width - 1,
        roi.y_offset + roi.height - 1,
    )
