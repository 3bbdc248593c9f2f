"""What can be set for each camera of a node with several: parameters `<camera>.<name>`."""

from __future__ import annotations

from dataclasses import dataclass

from upsnet_ros.ros.parameter_info import Changes, ParameterInfo, check_all, infos, parameter
from upsnet_ros.ros.settings import NodeSettings

__all__ = ["CameraSettings", "camera_parameters", "prefix"]

_GROUP = "Of one camera"


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraSettings:
    """The parameters of one camera, checked. See each field's text, or ``config/cameras4.yaml``.

    Raises:
        SettingsError: Where a value is of the wrong type or out of range.
    """

    topic: str = parameter(
        "",
        "Topic of the images, which is remapped as any other; empty for the camera's name with"
        " /image behind it.",
        group=_GROUP,
        changes=Changes.NEVER,
    )
    image_transport: str = parameter(
        "",
        "As the node's, which holds where this is empty.",
        group=_GROUP,
        changes=Changes.NEVER,
        choices=("", "raw", "compressed"),
    )
    image_reliability: str = parameter(
        "",
        "As the node's, which holds where this is empty.",
        group=_GROUP,
        changes=Changes.NEVER,
        choices=("", "best_effort", "reliable"),
    )
    max_rate: float = parameter(
        -1.0,
        "As the node's, which holds where this is negative.",
        group=_GROUP,
        changes=Changes.ALWAYS,
        limits=(-1.0, 1000.0),
    )

    def __post_init__(self) -> None:
        check_all(self)

    def within(self, node: NodeSettings, *, camera: str) -> CameraSettings:
        """These settings, with the node's where they leave it the choice."""
        return CameraSettings(
            topic=self.topic or (f"{camera}/image" if camera else "image"),
            image_transport=self.image_transport or node.image_transport,
            image_reliability=self.image_reliability or node.image_reliability,
            max_rate=node.max_rate if self.max_rate < 0 else self.max_rate,
        )


def camera_parameters() -> tuple[ParameterInfo, ...]:
    """All parameters of a camera, in the order in which they are listed to users."""
    return infos(CameraSettings)


def prefix(camera: str) -> str:
    """What the names of a camera's parameters begin with."""
    return f"{camera.replace('/', '.')}."
