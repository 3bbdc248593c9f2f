"""Options that several commands share, each defined once, and how options are checked and shown.

A command checks its options and the files that they name with the functions below before it imports
torch, rclpy, OpenCV or Ray, which take up to seconds.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from upsnet_ros.errors import CheckpointError, SettingsError

if TYPE_CHECKING:
    from upsnet_ros.datasets.taxonomy import Taxonomy

#: Heading of the rare options, which ``--help`` leaves out and ``--help-all`` shows.
MORE = "More options"


def rare(*names: str, **settings: Any) -> Any:
    """Return a `typer.Option` that only ``--help-all`` shows."""
    return typer.Option(*names, hidden=True, rich_help_panel=MORE, **settings)


def show_rare_options(command: Any, *, everything: bool) -> None:
    """Prepare a command's help: show its rare options, or say how many there are.

    Args:
        command: Click command, or a group, whose subcommands are prepared.
        everything: Whether to show rare options.
    """
    for subcommand in getattr(command, "commands", {}).values():
        show_rare_options(subcommand, everything=everything)
    hidden = [
        one
        for one in command.params
        if getattr(one, "hidden", False) and getattr(one, "rich_help_panel", None)
    ]
    for option in hidden if everything else ():
        option.hidden = False
    if hidden and not everything:
        command.epilog = f"--help-all shows {len(hidden)} more options."


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every field of its parameters that are dataclasses.

    The annotations of fields are those of typer parameters. The command receives the dataclasses.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, one in signature.parameters.items():
        if is_dataclass(one.annotation):
            groups[name] = one.annotation  # type: ignore[assignment]
            parameters += _options_of(groups[name])
        else:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
        command(**values)

    # typer reads both, depending on its version.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _options_of(group: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for one in fields(group):
        yield inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if one.default is MISSING else one.default,
            annotation=hints[one.name],
        )


def command_group(name: str, help: str) -> typer.Typer:
    """Return a command that has subcommands."""
    return typer.Typer(
        name=f"upsnet {name}",
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")
]
#: A text, because a path drops the ``./`` that tells a file from a name.
Weights = Annotated[
    str | None, typer.Option(metavar="FILE", help="File or name of weights. Default: bundled.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")]
#: Splits of synthetic scenes.
SCENE_SPLITS = ("train", "val", "test")

#: Default of `Processes`.
CPUS = os.cpu_count() or 1
Processes = Annotated[int, typer.Option(metavar="N", min=1, help="Number of worker processes.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Skip and count frames that cannot be read.")
]


class Storage(str, Enum):
    """Formats of a bag."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


class Compression(str, Enum):
    """Compressions of a bag."""

    none = "none"
    zstd = "zstd"


