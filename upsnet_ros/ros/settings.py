"""The node's settings: the one place where a parameter's name, default, range and text stand.

`NodeSettings` is plain data and needs no ROS. The node declares its parameters from it
(`upsnet_ros.ros.parameters`); `upsnet node --help`, the launch arguments, ``config/camera.yaml``
and the README's table are made from it or tested against it (`upsnet_ros.ros.settings_text`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from upsnet_ros.inference.frame import LABEL_DIVISOR
from upsnet_ros.ros.parameter_info import (
    Changes,
    ParameterInfo,
    SettingsError,
    Value,
    check_all,
    infos,
    parameter,
)
from upsnet_ros.weights import shipped_weights

__all__ = ["Changes", "NodeSettings", "ParameterInfo", "SettingsError", "Value", "parameters"]

_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
# What a relative ROS name may be made of; a camera's name becomes a part of its topics' names.
_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The node's parameters, checked. See each field's text, or ``config/camera.yaml``.

    Raises:
        SettingsError: Where a value is of the wrong type, out of range or makes no sense.
    """

    weights: str = parameter(
        "",
        "Checkpoint file: an official UPSNet .pth, or a .safetensors of this project. Empty: those"
        " that ship, made on drawn driving scenes.",
        group="Model",
        changes=Changes.RELOADED,
    )
    weights_folder: str = parameter(
        "",
        "Folder that the parameter weights may name files of once the node has started; empty: the"
        " folder of the weights that it was started with. Who can set parameters can thus make the"
        " node read no other file.",
        group="Model",
        changes=Changes.NEVER,
    )
    variant: str = parameter(
        "auto",
        "Network variant; the weights must be of the same. auto: that of the weights.",
        group="Model",
        choices=(
            "auto",
            "cityscapes-r50",
            "cityscapes-r101-coco",
            "coco-r50",
            "coco-r101-dcn",
            "cityscapes-r18",
        ),
    )
    device: str = parameter(
        "auto",
        "Where the network runs: auto, cpu, cuda or cuda:N. auto takes the first GPU, if any.",
        group="Model",
    )
    precision: str = parameter(
        "auto",
        "Arithmetic of the network. fp16 needs a GPU; bf16 also halves the time of CPUs that have"
        " AVX512-BF16 or AMX. auto: fp16 on a GPU, bf16 on such CPUs, else fp32, which is exact.",
        group="Model",
        choices=("auto", "fp32", "fp16", "bf16"),
    )
    scale: int = parameter(
        0,
        "Short side in pixels at which the network runs; labels come at the image's own size all"
        " the same. 0: the variant's own. Less is faster and sees less; at least 32.",
        group="Model",
        limits=(0, 4096),
    )
    label_resize: str = parameter(
        "nearest",
        "How results come to the image's size where scale differs from it. nearest: the nearest"
        " pixel's label, as the original does. bilinear: smooth outlines, a little slower.",
        group="Model",
        choices=("nearest", "bilinear"),
    )
    allow_random_weights: bool = parameter(
        False,
        "Run with random weights where no weights are given, rather than with those that ship. The"
        " results mean nothing, and every diagnostics message says so; for trying out the"
        " plumbing.",
        group="Model",
    )
    score_threshold: float = parameter(
        0.6,
        "Things that the box head scores lower than this are left out.",
        group="Model",
        changes=Changes.ALWAYS,
        limits=(0.0, 0.99),
    )
    unknown_threshold: float = parameter(
        0.5,
        "Unknown score that a pixel must exceed to be unknown. 0.5 is the paper's; less finds more"
        " unknown objects, and takes more pixels from what is known.",
        group="Model",
        changes=Changes.ALWAYS,
        limits=(0.01, 0.99),
    )
    batch: int = parameter(
        0,
        "Cameras whose frames the network takes together at most, where they wait and are of one"
        " size; a lone frame waits for no other. 0: up to 4 on a GPU, where that is faster, and 1"
        " on a CPU, where it is not.",
        group="Model",
        limits=(0, 8),
    )
    warm_up: str = parameter(
        "auto",
        "Size of a frame that configure and ~/reload_weights compute for nobody, so that the first"
        " camera frame is not slow: WIDTHxHEIGHT, such as 1920x1080; auto for the sizes of the last"
        " frames, and the network's own before any frame came; or none.",
        group="Model",
    )
    tracking: bool = parameter(
        False,
        "Give things a track_id that they keep from frame to frame; instances carries it, and the"
        " overlay shows it. Each camera is followed by itself, anew after activate, a gap of more"
        " than 3 s, and stamps that go backwards.",
        group="Model",
        changes=Changes.ALWAYS,
    )
    measure_stages: bool = parameter(
        True,
        "Time every stage of the network for the diagnostics.",
        group="Model",
    )
    cameras: tuple[str, ...] = parameter(
        ("",),
        "Names of the cameras. Camera front is read from front/image and answered on front/labels"
        " and so on. The one empty name stands for a single camera on image, answered on labels.",
        group="Cameras",
        changes=Changes.NEVER,
    )
    image_transport: str = parameter(
        "raw",
        "raw reads sensor_msgs/Image from image; compressed reads sensor_msgs/CompressedImage (JPEG"
        " or PNG) from image/compressed.",
        group="Cameras",
        changes=Changes.NEVER,
        choices=("raw", "compressed"),
    )
    image_reliability: str = parameter(
        "best_effort",
        "Reliability asked of the cameras' publishers. best_effort joins both kinds of publishers;"
        " reliable only reliable ones. For more, use qos_overrides.",
        group="Cameras",
        changes=Changes.NEVER,
        choices=("best_effort", "reliable"),
    )
    max_rate: float = parameter(
        0.0,
        "Frames per second that are taken of each camera at most; 0 takes all.",
        group="Cameras",
        changes=Changes.ALWAYS,
        limits=(0.0, 1000.0),
    )
    publish_labels: bool = parameter(
        True,
        "Publish labels: the id of every pixel's segment.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_instances: bool = parameter(
        True,
        "Publish instances: the table of segments with masks.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_unknown_mask: bool = parameter(
        True,
        "Publish unknown_mask: 255 where the unknown channel won.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_unknown_score: bool = parameter(
        False,
        "Publish unknown_score: how near the unknown channel came, 0 to 255.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_semantic: bool = parameter(
        False,
        "Publish semantic and confidence: class id of every pixel (255 unlabelled), and how sure it"
        " is, 0 to 255.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_overlay: bool = parameter(
        True,
        "Publish overlay: the picture with the segments drawn on it. Drawn only while somebody"
        " subscribes.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_detections: bool = parameter(
        True,
        "Publish detections and vision_label_info, the things and the classes in the messages of"
        " vision_msgs, where that package is installed.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    labels_encoding: str = parameter(
        "auto",
        "Encoding of labels. auto: 16UC1, or 32SC1 where the dataset's ids need it (COCO).",
        group="Outputs",
        choices=("auto", "16UC1", "32SC1"),
    )
    unknown_min_area: int = parameter(
        64,
        "Regions of the unknown mask with fewer pixels are not listed in instances.",
        group="Outputs",
        changes=Changes.ALWAYS,
        limits=(1, 1_000_000),
    )
    overlay_alpha: float = parameter(
        0.5,
        "How much of the overlay's colour is the segment's.",
        group="Outputs",
        changes=Changes.ALWAYS,
        limits=(0.0, 1.0),
    )
    autostart: bool = parameter(
        True,
        "Configure and activate at start. Set to false where a lifecycle manager does that.",
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
        2.0,
        "Seconds without a frame after which a camera is reported as stale.",
        group="Health",
        changes=Changes.ALWAYS,
        limits=(0.1, 3600.0),
    )

    def __post_init__(self) -> None:
        check_all(self)
        if 0 < self.scale < 32:
            raise SettingsError(f"scale must be at least 32, or 0, not {self.scale}")
        if self.warm_up not in ("auto", "none") and self.warm_up_size is None:
            raise SettingsError(
                f"warm_up must be auto, none or a size such as 1920x1080, not {self.warm_up!r}"
            )
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

    @property
    def warm_up_size(self) -> tuple[int, int] | None:
        """Width and height that ``warm_up`` names, pixels; None where it names none."""
        match = _SIZE.fullmatch(self.warm_up)
        return (int(match[1]), int(match[2])) if match else None

    def require_weights(self) -> None:
        """Raises `SettingsError` where there are neither weights nor leave to do without."""
        if self.weights or self.allow_random_weights:
            return
        if self.variant != "auto" and shipped_weights(self.variant) is None:
            raise SettingsError(
                "no weights: set the parameter weights to an UPSNet checkpoint (.pth or"
                " .safetensors), variant to auto for the weights that ship, or"
                " allow_random_weights to true to try the node without"
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
    return infos(NodeSettings)
