"""All settings of a training run, and reading them from YAML or TOML files.

Values are validated when a settings object is created, from a file or in code; unknown keys are
errors. The defaults are recommended for new training. The published configurations, which reproduce
the original, are in ``config/train/``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from upsnet_ros.errors import DatasetError, SettingsError, listed, parse_failure
from upsnet_ros.network.variants import get_variant
from upsnet_ros.weights import find_weights

STRICT = ConfigDict(extra="forbid")

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
_Side = Annotated[int, Field(ge=32)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Quirks:
    """Faults of the original implementation, which cost accuracy; see docs/training.md.

    They are off by default and on in the published configurations.

    Attributes:
        rpn_negatives_over_positives: Anchors that match an object with an IoU below 0.3 may be
            labelled background nevertheless.
        rpn_scarce_negatives_ignored: If there are no more background anchors than requested, none
            is labelled.
        rpn_positives_without_overlap: An object that overlaps no anchor makes all anchors positive,
            since all tie for the largest IoU, zero.
        crowds_as_objects: Proposals on a crowd region are positive examples of its class and box,
            anchors on crowds are background, and their pixels are unknown to the panoptic head.
            Otherwise all of these are ignored.
        masks_by_bounds: Masks are polygons; a region gets the mask of the object whose polygon
            bounds overlap it most, rasterised over x2 - x1 pixels. Otherwise masks are bit masks; a
            region gets the mask of its own object, over the x2 - x1 + 1 pixels at which the network
            pastes it.
        crowd_shifts_panoptic_masks: In the panoptic ground truth, crowds are counted among the
            masks but not among the boxes, so masks after a crowd belong to the wrong boxes.
        diluted_losses: Ignored pixels count in the mean of the panoptic and the region-wise
            semantic loss.
        momentum_holds_rate: The learning rate is inside the momentum buffer, which is divided by
            ten when the rate is.
    """

    rpn_negatives_over_positives: bool = False
    rpn_scarce_negatives_ignored: bool = False
    rpn_positives_without_overlap: bool = False
    crowds_as_objects: bool = False
    masks_by_bounds: bool = False
    crowd_shifts_panoptic_masks: bool = False
    diluted_losses: bool = False
    momentum_holds_rate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class TargetSettings:
    """Sampling of anchors, regions and objects for the losses.

    Attributes:
        rpn_anchors: Number of anchors sampled per image.
        rpn_positives: Maximum number of positive anchors per image.
        rpn_positive_overlap: IoU from which an anchor is positive.
        rpn_negative_overlap: IoU below which an anchor may be background.
        rpn_top_n: Number of proposals kept before and after NMS.
        rois: Number of regions sampled per image for the box head.
        roi_positives: Maximum number of positive regions per image.
        roi_positive_overlap: IoU from which a region is positive; others are background.
        crowd_share: Fraction of an anchor or proposal inside a crowd above which it is ignored.
        kept_objects: Fraction of the objects that the panoptic head is given.
    """

    rpn_anchors: Count = 256
    rpn_positives: Count = 128
    rpn_positive_overlap: Share = 0.7
    rpn_negative_overlap: Share = 0.3
    rpn_top_n: Count = 2000
    rois: Count = 512
    roi_positives: Count = 128
    roi_positive_overlap: Share = 0.5
    crowd_share: Share = 0.7
    kept_objects: Share = 0.7


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class LossSettings:
    """Weights of the losses in the total loss.

    Attributes:
        rpn_class: Objectness of anchors.
        rpn_box: Box deltas of positive anchors.
        box_class: Class of regions.
        box: Box deltas of positive regions.
        mask: Masks of positive regions.
        semantic: Class of pixels.
        semantic_roi: Class of pixels inside object boxes; all boxes count equally.
        panoptic: Channel of pixels in the panoptic head.
        unknown_pixels: Panoptic target of objects outside the taxonomy, where the dataset marks
            them: ``ignore`` ignores them like other void pixels, ``unknown`` makes them unknown.
    """

    rpn_class: NotNegative = 1.0
    rpn_box: NotNegative = 1.0
    box_class: NotNegative = 1.0
    box: NotNegative = 1.0
    mask: NotNegative = 1.0
    semantic: NotNegative = 1.0
    semantic_roi: NotNegative = 0.0
    panoptic: NotNegative = 0.5
    unknown_pixels: Literal["ignore", "unknown"] = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class OptimizerSettings:
    """The optimiser.

    Attributes:
        kind: ``sgd`` with momentum, or ``adamw``.
        learning_rate: Learning rate for the whole batch, after the warm-up.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of weights; biases and norms have none.
        bias_rate: Factor on the learning rate of biases.
        clip_norm: Maximum global gradient norm; None disables clipping.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.02
    momentum: Share = 0.9
    weight_decay: NotNegative = 1e-4
    bias_rate: NotNegative = 2.0
    clip_norm: Positive | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ScheduleSettings:
    """Length of the training and learning-rate schedule.

    Attributes:
        iterations: Number of optimiser steps. Give either this or ``seconds``.
        seconds: Wall-clock time to train, for machines that are available for a limited time: from
            the start of the run to its last step, including checkpoints and evaluations. The
            cosine depends on the time. A resumed run has the remaining time of its checkpoint.
        kind: ``step`` divides the rate by ten at each of ``decay_at``; ``cosine`` decreases it to
            zero along half a cosine, and is required with ``seconds``.
        decay_at: Iterations at which the rate is divided.
        warmup: Number of iterations over which the rate rises linearly from a tenth.
    """

    iterations: Count | None = None
    seconds: Positive | None = None
    kind: Literal["step", "cosine"] = "step"
    decay_at: tuple[Count, ...] = ()
    warmup: CountOrZero = 0

    @model_validator(mode="after")
    def _check(self) -> ScheduleSettings:
        if (self.iterations is None) == (self.seconds is None):
            raise ValueError("give iterations or seconds, and not both")
        if self.seconds is not None and self.kind != "cosine":
            raise ValueError(f"kind {self.kind} needs iterations; with seconds use kind cosine")
        return self

    def is_over(self, iteration: int, elapsed: float) -> bool:
        """Return whether the run is complete after ``iteration`` steps and ``elapsed`` seconds."""
        if self.iterations is not None:
            return iteration >= self.iterations
        return self.seconds is not None and elapsed >= self.seconds


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class AugmentSettings:
    """Random augmentation of training images.

    Attributes:
        scales: Lengths of the short side in pixels, one of which is sampled for each image.
        max_size: Maximum length of the long side, pixels.
        flip: Probability of a horizontal flip.
        crop: Height and width in pixels, after scaling, of a random crop; None keeps the whole
            image.
        color: Strength of random changes of brightness, contrast, saturation and (a tenth of it)
            hue; 0 disables them.
    """

    scales: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(min_length=1)]
    max_size: Annotated[int, Field(ge=32)]
    flip: Share = 0.5
    crop: tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]] | None = None
    color: Share = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class CityscapesSettings:
    """Cityscapes, or a dataset with the same layout.

    Attributes:
        root: Folder that contains ``gtFine`` and the image folder.
        split: ``train``, ``val`` or ``test``.
        images: Name of the image folder.
    """

    kind: Literal["cityscapes"]
    root: Path
    split: str
    images: Literal["leftImg8bit", "leftImg8bit_sequence"] = "leftImg8bit"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class CocoPanopticSettings:
    """COCO panoptic.

    Attributes:
        images: Folder of the images.
        annotations: The JSON file.
        segments: Folder of the PNG files; by default the path of the JSON file without suffix.
    """

    kind: Literal["coco_panoptic"]
    images: Path
    annotations: Path
    segments: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class FolderSettings:
    """A folder of images and one of label maps.

    Attributes:
        images: Folder of the images.
        labels: Folder of the label maps.
        taxonomy: Taxonomy of the class names.
        classes: Class name for each value of the label maps, null for void.
        min_area: Connected components of things with fewer pixels become void.
    """

    kind: Literal["folder"]
    images: Path
    labels: Path
    taxonomy: Literal["cityscapes", "coco"]
    classes: dict[int, str | None]
    min_area: Count = 20


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ScenesSettings:
    """Synthetic driving scenes, rendered on demand.

    Attributes:
        split: ``train``, ``val`` or ``test``; their seeds are disjoint.
        seed: Seed of the scenes.
        length: Number of frames.
        size: Height and width of a frame, pixels.
        cache: Folder for rendered frames, since rendering takes longer than reading.
    """

    kind: Literal["scenes"]
    split: Literal["train", "val", "test"]
    seed: CountOrZero = 0
    length: Count
    size: tuple[_Side, _Side] = (512, 1024)
    cache: Path | None = None


