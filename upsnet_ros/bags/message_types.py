"""Message types by name: ROS 2's, this package's, and those whose definitions a bag carries."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import (
    Stores,
    TypesysError,
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
)

from upsnet_ros.bags.errors import BagError

__all__ = ["Definition", "MessageTypes"]

_PACKAGE = "upsnet_ros"
#: What rosbag2 sets between the files of a definition.
_RULE = "=" * 80 + "\n"


@dataclass(frozen=True, slots=True)
class Definition:
    """A message definition as a bag carries it.

    Attributes:
        msgtype: For example "sensor_msgs/msg/Image".
        encoding: "ros2msg" or "ros2idl"; anything else is of no use here.
        text: The definition, with those of the types that it uses.
    """

    msgtype: str
    encoding: str
    text: str


class MessageTypes:
    """Makes messages of bytes and bytes of messages.

    A bag's own definitions are preferred, because types change between releases. Where it carries
    none, those of ROS 2 Jazzy and of this package's ``msg/`` hold.

    Args:
        definitions: What a bag carries.

    Attributes:
        unusable: Definitions that cannot be understood or contradict an earlier one, a line each.
    """

    def __init__(self, definitions: Iterable[Definition] = ()) -> None:
        self._own = get_typestore(Stores.EMPTY)
        self.unusable: list[str] = []
        for definition in dict.fromkeys(definitions):
            try:
                self._own.register(_parsed(definition))
            except TypesysError as error:
                self.unusable.append(
                    f"the definition of {definition.msgtype} is unusable: {str(error).strip()}"
                )

    def __contains__(self, msgtype: str) -> bool:
        return msgtype in self._own.fielddefs or msgtype in _house().fielddefs

    def store(self, msgtype: str) -> Any:
        """The rosbags typestore that knows a type.

        Raises:
            BagError: None does.
        """
        for store in (self._own, _house()):
            if msgtype in store.fielddefs:
                return store
        raise BagError(
            f"message type {msgtype} is unknown: it is none of ROS 2's or of {_PACKAGE}'s, and the"
            " bag does not carry its definition"
        )

    def make(self, msgtype: str, **fields: Any) -> Any:
        """A message; every field has to be given.

        Raises:
            BagError: The type is unknown.
        """
        return self.store(msgtype).types[msgtype](**fields)

    def deserialize(self, raw: bytes, msgtype: str) -> Any:
        """The message that CDR bytes hold; numbers in arrays come as numpy arrays.

        Raises:
            BagError: The type is unknown, or the bytes are no message of it.
        """
        store = self.store(msgtype)
        try:
            return store.deserialize_cdr(raw, msgtype)
        except (SerdeError, ValueError, IndexError) as error:
            raise BagError(f"{len(raw)} bytes are no {msgtype}: {error}") from None

    def serialize(self, message: Any, msgtype: str) -> bytes:
        """CDR bytes of a message that `make` or `deserialize` made.

        Raises:
            BagError: The type is unknown, or a field does not fit it.
        """
        store = self.store(msgtype)
        try:
            return bytes(store.serialize_cdr(message, msgtype))
        except (SerdeError, AttributeError, TypeError, ValueError) as error:
            raise BagError(f"the message is no {msgtype}: {error}") from None


def _parsed(definition: Definition) -> dict[str, Any]:
    if definition.encoding == "ros2msg":
        return dict(get_types_from_msg(definition.text, definition.msgtype))
    types: dict[str, Any] = {}
    if definition.encoding in ("ros2idl", "omgidl"):
        for part in definition.text.split(_RULE):
            header, _, rest = part.partition("\n")
            text = rest if header.startswith("IDL: ") else part
            if text.strip():
                types.update(get_types_from_idl(text))
    return types


@cache
def _house() -> Any:
    """Types of ROS 2 and of this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(_definitions_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text("utf-8"), f"{_PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store


def _definitions_folder() -> Path:
    """Where ``msg/`` is: beside the package in its source, else in the share of an install.

    Raises:
        FileNotFoundError: It was not installed.
    """
    package = Path(__file__).resolve().parents[1]
    share = Path("share", _PACKAGE, "msg")
    candidates = [
        package.parent / "msg",
        *(parent / share for parent in package.parents),
        Path(sys.prefix) / share,
    ]
    for folder in candidates:
        if (folder / "PanopticInstanceArray.msg").is_file():
            return folder
    raise FileNotFoundError(f"{share} with this package's message definitions is not installed")
