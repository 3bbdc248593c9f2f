"""The node's settings: the single source of every parameter's name, default, range and description.

`NodeSettings` is plain data and needs no ROS. The node declares its parameters from it (see
`upsnet_ros.node.parameter_server`); `upsnet node --help`, the launch arguments,
``config/camera.yaml`` and docs/parameters.md are made from it or tested against it:
``python -m upsnet_ros.node.parameters yaml`` (or ``markdown``) prints them.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.errors import SettingsError
from upsnet_ros.inference.frame import LABEL_DIVISOR
from upsnet_ros.node.parameter_info import (
    Changes,
    ParameterInfo,
    as_markdown,
    as_yaml,
    check_all,
    infos,
    parameter,
)
from upsnet_ros.weights import SHIPPED_VARIANT, name_of, shipped_weights

_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
# A relative ROS name, since a camera's name becomes part of its topic names.
_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The node's parameters, checked. See each field's text, or ``config/camera.yaml``.

    Raises:
        SettingsError: If a value is of the wrong type, out of range or invalid.
    """

    weights: str = parameter(
        "",
        "Weights: a name of `upsnet weights list` such as coco-fpn-r50, or a file, an official"
        " UPSNet .pth or a .safetensors. Empty: the bundled ones, trained on synthetic streets.",
        group="Model",
        changes=Changes.RELOADED,
    )
    weights_folder: str = parameter(
        "",
        "After start-up, weights may only be set to files in this folder (empty: the folder of the"
        " initial weights), or to a name, which leads to the folder of downloaded weights only."
        " Parameter access thus cannot be used to read other files.",
        group="Model",
        changes=Changes.NEVER,
    )
    variant: str = parameter(
        "auto",
        "Network variant, which must be that of the weights. auto: the variant of the weights.",
        group="Model",
        choices=(
            "auto",
            "cityscapes-r50",
            "cityscapes-r101-coco",
            "coco-r50",
            "coco-r101-dcn",
            "coco-fpn-r50",
            "coco-fpn-r101",
            "cityscapes-r18",
        ),
    )
    device: str = parameter(
        "auto",
        "Device of the network: auto, cpu, cuda or cuda:N. auto: the first GPU if there is one.",
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
        "Short side, in pixels, of the network's input; labels always have the image's size. 0: the"
        " variant's default. Smaller is faster and less accurate; at least 32.",
        group="Model",
        limits=(0, 4096),
    )
    label_resize: str = parameter(
        "nearest",
        "How results are resized to the camera image if scale differs from its size. nearest: the"
        " nearest pixel's label, as in the original. bilinear: smooth outlines, a little slower;"
        " coco-fpn variants always use it.",
        group="Model",
        choices=("nearest", "bilinear"),
    )
    merge: str = parameter(
        "auto",
        "How instances and semantic labels are merged. upsnet: by the panoptic head, which detects"
        " unknown objects. heuristic: instances by score, then stuff; unknown where the semantic"
        " head predicts a thing but no instance is. auto: heuristic for coco-fpn variants, whose"
        " published quality was measured with it; upsnet for the others.",
        group="Model",
        choices=("auto", "upsnet", "heuristic"),
    )
    label_map: str = parameter(
        "",
        "YAML file that renames and merges the classes of the weights into another taxonomy, or the"
        " name of one that ships, such as coco_to_cityscapes. Empty: the classes of the weights.",
        group="Model",
        changes=Changes.NEVER,
    )
    allow_random_weights: bool = parameter(
        False,
        "Use random weights instead of the bundled ones if no weights are given. The results are"
        " meaningless, and every diagnostics message says so; for tests of the integration.",
        group="Model",
    )
    score_threshold: float = parameter(
        -1.0,
        "Things with a lower score of the box head are discarded. Negative: the variant's own, 0.6,"
        " and 0.5 for coco-fpn variants.",
        group="Model",
        changes=Changes.ALWAYS,
        limits=(-1.0, 0.99),
    )
    unknown_threshold: float = parameter(
        0.5,
        "Unknown score above which a pixel is unknown. 0.5 is the paper's; lower values find more"
        " unknown objects, and label more pixels of known objects as unknown.",
        group="Model",
        changes=Changes.ALWAYS,
        limits=(0.01, 0.99),
    )
    batch: int = parameter(
        0,
        "Maximum batch size. Only frames of different cameras that are already queued and have the"
        " same size are batched; a single frame is never delayed. 0: 4 on a GPU; 1 on a CPU, where"
        " batches are not faster.",
        group="Model",
        limits=(0, 8),
    )
    warm_up: str = parameter(
        "auto",
        "Size of the dummy frame that is run during configure and ~/reload_weights, so that the"
        " first camera frame is not slow: WIDTHxHEIGHT, such as 1920x1080; auto (the sizes of the"
        " last frames; before the first frame, the network's own size); or none.",
        group="Model",
    )
    tracking: bool = parameter(
        False,
        "Give things a track_id that they keep from frame to frame, in instances and on overlay."
        " Each camera is tracked separately. Tracks are reset by activate, a gap of more than 3 s,"
        " and stamps that go backwards.",
        group="Model",
        changes=Changes.ALWAYS,
    )
    measure_stages: bool = parameter(
        True,
        "Measure the time of every stage of the network, for the diagnostics.",
        group="Model",
    )
    self_test: bool = parameter(
        True,
        "Test a GPU's kernels in a child process before the node uses them, once for each GPU,"
        " driver and image size; kernels that fail are disabled.",
        group="Model",
    )
    cameras: tuple[str, ...] = parameter(
        ("",),
        "Names of the cameras. Images of camera front are read from front/image; its results are"
        " published on front/labels and so on. A single empty name stands for one camera on image,"
        " with results on labels and so on.",
        group="Cameras",
        changes=Changes.NEVER,
    )
    image_transport: str = parameter(
        "raw",
        "raw reads sensor_msgs/Image from image; compressed reads sensor_msgs/CompressedImage"
        " (JPEG, PNG or TIFF) from image/compressed.",
        group="Cameras",
        changes=Changes.NEVER,
        choices=("raw", "compressed"),
    )
    image_reliability: str = parameter(
        "best_effort",
        "Reliability QoS of the image subscriptions. best_effort matches all publishers, reliable"
        " only reliable ones. For other QoS policies use qos_overrides.",
        group="Cameras",
        changes=Changes.NEVER,
        choices=("best_effort", "reliable"),
    )
    max_rate: float = parameter(
        0.0,
        "Maximum number of frames per second of each camera; 0: no limit.",
        group="Cameras",
        changes=Changes.ALWAYS,
        limits=(0.0, 1000.0),
    )
    publish_labels: bool = parameter(
        True,
        "Publish labels: the segment id of every pixel.",
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
        "Publish unknown_mask: 255 on unknown pixels.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_unknown_score: bool = parameter(
        False,
        "Publish unknown_score: score of the unknown channel, 0 to 255. Computed only while there"
        " are subscribers.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_semantic: bool = parameter(
        True,
        "Publish semantic and confidence: class id of every pixel (255: unlabelled) and its"
        " confidence, 0 to 255. Computed only while there are subscribers.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_color_mask: bool = parameter(
        True,
        "Publish color_mask: every pixel in the colour of its class, black if it has none. Drawn"
        " only while there are subscribers.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_overlay: bool = parameter(
        True,
        "Publish overlay: the image with the segments drawn on it. Drawn only while there are"
        " subscribers.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_detections: bool = parameter(
        True,
        "Publish detections and vision_label_info: things and classes as vision_msgs messages, if"
        " that package is installed.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    publish_camera_info: bool = parameter(
        True,
        "Publish camera_info: the camera's own, unchanged, for each result. Read from the topic"
        " camera_info beside the camera's images while there are subscribers. Not published if both"
        " are the same topic.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    classes: str = parameter(
        "",
        "Classes to publish, by name or id, separated by commas, such as person,car. Empty: all."
        " Segments of other classes are left out everywhere: their pixels are void (0) in labels,"
        " 255 in semantic and black in color_mask. Tracks, unknown_mask and label_info do not"
        " change.",
        group="Outputs",
        changes=Changes.ALWAYS,
    )
    labels_encoding: str = parameter(
        "auto",
        "Encoding of labels. auto: 16UC1, or 32SC1 if the dataset's ids need it (COCO).",
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
        "Opacity of the segments' colours on the overlay.",
        group="Outputs",
        changes=Changes.ALWAYS,
        limits=(0.0, 1.0),
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
        2.0,
        "Seconds without an image after which a camera is reported as stale.",
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

    def score_threshold_or(self, own: float) -> float:
        """The score threshold, or the variant's own where none is set."""
        return own if self.score_threshold < 0 else self.score_threshold

    @property
    def warm_up_size(self) -> tuple[int, int] | None:
        """Width and height in ``warm_up``, pixels; None for auto and none."""
        match = _SIZE.fullmatch(self.warm_up)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def model_text(self) -> str:
        """Description of the model to load: weights, variant, device and precision."""
        shipped = "random weights" if self.allow_random_weights else "the bundled weights"
        return (
            f"{self.weights or shipped} (variant {self.variant}, device {self.device}, precision"
            f" {self.precision})"
        )

    def require_weights(self) -> None:
        """Raise `SettingsError` if there are no weights and random ones are not allowed."""
        if self.weights or self.allow_random_weights:
            return
        if self.variant != "auto" and shipped_weights(self.variant) is None:
            raise SettingsError(
                "no weights: set the parameter weights to a name such as coco-fpn-r50 or to a"
                " checkpoint (.pth or .safetensors), variant to auto for the bundled weights, or"
                " allow_random_weights to true to try the node without"
            )

    def check_classes(self) -> Taxonomy | None:
        """Check `classes` and `label_map` where the variant is known before weights are read.

        Returns:
            The classes of the results; None where they are not known yet.

        Raises:
            SettingsError: The label map cannot be used for the variant's classes, or ``classes``
                names one that there is not.
        """
        from upsnet_ros.datasets.label_map import read_label_map
        from upsnet_ros.datasets.taxonomy import get_taxonomy
        from upsnet_ros.network.variants import get_variant

        label_map = read_label_map(self.label_map) if self.label_map else None
        variant = self.variant if self.variant != "auto" else name_of(self.weights)
        if variant is None and not self.weights and not self.allow_random_weights:
            variant = SHIPPED_VARIANT
        taxonomy = get_taxonomy(get_variant(variant).dataset) if variant else None
        if label_map is not None:
            if taxonomy is not None:
                label_map.check_source(taxonomy)
            taxonomy = label_map.taxonomy
        if taxonomy is not None:
            self.class_ids(taxonomy)
        return taxonomy

    def class_ids(self, taxonomy: Taxonomy) -> frozenset[int] | None:
        """Return the ids of the classes to publish; None for all.

        Raises:
            SettingsError: ``classes`` names one that the taxonomy does not have.
        """
        names = [name for name in self.classes.split(",") if name.strip()]
        try:
            return taxonomy.ids_of(names) if names else None
        except SettingsError as error:
            raise SettingsError(f"classes: {error}") from None

    def resolved_labels_encoding(self, largest_class_id: int) -> str:
        """Return the encoding of `labels` for a dataset, given its largest public id.

        Raises:
            SettingsError: If 16UC1 was set and cannot hold the ids.
        """
        fits = largest_class_id * LABEL_DIVISOR + LABEL_DIVISOR - 1 <= 0xFFFF
        if self.labels_encoding == "auto":
            return "16UC1" if fits else "32SC1"
        if self.labels_encoding == "16UC1" and not fits:
            raise SettingsError("labels_encoding: this dataset's ids do not fit 16UC1; use 32SC1")
        return self.labels_encoding


def parameters() -> tuple[ParameterInfo, ...]:
    """Return all parameters of the node, in the order in which users see them."""
    return infos(NodeSettings)


_GROUP = "Of one camera"


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraSettings:
    """The parameters of one camera, checked. See each field's text, or ``config/cameras4.yaml``.

    Raises:
        SettingsError: If a value is of the wrong type or out of range.
    """

    topic: str = parameter(
        "",
        "Topic of the images, which can be remapped. Empty: the camera's name followed by /image.",
        group=_GROUP,
        changes=Changes.NEVER,
    )
    image_transport: str = parameter(
        "",
        "As the node's parameter, which is used if this is empty.",
        group=_GROUP,
        changes=Changes.NEVER,
        choices=("", "raw", "compressed"),
    )
    image_reliability: str = parameter(
        "",
        "As the node's parameter, which is used if this is empty.",
        group=_GROUP,
        changes=Changes.NEVER,
        choices=("", "best_effort", "reliable"),
    )
    max_rate: float = parameter(
        -1.0,
        "As the node's parameter, which is used if this is negative.",
        group=_GROUP,
        changes=Changes.ALWAYS,
        limits=(-1.0, 1000.0),
    )

    def __post_init__(self) -> None:
        check_all(self)

    def within(self, node: NodeSettings, *, camera: str) -> CameraSettings:
        """Return these settings with the node's values filled in."""
        return CameraSettings(
            topic=self.topic or (f"{camera}/image" if camera else "image"),
            image_transport=self.image_transport or node.image_transport,
            image_reliability=self.image_reliability or node.image_reliability,
            max_rate=node.max_rate if self.max_rate < 0 else self.max_rate,
        )


def camera_parameters() -> tuple[ParameterInfo, ...]:
    """Return all parameters of a camera, in the order in which users see them."""
    return infos(CameraSettings)


def prefix(camera: str) -> str:
    """Return the prefix of the names of a camera's parameters."""
    return f"{camera.replace('/', '.')}."


if __name__ == "__main__":
    formats = {"yaml": as_yaml, "markdown": as_markdown}
    if len(sys.argv) != 2 or sys.argv[1] not in formats:
        sys.exit(f"usage: python -m upsnet_ros.node.parameters {'|'.join(formats)}")
    sys.stdout.write(formats[sys.argv[1]](parameters(), camera_parameters()))
