"""Which label a point has: joins depth images and lidar clouds with the labels of their image."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import ImageError, PointsError, UpsnetError, printable
from upsnet_ros.messages.frames import plane
from upsnet_ros.points.camera_model import CameraModel, RigidTransform, StaticTransforms
from upsnet_ros.points.cloud import LABEL_WORDS, Cloud, grid_cloud, labelled_cloud, labels_dtype
from upsnet_ros.points.settings import PointsSettings

__all__ = [
    "UNKNOWN_RGB",
    "DepthPoints",
    "FrameLabels",
    "LabelTable",
    "LabelledPoints",
    "PointLabeller",
    "depth_image",
    "depth_points",
    "lidar_rows",
]

#: Colour of unknown points: that of the hatching on the overlay.
UNKNOWN_RGB = (255, 215, 0)
# Points that are computed together, so that the temporaries stay in the cache.
_BLOCK = 1 << 14


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
                f"labels of {_size(values)} and an unknown_mask of {_size(unknown)} pixels"
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DepthPoints:
    """The points of a depth image.

    Attributes:
        words: uint32 (N, 3 + `LABEL_WORDS`): the bits of x, y, z as float32, then the labels.
        pixels: intp (N,), index of each point's pixel, row by row.
    """

    words: npt.NDArray[np.uint32]
    pixels: npt.NDArray[np.intp]

    @property
    def xyz(self) -> npt.NDArray[np.float32]:
        """The coordinates, float32 (3, N), metres; a view."""
        return self.words[:, :3].view(np.float32).T


_DEPTH_TYPES = {"16UC1": ("u2", 1000), "32FC1": ("f4", 1)}


def depth_image(message: Any) -> tuple[npt.NDArray[Any], int]:
    """Return the depth of a sensor_msgs/Image, and its unit.

    Returns:
        uint16 or float32 (H, W), along the optical axis; and its units per metre. Zero,
        negative, infinite and NaN values are no depth.

    Raises:
        ImageError: If the encoding is not supported, or the data does not match the size.
    """
    if message.encoding not in _DEPTH_TYPES:
        raise ImageError(
            f"encoding {printable(message.encoding)!r} is not a depth image's:"
            " 16UC1 (millimetres) or 32FC1 (metres)"
        )
    code, per_metre = _DEPTH_TYPES[message.encoding]
    if message.height < 1 or message.width < 1:
        raise ImageError(f"the depth image is empty: {message.width}x{message.height} pixels")
    dtype = np.dtype(code).newbyteorder(">" if message.is_bigendian else "<")
    row = message.width * dtype.itemsize
    if message.step < row or len(message.data) < message.step * (message.height - 1) + row:
        raise ImageError(
            f"{len(message.data)} bytes with step {message.step} do not hold"
            f" {message.width}x{message.height} pixels of {message.encoding}"
        )
    values = np.ndarray(
        (message.height, message.width),
        dtype,
        buffer=message.data,
        strides=(message.step, dtype.itemsize),
    )
    return values.astype(dtype.newbyteorder(sys.byteorder), copy=False), per_metre


def depth_points(
    depth: npt.NDArray[Any], *, per_metre: int, camera: CameraModel, labels: FrameLabels
) -> DepthPoints:
    """Return a labelled point for each pixel with a depth (and a ray of the camera).

    Args:
        depth: uint16 or float32 (H, W), along the optical axis.
        per_metre: Units of ``depth`` in a metre.
        camera: Of the image that the labels are of, of the same size.
        labels: Of the same size.

    Raises:
        PointsError: If no pixel has a depth.
    """
    ray_x, ray_y = camera.rays.reshape(2, -1)
    flat, rows = np.ascontiguousarray(depth).reshape(-1), labels.rows.reshape(-1)
    words = np.empty((flat.size, 3 + LABEL_WORDS), np.uint32)
    pixels = np.empty(flat.size, np.intp)
    count = 0
    for first in range(0, flat.size, _BLOCK):
        block = flat[first : first + _BLOCK]
        valid = block > 0
        if block.dtype.kind == "f":
            valid &= block < np.inf
        if not camera.has_all_rays:
            valid &= np.isfinite(ray_x[first : first + _BLOCK])
        here = np.flatnonzero(valid)
        if not here.size:
            continue
        z = block[here].astype(np.float32)
        if per_metre != 1:
            z /= np.float32(per_metre)  # rounds correctly, as a product would not
        here += first
        end = count + here.size
        xyz = words[count:end, :3].view(np.float32)
        np.multiply(ray_x[here], z, out=xyz[:, 0])
        np.multiply(ray_y[here], z, out=xyz[:, 1])
        xyz[:, 2] = z
        words[count:end, 3:] = labels.table.take(rows[here], axis=0)
        pixels[count:end] = here
        count = end
    if not count:
        raise PointsError("the depth image has no valid pixel: all are 0, negative or not finite")
    return DepthPoints(words=words[:count], pixels=pixels[:count])


def lidar_rows(
    points: npt.NDArray[np.float32],
    *,
    camera: CameraModel,
    labels: FrameLabels,
    settings: PointsSettings,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.intp]]:
    """Return where points appear in the image, and the rows of the label table there.

    A point that the camera does not see has row 0: one behind the camera, outside the image, or
    farther than the points around it.

    Args:
        points: float32 (3, N) in the optical frame, metres; may hold NaN and infinity.
        camera: Of the image that the labels are of, of the same size.
        labels: Of that image.
        settings: Whose ``occlusion_window`` and ``occlusion_tolerance`` say when a point is hidden.

    Returns:
        Rows of ``labels.table``, uint32 (N,); and the index of each point's pixel, row by row,
        intp (N,): -1 where the camera does not see the point.
    """
    height, width = labels.shape
    rows = np.zeros(points.shape[1], np.uint32)
    pixels = np.full(points.shape[1], -1, np.intp)
    before = np.flatnonzero(points[2] > 0)  # most of a lidar's points are behind or beside
    u, v, visible = camera.project(points[:, before])
    seen = np.flatnonzero(visible)
    # The nearest pixel; u and v are not below -0.5.
    column = (u[seen] + np.float32(0.5)).astype(np.intp)
    row = (v[seen] + np.float32(0.5)).astype(np.intp)
    # Rounding in float32 may lead just outside.
    index = np.minimum(row, height - 1) * width + np.minimum(column, width - 1)
    z = points[2, before[seen]]
    near = np.full(height * width, np.inf, np.float32)
    np.minimum.at(near, index, z)
    if settings.occlusion_window:
        size = 2 * settings.occlusion_window + 1
        window = np.ones((size, size), np.uint8)
        near = np.asarray(cv2.erode(near.reshape(height, width), window), np.float32).reshape(-1)
    front = z <= near[index] * np.float32(1 + settings.occlusion_tolerance)
    chosen, index = before[seen[front]], index[front]
    rows[chosen] = labels.rows.reshape(-1)[index]
    pixels[chosen] = index
    return rows, pixels


def _size(pixels: npt.NDArray[Any]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledPoints:
    """The points of a depth image or cloud with their labels.

    Attributes:
        cloud: What is published as `points`.
        xyz: float32 (3, N), metres, in the cloud's frame, of the points that were measured.
        pixels: intp (N,), index of each one's pixel; -1 where the camera does not see it.
        unknown: bool, for each point of the cloud: whether it is of an unknown object.
        labels: Labels of the frame.
        warning: One line about what is probably wrong; empty otherwise.
    """

    cloud: Cloud
    xyz: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.intp]
    unknown: npt.NDArray[np.bool_]
    labels: FrameLabels
    warning: str = ""


class PointLabeller:
    """Labels depth images or clouds, by the last label_info, camera_info and transforms.

    Its methods raise a `PointsError` whose ``topic`` names the input that cannot be used.

    Attributes:
        transforms: What /tf_static said.
    """

    def __init__(self) -> None:
        self.transforms = StaticTransforms()
        self._table: LabelTable | None = None
        self._info: Any = None
        self._camera: tuple[Any, CameraModel] | None = None
        self._frame: tuple[Any, FrameLabels] | None = None

    def set_label_info(self, message: Any) -> None:
        """Take a PanopticLabelInfo."""
        with _errors_of("label_info"):
            self._table = LabelTable(message)
        self._frame = None

    def set_camera_info(self, message: Any) -> None:
        """Take a CameraInfo, which is checked when it is used."""
        self._info = message

    def set_transforms(self, message: Any) -> None:
        """Take a tf2_msgs/TFMessage of static transforms; those that can be used are kept."""
        failure = None
        for one in message.transforms:
            to, turn = one.transform.translation, one.transform.rotation
            values = (to.x, to.y, to.z, turn.x, turn.y, turn.z, turn.w)
            child = one.child_frame_id
            try:
                pose = RigidTransform.from_values(values, name=f"/tf_static of {printable(child)}")
                self.transforms.add(one.header.frame_id, child, pose)
            except PointsError as error:
                failure = error
        if failure is not None:
            failure.topic = "tf_static"
            raise failure

    def label_depth(
        self, message: Any, frame: Mapping[str, Any], *, settings: PointsSettings
    ) -> LabelledPoints:
        """Label the points of a depth image.

        Args:
            message: sensor_msgs/Image, or what `read_image` returns.
            frame: The messages of the frame's labels, instances and unknown_mask, by topic.
            settings: Current settings of the node.
        """
        labels, camera = self._labels(frame), self._model(settings)
        with _errors_of("depth"):
            depth, per_metre = depth_image(message)
            if depth.shape != labels.shape:
                raise PointsError(
                    f"the depth image has {_size(depth)} pixels, the labels {_size(labels.rows)}:"
                    " depth must be registered to the camera's image"
                )
        with _errors_of("camera_info"):
            camera.check_size(height=depth.shape[0], width=depth.shape[1], what="the labels")
        with _errors_of("depth"):
            points = depth_points(depth, per_metre=per_metre, camera=camera, labels=labels)
        own, of_labels = message.header.frame_id, frame["labels"].header.frame_id
        warning = ""
        if own != of_labels:
            warning = (
                f"depth is in the frame {printable(own)!r}, the labels in {printable(of_labels)!r}:"
                " is it registered to the camera's image?"
            )
        pixels = points.pixels
        unknown = labels.rows.reshape(-1)[pixels] == labels.unknown_row
        if settings.organized:
            cloud = grid_cloud(points.words, pixels, shape=depth.shape, header=message.header)
            unknown = np.bincount(pixels[unknown], minlength=cloud.size) > 0
        else:
            cloud = labelled_cloud(points.words, message.header)
        return LabelledPoints(
            cloud=cloud,
            xyz=points.xyz,
            pixels=pixels,
            unknown=unknown,
            labels=labels,
            warning=warning,
        )

    def label_cloud(
        self, message: Any, frame: Mapping[str, Any], *, settings: PointsSettings
    ) -> LabelledPoints:
        """Label the points of a cloud: as `label_depth`, of a sensor_msgs/PointCloud2."""
        labels, camera = self._labels(frame), self._model(settings)
        with _errors_of("points_in"):
            cloud = Cloud.from_message(message)
            xyz = cloud.xyz()
            if not np.isfinite(xyz).all(axis=0).any():
                raise PointsError(f"none of the {cloud.size} points is finite")
        with _errors_of("camera_info"):
            camera.check_size(height=labels.shape[0], width=labels.shape[1], what="the labels")
        with _errors_of("tf_static"):
            pose = self._pose(message.header.frame_id, frame["labels"].header.frame_id, settings)
        rows, pixels = lidar_rows(
            pose.apply(xyz),
            camera=camera,
            labels=labels,
            settings=settings,
        )
        warning = ""
        if not (pixels >= 0).any():
            warning = "no point of the cloud appears in the image: check the transform"
        return LabelledPoints(
            cloud=cloud.with_labels(labels.table.take(rows, axis=0)),
            xyz=xyz,
            pixels=pixels,
            unknown=rows == labels.unknown_row,
            labels=labels,
            warning=warning,
        )

    def _labels(self, frame: Mapping[str, Any]) -> FrameLabels:
        if self._frame is not None and self._frame[0] is frame:  # several clouds for a frame
            return self._frame[1]
        with _errors_of("label_info"):
            if self._table is None:
                raise PointsError("no label_info yet, which the segmenting node latches")
        with _errors_of("labels"):
            labels = self._table.of_frame(
                frame["labels"], frame["unknown_mask"], frame["instances"]
            )
        self._frame = (frame, labels)
        return labels

    def _model(self, settings: PointsSettings) -> CameraModel:
        with _errors_of("camera_info"):
            info = self._info
            if info is None:
                raise PointsError("no camera_info yet: remap it to the camera's topic")
            roi = info.roi
            # Every frame has its own message; what depends on it is computed once.
            key = (
                settings.rectified,
                *(info.width, info.height, info.distortion_model, info.binning_x, info.binning_y),
                *(roi.x_offset, roi.y_offset, roi.width, roi.height),
                *(bytes(np.asarray(one, np.float64)) for one in (info.k, info.p, info.d)),
            )
            if self._camera is None or self._camera[0] != key:
                self._camera = (key, CameraModel.from_message(info, rectified=settings.rectified))
            return self._camera[1]

    def _pose(self, cloud: str, labels: str, settings: PointsSettings) -> RigidTransform:
        if (pose := settings.pose) is not None:
            return pose
        for what, frame in (("the cloud has", cloud), ("the labels have", labels)):
            if not frame:
                raise PointsError(f"{what} no frame_id: set it, or the parameter extrinsics")
        return self.transforms.lookup(source=cloud, target=labels)


@contextmanager
def _errors_of(topic: str) -> Iterator[None]:
    """Name the input in errors."""
    try:
        yield
    except UpsnetError as error:
        named = PointsError(f"{topic}: {error}")
        named.topic = topic
        raise named from error
