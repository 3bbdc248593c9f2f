"""Message types of ROS 2, of this package and of a bag; the messages of a labelled drive."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Nodetype
from rosbags.serde.utils import SIZEMAP
from rosbags.typesys import (
    Stores,
    TypesysError,
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
)

from upsnet_ros.bags.storage import Definition, Limits, raise_it
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.drawing.export import fits_16_bits
from upsnet_ros.errors import BagError, printable
from upsnet_ros.inference.frame import LABEL_DIVISOR

_PACKAGE = "upsnet_ros"
#: Separator that rosbag2 writes between the files of a definition.
_RULE = "=" * 80 + "\n"
#: Maximum nesting depth of messages; ROS 2's own have up to five levels.
_DEPTH = 32


class MessageTypes:
    """Creates, serialises and deserialises messages.

    Definitions stored in the bag are preferred, because types change between releases. Otherwise
    those of ROS 2 Jazzy and of this package's ``msg/`` are used.

    Args:
        definitions: Definitions stored in the bag.
        limits: Limits on their size.

    Attributes:
        unusable: One line for each definition that cannot be parsed, conflicts with an earlier one
            or exceeds a limit.
    """

    def __init__(
        self, definitions: Iterable[Definition] = (), limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        self._own = get_typestore(Stores.EMPTY)
        self.unusable: list[str] = []
        self._message_objects = limits.message_objects
        self._smallest: dict[str, int] = {}
        self._definition_bytes = limits.definition_bytes
        # Remaining budget of all definitions.
        self._text_bytes = limits.all_definitions_bytes
        self._array_elements = limits.definition_arrays
        for definition in dict.fromkeys(definitions):
            try:
                self._register(definition)
            # For a malicious definition, the parser and its generated code may raise any exception:
            # KeyError, SyntaxError, RecursionError, AssertionError.
            except Exception as error:  # noqa: BLE001
                reason = str(error).strip() if isinstance(error, TypesysError | BagError) else ""
                reason = printable(reason) or type(error).__name__
                name = printable(definition.msgtype)
                self.unusable.append(f"the definition of {name:.100} is unusable: {reason:.300}")

    def __contains__(self, msgtype: str) -> bool:
        return msgtype in self._own.fielddefs or msgtype in _house().fielddefs

    def store(self, msgtype: str) -> Any:
        """Return the rosbags typestore that contains a type.

        Raises:
            BagError: The type is unknown.
        """
        for store in (self._own, _house()):
            if msgtype in store.fielddefs:
                return store
        raise BagError(
            f"message type {msgtype} is unknown: it is not a type of ROS 2 or {_PACKAGE}, and the"
            " bag does not contain its definition"
        )

    def make(self, msgtype: str, **fields: Any) -> Any:
        """Return a new message; all fields must be given.

        Raises:
            BagError: The type is unknown.
        """
        return self.store(msgtype).types[msgtype](**fields)

    def deserialize(self, raw: bytes, msgtype: str) -> Any:
        """Return the message in CDR bytes; numeric arrays are NumPy arrays.

        Raises:
            BagError: The type is unknown, the bytes are invalid, or they could contain more objects
                than allowed.
        """
        store = self.store(msgtype)
        if msgtype not in self._smallest:
            self._smallest[msgtype] = _smallest_object(msgtype, store.fielddefs)
        smallest = self._smallest[msgtype]
        if smallest and len(raw) // smallest > self._message_objects:
            raise BagError(
                f"{len(raw)} bytes of {msgtype} are too many; {raise_it('message_objects')}"
            )
        try:
            return store.deserialize_cdr(raw, msgtype)
        # The deserialiser was generated from the definition in the bag and may raise anything.
        except Exception as error:  # noqa: BLE001
            reason = printable(str(error)) or type(error).__name__
            raise BagError(f"{len(raw)} bytes are no {msgtype}: {reason}") from None

    def serialize(self, message: Any, msgtype: str) -> bytes:
        """Return the CDR bytes of a message from `make` or `deserialize`.

        Raises:
            BagError: The type is unknown, or a field is invalid.
        """
        store = self.store(msgtype)
        try:
            return bytes(store.serialize_cdr(message, msgtype))
        # Numbers out of range, too: struct.error, OverflowError.
        except Exception as error:  # noqa: BLE001
            raise BagError(f"the message is no {msgtype}: {error}") from None

    def _register(self, definition: Definition) -> None:
        """Register a definition."""
        if len(definition.text) > self._definition_bytes:
            raise BagError(f"it is too long; {raise_it('definition_bytes')}")
        self._text_bytes -= len(definition.text)
        if self._text_bytes < 0:
            raise BagError(f"all of them are too long; {raise_it('all_definitions_bytes')}")
        types = _parsed(definition)
        fields = {
            name: [field for _, field in content[1]]
            for name, content in (self._own.fielddefs | types).items()
        }
        known: dict[str, int] = {}
        for name in types:
            _depth(name, fields, known)
        # Code is generated for each element of these.
        self._array_elements -= sum(length for name in types for length in _unrolled(fields[name]))
        if self._array_elements < 0:
            raise BagError(f"its arrays are too long; {raise_it('definition_arrays')}")
        self._own.register(types)


def _depth(name: str, fields: Mapping[str, Sequence[Any]], known: dict[str, int]) -> int:
    """Return the nesting depth of a type.

    Args:
        name: The type.
        fields: Field descriptions of all types, in the format of rosbags.
        known: Depths already computed; 0 marks types on the current path.
    """
    if known.get(name) == 0:
        raise BagError(f"{name} holds itself")
    if name not in fields:
        raise BagError(f"{name} is not defined")
    if name not in known:
        known[name] = 0
        elements = [_element(field) for field in fields[name]]
        inner = [one[1] for one in elements if one[0] == Nodetype.NAME]
        known[name] = 1 + max((_depth(one, fields, known) for one in inner), default=0)
    if known[name] > _DEPTH:
        raise BagError(f"messages lie more than {_DEPTH} deep in each other")
    return known[name]


def _smallest_object(name: str, fielddefs: Mapping[str, Any]) -> int:
    """Return the minimum size in bytes of a message or string in any sequence; 0 if none."""
    sizes: dict[str, int] = {}

    def size(field: Any) -> int:
        kind, content = field
        if kind == Nodetype.BASE:
            return 5 if content[0] == "string" else SIZEMAP.get(content[0], 1)
        if kind == Nodetype.NAME:
            if content not in sizes:
                sizes[content] = sum(size(one) for _, one in fielddefs[content][1])
            return sizes[content]
        return 4 if kind == Nodetype.SEQUENCE else content[1] * size(content[0])

    def sequences(name: str) -> Iterator[int]:
        seen.add(name)
        for _, field in fielddefs[name][1]:
            element = _element(field)
            number = element[0] == Nodetype.BASE and element[1][0] != "string"
            if field[0] == Nodetype.SEQUENCE and not number:
                yield size(element)
            if element[0] == Nodetype.NAME and element[1] not in seen:
                yield from sequences(element[1])

    seen: set[str] = set()
    return min(sequences(name), default=0)


def _element(field: Any) -> Any:
    """Return the description of the elements of an array field, or of the field itself."""
    return field[1][0] if field[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else field


def _unrolled(fields: Sequence[Any]) -> Iterator[int]:
    """Yield the lengths of arrays for which rosbags generates code for each element."""
    for field in fields:
        numbers = _element(field)[0] == Nodetype.BASE and _element(field)[1][0] != "string"
        if field[0] == Nodetype.ARRAY and not numbers:
            yield int(field[1][1])


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
    """Return the types of ROS 2 and of this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(_definitions_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text("utf-8"), f"{_PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store


def _definitions_folder() -> Path:
    """Return the ``msg/`` folder: beside the package in a source tree, else the share folder."""
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


IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
HEADER = "std_msgs/msg/Header"
INSTANCES = "upsnet_ros/msg/PanopticInstanceArray"
LABEL_INFO = "upsnet_ros/msg/PanopticLabelInfo"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
TRANSFORMS = "tf2_msgs/msg/TFMessage"

#: Namespace of the ground-truth topics.
TRUTH = "/ground_truth"

_SECOND = 1_000_000_000
_DTYPES = {
    "bgr8": np.uint8,
    "mono8": np.uint8,
    "16UC1": np.uint16,
    "32SC1": np.int32,
    "32FC1": np.float32,
}
#: PointField's numbers of types.
_FIELD_TYPES = {"u1": 2, "u2": 4, "f4": 7}


def stamp_of(header: Any) -> int:
    """Return the stamp of a header in nanoseconds."""
    return header.stamp.sec * _SECOND + header.stamp.nanosec


def label_encoding(taxonomy: Taxonomy) -> str:
    """Return the encoding for the label images of a taxonomy: 16UC1, or 32SC1 if needed."""
    return "16UC1" if fits_16_bits(taxonomy) else "32SC1"


class Messages:
    """Creates the messages of one camera.

    Args:
        types: The message types.
        frame_id: The frame_id of all headers.
    """

    def __init__(self, types: MessageTypes, frame_id: str) -> None:
        self._make = types.make
        self._frame_id = frame_id

    def header(self, stamp_ns: int, frame_id: str | None = None) -> Any:
        """A std_msgs/Header."""
        sec, nanosec = divmod(stamp_ns, _SECOND)
        stamp = self._make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self._make(
            HEADER, stamp=stamp, frame_id=self._frame_id if frame_id is None else frame_id
        )

    def image(self, pixels: npt.NDArray[Any], encoding: str, stamp_ns: int) -> Any:
        """A sensor_msgs/Image of an array (H, W) or (H, W, 3), cast to the encoding's type."""
        values = np.ascontiguousarray(pixels, _DTYPES[encoding])
        return self._make(
            IMAGE,
            header=self.header(stamp_ns),
            height=values.shape[0],
            width=values.shape[1],
            encoding=encoding,
            is_bigendian=int(sys.byteorder == "big"),
            step=values.strides[0],
            data=values.reshape(-1).view(np.uint8),
        )

    def jpeg(self, pixels: npt.NDArray[np.uint8], quality: int, stamp_ns: int) -> Any:
        """A sensor_msgs/CompressedImage of BGR pixels, as image_transport's publisher makes it.

        Raises:
            BagError: The image cannot be encoded.
        """
        done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise BagError(f"an image of {pixels.shape} cannot be encoded as JPEG")
        return self._make(
            COMPRESSED,
            header=self.header(stamp_ns),
            format="bgr8; jpeg compressed bgr8",
            data=data.reshape(-1),
        )

    def camera_info(self, size: tuple[int, int], focal: float, stamp_ns: int) -> Any:
        """A sensor_msgs/CameraInfo of a pinhole camera without distortion.

        Args:
            size: Height and width of its images.
            focal: Focal length in pixels.
            stamp_ns: Of the image that it belongs to.
        """
        height, width = size
        x, y = (width - 1) / 2, (height - 1) / 2
        roi = self._make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        )
        return self._make(
            CAMERA_INFO,
            header=self.header(stamp_ns),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=np.array([focal, 0, x, 0, focal, y, 0, 0, 1], np.float64),
            r=np.eye(3).reshape(-1),
            p=np.array([focal, 0, x, 0, 0, focal, y, 0, 0, 0, 1, 0], np.float64),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def cloud(self, points: npt.NDArray[np.void], frame_id: str, stamp_ns: int) -> Any:
        """A sensor_msgs/PointCloud2 of structured points (N,), in one row.

        Args:
            points: Little-endian float32, uint16 and uint8 fields.
            frame_id: The frame of the coordinates.
            stamp_ns: When they were measured.
        """
        kind = points.dtype
        fields = [
            self._make(
                "sensor_msgs/msg/PointField",
                name=name,
                offset=offset,
                datatype=_FIELD_TYPES[field.str[1:]],
                count=1,
            )
            for name, (field, offset, *_) in (kind.fields or {}).items()
        ]
        return self._make(
            POINT_CLOUD,
            header=self.header(stamp_ns, frame_id),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=kind.itemsize,
            row_step=kind.itemsize * len(points),
            data=np.frombuffer(points.tobytes(), np.uint8),
            is_dense=True,
        )

    def transform(self, child: str, pose: Sequence[float], stamp_ns: int) -> Any:
        """A tf2_msgs/TFMessage with the pose of a frame in the camera's.

        Args:
            child: Name of the frame.
            pose: x, y, z in metres, then the quaternion qx, qy, qz, qw.
            stamp_ns: From when it holds.
        """
        x, y, z, *turn = pose
        transform = self._make(
            "geometry_msgs/msg/Transform",
            translation=self._make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=self._make(
                "geometry_msgs/msg/Quaternion", **dict(zip("xyzw", turn, strict=True))
            ),
        )
        stamped = self._make(
            "geometry_msgs/msg/TransformStamped",
            header=self.header(stamp_ns),
            child_frame_id=child,
            transform=transform,
        )
        return self._make(TRANSFORMS, transforms=[stamped])

    def label_info(self, taxonomy: Taxonomy, stamp_ns: int) -> Any:
        """The upsnet_ros/PanopticLabelInfo of a taxonomy, as the node publishes it."""
        classes = [
            self._make(
                "upsnet_ros/msg/PanopticClass",
                id=info.id,
                name=info.name,
                is_thing=info.is_thing,
                color=np.array(info.color, np.uint8),
            )
            for info in taxonomy.classes
        ]
        return self._make(
            LABEL_INFO,
            header=self.header(stamp_ns),
            dataset=taxonomy.name,
            label_divisor=LABEL_DIVISOR,
            classes=classes,
        )
