"""The table of subcommands of `upsnet`, each imported only when it is called.

The module of a subcommand imports nothing heavy: it checks its options and files first, and imports
torch, rclpy, OpenCV or Ray only for the work. `upsnet bench` therefore works without ROS, and a
mistake is reported at once. Everything from ``--ros-args`` on is ROS's own command line; the
subcommand gets it unchanged as ``ctx.obj`` of its `typer.Context` (a list of strings, empty without
``--ros-args``).
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from upsnet_ros import __version__
from upsnet_ros.cli.old_spellings import modernise
from upsnet_ros.cli.options import show_rare_options
from upsnet_ros.errors import UpsnetError, printable
from upsnet_ros.processes.child_processes import protect_children

ROS_ARGS = "--ros-args"


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: a typer function, or a `typer.Typer` with subcommands.

    Its module in `upsnet_ros.cli`, imported when it is called, and the function have its name.

    Attributes:
        help: One line for `upsnet --help`.
        ros: Whether the subcommand is a ROS process and accepts ``--ros-args``.
    """

    help: str
    ros: bool = False


COMMANDS: dict[str, Command] = {
    "node": Command("Run the ROS 2 node: segment camera topics.", ros=True),
    "points": Command("Label the points of a depth camera or lidar.", ros=True),
    "play": Command("Publish a video, images, a bag or a webcam as a camera.", ros=True),
    "record": Command("Write the node's results as pictures.", ros=True),
    "replay": Command("Run a bag through the node, record the results.", ros=True),
    "view": Command("Show running nodes on a local web page.", ros=True),
    "demo": Command("Play, segment and record in one command."),
    "weights": Command("List, get and check published weights."),
    "train": Command("Train a network from a settings file."),
    "scenes": Command("Render synthetic street scenes with exact labels."),
    "bag": Command("Make labelled bags; list what any bag holds."),
    "evaluate": Command("Evaluate bags, files or a model on a dataset."),
    "compare": Command("Compare two evaluations."),
    "bench": Command("Measure stages, the node or the goals."),
    "doctor": Command("Check the installation and test the GPU."),
}

#: Extras of setup.py that install a module; modules not listed are required by the package.
EXTRAS = {
    "apsw": ("bags",),
    "jinja2": ("evaluate",),
    "kornia_rs": ("evaluate", "train"),
    "mcap": ("bags",),
    "msgspec": ("cluster",),
    "PIL": ("train",),
    "pycocotools": ("evaluate", "train"),
    "pydantic": ("train",),
    "pynvml": ("bench",),
    "ray": ("cluster",),
    "rosbags": ("bags",),
    "tensorboard": ("train",),
    "zstandard": ("bags",),
}

#: Words for kinds of numbers, by typer's and pydantic's names of them.
_NUMBERS = {
    "int": "an integer",
    "integer": "an integer",
    "float": "a number",
    "number": "a number",
}

