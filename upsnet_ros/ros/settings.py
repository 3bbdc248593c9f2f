"""The node's settings: the one place where a parameter's name, default, range and text stand.

`NodeSettings` is plain data and needs no ROS. The node declares its parameters from it
(`upsnet_ros.ros.parameters`); `upsnet node --help`, the launch arguments, ``config/camera.yaml``
and the README's table are made from it or tested against it (`upsnet_ros.ros.settings_text`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from upsnet_ros.inference.frame import LABEL_DIVISOR

__all__ = ["Changes", "NodeSettings", "ParameterInfo", "SettingsError", "parameters"]

#: A parameter's value. A list of strings is a tuple here, so that settings stay immutable.
Value = bool | int | float | str | tuple[str, ...]

# What a relative ROS name may be made of; a camera's name becomes a part of its topics' names.
_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")


class SettingsError(ValueError):
    """A parameter's value cannot be used; the message names the parameter and what it may be."""


class Changes(Enum):
    """When a parameter may change."""

    NEVER = "fixed at start"
    UNCONFIGURED = "read at configure"
    ALWAYS = "any time"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterInfo:
    """What is known of one parameter.

    Attributes:
        name: Its ROS name, and the name of the field of `NodeSettings`.
        default: Its default; the type of this value is the parameter's type.
        text: What it does, in whole sentences.
        group: The heading under which it is listed.
        changes: When it may change.
        minimum: Smallest value, of a number.
        maximum: Largest value, of a number.
        choices: All values, where there are few.
    """

    name: str
    default: Value
    text: str
    group: str
    changes: Changes
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def ros_type(self) -> str:
        """The type's name as ``ros2 param describe`` prints it."""
        names = {bool: "boolean", int: "integer", float: "double", str: "string"}
        return names.get(type(self.default), "string array")

    @property
    def constraint(self) -> str:
        """The range or the choices in words; empty where every value is good."""
        if self.choices:
            return "one of " + ", ".join(choice or '""' for choice in self.choices)
        if self.minimum is None or self.maximum is None:
            return ""
        return f"{self.minimum} to {self.maximum}"

    def check(self, value: object) -> None:
        """Raises `SettingsError` where ``value`` is of the wrong type or out of range."""
        if type(value) is not type(self.default):
            raise SettingsError(f"{self.name} must be of type {self.ros_type}, not {value!r}")
        if self.choices and value not in self.choices:
            raise SettingsError(f"{self.name} must be {self.constraint}, not {value!r}")
        if self.minimum is None or self.maximum is None or not isinstance(value, int | float):
            return
        if not self.minimum <= value <= self.maximum:  # NaN is refused too
            raise SettingsError(f"{self.name} must be {self.constraint}, not {value!r}")