Split = Annotated[str, typer.Option(help="train, val or test.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneOptions:
    """Which synthetic street scenes to render.

    Attributes:
        sequences: Number of streets.
        first: Index of the first street.
        length: Frames of each street.
        size: Height and width of a frame, as in ``512x1024``.
    """

    sequences: Annotated[int, typer.Option(metavar="N", min=1, help="Number of streets.")] = 1
    first: Annotated[int, rare(metavar="N", min=0, help="Index of the first street.")] = 0
    length: Annotated[int, typer.Option(metavar="N", min=1, help="Frames of each street.")] = 30
    size: Annotated[str, typer.Option(metavar="HxW", help="Height x width of a frame.")] = (
        "512x1024"
    )

    def image_size(self) -> tuple[int, int]:
        """Return height and width of a frame.

        Raises:
            SettingsError: If the text is not a size, or too small for a scene.
        """
        size = parse_height_width(self.size)
        if min(size) < 16:
            raise SettingsError(f"size {self.size}: scenes need at least 16x16 pixels")
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The network of an evaluation; see `upsnet_ros.inference.predictor.Predictor`."""

    weights: Weights = None
    variant: Annotated[str | None, typer.Option(help="Network. Default: that of the weights.")] = (
        None
    )
    device: Device = "auto"
    scale: Annotated[
        int | None, typer.Option(metavar="PX", help="Short side of the network input.")
    ] = None
    precision: Annotated[str, rare(help="fp32, fp16, bf16 or auto.")] = "fp32"
    score_threshold: Annotated[
        float | None,
        rare(help="Minimum probability of an instance. Default: the variant's."),
    ] = None
    unknown_threshold: Annotated[
        float, rare(help="Pixels with a higher unknown score are unknown.")
    ] = 0.5
    label_resize: Annotated[
        str, rare(help="nearest, or bilinear for smooth outlines at a small --scale.")
    ] = "nearest"
    merge: Annotated[str, rare(help="upsnet, heuristic, or auto: the variant's method.")] = "auto"
    label_map: Annotated[
        str | None,
        rare(metavar="FILE", help="Map to other classes: a YAML file or coco_to_cityscapes."),
    ] = None
    allow_random_weights: Annotated[
        bool, rare("--allow-random-weights", help="Use random weights, to try things out.")
    ] = False

    def check(self, *, here: bool = True) -> Taxonomy | None:
        """Check what can be checked without importing torch.

        Args:
            here: Whether the model runs on this machine.

        Returns:
            The classes of the results; None where only the weights tell them.

        Raises:
            SettingsError: If a value is not possible.
        """
        from upsnet_ros.node.parameters import NodeSettings

        require_weights(self.weights, variant=self.variant)
        check_device(self.device, here=here)
        if here:
            check_precision(self.precision, device=self.device)
        given = {
            "weights": self.weights,
            "variant": self.variant,
            "scale": self.scale,
            "score_threshold": self.score_threshold,
            "label_map": self.label_map,
        }
        return NodeSettings(
            precision=self.precision,
            unknown_threshold=self.unknown_threshold,
            label_resize=self.label_resize,
            merge=self.merge,
            allow_random_weights=self.allow_random_weights,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        ).check_classes()


def require_path(path: str | Path | None, what: str = "") -> None:
    """Raise `SettingsError` if ``path`` is given but does not exist."""
    if path is not None and not Path(path).expanduser().exists():
        raise SettingsError(f"there is no {what or 'file'} {path}")


def require_file(path: str | Path | None) -> None:
    """Raise `SettingsError` if ``path`` is given but is not an existing file."""
    require_path(path)
    if path is not None and Path(path).expanduser().is_dir():
        raise SettingsError(f"{path} is a folder; a file is needed")


def require_weights(weights: str | None, *, variant: str | None = None) -> None:
    """Check weights, if they are given, as far as that is possible without torch.

    Args:
        weights: A name, or the path of a file.
        variant: The variant that they should be of; None or ``auto``: their own.

    Raises:
        CheckpointError: They are neither a known name nor a file, the file is not one of weights or
            is cut off, or the named weights are of another variant.
    """
    if weights is None:
        return
    from upsnet_ros.weights import find_weights, name_of

    path, name = find_weights(weights), name_of(weights)
    if name is not None and variant not in (None, "auto", name):
        raise CheckpointError(f"{name} has weights of that variant, not of {variant}")
    from upsnet_ros.weights.install import check_kind

    try:
        check_kind(path, source=str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def require_source(source: str) -> None:
    """Raise `SettingsError` if a source of frames is neither a path, a camera nor an address."""
    if source.isdecimal() or "://" in source or Path(source).expanduser().exists():
        return
    raise SettingsError(f"source {source} does not exist")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise `SettingsError` if ``value`` is none of ``choices``."""
    if value not in choices:
        raise SettingsError(f"unknown {name} {value!r}: choose one of {', '.join(choices)}")


def check_split(split: str) -> None:
    """Raise `SettingsError` if synthetic scenes have no such split."""
    check_choice("split", split, SCENE_SPLITS)


def check_device(device: str, *, here: bool = True) -> None:
    """Raise `SettingsError` if ``device`` is not a device, or is a GPU and there certainly is none.

    Args:
        device: Its name.
        here: Whether this machine is the one that needs it.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise SettingsError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N")
    if here and device.startswith("cuda") and sys.platform == "linux" and not _gpu_devices():
        raise SettingsError(f"device {device!r} is not here: this machine has no GPU; use cpu")


def check_precision(precision: str, *, device: str) -> None:
    """Raise `SettingsError` if a device that is certainly a CPU cannot compute in a precision."""
    without_gpu = device == "auto" and sys.platform == "linux" and not _gpu_devices()
    if precision == "fp16" and (device == "cpu" or without_gpu):
        raise SettingsError("precision fp16 needs a CUDA device; a CPU has fp32 and bf16")


def _gpu_devices() -> list[Path]:
    """Return the device files of GPUs; without any there is certainly none that torch can use."""
    names = ("nvidia*", "dxg", "nvhost*", "nvmap", "kfd")  # also of WSL, Jetson and ROCm
    return [path for name in names for path in Path("/dev").glob(name)]


def check_topic(option: str, topic: str | None) -> None:
    """Raise `SettingsError` if ``topic`` is given but is not the name of a ROS topic."""
    if topic is not None:
        _check_name(option, topic, topic.removeprefix("~/").removeprefix("/"), "topic")


def check_namespace(option: str, namespace: str) -> None:
    """Raise `SettingsError` if ``namespace`` is not a ROS namespace; the empty one is the root."""
    if namespace.strip("/"):
        _check_name(option, namespace, namespace.strip("/"), "namespace")


def _check_name(option: str, name: str, parts: str, what: str) -> None:
    if not all(_NAME_PART.fullmatch(part) for part in parts.split("/")):
        raise SettingsError(
            f"{option} {name!r} is not the name of a {what}: use letters, digits and _ between"
            " single /, and begin no part with a digit"
        )


#: ROS's own limit is that of DDS, less its prefix.
_NAME_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,239}")


def check_ros_arguments(arguments: Sequence[str]) -> None:
    """Check the parameter files of a ROS command line, whose own errors say little.

    Raises:
        SettingsError: If a file is missing, is not YAML, or sets no parameters.
    """
    from upsnet_ros.node.parameter_info import parameter_files, read_parameter_file

    for name in parameter_files(arguments):
        read_parameter_file(name)


def check_as_parameter(name: str, value: str | None) -> None:
    """Check a value by the choices of the node's parameter of that name; None is not checked.

    Raises:
        SettingsError: If the value is none of them.
    """
    from upsnet_ros.node.parameters import parameters

    info = next(one for one in parameters() if one.name == name)
    if value is not None:
        check_choice(name, value, info.choices)


#: As `upsnet_ros.datasets.images.MAX_PIXELS`, which imports OpenCV.
_MAX_PIXELS = 1 << 27


def parse_height_width(text: str, *, once_width_first: bool = False) -> tuple[int, int]:
    """Return the height and width of ``HEIGHTxWIDTH`` or ``height=HEIGHT,width=WIDTH`` in pixels.

    Args:
        text: The size.
        once_width_first: Whether the command took the width first until the last release. An image
            that is higher than wide then needs the long form, because it was probably meant wide.

    Raises:
        SettingsError: If the text has another form, is such a size, or too large for an image.
    """
    short = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", text)
    match = short or re.fullmatch(r"height=([1-9]\d{0,5}),width=([1-9]\d{0,5})", text)
    if match is None:
        raise SettingsError(f"size {text!r} is not HEIGHTxWIDTH, such as 512x1024")
    height, width = int(match[1]), int(match[2])
    if height * width > _MAX_PIXELS:
        raise SettingsError(f"size {text} is more than {_MAX_PIXELS} pixels")
    if once_width_first and short and height > width:
        raise SettingsError(
            f"size {text} is height x width now: write {width}x{height} for a width of {height}, or"
            f" height={height},width={width} if images are to be higher than wide"
        )
    return height, width
