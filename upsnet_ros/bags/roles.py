"""What the topics of a bag are to an evaluation, told by their names and types."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from upsnet_ros.bags.messages import COMPRESSED, HEADER, IMAGE, INSTANCES, LABEL_INFO, TRUTH
from upsnet_ros.bags.reader import TopicInfo

__all__ = ["Role", "sort_topics"]


class Role(Enum):
    """What a message tells of its frame."""

    IMAGE = "image"
    TRUTH = "truth labels"
    TRUTH_UNKNOWN = "truth unknown_mask"
    NAME = "name"
    TRUTH_CLASSES = "truth label_info"
    LABELS = "labels"
    INSTANCES = "instances"
    UNKNOWN = "unknown_mask"
    UNKNOWN_SCORE = "unknown_score"
    CONFIDENCE = "confidence"
    CLASSES = "label_info"


_TRUTH_ROLES = {
    ("labels", IMAGE): Role.TRUTH,
    ("unknown_mask", IMAGE): Role.TRUTH_UNKNOWN,
    ("frame", HEADER): Role.NAME,
    ("label_info", LABEL_INFO): Role.TRUTH_CLASSES,
}
_OUTPUT_ROLES = {
    ("labels", IMAGE): Role.LABELS,
    ("instances", INSTANCES): Role.INSTANCES,
    ("unknown_mask", IMAGE): Role.UNKNOWN,
    ("unknown_score", IMAGE): Role.UNKNOWN_SCORE,
    ("confidence", IMAGE): Role.CONFIDENCE,
    ("label_info", LABEL_INFO): Role.CLASSES,
}
#: Images of the node that show a frame, but are not the camera's.
_DRAWN = ("/semantic", "/overlay", "/overlay/compressed")


def sort_topics(
    topics: Sequence[TopicInfo], *, outputs: str | None = None, image: str | None = None
) -> dict[str, Role]:
    """The roles of the topics that have one.

    Args:
        topics: Of the bag.
        outputs: Namespace of the outputs, such as "/panoptic"; None: wherever they are.
        image: The images' topic; None: every image that is no output, raw ones before compressed.
    """
    roles: dict[str, Role] = {}
    for topic in topics:
        space, _, last = topic.name.rpartition("/")
        if _within(space, TRUTH):
            role = _TRUTH_ROLES.get((last, topic.msgtype))
        elif (last, topic.msgtype) in _OUTPUT_ROLES:
            wanted = outputs is None or _within(space, outputs)
            role = _OUTPUT_ROLES[last, topic.msgtype] if wanted else None
        elif topic.msgtype in (IMAGE, COMPRESSED) and not topic.name.endswith(_DRAWN):
            role = Role.IMAGE if image in (None, topic.name) else None
        else:
            role = None
        if role is not None:
            roles[topic.name] = role
    for name in [name for name, role in roles.items() if role is Role.IMAGE]:
        if name.endswith("/compressed") and roles.get(name.removesuffix("/compressed")):
            del roles[name]
    return roles


def _within(space: str, other: str) -> bool:
    other = other.rstrip("/")
    return space == other or space.startswith(f"{other}/")
