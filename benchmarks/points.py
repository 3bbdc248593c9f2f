"""Time of labelling points, beside a plain loop over them, in one run.

    python benchmarks/points.py [--repeat 15]

A depth image of 1280x720 (a tenth of its pixels without depth) and a cloud of 130,000 lidar points
around the camera, a fifth of which lies in its view; labels of 1280x720 with things on a quarter of
the pixels. CPU time of the process in milliseconds: the median of the repetitions; loops run once.
The loops compute the same labels, which is checked.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.messages.results import image_message, label_info_message
from upsnet_ros.msg import PanopticInstance, PanopticInstanceArray
from upsnet_ros.points.labelling import PointLabeller
from upsnet_ros.points.objects import find_objects
from upsnet_ros.points.parameters import PointsSettings

HEIGHT, WIDTH, LIDAR_POINTS = 720, 1280, 130_000
DEPTH = PointsSettings()
ORGANIZED = PointsSettings(organized=True)
CLOUD = PointsSettings(input="cloud", extrinsics=(0.0, -0.5, 0.0, 0.5, -0.5, 0.5, 0.5))
# Of the loop, and of what is compared with it.
WINDOW = 5
CAMERA = CameraInfo(
    header=Header(frame_id="optical"),
    height=HEIGHT,
    width=WIDTH,
    distortion_model="plumb_bob",
    d=[-0.3, 0.12, 0.001, -0.002, -0.02],
    k=[900.0, 0.0, 640.0, 0.0, 900.0, 360.0, 0.0, 0.0, 1.0],
)


def milliseconds(function: Callable[[], object], *, repeat: int) -> float:
    """Return the median CPU time of a call."""
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        function()
        times.append(1e3 * (time.process_time() - begin))
    return float(np.median(times))


def frame() -> dict[str, Image | PanopticInstanceArray]:
    """Return the messages of a frame: stuff in blocks, and twenty things on them."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.choice([7, 11, 21, 23], (9, 16)), np.ones((80, 80), int)).astype(np.uint16)
    things = []
    for index in range(1, 21):
        y, x = rng.integers(0, HEIGHT - 120), rng.integers(0, WIDTH - 120)
        labels[y : y + 110, x : x + 110] = 26000 + index
        things.append(PanopticInstance(id=26000 + index, class_id=26, class_name="car"))
    unknown = np.zeros((HEIGHT, WIDTH), np.uint8)
    return {
        "labels": image_message(labels, "16UC1", Header(frame_id="optical")),
        "unknown_mask": image_message(unknown, "mono8", Header(frame_id="optical")),
        "instances": PanopticInstanceArray(instances=things),
    }


def depth() -> Image:
    """Return a depth image in millimetres."""
    rng = np.random.default_rng(1)
    values = rng.integers(500, 20_000, (HEIGHT, WIDTH)).astype(np.uint16)
    values[rng.random((HEIGHT, WIDTH)) < 0.1] = 0
    return image_message(values, "16UC1", Header(frame_id="optical"))


def cloud() -> PointCloud2:
    """Return a cloud all around, as of a lidar with x forward."""
    rng = np.random.default_rng(2)
    azimuth = rng.uniform(-math.pi, math.pi, LIDAR_POINTS)
    elevation, distance = (
        rng.uniform(-0.4, 0.1, LIDAR_POINTS),
        rng.uniform(2, 80, LIDAR_POINTS),
    )
    rows = np.zeros((LIDAR_POINTS, 4), np.float32)
    rows[:, 0] = distance * np.cos(elevation) * np.cos(azimuth)
    rows[:, 1] = distance * np.cos(elevation) * np.sin(azimuth)
    rows[:, 2] = distance * np.sin(elevation)
    message = PointCloud2(
        header=Header(frame_id="lidar"),
        height=1,
        width=LIDAR_POINTS,
        point_step=16,
        row_step=rows.nbytes,
        fields=[
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(("x", "y", "z", "intensity"))
        ],
    )
    message.data.frombytes(rows.tobytes())
    return message


def depth_by_a_loop(message: Image, rays: np.ndarray, labels: np.ndarray) -> list[tuple]:
    """Return x, y, z and the label of each pixel with a depth, pixel by pixel."""
    values = np.frombuffer(message.data, np.uint16).tolist()
    ray_x, ray_y = rays.reshape(2, -1).tolist()
    of_pixel = labels.reshape(-1).tolist()
    points = []
    for index, value in enumerate(values):
        if value:
            z = value / 1000
            points.append((ray_x[index] * z, ray_y[index] * z, z, of_pixel[index]))
    return points


