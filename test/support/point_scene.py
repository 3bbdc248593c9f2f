"""A small picture with known labels, its calibration, and depth and clouds of it."""

from __future__ import annotations

import array

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.messages.results import image_message, label_info_message
from upsnet_ros.msg import PanopticInstance, PanopticInstanceArray, UnknownRegion
from upsnet_ros.points.cloud import LABEL_WORDS, labelled_cloud, labels_dtype
from upsnet_ros.points.labelling import PointLabeller
from upsnet_ros.points.parameters import PointsSettings

HEIGHT, WIDTH = 48, 64
ROAD, CAR, PERSON = 7, 26001, 24001
TRACK = 77


def header(stamp_ns: int = 1_000_000_000, frame_id: str = "camera_optical") -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return made


def label_map() -> np.ndarray:
    """Road, a car, a person in front of it, and an unknown region, where labels are void."""
    labels = np.full((HEIGHT, WIDTH), ROAD, np.uint16)
    labels[10:30, 5:35] = CAR
    labels[15:40, 20:30] = PERSON
    labels[unknown_mask() != 0] = 0
    return labels


def unknown_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:40, 40:55] = 255
    mask[2, 2] = 255  # too small to be listed
    return mask


def depth_map() -> np.ndarray:
    """Metres, float32: the road at 10, the car at 5, the person at 3, the unknown object at 4."""
    labels = label_map()
    depth = np.full(labels.shape, 10, np.float32)
    depth[labels == CAR] = 5
    depth[labels == PERSON] = 3
    depth[unknown_mask() != 0] = 4
    return depth


def instances(stamp_ns: int = 1_000_000_000) -> PanopticInstanceArray:
    region = UnknownRegion(area=150, mean_score=0.75)
    region.roi.x_offset, region.roi.y_offset, region.roi.width, region.roi.height = 40, 30, 15, 10
    return PanopticInstanceArray(
        header=header(stamp_ns),
        instances=[
            PanopticInstance(id=PERSON, class_id=24, class_name="person", instance_id=1, score=0.9),
            PanopticInstance(
                id=CAR, class_id=26, class_name="car", instance_id=1, score=0.8, track_id=TRACK
            ),
        ],
        unknown_regions=[region],
    )


def frame(stamp_ns: int = 1_000_000_000, *, encoding: str = "16UC1") -> dict:
    """The messages of the segmenting node for the picture, by topic."""
    labels = label_map().astype(np.int32 if encoding == "32SC1" else np.uint16)
    return {
        "labels": image_message(labels, encoding, header(stamp_ns)),
        "unknown_mask": image_message(unknown_mask(), "mono8", header(stamp_ns)),
        "instances": instances(stamp_ns),
    }


def label_info():
    return label_info_message(CITYSCAPES, header())


def camera_info(stamp_ns: int = 1_000_000_000, **changes) -> CameraInfo:
    """A camera with 50 pixels of focal length and some distortion."""
    values = {
        "height": HEIGHT,
        "width": WIDTH,
        "distortion_model": "plumb_bob",
        "d": [-0.1, 0.02, 0.001, -0.001, 0.0],
        "k": [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0],
        "p": [55.0, 0.0, 31.0, 0.0, 0.0, 55.0, 23.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        **changes,
    }
    return CameraInfo(header=header(stamp_ns), **values)


def depth_message(depth=None, *, encoding="32FC1", stamp_ns=1_000_000_000, frame_id=None) -> Image:
    """A depth image in a depth encoding, from metres."""
    depth = depth_map() if depth is None else depth
    if encoding == "16UC1":
        depth = np.round(1000 * depth).astype(np.uint16)
    depth = np.ascontiguousarray(depth)
    return Image(
        header=header(stamp_ns, frame_id or "camera_optical"),
        height=depth.shape[0],
        width=depth.shape[1],
        encoding=encoding,
        step=depth.strides[0] if depth.size else 0,
        data=array.array("B", depth.tobytes()),
    )


def cloud_message(xyz, *, stamp_ns=1_000_000_000, frame_id="lidar", **changes) -> PointCloud2:
    """A cloud of points float32 (N, 3) with an intensity, which counts them."""
    rows = np.zeros((len(xyz), 4), np.float32)
    rows[:, :3], rows[:, 3] = xyz, np.arange(len(xyz))
    values = {
        "height": 1,
        "width": len(xyz),
        "point_step": 16,
        "row_step": rows.nbytes,
        "is_dense": True,
        "data": array.array("B", rows.tobytes()),
        "fields": [
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(("x", "y", "z", "intensity"))
        ],
        **changes,
    }
    return PointCloud2(header=header(stamp_ns, frame_id), **values)


def labeller(**info) -> PointLabeller:
    """One that has what it needs, but transforms."""
    made = PointLabeller()
    made.set_label_info(label_info())
    made.set_camera_info(camera_info(**info))
    return made


#: The pose of a lidar with x forward, y left and z up, 0.5 m above the camera.
EXTRINSICS = (0.0, -0.5, 0.0, 0.5, -0.5, 0.5, 0.5)


def cloud_settings(**changes) -> PointsSettings:
    return PointsSettings(input="cloud", **{"extrinsics": EXTRINSICS, **changes})


def records(message) -> np.ndarray:
    """The points of a message as a structured array, by the fields that it declares."""
    codes = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
    order = ">" if message.is_bigendian else "<"
    dtype = np.dtype(
        {
            "names": [one.name for one in message.fields],
            "formats": [f"{order}{codes[one.datatype]}" for one in message.fields],
            "offsets": [one.offset for one in message.fields],
            "itemsize": message.point_step,
        }
    )
    return np.frombuffer(bytes(message.data), dtype)


def labelled_message(
    xyz, rgb, *, unknown=None, stamp_ns: int = 1_000_000_000, frame_id: str = "lidar"
) -> bytes:
    """A serialised cloud of labelled points: (N, 3) metres, N colours as 0xRRGGBB."""
    rows = np.zeros(len(rgb), labels_dtype())
    rows["rgb"] = rgb
    rows["unknown"] = 0 if unknown is None else unknown
    words = np.empty((len(rgb), 3 + LABEL_WORDS), np.uint32)
    words[:, :3] = np.asarray(xyz, np.float32).view(np.uint32)
    words[:, 3:] = rows.view(np.uint32).reshape(-1, LABEL_WORDS)
    return labelled_cloud(words, header(stamp_ns, frame_id)).serialize()
