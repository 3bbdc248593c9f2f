"""What of a bag is the camera, what goes along with it, and what stays behind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from upsnet_ros.bags import BagError, open_bag
from upsnet_ros.ros.image_codec import ImageError, check

__all__ = [
    "OUTPUTS",
    "TRUTH",
    "BagTopic",
    "ReplayTopics",
    "TopicError",
    "message_class",
    "sort_topics",
    "topics_of",
]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"

#: Where the topics of ground truth begin, as `upsnet bag make` names them.
TRUTH = "/ground_truth"

#: Type of each topic that the node publishes, by the name that follows its namespace.
OUTPUTS = {
    "label_info": "upsnet_ros/msg/PanopticLabelInfo",
    "labels": IMAGE,
    "instances": "upsnet_ros/msg/PanopticInstanceArray",
    "unknown_mask": IMAGE,
    "unknown_score": IMAGE,
    "semantic": IMAGE,
    "confidence": IMAGE,
    "overlay": IMAGE,
    "overlay/compressed": COMPRESSED,
}

_SUFFIX = "/compressed"

# Those, and what else the node publishes where vision_msgs is installed.
_ANSWERS = tuple(f"/{name}" for name in (*OUTPUTS, "detections", "vision_label_info"))

# What every process of a ROS system says of itself; the recorded ones are not here any more.
_OF_THE_SYSTEM = frozenset({"/rosout", "/parameter_events", "/events/write_split"})


class TopicError(ValueError):
    """The bag does not tell which topic is meant; the message lists what it holds."""


class BagTopic(Protocol):
    """What is asked of `upsnet_ros.bags.TopicInfo`."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def msgtype(self) -> str: ...  # noqa: D102

    @property
    def count(self) -> int: ...  # noqa: D102

    @property
    def latched(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTopics:
    """The topics of a bag by their part in a replay.

    Attributes:
        camera: The images that the node is to answer, as the bag calls them.
        compressed: Whether they are CompressedImage.
        carried: Message types by topic of all that is published beside the images.
        latched: Of those, what is kept for late joiners.
        truth: Of those, what the answers are judged by.
        left_out: By topic, why it is not published.
    """

    camera: str
    compressed: bool
    carried: Mapping[str, str]
    latched: frozenset[str]
    truth: frozenset[str]
    left_out: Mapping[str, str]

    @property
    def base(self) -> str:
        """The camera's topic as image_transport names it, which the node's ``image`` is to be."""
        return self.camera.removesuffix(_SUFFIX) if self.compressed else self.camera

    @property
    def published(self) -> str:
        """Where the images go: compressed ones to where the node looks for them."""
        return self.base + _SUFFIX if self.compressed else self.base

    @property
    def played(self) -> tuple[str, ...]:
        """All that is read from the bag."""
        return (self.camera, *self.carried)


def topics_of(
    bag: Path,
    *,
    camera: str | None = None,
    truth: Collection[str] = (),
    namespace: str = "/panoptic",
    clock: bool = False,
) -> ReplayTopics:
    """`sort_topics` of the bag at a path.

    Raises:
        BagError: If it is no bag.
        TopicError: If there is no such camera, or more than one.
    """

    def readable(topic: str) -> bool:
        with open_bag(bag, topics=[topic]) as one:
            for record in one:
                try:
                    check(record.message)
                except (ImageError, BagError):
                    return False
                return True
        return False

    with open_bag(bag) as whole:
        return sort_topics(
            whole.topics,
            camera=camera,
            truth=truth,
            namespace=namespace,
            clock=clock,
            readable=readable,
        )


def sort_topics(
    topics: Sequence[BagTopic],
    *,
    camera: str | None = None,
    truth: Collection[str] = (),
    namespace: str = "/panoptic",
    clock: bool = False,
    readable: Callable[[str], bool] = lambda _: True,
) -> ReplayTopics:
    """Give each topic of a bag its part.

    Args:
        topics: Of the bag.
        camera: The images to play; None takes the only topic there is of Image or CompressedImage
            beside truth and old answers. Of a camera recorded both raw and compressed the raw one
            is taken.
        truth: Topics, or beginnings of their names up to a slash, of ground truth.
        namespace: Of the node that will answer. Answers in it that the bag holds are of an earlier
            run: published again, they could not be told from the new ones.
        clock: Whether the replay publishes /clock itself.
        readable: Asked for each of several candidates whether the node can read its images;
            depth images, it cannot.

    Raises:
        TopicError: If there is no such camera, or more than one.
    """
    filled = {topic.name: topic.msgtype for topic in topics if topic.count}
    judged = tuple(name for name in filled if _is_under(name, truth))
    left_out = {}
    for name, msgtype in filled.items():
        if _is_under(name, [namespace]) and name.endswith(_ANSWERS) and name != camera:
            left_out[name] = "an earlier node's answer"
        elif name in _OF_THE_SYSTEM:
            left_out[name] = "of the system that recorded it"
        elif name == "/clock" and clock:
            left_out[name] = "the replay keeps the clock"
        elif message_class(msgtype) is None:
            left_out[name] = f"{msgtype} is not installed"
    images = {
        name: msgtype
        for name, msgtype in filled.items()
        if msgtype in (IMAGE, COMPRESSED) and name not in left_out and name not in judged
    }
    camera = _named(camera, filled) if camera else _only(images, readable)
    carried = {
        name: msgtype for name, msgtype in filled.items() if name != camera and name not in left_out
    }
    return ReplayTopics(
        camera=camera,
        compressed=filled[camera] == COMPRESSED,
        carried=carried,
        latched=frozenset(one.name for one in topics if one.latched) & carried.keys(),
        truth=frozenset(judged) & carried.keys(),
        left_out=left_out,
    )


def message_class(msgtype: str) -> type | None:
    """The class of messages of a type like ``sensor_msgs/msg/Image``; None where it is missing."""
    package, _, name = msgtype.partition("/msg/")
    try:
        module = importlib.import_module(f"{package}.msg")
    except ImportError:
        return None
    return getattr(module, name, None)


def _named(camera: str, filled: Mapping[str, str]) -> str:
    msgtype = filled.get(camera)
    if msgtype in (IMAGE, COMPRESSED):
        return camera
    images = [name for name, kind in filled.items() if kind in (IMAGE, COMPRESSED)]
    what = f"holds {msgtype}" if msgtype else "is not in the bag, or is empty"
    raise TopicError(f"topic {camera} {what}; image topics there: {_list(images)}")


def _only(images: Mapping[str, str], readable: Callable[[str], bool]) -> str:
    raw = {name for name, msgtype in images.items() if msgtype == IMAGE}
    cameras = [name for name in images if name.removesuffix(_SUFFIX) not in raw - {name}]
    if len(cameras) > 1:
        cameras = [name for name in cameras if readable(name)]
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
