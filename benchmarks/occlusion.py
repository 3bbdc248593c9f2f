"""How many lidar points take a label, and how many a wrong one, against the truth of a street.

    python benchmarks/occlusion.py [--windows -1 0 5] [--scenes 4]

A lidar 0.5 m above the camera sees over what hides things from the camera. Its points are those of
a street of 1024x2048 pixels rendered from where it is, with their true labels. Labels of the image
are true too, so that all that is wrong comes from the pixel that a point takes its label from.

coverage: share of the points that the camera sees, by its depth image of 1024x2048, that take a
label. wrong: share of the labels that points take that are not their own, by class and instance.
The first row of an image size is without the test.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np

from upsnet_ros.points.camera_model import CameraModel, RigidTransform
from upsnet_ros.points.cloud import LABEL_WORDS
from upsnet_ros.points.labelling import lidar_rows
from upsnet_ros.points.labels import FrameLabels
from upsnet_ros.points.parameters import PointsSettings
from upsnet_ros.synthetic.canvas import Camera
from upsnet_ros.synthetic.lidar import Lidar, sweep
from upsnet_ros.synthetic.renderer import SceneFrame, World
from upsnet_ros.synthetic.street import lay_street

ABOVE = 0.5  # of the lidar over the camera, metres
FINE = (1024, 2048)
SIZES = ((128, 256), (360, 640), (512, 1024), FINE)
#: By number of rings: lowest and highest elevation, and step of azimuth, degrees.
LIDARS = {16: (-15.0, 15.0, 0.2), 64: (-24.8, 2.0, 0.2), 128: (-25.0, 15.0, 0.1)}


class RaisedWorld(World):
    """A street that is seen from above the camera."""

    def _stage(self, *arguments: Any) -> Any:
        stage = super()._stage(*arguments)
        stage.camera = replace(stage.camera, height=stage.camera.height + ABOVE)
        return stage


@cache
def view(number: int, size: tuple[int, int], *, raised: bool) -> SceneFrame:
    """Return a frame of a street."""
    street = lay_street("val", 7, number)
    world = RaisedWorld(street) if raised else World(street)
    return world.frame(10, *size)


@cache
def swept(number: int, rings: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points float32 (3, N) in the camera's optical frame, and their labels, int (N,)."""
    frame = view(number, FINE, raised=True)
    lowest, highest, step = LIDARS[rings]
    lidar = Lidar(rings=rings, lowest=lowest, highest=highest, step=step, position=(0.0, 0.0, 0.0))
    found = sweep(frame, lidar)
    pose = RigidTransform.from_values(lidar.extrinsics, name="lidar")
    own = np.stack([found.points[name] for name in "xyz"]).astype(np.float64)
    pitch = frame.camera.pitch
    up = np.array([0.0, -ABOVE * np.cos(pitch), -ABOVE * np.sin(pitch)])
    return (pose.apply(own) + up[:, None]).astype(np.float32), labels_of(frame).flat[found.pixels]


def labels_of(frame: SceneFrame) -> np.ndarray:
    """Return the label of each pixel, int (H, W): its instance, or that it is unknown."""
    return np.where(frame.unknown, 1, frame.instances)


def model(camera: Camera) -> CameraModel:
    """Return the model of a rendered camera."""
    centre = ((camera.columns - 1) / 2, (camera.rows - 1) / 2)
    focal = (camera.focal, camera.focal)
    return CameraModel(width=camera.columns, height=camera.rows, focal=focal, centre=centre)


def seen_by_the_camera(points: np.ndarray, number: int) -> np.ndarray:
    """Return whether the camera sees points, bool (N,), by its depth image."""
    frame = view(number, FINE, raised=False)
    u, v, inside = model(frame.camera).project(points)
    seen = np.zeros(len(inside), bool)
    here = np.flatnonzero(inside)
    farthest = cv2.dilate(frame.depth, np.ones((3, 3), np.uint8))  # of the pixels around
    row, column = (np.rint(one[here]).astype(int) for one in (v, u))
    row, column = row.clip(0, FINE[0] - 1), column.clip(0, FINE[1] - 1)
    seen[here] = points[2, here] <= 1.03 * farthest[row, column]
    return seen


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured: a lidar, an image size, and the settings of the test."""

    rings: int
    size: tuple[int, int]
    settings: PointsSettings

    def count(self, number: int) -> Counter[str]:
        """Return the counts of points of one street."""
        frame = view(number, self.size, raised=False)
        points, truth = swept(number, self.rings)
        labels = labels_of(frame)
        of_frame = FrameLabels(
            rows=labels.astype(np.uint32),
            table=np.zeros((int(labels.max()) + 1, LABEL_WORDS), np.uint32),
            unknown=frame.unknown.astype(np.uint8),
            unknown_row=1,
            instances=None,
        )
        _, pixels = lidar_rows(
            points, camera=model(frame.camera), labels=of_frame, settings=self.settings
        )
        labelled, seen = pixels >= 0, seen_by_the_camera(points, number)
        wrong = labelled & (labels.flat[np.maximum(pixels, 0)] != truth)
        return Counter(
            seen=int(seen.sum()),
            seen_labelled=int((seen & labelled).sum()),
            labelled=int(labelled.sum()),
            wrong=int(wrong.sum()),
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, nargs="+", default=[-1, 5], help="pixels")
    parser.add_argument("--scenes", type=int, default=4, help="number of streets")
    given = parser.parse_args()
    print("| lidar | image | occlusion_window | coverage, % | wrong, % |\n|---|---|---|---|---|")
    for rings in LIDARS:
        for size in SIZES:
            choices = {"no test": PointsSettings(occlusion_window=0, occlusion_tolerance=10.0)}
            choices |= {f"{one}": PointsSettings(occlusion_window=one) for one in given.windows}
            for name, settings in choices.items():
                case = Case(rings=rings, size=size, settings=settings)
                counts = sum(map(case.count, range(given.scenes)), Counter())
                coverage = 100 * counts["seen_labelled"] / counts["seen"]
                wrong = 100 * counts["wrong"] / counts["labelled"]
                print(
                    f"| {rings} rings | {size[0]}x{size[1]} | {name} | {coverage:.1f} |"
                    f" {wrong:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
