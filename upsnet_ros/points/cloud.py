"""How a cloud is laid out: reads any sensor_msgs/PointCloud2, and appends labels to its points."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointField
from std_msgs.msg import Header

from upsnet_ros.errors import PointsError, listed, printable
from upsnet_ros.messages.cdr_image import write_cloud

#: PointField's numbers of types, as NumPy's codes.
_CODES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}

XYZ_FIELDS = tuple(
    PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
    for index, name in enumerate("xyz")
)
# The fields that labels add to a point: name, offset, type. `rgb` holds the bytes of 0x00RRGGBB in
# a float, as PCL and RViz read it.
_LABEL_FIELDS = (
    ("rgb", 0, PointField.FLOAT32),
    ("class_id", 4, PointField.UINT16),
    ("instance_id", 6, PointField.UINT16),
    ("track_id", 8, PointField.UINT32),
    ("unknown", 12, PointField.UINT8),
)
#: Bytes of these fields, with padding so that points stay aligned, and the same in words of 32 bit.
LABEL_BYTES = 16
LABEL_WORDS = LABEL_BYTES // 4


def labels_dtype(order: str = "=") -> np.dtype[Any]:
    """Return the fields that labels add to a point, as NumPy has them; rgb as an integer.

    Args:
        order: Byte order: ``<``, ``>`` or ``=``.
    """
    return np.dtype(
        {
            "names": [name for name, _, _ in _LABEL_FIELDS],
            "formats": [
                order + ("u4" if name == "rgb" else _CODES[kind]) for name, _, kind in _LABEL_FIELDS
            ],
            "offsets": [offset for _, offset, _ in _LABEL_FIELDS],
            "itemsize": LABEL_BYTES,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cloud:
    """A point cloud whose points are a view of the message's data.

    Attributes:
        header: Of the message.
        height: Rows; 1 for a cloud that is not organised.
        width: Points of a row.
        fields: Fields of a point.
        is_bigendian: Byte order of the values.
        is_dense: As the message says.
        points: uint8 (H, W, S) for points of S bytes.
    """

    header: Header
    height: int
    width: int
    fields: tuple[PointField, ...]
    is_bigendian: bool
    is_dense: bool
    points: npt.NDArray[np.uint8]

    @classmethod
    def from_message(cls, message: Any) -> Cloud:
        """Return the cloud of a message.

        Raises:
            PointsError: If the cloud is empty, or its sizes or fields make no sense.
        """
        height, width, step = message.height, message.width, message.point_step
        if height < 1 or width < 1:
            raise PointsError(f"the cloud is empty: {width}x{height} points")
        # Some drivers leave row_step at 0 where there is one row.
        row_step = message.row_step if height > 1 else max(message.row_step, width * step)
        needed = row_step * (height - 1) + width * step
        if step < 1 or row_step < width * step or len(message.data) < needed:
            raise PointsError(
                f"{len(message.data)} bytes with point_step {step} and row_step {message.row_step}"
                f" do not hold {width}x{height} points"
            )
        cloud = cls(
            header=message.header,
            height=height,
            width=width,
            fields=tuple(message.fields),
            is_bigendian=bool(message.is_bigendian),
            is_dense=bool(message.is_dense),
            points=np.ndarray(
                (height, width, step), np.uint8, buffer=message.data, strides=(row_step, step, 1)
            ),
        )
        cloud._check_fields()
        return cloud

    @property
    def size(self) -> int:
        """Number of points."""
        return self.height * self.width

    def _check_fields(self) -> None:
        """Raise `PointsError` unless fields lie in the point, with one float32 x, y and z each."""
        step = self.points.shape[2]
        for field in self.fields:
            size = np.dtype(_CODES.get(field.datatype, "u1")).itemsize * max(field.count, 1)
            if field.offset + size > step:
                raise PointsError(
                    f"field {printable(field.name)} at byte {field.offset} lies outside the point"
                    f" of {step} bytes"
                )
        for name in "xyz":
            found = [one for one in self.fields if one.name == name]
            if len(found) != 1:
                names = listed((printable(one.name) for one in self.fields), most=8) or "none"
                many = f"{len(found)} fields" if found else "no field"
                raise PointsError(f"the cloud has {many} {name}: its fields are {names}")
            field = found[0]
            if field.datatype != PointField.FLOAT32 or field.count != 1:
                kind = _CODES.get(field.datatype, f"type {field.datatype}")
                raise PointsError(f"field {name} must be one FLOAT32, not {field.count} of {kind}")

    def xyz(self) -> npt.NDArray[np.float32]:
        """Return the coordinates, float32 (3, N), row by row; a copy."""
        columns = np.empty((3, self.height, self.width), np.float32)
        order = ">" if self.is_bigendian else "<"
        for index, name in enumerate("xyz"):
            offset = next(one.offset for one in self.fields if one.name == name)
            columns[index] = self.points[:, :, offset : offset + 4].view(f"{order}f4")[:, :, 0]
        return columns.reshape(3, -1)

    def values(self, name: str) -> npt.NDArray[Any] | None:
        """Return the values of a field, (N,) row by row, in native byte order; a copy.

        None if there is no such field of one value.
        """
        for field in self.fields:
            if field.name == name and field.datatype in _CODES and field.count == 1:
                dtype = np.dtype(_CODES[field.datatype])
                here = slice(field.offset, field.offset + dtype.itemsize)
                column = np.ascontiguousarray(self.points[:, :, here])
                values = column.view(dtype.newbyteorder(">" if self.is_bigendian else "<"))
                return values.astype(dtype).reshape(-1)
        return None

    def with_labels(self, labels: npt.NDArray[np.uint32]) -> Cloud:
        """Return the cloud with the fields of labels appended; those of the input are kept.

        A field of the input that has the name of one of them is renamed: ``rgb`` to ``rgb_in``.

        Args:
            labels: uint32 (N, `LABEL_WORDS`), rows of `labels_dtype` in the machine's byte order.
        """
        step = self.points.shape[2]
        begin = step + -step % 4
        points = np.zeros((self.height, self.width, begin + LABEL_BYTES), np.uint8)
        whole_rows(points[:, :, :step])[...] = whole_rows(self.points)
        rows = np.ascontiguousarray(labels)
        if self.is_bigendian != (sys.byteorder == "big"):
            swapped = np.zeros((len(rows), 1), labels_dtype(">" if self.is_bigendian else "<"))
            swapped[...] = rows.view(labels_dtype())  # `astype` would leave the padding as it is
            rows = swapped
        whole_rows(points[:, :, begin:])[...] = rows.view(f"V{LABEL_BYTES}").reshape(
            points.shape[:2]
        )
        return Cloud(
            header=self.header,
            height=self.height,
            width=self.width,
            fields=(*_renamed(self.fields), *_label_fields(begin)),
            is_bigendian=self.is_bigendian,
            is_dense=self.is_dense,
            points=points,
        )

    def select(self, chosen: npt.NDArray[np.bool_]) -> Cloud:
        """Return the chosen points, as one row.

        Args:
            chosen: bool (N,).
        """
        points = self.points.reshape(self.size, -1).take(np.flatnonzero(chosen), axis=0)
        return Cloud(
            header=self.header,
            height=1,
            width=len(points),
            fields=self.fields,
            is_bigendian=self.is_bigendian,
            is_dense=self.is_dense,
            points=points[None],
        )

    def serialize(self) -> bytes:
        """Return the serialised sensor_msgs/PointCloud2."""
        return write_cloud(
            np.ascontiguousarray(self.points),
            header=self.header,
            fields=self.fields,
            is_bigendian=self.is_bigendian,
            is_dense=self.is_dense,
        )


def labelled_cloud(
    points: npt.NDArray[np.uint32], header: Header, *, height: int = 1, is_dense: bool = True
) -> Cloud:
    """Return the cloud of points that have coordinates and labels only.

    Args:
        points: uint32 (N, 3 + `LABEL_WORDS`): the bits of x, y, z as float32, then the labels.
        header: Of the cloud.
        height: Number of rows that the points make up.
        is_dense: Whether no coordinate is NaN.
    """
    return Cloud(
        header=header,
        height=height,
        width=len(points) // height,
        fields=(*XYZ_FIELDS, *_label_fields(12)),
        is_bigendian=sys.byteorder == "big",
        is_dense=is_dense,
        points=points.view(np.uint8).reshape(height, -1, 4 * points.shape[1]),
    )


def whole_rows(values: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Return the last axis of an array as one value without type, which NumPy copies faster.

    Args:
        values: (..., n) of any type, its last axis contiguous.
    """
    return values.view(f"V{values.shape[-1] * values.itemsize}")[..., 0]


def _label_fields(begin: int) -> list[PointField]:
    return [
        PointField(name=name, offset=begin + offset, datatype=kind, count=1)
        for name, offset, kind in _LABEL_FIELDS
    ]


def _renamed(fields: Sequence[PointField]) -> list[PointField]:
    """Return the fields of an input under names that no field of labels has."""
    labels = {name for name, _, _ in _LABEL_FIELDS}
    names = {one.name for one in fields}
    renamed = []
    for field in fields:
        name = field.name
        while name in labels or (name != field.name and name in names):
            name += "_in"
        renamed.append(
            PointField(name=name, offset=field.offset, datatype=field.datatype, count=field.count)
        )
    return renamed
