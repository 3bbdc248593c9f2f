"""Settings of a whole run, and the files they are read from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from upsnet_ros.network.variants import get_variant
from upsnet_ros.training.settings import (
    STRICT,
    AugmentSettings,
    Count,
    CountOrZero,
    LossSettings,
    OptimizerSettings,
    Quirks,
    ScheduleSettings,
    TargetSettings,
)

_Side = Annotated[int, Field(ge=32)]


class SettingsError(ValueError):
    """A settings file cannot be used; the message names the file, the key and what it may be."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class CityscapesSettings:
    """Cityscapes, or anything laid out like it.

    Attributes:
        root: Folder that holds ``gtFine`` and the images' folder.
        split: ``train``, ``val`` or ``test``.
        images: Folder of the images.
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
        segments: Folder of the PNG files; by default beside the JSON file, with its name.
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
        taxonomy: Taxonomy to translate to.
        classes: Class name for each value of the maps, null for void.
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
    """Driving scenes, drawn as they are needed.

    Attributes:
        split: ``train``, ``val`` or ``test``; their seeds never meet.
        seed: Which scenes.
        length: Number of frames.
        size: Height and width of a frame.
        cache: Folder where drawn frames are kept, since drawing takes longer than reading.
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
    """What the weights are before the first step.

    Attributes:
        kind: ``nothing`` draws them; ``checkpoint`` reads a UPSNet, official or ours (one trained
            on COCO gives its classes to Cityscapes); ``caffe`` reads a ResNet backbone with
            Caffe's pixels, as the original started from; ``torchvision`` takes torchvision's
            ResNet or Mask R-CNN.
        weights: File of the weights. For ``torchvision`` the name of one of its own sets, such as
            ``DEFAULT``, which torchvision downloads.
        model: For ``torchvision``: e.g. ``resnet50`` or ``maskrcnn_resnet50_fpn``.
    """

    kind: Literal["nothing", "checkpoint", "caffe", "torchvision"] = "nothing"
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
    """Everything that decides what a training run does.

    Attributes:
        variant: Which network.
        train: Images to learn from.
        validation: Images to evaluate on; None for no evaluation.
        augment: Random changes of the images.
        schedule: How long, at which rates.
        start: Weights to start from.
        targets: How anchors and proposals become examples.
        losses: Weights of the losses.
        optimizer: How gradients move the weights.
        quirks: Habits of the original to keep.
        batch_size: Images in an optimiser step, over all processes.
        images_per_pass: Images one process computes at a time; more in a step are accumulated.
        batch_norm: ``frozen`` keeps the backbone's statistics as they come, ``trained`` learns
            them, which starting from nothing needs.
        frozen_stages: First stages of the backbone that do not learn: 1 the stem, 2 res2 too, ...
        precision: Arithmetic of the convolutions; fp16 needs CUDA, bf16 there or a CPU that has it.
        seed: Of everything random.
        workers: Processes that read images, for each training process.
        checkpoint_every: Iterations between checkpoints.
        evaluate_every: Iterations between evaluations; 0 for one at the end.
        log_every: Iterations between entries of the loss curve, which are means over them.
        evaluate_images: Images of the validation set to evaluate on, from its first; None for all.
        evaluate_scale: Length of the short side at which images are evaluated; None for the
            variant's.
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
    seed: int = 0
    workers: CountOrZero = 2
    checkpoint_every: Count = 1000
    evaluate_every: CountOrZero = 0
    log_every: Count = 20
    evaluate_scale: _Side | None = None
    evaluate_images: Count | None = None

    @property
    def evaluation_scale(self) -> int:
        """Length of the short side at which images are evaluated."""
        return self.evaluate_scale or get_variant(self.variant).scale

    @field_validator("variant")
    @classmethod
    def _known(cls, name: str) -> str:
        return get_variant(name).name


def _read_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(f"there is no settings file {path}")
    try:
        if path.suffix == ".toml":
            content: object = _toml().loads(path.read_text(encoding="utf-8"))
        else:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold settings by name")
    return content


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    raise SettingsError("TOML files need Python 3.11; write the settings as YAML")


def _override(content: dict[str, Any], text: str) -> None:
    """Set one value, given as ``losses.panoptic=0.2``."""
    name, separator, value = text.partition("=")
    if not separator:
        raise SettingsError(f"{text!r} is no setting; write name=value")
    *groups, last = name.strip().split(".")
    for group in groups:
        content = content.setdefault(group, {})
        if not isinstance(content, dict):
            raise SettingsError(f"{text!r}: {group} has no settings of its own")
    content[last] = yaml.safe_load(value)


def parse_settings(content: Mapping[str, Any], *, source: str) -> RunSettings:
    """Check settings given as plain values.

    Raises:
        SettingsError: Something is missing, unknown or not possible; each is named.
    """
    try:
        return TypeAdapter(RunSettings).validate_python(content)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"]) or "settings"
            what = problem["msg"].replace("keyword argument", "key").removeprefix("Value error, ")
            problems.append(f"{place}: {what}")
        raise SettingsError(f"{source}: {'; '.join(problems)}") from None


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read settings from a YAML or TOML file.

    Args:
        path: The file.
        overrides: Changes, such as ``schedule.iterations=100``, the value in YAML.

    Raises:
        SettingsError: The file or an override cannot be used.
    """
    path = Path(path).expanduser()
    content = _read_mapping(path)
    for override in overrides:
        _override(content, override)
    return parse_settings(content, source=str(path))


def to_plain(settings: RunSettings) -> dict[str, Any]:
    """Return the settings as values that YAML knows; `parse_settings` reads them back."""
    return TypeAdapter(RunSettings).dump_python(settings, mode="json")
