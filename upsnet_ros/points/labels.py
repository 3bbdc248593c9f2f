"""The labels of a frame, as rows of a table that are copied to the points of its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import PointsError, printable
from upsnet_ros.messages.frames import plane
from upsnet_ros.points.cloud import LABEL_WORDS, labels_dtype

#: Colour of unknown points: that of the hatching on the overlay.
UNKNOWN_RGB = (255, 215, 0)


class LabelTable:
    """The labels of a point for each value of a label image, as rows that are copied to points.

    Row 0 is void. The rows after the last label are void too, for values that no class has, and
    unknown.

    Args:
        label_info: The upsnet_ros/PanopticLabelInfo of the labels.

    Attributes:
        divisor: Value of a thing's label divided by its class id, as in ``label_info``.
        names: Class names by id.

    Raises:
        PointsError: If there are no classes, or the divisor is 0.
    """

    def __init__(self, label_info: Any) -> None:
        divisor, classes = label_info.label_divisor, label_info.classes
        if not classes or divisor < 1:
            raise PointsError(
                f"label_info has {len(classes)} classes and the label_divisor {divisor}"
            )
        largest = max(one.id for one in classes)
        last = largest * divisor + divisor - 1 if any(one.is_thing for one in classes) else largest
        if last > _LARGEST_LABEL:
            raise PointsError(f"label_info allows labels up to {last}, more than {_LARGEST_LABEL}")
        self.divisor = divisor
        self.names = {one.id: one.name for one in classes}
        self._void, self._unknown = last + 1, last + 2
        self._rows = np.zeros(last + 3, labels_dtype())
        for one in classes:
            red, green, blue = (int(value) for value in one.color)
            first = one.id * divisor
            here = slice(first, first + divisor) if one.is_thing else slice(one.id, one.id + 1)
            self._rows["rgb"][here] = red << 16 | green << 8 | blue
            self._rows["class_id"][here] = one.id
            if one.is_thing:
                self._rows["instance_id"][here] = np.arange(divisor)
        red, green, blue = UNKNOWN_RGB
        self._rows["rgb"][self._unknown] = red << 16 | green << 8 | blue
        self._rows["unknown"][self._unknown] = 1

    def of_frame(self, labels: Any, unknown_mask: Any, instances: Any) -> FrameLabels:
        """Return the labels of one frame, from its three messages.

        Args:
            labels: sensor_msgs/Image, 16UC1 or 32SC1.
            unknown_mask: sensor_msgs/Image, mono8, of the same size.
            instances: upsnet_ros/PanopticInstanceArray.

        Raises:
            ImageError: If an image is malformed.
            PointsError: If their sizes differ.
        """
        values, unknown = plane(labels), plane(unknown_mask)
        if values.shape != unknown.shape or unknown.dtype != np.uint8:
            raise PointsError(
                f"labels of {size_text(values)} and an unknown_mask of {size_text(unknown)} pixels"
                f" ({printable(unknown_mask.encoding)}) do not belong together"
            )
        # Values that no class has, negative ones too, are void.
        rows = values.astype(np.uint32)
        if rows.size and int(rows.max()) >= self._void:
            rows[rows >= self._void] = self._void
        rows[unknown != 0] = self._unknown
        table = self._rows
        tracks = {one.id: one.track_id for one in instances.instances if one.track_id}
        if tracks:
            # Copied as words: NumPy leaves what pads the fields as it finds it.
            table = table.view(np.uint32).copy().view(table.dtype)
            for label, track_id in tracks.items():
                if label < self._void:
                    table["track_id"][label] = track_id
        return FrameLabels(
            rows=rows,
            table=table.view(np.uint32).reshape(-1, LABEL_WORDS),
            unknown=unknown,
            unknown_row=self._unknown,
            instances=instances,
        )


# Every row has 16 bytes; COCO's largest label is 200,999.
_LARGEST_LABEL = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameLabels:
    """The labels of one frame.

    Attributes:
        rows: uint32 (H, W), the row of ``table`` for each pixel: its label, or ``unknown_row``.
        table: uint32 (R, `LABEL_WORDS`), the labels of a point; row 0 is void.
        unknown: uint8 (H, W), 255 on unknown pixels.
        unknown_row: Row of unknown pixels.
        instances: The frame's upsnet_ros/PanopticInstanceArray.
    """

    rows: npt.NDArray[np.uint32]
    table: npt.NDArray[np.uint32]
    unknown: npt.NDArray[np.uint8]
    unknown_row: int
    instances: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.rows.shape[0], self.rows.shape[1]


def size_text(pixels: npt.NDArray[Any]) -> str:
    """Return the width and height of an image in words: 640x480."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