DatasetSettings = Annotated[
    CityscapesSettings | CocoPanopticSettings | FolderSettings | ScenesSettings,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class StartSettings:
    """Initial weights of the run.

    Attributes:
        kind: ``nothing`` initialises randomly; ``checkpoint`` reads a UPSNet checkpoint, official
            or trained here (COCO classes are transferred to Cityscapes); ``caffe`` reads a ResNet
            backbone with Caffe's pixel normalisation, as used by the original; ``coco_fpn`` reads
            the weights of a ``coco-fpn-*`` variant, detectron2's own file or ours; ``torchvision``
            uses a ResNet or Mask R-CNN of torchvision.
        weights: Weights file, or the name of weights in the cache folder. For ``torchvision``, the
            name of one of its weight sets, such as ``DEFAULT``, which torchvision downloads.
        model: Model name for ``torchvision``, such as ``resnet50`` or ``maskrcnn_resnet50_fpn``.
    """

    kind: Literal["nothing", "checkpoint", "caffe", "coco_fpn", "torchvision"] = "nothing"
    weights: str | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _check(self) -> StartSettings:
        if (self.weights is None) != (self.kind == "nothing"):
            raise ValueError("weights is needed unless kind is nothing")
        if (self.model is None) != (self.kind != "torchvision"):
            raise ValueError("model is needed if kind is torchvision, and only then")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class RunSettings:
    """All settings of a training run.

    Attributes:
        variant: Name of the network variant.
        train: Training set.
        validation: Validation set; None disables evaluation.
        augment: Random augmentation.
        schedule: Length and learning-rate schedule.
        start: Initial weights.
        targets: Sampling of anchors, regions and objects.
        losses: Weights of the losses.
        optimizer: The optimiser.
        quirks: Faults of the original to reproduce.
        batch_size: Images per optimiser step, over all processes.
        images_per_pass: Images per forward pass and process; gradients are accumulated over passes.
        batch_norm: ``frozen`` keeps the backbone's statistics, ``trained`` trains them, which
            random initialisation requires.
        frozen_stages: Number of frozen backbone stages: 1 the stem, 2 also res2, and so on.
        precision: Precision of the convolutions; fp16 requires CUDA, bf16 CUDA or a supporting CPU.
        float32_matmul_precision: Precision of the remaining float32 products, as in
            `torch.set_float32_matmul_precision`: ``high`` allows TF32 on CUDA.
        channels_last: Memory format of the network; None selects channels-last on CUDA, where cuDNN
            needs it, and contiguous on CPUs.
        weights_precision: Dtype of the weight files; fp16 halves them. Checkpoints are float32.
        seed: Seed of all random choices.
        workers: Data-loading processes per training process.
        checkpoint_every: Iterations between checkpoints.
        evaluate_every: Iterations between evaluations; 0 evaluates once at the end.
        log_every: Iterations between entries of the loss curve, which are means over them.
        evaluate_images: Number of validation images to evaluate, from the first; None for all.
        evaluate_scale: Length of the short side for evaluation, pixels; None uses the variant's.
    """

    variant: str
    train: DatasetSettings
    validation: DatasetSettings | None = None
    augment: AugmentSettings
    schedule: ScheduleSettings
    start: StartSettings = StartSettings()
    targets: TargetSettings = TargetSettings()
    losses: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    quirks: Quirks = Quirks()
    batch_size: Count = 16
    images_per_pass: Count = 1
    batch_norm: Literal["frozen", "trained"] = "frozen"
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    float32_matmul_precision: Literal["highest", "high", "medium"] = "highest"
    channels_last: bool | None = None
    weights_precision: Literal["fp32", "fp16"] = "fp32"
    seed: int = 0
    workers: CountOrZero = 2
    checkpoint_every: Count = 1000
    evaluate_every: CountOrZero = 0
    log_every: Count = 20
    evaluate_scale: _Side | None = None
    evaluate_images: Count | None = None

    @property
    def evaluation_scale(self) -> int:
        """Length of the short side for evaluation, pixels."""
        return self.evaluate_scale or get_variant(self.variant).scale

    @field_validator("variant")
    @classmethod
    def _known(cls, name: str) -> str:
        variant = get_variant(name)
        if variant.family != "upsnet":
            raise ValueError(
                f"{variant.name} cannot be trained: set variant to coco-r50 or another UPSNet"
                " variant, and start.kind to coco_fpn to begin with such weights"
            )
        return variant.name


def _read_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(f"cannot open settings file {path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
        content: object = _parse_toml(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise SettingsError(parse_failure(path, error)) from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must contain a mapping of settings")
    return content


def _parse_toml(text: str) -> object:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    raise SettingsError("TOML files need Python 3.11; write the settings as YAML")


def _override(content: dict[str, Any], text: str) -> None:
    """Set one value, given as ``losses.panoptic=0.2``."""
    name, separator, value = text.partition("=")
    if not separator:
        raise SettingsError(f"cannot parse {text!r}; write name=value")
    *groups, last = name.strip().split(".")
    for group in groups:
        content = content.setdefault(group, {})
        if not isinstance(content, dict):
            raise SettingsError(f"{text!r}: {group} has no settings of its own")
    try:
        content[last] = yaml.safe_load(value)
    except (ValueError, yaml.YAMLError):  # ValueError: a date such as 2000-13-01
        raise SettingsError(f"cannot parse {text!r}: the value is not YAML") from None


def parse_settings(content: Mapping[str, Any], *, source: str) -> RunSettings:
    """Return validated settings from plain values.

    Args:
        content: Values by name, nested.
        source: Where they come from, for error messages.

    Raises:
        SettingsError: If keys are missing, unknown or invalid; the message lists the first few.
    """
    try:
        return TypeAdapter(RunSettings).validate_python(content)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "settings"
            what = problem["msg"].replace("keyword argument", "key").removeprefix("Value error, ")
            problems.append(f"{key}: {what}")
        raise SettingsError(f"{source}: {listed(problems, separator='; ')}") from None


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read settings from a YAML or TOML file.

    Args:
        path: The file.
        overrides: Changes such as ``schedule.iterations=100``; values are YAML.

    Raises:
        SettingsError: If the file or an override is invalid.
    """
    path = Path(path).expanduser()
    content = _read_mapping(path)
    for override in overrides:
        _override(content, override)
    changed = f" with {', '.join(overrides)}" if overrides else ""
    return parse_settings(content, source=f"{path}{changed}")


def check_files(settings: RunSettings, *, resume: bool = False) -> None:
    """Check that the folders and files which the settings name exist; reads none of them.

    Args:
        settings: Settings of the run.
        resume: Whether the run continues, so that initial weights are not needed.

    Raises:
        CheckpointError: The initial weights do not exist.
        DatasetError: A folder or file of a dataset is missing; the message names its setting.
    """
    for name, dataset in (("train", settings.train), ("validation", settings.validation)):
        if isinstance(dataset, CocoPanopticSettings) and not dataset.annotations.is_file():
            raise DatasetError(f"{name}.annotations: there is no file {dataset.annotations}")
        for key in ("root", "images", "segments", "labels"):
            folder = getattr(dataset, key, None)
            if isinstance(folder, Path) and not folder.is_dir():
                raise DatasetError(f"{name}.{key}: there is no folder {folder}")
    start = settings.start
    if start.weights is not None and start.kind != "torchvision" and not resume:
        find_weights(start.weights)


def to_plain(settings: RunSettings) -> dict[str, Any]:
    """Return the settings as plain values for YAML; the inverse of `parse_settings`."""
    return TypeAdapter(RunSettings).dump_python(settings, mode="json")