app = typer.Typer(
    name="upsnet",
    help="UPSNet panoptic segmentation for ROS 2.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"upsnet_ros {__version__}")
        raise typer.Exit


@app.callback()
def _upsnet(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """UPSNet panoptic segmentation for ROS 2."""


def fail(message: str, *, details: str = "") -> NoReturn:
    """End the command with one line on stderr and exit code 1.

    Args:
        message: What happened, to which thing, and what to do.
        details: Lines to print below it, such as the end of a log.
    """
    _print_error(message, details)
    raise typer.Exit(1)


def run(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (default: that of the process) and exit; see `cli.main`."""
    protect_children()
    # Read when OpenCV is imported; its warnings about an image would precede the command's error.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    args = list(sys.argv[1:] if argv is None else argv)
    split = args.index(ROS_ARGS) if ROS_ARGS in args else len(args)
    try:
        try:
            # At this level there are no rare options.
            if args[:1] == ["--help-all"]:
                args[0] = "--help"
            app(args=args[:split], obj=args[split:], prog_name="upsnet")
        finally:
            sys.stdout.flush()
    except OSError as error:  # from writing to stdout: commands report their own errors
        # Otherwise Python tries to flush again at exit and prints a second message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _print_error(f"cannot write to stdout: {error.strerror}")
        sys.exit(1)


def _print_error(message: str, details: str = "") -> None:
    typer.echo(f"error: {printable(message)}", err=True)
    for line in details.strip("\n").splitlines():
        typer.echo("".join(c for c in line if c.isprintable()), err=True)


@contextmanager
def errors_as_one_line(name: str) -> Iterator[None]:
    """End the command with exit code 1 and one line for every error that is not a bug."""
    try:
        yield
    except UpsnetError as error:
        fail(str(error), details=error.details)
    except BrokenPipeError:
        raise  # typer ends the command quietly: the reader of its output has gone
    except OSError as error:
        fail(_describe(error))
    except ModuleNotFoundError as error:
        advice = how_to_install(str(error.name), command=name)
        if advice is None:
            raise
        fail(f"`upsnet {name}` needs {error.name}, which is not installed: {advice}")
    except (KeyboardInterrupt, typer.Abort):
        raise typer.Exit(130) from None


def _describe(error: OSError) -> str:
    names = [
        os.fsdecode(one)
        for one in (error.filename, error.filename2)
        if isinstance(one, (str, bytes))
    ]
    reason = error.strerror or str(error) or type(error).__name__
    return f"{' -> '.join(names)}: {reason}" if names else reason


def how_to_install(module: str, *, command: str) -> str | None:
    """Return what to do about a missing module; None if that is a bug in this package."""
    top = module.partition(".")[0]
    if top == "rclpy" or top.endswith(("_msgs", "_srvs")):
        return "source ROS 2's setup.bash, or run `make setup` in your clone of upsnet_ros"
    if module == "upsnet_ros.msg":
        return "build the package with colcon, or run `make setup` in your clone of upsnet_ros"
    if top == "upsnet_ros":
        return None
    extras = EXTRAS.get(top, ())
    extra = command if command in extras else next(iter(extras), None)
    what = f"'.[{extra}]'" if extra else "."
    return f"run `pip install {what}` in your clone of upsnet_ros, or `make setup` there"


def _clarify(error: Any) -> None:
    """Make a usage error of typer's parser clearer; leave other errors as they are."""
    # By attributes: typer uses click, or, depending on its version, a copy of its own.
    if names := getattr(error, "possibilities", None):
        error.possibilities = [one for one in names if _is_close(error.option_name, one)]
    elif getattr(error, "param", None) is not None:
        # typer says "'abc' is not a valid int.", and from 0.29 on, by pydantic, "Input should be a
        # valid integer, unable to parse string as an integer".
        found = re.search(r"(?:not|be) a valid (\w+)", str(error.message))
        if found is not None and found[1] in _NUMBERS:
            error.message = f"must be {_NUMBERS[found[1]]}"


def _is_close(option: str, other: str) -> bool:
    from difflib import SequenceMatcher

    return SequenceMatcher(None, option.strip("-"), other.strip("-")).ratio() > 0.7


def _register(name: str, command: Command) -> None:
    # This stand-in passes all arguments, including `--help`, to the real command.
    @app.command(
        name,
        help=command.help,
        add_help_option=False,
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "allow_interspersed_args": False,
        },
    )
    def call(ctx: typer.Context) -> None:
        if ctx.obj and not command.ros:
            fail(f"`upsnet {name}` does not start a ROS process, so {ROS_ARGS} is not accepted")
        arguments, note = modernise(name, ctx.args)
        everything = "--help-all" in arguments
        with errors_as_one_line(name):
            real = load_command(name)
            show_rare_options(real, everything=everything)
            _check_subcommand(name, ctx.args, getattr(real, "commands", {}))
            if note:
                typer.echo(note, err=True)
            # Not standalone, so that errors arrive here. The outer command prints usage errors,
            # with the usage of the inner one.
            try:
                code = real(
                    args=["--help" if one == "--help-all" else one for one in arguments],
                    obj=ctx.obj,
                    prog_name=f"upsnet {name}",
                    standalone_mode=False,
                )
            except Exception as error:
                _clarify(error)
                raise
        raise typer.Exit(code if isinstance(code, int) else 0)


def _check_subcommand(name: str, arguments: Sequence[str], subcommands: Collection[str]) -> None:
    """End the command with exit code 2 if its subcommand does not exist.

    A path is left alone: in the spelling of the last release, `evaluate` is followed by a bag.
    """
    first = arguments[0] if arguments else "-"
    if not subcommands or first.startswith("-") or first in subcommands or "/" in first:
        return
    if not Path(first).exists():
        names = ", ".join(subcommands)
        _print_error(f"`upsnet {name}` has no subcommand {first!r}: choose one of {names}")
        raise typer.Exit(2)


def load_command(name: str) -> Any:
    """Import a subcommand and return it as a click command."""
    found = getattr(importlib.import_module(f"upsnet_ros.cli.{name}"), name)
    if not isinstance(found, typer.Typer):
        function = found
        found = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        found.command(name)(function)
    real = typer.main.get_command(found)
    _reflow(real)
    return real


def _reflow(command: Any) -> None:
    """Join the lines of each paragraph of a help text, which the terminal's width wraps again."""
    command.help = re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.cleandoc(command.help or ""))
    for subcommand in getattr(command, "commands", {}).values():
        _reflow(subcommand)


for _name, _command in COMMANDS.items():
    _register(_name, _command)
