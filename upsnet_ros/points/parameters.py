"""The settings of the points node: the single source of its parameters.

``python -m upsnet_ros.points.parameters`` prints the table of docs/points.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from upsnet_ros.errors import PointsError, SettingsError
from upsnet_ros.node.parameter_info import Changes, as_markdown, check_all, infos, parameter
from upsnet_ros.points.camera_model import RigidTransform

#: Error where a cloud's transform must be read from /tf_static and tf2_msgs is missing.
NO_TF2_MSGS = (
    "/tf_static cannot be read: tf2_msgs is not installed. Install it (apt:"
    " ros-<distro>-tf2-msgs), or set the parameter extrinsics"
)

# Value of the parameter extrinsics where /tf_static is read instead.
_NO_EXTRINSICS = (0.0,) * 7


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsSettings:
    """The parameters of the points node, checked. See each field's text, or docs/points.md.

    Raises:
        SettingsError: If a value is of the wrong type, out of range or invalid.
    """

    input: str = parameter(
        "depth",
        "Where points come from. depth: a depth image on the topic depth, registered to the"
        " camera's image. cloud: a point cloud on the topic points_in, as of a lidar.",
        group="Input",
        changes=Changes.NEVER,
        choices=("depth", "cloud"),
    )
    extrinsics: tuple[float, ...] = parameter(
        _NO_EXTRINSICS,
        "Pose of the cloud's frame in the camera's optical frame: x, y, z in metres, then the unit"
        " quaternion qx, qy, qz, qw. All 0: read from /tf_static, between the frame of the cloud"
        " and that of the labels.",
        group="Input",
    )
    rectified: bool = parameter(
        False,
        "Whether the segmented images are rectified (image_rect): uses P of camera_info without"
        " distortion, rather than K and D.",
        group="Input",
    )
    organized: bool = parameter(
        False,
        "Whether points of depth images form a grid of the image's size, row by row, with NaN"
        " coordinates where there is no depth. False: one row of the pixels with a depth. A"
        " cloud's points always keep their order.",
        group="Input",
        changes=Changes.ALWAYS,
    )
    max_offset: float = parameter(
        0.05,
        "Largest difference, in seconds, between the stamps of a cloud and of the labels that it is"
        " paired with, which are the nearest in time. Depth images need labels of the same stamp.",
        group="Input",
        changes=Changes.ALWAYS,
        limits=(0.0, 10.0),
    )
    queue: int = parameter(
        60,
        "Maximum number of depth images or clouds that wait for labels, which come after the"
        " network's latency. When there are more, the oldest is dropped.",
        group="Input",
        limits=(1, 1000),
    )
    sensor_reliability: str = parameter(
        "best_effort",
        "Reliability QoS of the subscription to depth or points_in. best_effort matches all"
        " publishers, reliable only reliable ones.",
        group="Input",
        changes=Changes.NEVER,
        choices=("best_effort", "reliable"),
    )
    occlusion_window: int = parameter(
        -1,
        "Pixels around the pixel of a lidar point in which nearer points hide it from the camera."
        " -1: about half the distance between neighbouring points in the image, which is found for"
        " each cloud.",
        group="Labels",
        changes=Changes.ALWAYS,
        limits=(-1, 100),
    )
    occlusion_tolerance: float = parameter(
        0.1,
        "How much farther than the nearest point of the window a lidar point may be and still take"
        " the pixel's label, as a share of that distance.",
        group="Labels",
        changes=Changes.ALWAYS,
        limits=(0.0, 10.0),
    )
    object_quantile: float = parameter(
        0.02,
        "Share of an object's points that is left out at each side of its box, so that a few points"
        " of the background do not stretch it.",
        group="Objects",
        changes=Changes.ALWAYS,
        limits=(0.0, 0.15),
    )
    object_min_points: int = parameter(
        5,
        "Instances and unknown regions with fewer points are not listed in objects.",
        group="Objects",
        changes=Changes.ALWAYS,
        limits=(1, 1_000_000),
    )
    autostart: bool = parameter(
        True,
        "Configure and activate at start. Set to false if a lifecycle manager does that.",
        group="Health",
        changes=Changes.NEVER,
    )
    diagnostics_period: float = parameter(
        1.0,
        "Seconds between two messages on /diagnostics.",
        group="Health",
        changes=Changes.NEVER,
        limits=(0.1, 60.0),
    )
    stale_timeout: float = parameter(
        5.0,
        "Seconds without a message after which an input is reported as stale.",
        group="Health",
        changes=Changes.ALWAYS,
        limits=(0.1, 3600.0),
    )

    def __post_init__(self) -> None:
        check_all(self)
        try:
            _ = self.pose
        except PointsError as error:
            raise SettingsError(str(error)) from None

    @property
    def pose(self) -> RigidTransform | None:
        """Takes points of the cloud's frame to the optical frame; None to read /tf_static.

        Raises:
            PointsError: If ``extrinsics`` is no pose.
        """
        if self.extrinsics == _NO_EXTRINSICS:
            return None
        return RigidTransform.from_values(self.extrinsics, name="extrinsics")

    @property
    def reads_transforms(self) -> bool:
        """Whether the pose of clouds is read from /tf_static."""
        return self.input == "cloud" and self.pose is None

    @property
    def max_offset_ns(self) -> int:
        """``max_offset`` in nanoseconds; 0 for depth images."""
        return round(1e9 * self.max_offset) if self.input == "cloud" else 0


if __name__ == "__main__":
    sys.stdout.write(as_markdown(infos(PointsSettings)))