def _parameter(
    default: Value,
    text: str,
    *,
    group: str,
    changes: Changes = Changes.UNCONFIGURED,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    minimum, maximum = limits if limits else (None, None)
    info = {
        "default": default,
        "text": text,
        "group": group,
        "changes": changes,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
    }
    return field(default=default, metadata={"parameter": info})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The node's parameters, checked. See each field's text, or ``config/camera.yaml``.

    Raises:
        SettingsError: Where a value is of the wrong type, out of range or makes no sense.
    """

    weights: str = _parameter(
        "",
        "Checkpoint file: an official UPSNet .pth, or a .safetensors of this project. The node does"
        " not configure without one, unless allow_random_weights is set.",
        group="Model",
    )
    variant: str = _parameter(
        "cityscapes-r50",
        "Network variant; the weights must be of the same.",
        group="Model",
        choices=(
            "cityscapes-r50",
            "cityscapes-r101-coco",
            "coco-r50",
            "coco-r101-dcn",
            "cityscapes-r18",
        ),
    )
    device: str = _parameter(
        "auto",
        "Where the network runs: auto, cpu, cuda or cuda:N. auto takes the first GPU, if any.",
        group="Model",
    )
    precision: str = _parameter(
        "fp32",
        "Arithmetic of the network. fp16 needs a GPU; bf16 also halves the time of CPUs that have"
        " AVX512-BF16 or AMX.",
        group="Model",
        choices=("fp32", "fp16", "bf16"),
    )
    scale: int = _parameter(
        0,
        "Short side in pixels at which the network runs; labels come at the image's own size all"
        " the same. 0: the variant's own. Less is faster and sees less; at least 32.",
        group="Model",
        limits=(0, 4096),
    )
    label_resize: str = _parameter(
        "nearest",
        "How results come to the image's size where scale differs from it. nearest: the nearest"
        " pixel's label, as the original does. bilinear: smooth outlines, a little slower.",
        group="Model",
        choices=("nearest", "bilinear"),
    )
    allow_random_weights: bool = _parameter(
        False,
        "Run with random weights where no weights are given. The results mean nothing, and every"
        " diagnostics message says so; for trying out the plumbing.",
        group="Model",
    )
    score_threshold: float = _parameter(
        0.6,
        "Things that the box head scores lower than this are left out.",
        group="Model",
        changes=Changes.ALWAYS,
        limits=(0.0, 0.99),
    )
    measure_stages: bool = _parameter(
        True,
        "Time every stage of the network for the diagnostics.",
        group="Model",
    )
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Names of the cameras. Camera front is read from front/image and answered on front/labels"
        " and so on. The one empty name stands for a single camera on image, answered on labels.",
        group="Cameras",
        changes=Changes.NEVER,
    )
    image_transport: str = _parameter(
        "raw",
        "raw reads sensor_msgs/Image from image; compressed reads sensor_msgs/CompressedImage (JPEG"
        " or PNG) from image/compressed.",
        group="Cameras",
        changes=Changes.NEVER,
        choices=("raw", "compressed"),
    )
    image_reliability: str = _parameter(
        "best_effort",
        "Reliability asked of the cameras' publishers. best_effort joins both kinds of publishers;"
        " reliable only reliable ones. For more, use qos_overrides.",
        group="Cameras",
        changes=Changes.NEVER,
        choices=("best_effort", "reliable"),
    )
    publish_labels: bool = _parameter(
        True, "Publish labels: the id of every pixel's segment.", group="Outputs"
    )
    publish_instances: bool = _parameter(
        True, "Publish instances: the table of segments with masks.", group="Outputs"
    )
    publish_unknown_mask: bool = _parameter(
        True, "Publish unknown_mask: 255 where the unknown channel won.", group="Outputs"
    )
    publish_unknown_score: bool = _parameter(
        False,
        "Publish unknown_score: how near the unknown channel came, 0 to 255.",
        group="Outputs",
    )
    publish_semantic: bool = _parameter(
        False,
        "Publish semantic and confidence: class id of every pixel (255 unlabelled), and how sure it"
        " is, 0 to 255.",
        group="Outputs",
    )
    publish_overlay: bool = _parameter(
        True,
        "Publish overlay: the picture with the segments drawn on it. Drawn only while somebody"
        " subscribes.",
        group="Outputs",
    )
    labels_encoding: str = _parameter(
        "auto",
        "Encoding of labels. auto: 16UC1, or 32SC1 where the dataset's ids need it (COCO).",
        group="Outputs",
        choices=("auto", "16UC1", "32SC1"),
    )
    unknown_min_area: int = _parameter(
        64,
        "Regions of the unknown mask with fewer pixels are not listed in instances.",
        group="Outputs",
        changes=Changes.ALWAYS,
        limits=(1, 1_000_000),
    )
    overlay_alpha: float = _parameter(
        0.5,
        "How much of the overlay's colour is the segment's.",
        group="Outputs",
        changes=Changes.ALWAYS,
        limits=(0.0, 1.0),
    )
    autostart: bool = _parameter(
        True,
        "Configure and activate at start. Set to false where a lifecycle manager does that.",
        group="Health",
        changes=Changes.NEVER,
    )
    diagnostics_period: float = _parameter(
        1.0,
        "Seconds between two messages on /diagnostics.",
        group="Health",
        changes=Changes.NEVER,
        limits=(0.1, 60.0),
    )
    stale_timeout: float = _parameter(
        2.0,
        "Seconds without a frame after which a camera is reported as stale.",
        group="Health",
        changes=Changes.ALWAYS,
        limits=(0.1, 3600.0),
    )

    def __post_init__(self) -> None:
        for info in parameters():
            info.check(getattr(self, info.name))
        if 0 < self.scale < 32:
            raise SettingsError(f"scale must be at least 32, or 0, not {self.scale}")
        if not self.cameras:
            raise SettingsError('cameras must name a camera; [""] is a single one without a name')
        if len(set(self.cameras)) != len(self.cameras):
            raise SettingsError(f"cameras must differ from each other, not {list(self.cameras)}")
        for name in self.cameras:
            if name and not _CAMERA_NAME.fullmatch(name):
                raise SettingsError(
                    f"cameras: {name!r} cannot be part of a topic's name; use letters, digits and _"
                )
            if not name and len(self.cameras) > 1:
                raise SettingsError("cameras: the empty name stands for a single camera only")

    def require_weights(self) -> None:
        """Raises `SettingsError` where there are neither weights nor leave to do without."""
        if not self.weights and not self.allow_random_weights:
            raise SettingsError(
                "no weights: set the parameter weights to an UPSNet checkpoint (.pth or"
                " .safetensors), or allow_random_weights to true to try the node without"
            )

    def resolved_labels_encoding(self, largest_class_id: int) -> str:
        """The encoding of `labels` for a dataset whose largest public id is given.

        Raises:
            SettingsError: Where 16UC1 was asked for and cannot hold the ids.
        """
        fits = largest_class_id * LABEL_DIVISOR + LABEL_DIVISOR - 1 <= 0xFFFF
        if self.labels_encoding == "auto":
            return "16UC1" if fits else "32SC1"
        if self.labels_encoding == "16UC1" and not fits:
            raise SettingsError("labels_encoding: this dataset's ids do not fit 16UC1; use 32SC1")
        return self.labels_encoding


def parameters() -> tuple[ParameterInfo, ...]:
    """All parameters, in the order in which they are listed to users."""
    return tuple(
        ParameterInfo(name=entry.name, **entry.metadata["parameter"])
        for entry in fields(NodeSettings)
    )
