"""Selects the topics of a bag for a replay: the camera, what is published with it, what is not."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from upsnet_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    INSTANCES,
    LABEL_INFO,
    POINT_CLOUD,
    TRANSFORMS,
    TRUTH,
    stamp_of,
)
from upsnet_ros.bags.reader import TopicInfo, open_bag
from upsnet_ros.errors import BagError, ImageError, TopicError
from upsnet_ros.messages.images import check

#: Type of each topic that the points node publishes, by the name that follows its namespace.
POINT_OUTPUTS = {
    "points": POINT_CLOUD,
    "unknown_points": POINT_CLOUD,
    "objects": "upsnet_ros/msg/PanopticObjectArray",
}
#: The same, with those of the segmenting node.
OUTPUTS = {
    "label_info": LABEL_INFO,
    "labels": IMAGE,
    "instances": INSTANCES,
    "unknown_mask": IMAGE,
    "unknown_score": IMAGE,
    "semantic": IMAGE,
    "confidence": IMAGE,
    "color_mask": IMAGE,
    "overlay": IMAGE,
    "overlay/compressed": COMPRESSED,
    **POINT_OUTPUTS,
}

_SUFFIX = "/compressed"
#: The first images of a topic, one of which the node must be able to read; others may be damaged.
_TRIED = 10
# Longer names do not fit into DDS topic names.
_TOPIC = re.compile(r"(?=.{1,240}$)/?[a-z_]\w*(/[a-z_]\w*)*", re.ASCII | re.IGNORECASE)
_MSGTYPE = re.compile(r"([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)", re.ASCII)

# These, and what the node also publishes if vision_msgs is installed.
_RESULTS = tuple(f"/{name}" for name in (*OUTPUTS, "detections", "vision_label_info"))

# Topics about the processes of the recorded ROS system, which no longer run.
_SYSTEM_TOPICS = frozenset({"/rosout", "/parameter_events", "/events/write_split"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTopics:
    """The topics of a bag by their role in a replay.

    Attributes:
        camera: Topic of the images for the node, as recorded.
        compressed: Whether they are CompressedImage.
        carried: Message types, by topic, of everything that is published besides the images.
        latched: Those of them that are latched (transient local).
        truth: Those of them with ground truth.
        left_out: Reason, by topic, why it is not published.
    """

    camera: str
    compressed: bool
    carried: Mapping[str, str]
    latched: frozenset[str]
    truth: frozenset[str]
    left_out: Mapping[str, str]

    @property
    def base(self) -> str:
        """The camera's base topic, as for image_transport and the node's parameter ``image``."""
        return self.camera.removesuffix(_SUFFIX) if self.compressed else self.camera

    @property
    def published(self) -> str:
        """Topic on which the images are published; compressed ones under ``/compressed``."""
        return self.base + _SUFFIX if self.compressed else self.base

    @property
    def clouds(self) -> tuple[str, ...]:
        """Topics of point clouds that are published, without ground truth."""
        return tuple(name for name in self.sensors if self.carried[name] == POINT_CLOUD)

    @property
    def sensors(self) -> tuple[str, ...]:
        """Topics that a points node could read: clouds, and images, which may be depth images."""
        return tuple(
            name
            for name, msgtype in self.carried.items()
            if msgtype in (POINT_CLOUD, IMAGE) and name not in self.truth
        )

    @property
    def played(self) -> tuple[str, ...]:
        """All topics that are read from the bag."""
        return (self.camera, *self.carried)


def topics_of(
    bag: Path,
    *,
    camera: str | None = None,
    truth: Collection[str] = (TRUTH,),
    namespace: str = "/panoptic",
    clock: bool = False,
) -> ReplayTopics:
    """Sort the topics of the bag at a path; by default, topics under `TRUTH` are ground truth.

    Raises:
        BagError: If it is not a bag.
        TopicError: If there is no such camera, more than one, or the node cannot read its images.
    """

    def problem(topic: str) -> str:
        first = ""
        with open_bag(bag, topics=[topic]) as one:
            for record in islice(one, _TRIED):
                try:
                    check(record.message)
                except (ImageError, BagError) as error:
                    first = first or str(error)
                else:
                    return ""
        return first

    try:
        with open_bag(bag) as opened:
            return sort_topics(
                opened.topics,
                camera=camera,
                truth=truth,
                namespace=namespace,
                clock=clock,
                problem=problem,
            )
    except TopicError as error:
        raise TopicError(f"{bag}: {error}") from None


def sort_topics(
    topics: Sequence[TopicInfo],
    *,
    camera: str | None = None,
    truth: Collection[str] = (),
    namespace: str = "/panoptic",
    clock: bool = False,
    problem: Callable[[str], str] = lambda _: "",
) -> ReplayTopics:
    """Assign a role to each topic of a bag.

    Args:
        topics: All topics of the bag.
        camera: Topic of the images; None selects the only topic of Image or CompressedImage besides
            ground truth and earlier results. If a camera was recorded both raw and compressed, the
            raw topic is selected.
        truth: Topics with ground truth, or prefixes of their names up to a slash.
        namespace: Namespace of the node. Results under it in the bag are from an earlier run and
            are not published, since they could not be told from the new ones.
        clock: Whether the replay publishes /clock itself.
        problem: Called with a topic of images; returns why the node cannot read them (because they
            are depth images, for example), or an empty text.

    Raises:
        TopicError: If there is no such camera, more than one, or the node cannot read its images;
            or if one of ``truth``, other than `TRUTH`, names no topic.
    """
    filled = {topic.name: topic.msgtype for topic in topics if topic.count}
    with_truth = tuple(name for name in filled if _is_under(name, truth))
    for named in truth:
        if named != TRUTH and not any(_is_under(name, [named]) for name in filled):
            raise TopicError(f"no ground truth under {named}; topics there: {_list(filled)}")
    left_out = {}
    for name, msgtype in filled.items():
        if _is_under(name, [namespace]) and name.endswith(_RESULTS) and name != camera:
            left_out[name] = "a result of an earlier run"
        elif name in _SYSTEM_TOPICS:
            left_out[name] = "about the system that recorded it"
        elif name == "/clock" and clock:
            left_out[name] = "the replay publishes the clock itself"
        elif not _TOPIC.fullmatch(name):
            left_out[name] = "not a valid ROS topic name"
        elif message_class(msgtype) is None:
            left_out[name] = f"{msgtype} is not installed"
    images = {
        name: msgtype
        for name, msgtype in filled.items()
        if msgtype in (IMAGE, COMPRESSED) and name not in left_out and name not in with_truth
    }
    camera = _named(camera, filled) if camera else _only(images, problem)
    if why := problem(camera):
        others = [name for name in images if name != camera and not problem(name)]
        raise TopicError(
            f"the node cannot read {camera}: {why}; image topics that it can read: {_list(others)}"
        )
    # Beside the camera's images it is the camera's own; elsewhere the node published it again.
    own = camera.removesuffix(_SUFFIX).rpartition("/")[0] + "/camera_info"
    for name in filled:
        if _is_under(name, [namespace]) and name.endswith("/camera_info") and name != own:
            left_out[name] = "an earlier node's answer"
    carried = {
        name: msgtype for name, msgtype in filled.items() if name != camera and name not in left_out
    }
    return ReplayTopics(
        camera=camera,
        compressed=filled[camera] == COMPRESSED,
        carried=carried,
        latched=frozenset(one.name for one in topics if one.latched) & carried.keys(),
        truth=frozenset(with_truth) & carried.keys(),
        left_out=left_out,
    )


#: What a points node can read, as its parameter ``input`` has it.
PointInput = Literal["depth", "cloud"]
_DEPTH_ENCODINGS = ("16UC1", "32FC1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointInputs:
    """What a points node needs of a bag.

    Attributes:
        kind: What points come from.
        topic: Topic of the depth images or clouds.
        camera_info: Topic of the camera's calibration.
        source: Frame of the depth images or clouds.
        target: Frame of the images.
        transforms: Parent, child, and pose of the child in the parent ([x, y, z, qx, qy, qz, qw])
            of each transform on /tf_static.
    """

    kind: PointInput
    topic: str
    camera_info: str
    source: str
    target: str
    transforms: tuple[tuple[str, str, tuple[float, ...]], ...]


def point_inputs(bag: Path, topics: ReplayTopics, *, kind: PointInput | None = None) -> PointInputs:
    """Return what a points node needs of the bag at a path.

    Args:
        bag: The bag.
        topics: Its topics.
        kind: What points come from; None: clouds if there are any, otherwise depth images.

    Raises:
        BagError: If it is not a bag, or a message is damaged.
        TopicError: If there is not exactly one topic to take points from, no camera_info, or its
            first message does not have the stamp of the first image, which a replay in lockstep
            needs.
    """
    depths = () if topics.clouds and kind is None else _depth_topics(bag, topics)
    kinds = {"cloud": "PointCloud2", "depth": "depth images (16UC1 or 32FC1)"}
    what = kinds[kind] if kind else " or ".join(kinds.values())
    kind = kind or ("depth" if depths and not topics.clouds else "cloud")
    found = depths if kind == "depth" else topics.clouds
    if len(found) != 1:
        raise TopicError(f"{bag}: points need one topic of {what}, not {_list(found)}")
    (topic,) = found
    info = topics.base.rpartition("/")[0] + "/camera_info"
    if topics.carried.get(info) != CAMERA_INFO:
        raise TopicError(f"points need the camera's calibration, but there is no {info}")
    first: dict[str, tuple[int, str]] = {}
    transforms: list[tuple[str, str, tuple[float, ...]]] = []
    with open_bag(bag) as opened:
        static = [
            one.name
            for one in opened.topics
            if one.name.endswith("/tf_static") and one.msgtype == TRANSFORMS
        ]
        for record in opened.select([topic, topics.camera]):
            header = record.message.header
            first.setdefault(record.topic, (stamp_of(header), str(header.frame_id)))
            if len(first) == 2:
                break
    if static:
        with open_bag(bag, topics=static) as opened:
            for record in opened:
                transforms += map(_pose, record.message.transforms)
    (topic_ns, source), (image_ns, target) = first[topic], first[topics.camera]
    if topic_ns != image_ns:
        raise TopicError(
            f"points need the stamps of the images, but the first of {topic} is"
            f" {abs(topic_ns - image_ns) / 1e6:.1f} ms from that of {topics.camera}: run"
            " `upsnet points` yourself"
        )
    return PointInputs(
        kind=kind,
        topic=topic,
        camera_info=info,
        source=source,
        target=target,
        transforms=tuple(transforms),
    )


def _depth_topics(bag: Path, topics: ReplayTopics) -> tuple[str, ...]:
    """Return the topics whose first image is a depth image."""
    found = []
    for name in topics.sensors:
        if topics.carried[name] == IMAGE:
            with open_bag(bag, topics=[name]) as opened:
                first = next(iter(opened), None)
                if first is not None and first.message.encoding in _DEPTH_ENCODINGS:
                    found.append(name)
    return tuple(found)


def _pose(stamped: Any) -> tuple[str, str, tuple[float, ...]]:
    """Return parent, child and pose of a geometry_msgs/TransformStamped."""
    move, turn = stamped.transform.translation, stamped.transform.rotation
    pose = (move.x, move.y, move.z, turn.x, turn.y, turn.z, turn.w)
    return str(stamped.header.frame_id), str(stamped.child_frame_id), pose


def message_class(msgtype: str) -> type | None:
    """Return the message class of a type like ``sensor_msgs/msg/Image``; None if it is missing."""
    found = _MSGTYPE.fullmatch(msgtype)  # the text comes from the bag, so it is untrusted
    if found is None:
        return None
    try:
        module = importlib.import_module(f"{found[1]}.msg")
    except ImportError:
        return None
    kind = getattr(module, found[2], None)
    return kind if hasattr(kind, "get_fields_and_field_types") else None


def _named(camera: str, filled: Mapping[str, str]) -> str:
    msgtype = filled.get(camera)
    if msgtype in (IMAGE, COMPRESSED) and _TOPIC.fullmatch(camera):
        return camera
    images = [name for name, kind in filled.items() if kind in (IMAGE, COMPRESSED)]
    what = f"holds {msgtype}" if msgtype else "is not in the bag, or is empty"
    raise TopicError(f"topic {camera} {what}; image topics there: {_list(images)}")


def _only(images: Mapping[str, str], problem: Callable[[str], str]) -> str:
    raw = {name for name, msgtype in images.items() if msgtype == IMAGE}
    cameras = [name for name in images if name.removesuffix(_SUFFIX) not in raw - {name}]
    if len(cameras) > 1:
        cameras = [name for name in cameras if not problem(name)]
    if len(cameras) == 1:
        return cameras[0]
    if cameras:
        raise TopicError(f"several cameras: name one by --topic, of {_list(cameras)}")
    raise TopicError(
        f"no camera: nothing of Image or CompressedImage that could be played ({_list(images)})"
    )


def _is_under(name: str, beginnings: Collection[str]) -> bool:
    return any(name == one or name.startswith(one.rstrip("/") + "/") for one in beginnings)


def _list(names: Collection[str]) -> str:
    return ", ".join(names) or "none"