def lidar_by_a_loop(xyz: np.ndarray, camera: CameraInfo, labels: np.ndarray) -> list[int]:
    """Return the label of each point, point by point; `xyz` is float (3, N), optical."""
    k1, k2, p1, p2, k3 = camera.d
    window, tolerance = WINDOW, CLOUD.occlusion_tolerance
    near: dict[tuple[int, int], float] = {}
    pixels: list[tuple[int, int] | None] = []
    for x, y, z in xyz.T.tolist():
        pixel = None
        if z > 0:
            a, b = x / z, y / z
            s = a * a + b * b
            if s < 1.9:  # a little inside of where this distortion folds back
                radial = 1 + s * (k1 + s * (k2 + s * k3))
                u = 900 * (a * radial + 2 * p1 * a * b + p2 * (s + 2 * a * a)) + 640
                v = 900 * (b * radial + p1 * (s + 2 * b * b) + 2 * p2 * a * b) + 360
                if -0.5 <= u < WIDTH - 0.5 and -0.5 <= v < HEIGHT - 0.5:
                    pixel = int(v + 0.5), int(u + 0.5)
                    near[pixel] = min(z, near.get(pixel, math.inf))
        pixels.append(pixel)
    answer = []
    for z, pixel in zip(xyz[2].tolist(), pixels, strict=True):
        label = 0
        if pixel is not None:
            row, column = pixel
            nearest = min(
                near.get((row + down, column + right), math.inf)
                for down in range(-window, window + 1)
                for right in range(-window, window + 1)
            )
            if z <= nearest * (1 + tolerance):
                label = int(labels[row, column])
        answer.append(label)
    return answer


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=15, help="repetitions of each measurement")
    repeat = parser.parse_args().repeat
    labeller = PointLabeller()
    labeller.set_label_info(label_info_message(CITYSCAPES, Header()))
    labeller.set_camera_info(CAMERA)
    messages, image, points = frame(), depth(), cloud()
    labels = np.frombuffer(messages["labels"].data, np.uint16).reshape(HEIGHT, WIDTH)

    begin = time.process_time()
    of_depth = labeller.label_depth(image, messages, settings=DEPTH)
    print(f"first frame, with the rays of the camera: {1e3 * (time.process_time() - begin):.0f} ms")
    fixed = replace(CLOUD, occlusion_window=WINDOW)
    of_cloud = labeller.label_cloud(points, messages, settings=fixed)
    rays, pose = labeller._model(DEPTH).rays, CLOUD.pose
    assert pose is not None

    begin = time.process_time()
    looped = depth_by_a_loop(image, rays, labels)
    depth_loop = 1e3 * (time.process_time() - begin)
    assert np.allclose(np.array(looped)[:, :3].T, of_depth.xyz, atol=1e-4)
    assert [one[3] for one in looped] == labels.reshape(-1)[of_depth.pixels].tolist()
    optical = pose.apply(of_cloud.xyz)
    begin = time.process_time()
    looped_labels = np.array(lidar_by_a_loop(optical, CAMERA, labels))
    lidar_loop = 1e3 * (time.process_time() - begin)
    ours = np.where(of_cloud.pixels >= 0, labels.reshape(-1)[of_cloud.pixels], 0)
    # Of points on the border of a pixel the loop, in float64, may say another one.
    same = float((looped_labels == ours).mean())
    assert same > 0.998, same

    measures = {"quantile": 0.02, "min_points": 5}
    rows = {
        "depth 1280x720: labels of points": (
            lambda: labeller.label_depth(image, dict(messages), settings=DEPTH),
            depth_loop,
        ),
        "the same with organized": (
            lambda: labeller.label_depth(image, dict(messages), settings=ORGANIZED),
            depth_loop,
        ),
        "130,000 lidar points: labels of points": (
            lambda: labeller.label_cloud(points, dict(messages), settings=CLOUD),
            lidar_loop,
        ),
        "the same with occlusion_window 5": (
            lambda: labeller.label_cloud(points, dict(messages), settings=fixed),
            lidar_loop,
        ),
        "depth: message": (of_depth.cloud.serialize, None),
        "lidar: message": (of_cloud.cloud.serialize, None),
        "depth: objects": (
            lambda: find_objects(of_depth, **measures),
            None,
        ),
        "lidar: objects": (
            lambda: find_objects(of_cloud, **measures),
            None,
        ),
    }
    print(f"labels of {100 * same:.2f} % of the lidar points are those of the loop")
    print("| | CPU, ms | plain loop, ms | ratio |\n|---|---|---|---|")
    for name, (function, loop) in rows.items():
        took = milliseconds(function, repeat=repeat)
        beside = f"{loop:.0f} | {loop / took:.0f}" if loop else "- | -"
        print(f"| {name} | {took:.1f} | {beside} |")


if __name__ == "__main__":
    main()
