"""Which label a point has: joins depth images and lidar clouds with the labels of their image."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import ImageError, PointsError, SettingsError, UpsnetError, printable
from upsnet_ros.points.camera_model import CameraModel, RigidTransform, StaticTransforms
from upsnet_ros.points.cloud import LABEL_WORDS, Cloud, labelled_cloud, whole_rows
from upsnet_ros.points.labels import FrameLabels, LabelTable, size_text
from upsnet_ros.points.parameters import NO_TF2_MSGS, PointsSettings

# Points that are computed together, so that the temporaries stay in the cache.
_BLOCK = 1 << 14
# How `occlusion_window` measures: the share of pixels that windows around points cover; pixels
# farther than so many radians from all points are in a hole, not between points; and the image's
# number of blocks of columns, above and below whose points nothing is measured.
_NEAR_SHARE = 0.9
_HOLE = math.radians(2)
_BLOCKS = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DepthPoints:
    """The points of a depth image.

    Attributes:
        words: uint32 (N, 3 + `LABEL_WORDS`): the bits of x, y, z as float32, then the labels.
        rows: uint32 (N,), row of the label table of each point.
        pixels: intp (N,), index of each point's pixel, row by row.
        count: Number of pixels with a depth: N, unless the points are organised.
    """

    words: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]
    pixels: npt.NDArray[np.intp]
    count: int

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
    depth: npt.NDArray[Any],
    *,
    per_metre: int,
    camera: CameraModel,
    labels: FrameLabels,
    organized: bool,
) -> DepthPoints:
    """Return a labelled point for each pixel with a depth (and a ray of the camera).

    Args:
        depth: uint16 or float32 (H, W), along the optical axis.
        per_metre: Units of ``depth`` in a metre.
        camera: Of the image that the labels are of, of the same size.
        labels: Of the same size.
        organized: Whether the other pixels have a point too, with NaN coordinates and row 0.

    Raises:
        PointsError: If no pixel has a depth.
    """
    ray_x, ray_y = camera.rays.reshape(2, -1)
    flat, of_pixel = np.ascontiguousarray(depth).reshape(-1), labels.rows.reshape(-1)
    words = np.empty((flat.size, 3 + LABEL_WORDS), np.uint32)
    x, y, z = words[:, :3].view(np.float32).T
    of_point, table = whole_rows(words[:, 3:]), whole_rows(labels.table)
    rows = np.empty(flat.size, np.uint32)
    pixels = np.arange(flat.size)
    count = end = 0
    for first in range(0, flat.size, _BLOCK):
        block = slice(first, first + _BLOCK)
        valid = flat[block] > 0
        if flat.dtype.kind == "f":
            valid &= flat[block] < np.inf
        if not camera.has_all_rays:
            valid &= np.isfinite(ray_x[block])
        chosen = None if organized else np.flatnonzero(valid)
        metres = _chosen(flat[block], chosen).astype(np.float32)
        if per_metre != 1:
            metres /= np.float32(per_metre)  # rounds correctly, as a product would not
        points = slice(end, end := end + metres.size)
        rows[points] = _chosen(of_pixel[block], chosen)
        if chosen is None:
            metres[~valid] = np.nan
            rows[points] *= valid
            count += int(np.count_nonzero(valid))
        else:
            pixels[points] = chosen
            pixels[points] += first
            count = end
        np.multiply(_chosen(ray_x[block], chosen), metres, out=x[points])
        np.multiply(_chosen(ray_y[block], chosen), metres, out=y[points])
        z[points] = metres
        of_point[points] = table.take(rows[points])
    if not count:
        raise PointsError("the depth image has no valid pixel: all are 0, negative or not finite")
    return DepthPoints(words=words[:end], rows=rows[:end], pixels=pixels[:end], count=count)


def _chosen(values: npt.NDArray[Any], index: npt.NDArray[np.intp] | None) -> npt.NDArray[Any]:
    """Return the values at an index, or all."""
    return values if index is None else values.take(index)


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
    # The nearest pixel; u and v are not below -0.5. Rounding in float32 may lead just outside.
    column = np.minimum((u[seen] + np.float32(0.5)).astype(np.intp), width - 1)
    row = np.minimum((v[seen] + np.float32(0.5)).astype(np.intp), height - 1)
    index = row * width + column
    z = points[2, before[seen]]
    near = np.full(height * width, np.inf, np.float32)
    np.minimum.at(near, index, z)
    window = settings.occlusion_window
    if window < 0:
        window = occlusion_window(row, column, shape=labels.shape, focal=max(camera.focal))
    if window:
        around = np.ones((2 * window + 1, 2 * window + 1), np.uint8)
        near = np.asarray(cv2.erode(near.reshape(height, width), around), np.float32).reshape(-1)
    front = z <= near[index] * np.float32(1 + settings.occlusion_tolerance)
    chosen, index = before[seen[front]], index[front]
    rows[chosen] = labels.rows.reshape(-1)[index]
    pixels[chosen] = index
    return rows, pixels


def occlusion_window(
    row: npt.NDArray[np.intp],
    column: npt.NDArray[np.intp],
    *,
    shape: tuple[int, int],
    focal: float,
) -> int:
    """Return about half the distance between neighbouring points in the image, pixels.

    Windows of this size around points leave few pixels between them, so that little that is hidden
    shows through, and do not reach the next ring of a lidar.

    Args:
        row: Row of each point's pixel, (N,).
        column: Column of each point's pixel, (N,).
        shape: Height and width of the image, pixels.
        focal: Focal length, pixels.
    """
    if not row.size:
        return 0
    height, width = shape
    hit = np.zeros(shape, np.uint8)
    hit[row, column] = 1
    # Above and below all points there is nothing to be hidden, as in the sky.
    block = column * _BLOCKS // width
    top, bottom = np.full(_BLOCKS, height), np.full(_BLOCKS, -1)
    np.minimum.at(top, block, row)
    np.maximum.at(bottom, block, row)
    block = np.arange(width) * _BLOCKS // width
    down, top, bottom = (one.astype(np.int32) for one in (np.arange(height), top, bottom))
    down = down[:, None]
    between = ((down >= top[block]) & (down <= bottom[block])).view(np.uint8)

    def covered(window: int) -> int:
        """Return the number of pixels between points that windows of this size cover."""
        around = np.ones((2 * window + 1, 2 * window + 1), np.uint8)
        return cv2.countNonZero(cv2.bitwise_and(cv2.dilate(hit, around), between))

    largest = int(_HOLE * focal)
    return bisect_left(range(largest), _NEAR_SHARE * covered(largest), key=covered)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledPoints:
    """The points of a depth image or cloud with their labels.

    Attributes:
        cloud: What is published as `points`.
        xyz: float32 (3, N), metres, in the cloud's frame; may hold NaN.
        rows: uint32 (N,), row of the label table of each point; 0 without a label.
        pixels: intp (N,), index of each one's pixel; -1 where the camera does not see it.
        labels: Labels of the frame.
        warning: One line about what is probably wrong; empty otherwise.
    """

    cloud: Cloud
    xyz: npt.NDArray[np.float32]
    rows: npt.NDArray[np.uint32]
    pixels: npt.NDArray[np.intp]
    labels: FrameLabels
    warning: str = ""

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """Whether each point is of an unknown object, bool (N,)."""
        return self.rows == self.labels.unknown_row


def tf_message() -> type:
    """Return tf2_msgs/TFMessage.

    Raises:
        SettingsError: If tf2_msgs is not installed.
    """
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        raise SettingsError(NO_TF2_MSGS) from None
    return TFMessage


class PointLabeller:
    """Labels depth images or clouds, by the last label_info, camera_info and transforms.

    Its methods raise a `PointsError` whose ``topic`` names the input that cannot be used.

    Attributes:
        transforms: What /tf_static and /tf said.
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

    def set_transforms(self, message: Any, *, static: bool) -> None:
        """Take a tf2_msgs/TFMessage of /tf_static or /tf; those that can be used are kept."""
        failure = None
        for one in message.transforms:
            to, turn = one.transform.translation, one.transform.rotation
            values = (to.x, to.y, to.z, turn.x, turn.y, turn.z, turn.w)
            parent, child = one.header.frame_id, one.child_frame_id
            if not static:
                self.transforms.add_sample(parent, child, values)
                continue
            try:
                pose = RigidTransform.from_values(values, name=f"/tf_static of {printable(child)}")
                self.transforms.add(parent, child, pose)
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
                    f"the depth image has {size_text(depth)} pixels, the labels"
                    f" {size_text(labels.rows)}: depth must be registered to the camera's image"
                )
        with _errors_of("camera_info"):
            camera.check_size(height=depth.shape[0], width=depth.shape[1], what="the labels")
        with _errors_of("depth"):
            points = depth_points(
                depth,
                per_metre=per_metre,
                camera=camera,
                labels=labels,
                organized=settings.organized,
            )
        own, of_labels = message.header.frame_id, frame["labels"].header.frame_id
        warning = ""
        if own != of_labels:
            warning = (
                f"depth is in the frame {printable(own)!r}, the labels in {printable(of_labels)!r}:"
                " is it registered to the camera's image?"
            )
        cloud = labelled_cloud(
            points.words,
            message.header,
            height=depth.shape[0] if settings.organized else 1,
            is_dense=points.count == len(points.words),
        )
        return LabelledPoints(
            cloud=cloud,
            xyz=points.xyz,
            rows=points.rows,
            pixels=points.pixels,
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
            rows=rows,
            pixels=pixels,
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
