"""Converts a `PanopticFrame` to vision_msgs messages; importing this requires vision_msgs."""

from __future__ import annotations

from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
    VisionClass,
)

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.inference.frame import Instance, PanopticFrame


def detections_message(frame: PanopticFrame, header: Header) -> Detection2DArray:
    """Return the message of the `detections` topic: the things, in the order of `instances`.

    A box encloses the visible pixels; its centre and size are in pixels, and (0, 0) is the outer
    corner of the first pixel. `class_id` is the dataset's public id as text; `label_info_message`
    maps it to a name. `id` is the track id (in vision_msgs, `id` identifies an object across
    messages); it is empty if tracking is off.
    """
    return Detection2DArray(
        header=header, detections=[_detection(one, header) for one in frame.instances]
    )


def label_info_message(taxonomy: Taxonomy, header: Header, *, threshold: float) -> LabelInfo:
    """Return the message of the `vision_label_info` topic: class names by id.

    Args:
        taxonomy: Classes of the frames.
        header: Header of the message.
        threshold: Score that a thing must exceed to be listed.
    """
    return LabelInfo(
        header=header,
        class_map=[VisionClass(class_id=one.id, class_name=one.name) for one in taxonomy.classes],
        threshold=threshold,
    )


def _detection(instance: Instance, header: Header) -> Detection2D:
    x1, y1, x2, y2 = instance.box
    hypothesis = ObjectHypothesis(class_id=str(instance.class_id), score=float(instance.score))
    return Detection2D(
        header=header,
        results=[ObjectHypothesisWithPose(hypothesis=hypothesis)],
        bbox=BoundingBox2D(
            center=Pose2D(position=Point2D(x=(x1 + x2 + 1) / 2, y=(y1 + y2 + 1) / 2)),
            size_x=float(x2 - x1 + 1),
            size_y=float(y2 - y1 + 1),
        ),
        id=str(instance.track_id) if instance.track_id else "",
    )
