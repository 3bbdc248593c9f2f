"""Simulates a spinning lidar beside the camera of a synthetic frame.

The lidar only sees what the camera sees too: a ray is followed through the depth image until it
meets a surface. A ray that passes behind something has no return, because what is there is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import SettingsError
from upsnet_ros.synthetic.canvas import Array, Camera
from upsnet_ros.synthetic.labels import VOID
from upsnet_ros.synthetic.renderer import SceneFrame

#: A point as a lidar measures it: coordinates in metres in the lidar's frame, the brightness of
#: what it hit (0 to 255), and the number of the laser from below.
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2")])
#: What the point belongs to: a class id (0: void), the instance's number within its class (0: none)
#: and whether it is an object outside the classes.
TRUTH_FIELDS = np.dtype([("class_id", "<u2"), ("instance_id", "<u2"), ("unknown", "u1")])

# Position in the lidar's frame (x forward, y left, z up) to that in the camera's optical frame
# (x right, y down, z forward).
_TO_OPTICAL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lidar:
    """A spinning lidar that is mounted parallel to the camera.

    Attributes:
        rings: Number of lasers.
        lowest: Elevation of the lowest laser, degrees.
        highest: Elevation of the highest laser, degrees.
        step: Degrees of azimuth between two measurements of a laser.
        position: x, y, z of the lidar in the camera's optical frame, metres.
        reach: Largest depth that it measures, metres.

    Raises:
        SettingsError: If a value is out of range.
    """

    rings: int = 64
    lowest: float = -24.8
    highest: float = 2.0
    step: float = 0.2
    position: tuple[float, float, float] = (0.0, -0.3, -0.4)
    reach: float = 100.0

    def __post_init__(self) -> None:
        if self.rings < 1 or not self.step > 0 or not self.reach > 0:
            raise SettingsError("a lidar needs rings, a step and a reach that are positive")
        if not -90 < self.lowest <= self.highest < 90:
            raise SettingsError(
                f"elevations from {self.lowest} to {self.highest} degrees: they must ascend,"
                " between -90 and 90"
            )

    @property
    def extrinsics(self) -> tuple[float, ...]:
        """Pose in the camera's optical frame: x, y, z, then the quaternion qx, qy, qz, qw."""
        return (*self.position, 0.5, -0.5, 0.5, 0.5)

    def rays(self, camera: Camera) -> tuple[Array, npt.NDArray[np.uint16]]:
        """Return the rays of one turn that may lie in the image of the camera.

        Returns:
            Unit vectors (N, 3) in the camera's optical frame, ring by ring; rings, uint16 (N,).
        """
        half = np.degrees(np.arctan(camera.columns / 2 / camera.focal))
        count = int(half / self.step) + 1
        azimuth = np.radians(np.arange(count, -count - 1, -1) * self.step)
        elevation = np.radians(np.linspace(self.lowest, self.highest, self.rings))
        up, left = np.meshgrid(elevation, azimuth, indexing="ij")
        directions = np.stack(
            [np.cos(up) * np.cos(left), np.cos(up) * np.sin(left), np.sin(up)], axis=-1
        )
        rings = np.repeat(np.arange(self.rings, dtype=np.uint16), len(azimuth))
        return directions.reshape(-1, 3) @ _TO_OPTICAL.T, rings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """The points of one turn, ring by ring, each from left to right.

    Attributes:
        points: (N,) of `POINT`.
        truth: (N,) of `TRUTH_FIELDS`.
        pixels: int64 (N,), pixel of each point: ``row * columns + column``.
    """

    points: npt.NDArray[np.void]
    truth: npt.NDArray[np.void]
    pixels: npt.NDArray[np.int64]


def sweep(frame: SceneFrame, lidar: Lidar | None = None) -> Sweep:
    """Return the points that a lidar measures; N is 0 if nothing is within reach.

    A point lies on the surface at the centre of the pixel that its ray meets, so that its truth is
    that of the pixel. Its distance to the ray is less than a pixel, or up to three pixels at the
    edge of an object.
    """
    lidar = lidar or Lidar()
    directions, rings = lidar.rays(frame.camera)
    pixels = _follow(frame, lidar, directions)
    hit = pixels >= 0
    pixels, rings = pixels[hit], rings[hit]
    camera = frame.camera
    v, u = np.divmod(pixels, camera.columns)
    depth = frame.depth.reshape(-1)[pixels].astype(np.float64)
    seen = np.stack(
        [
            (u - (camera.columns - 1) / 2) / camera.focal * depth,
            (v - (camera.rows - 1) / 2) / camera.focal * depth,
            depth,
        ],
        axis=1,
    )
    own = (seen - np.array(lidar.position)) @ _TO_OPTICAL
    points = np.zeros(len(pixels), POINT)
    points["x"], points["y"], points["z"] = own.T
    grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY))
    points["intensity"] = grey.reshape(-1)[pixels]
    points["ring"] = rings
    labels = frame.instances.reshape(-1)[pixels]
    truth = np.zeros(len(pixels), TRUTH_FIELDS)
    numbered = labels >= 1000
    truth["class_id"] = np.where(numbered, labels // 1000, np.maximum(labels, VOID))
    truth["instance_id"] = np.where(numbered, labels % 1000, 0)
    truth["unknown"] = frame.unknown.reshape(-1)[pixels]
    return Sweep(points=points, truth=truth, pixels=pixels)


def _follow(frame: SceneFrame, lidar: Lidar, directions: Array) -> npt.NDArray[np.int64]:
    """Return the pixel (N,) where each ray meets a surface; -1 where it meets none.

    On a ray, the column and the row in the image are linear in w = 1 / depth. The ray is followed
    from near to far in steps of w in which it moves by at most a pixel.
    """
    camera, origin = frame.camera, np.array(lidar.position)
    inverse = np.where(np.isfinite(frame.depth), 1 / frame.depth, 0).reshape(-1)
    found = np.full(len(directions), -1, np.int64)
    rays = np.flatnonzero(directions[:, 2] > 1e-6)
    slope = directions[rays, :2] / directions[rays, 2:]
    far = slope * camera.focal + np.array([(camera.columns - 1) / 2, (camera.rows - 1) / 2])
    shift = (origin[:2] - slope * origin[2]) * camera.focal
    longest = float(np.abs(shift).max(initial=1.0))
    nearest, farthest = float(inverse.max()), 1 / lidar.reach
    if nearest <= farthest:
        return found
    count = int(np.ceil((nearest - farthest) * longest)) + 1
    steps, step = np.linspace(nearest, farthest, count + 1, retstep=True)
    # Whether the ray was in sight and before all surfaces at its last step.
    clear = np.ones(len(rays), bool)
    for w in steps:
        uv = np.rint(far + shift * w).astype(np.int64)
        inside = (uv >= 0).all(axis=1) & (uv < (camera.columns, camera.rows)).all(axis=1)
        pixels = np.where(inside, uv[:, 1] * camera.columns + uv[:, 0], 0)
        surface = np.where(inside, inverse[pixels], 0)
        met = surface >= w
        # A surface much nearer than the last step is not met: the ray passes behind it.
        returned = met & clear & (surface <= w - 2 * step)
        found[rays[returned]] = pixels[returned]
        kept = ~met
        rays, far, shift, clear = rays[kept], far[kept], shift[kept], inside[kept]
        if not len(rays):
            break
    return found
