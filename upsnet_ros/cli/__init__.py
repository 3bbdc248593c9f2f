"""The `upsnet` command: one table of subcommands, each imported only when it is called.

A subcommand is a plain typer function in a module of its own. `upsnet bench` therefore works where
no ROS is installed, and `upsnet --help` imports neither torch nor rclpy. Everything from
``--ros-args`` on is ROS's own command line and reaches the subcommand untouched, as ``ctx.obj``
of its `typer.Context` (a list of strings, empty where none was given).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import typer

from upsnet_ros.threads import wait_passively

__all__ = ["COMMANDS", "Command", "app", "fail", "main"]

ROS_ARGS = "--ros-args"


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table of subcommands.

    Attributes:
        module: Where the function lives; imported when the subcommand is called.
        function: Name of the typer function in that module, or of a `typer.Typer` with subcommands.
        help: One line for `upsnet --help`.
        ros: Whether the subcommand is a ROS process and takes ``--ros-args``.
        extra: The extra of setup.py that brings what the subcommand needs beside the package's own
            requirements.
    """

    module: str
    function: str
    help: str
    ros: bool = False
    extra: str = ""


COMMANDS: dict[str, Command] = {
    "node": Command(
        "upsnet_ros.cli.node", "node", "Segment camera topics (the ROS 2 node).", ros=True
    ),
    "play": Command(
        "upsnet_ros.cli.play",
        "play",
        "Publish a video, images, a bag or a webcam as a camera.",
        ros=True,
        extra="bags",
    ),
    "record": Command(
        "upsnet_ros.cli.record",
        "record",
        "Write the node's answers as pictures.",
        ros=True,
        extra="bags",
    ),
    "replay": Command(
        "upsnet_ros.cli.replay",
        "replay",
        "Play a bag to the node, record its answers.",
        ros=True,
        extra="bags",
    ),
    "view": Command(
        "upsnet_ros.cli.view", "view", "Show what the node does on a local web page.", ros=True
    ),
    "demo": Command(
        "upsnet_ros.cli.demo", "demo", "Play, segment and record, and show the result."
    ),
    "train": Command(
        "upsnet_ros.cli.train", "train", "Train a network as a settings file says.", extra="train"
    ),
    "scenes": Command(
        "upsnet_ros.cli.scenes", "scenes", "Draw driving scenes with exact labels, as Cityscapes."
    ),
    "bag": Command(
        "upsnet_ros.cli.bag", "bag", "Make bags of labelled drives; look into any.", extra="bags"
    ),
    "evaluate": Command(
        "upsnet_ros.cli.evaluate",
        "evaluate",
        "Judge predictions: panoptic quality, reports.",
        extra="evaluate",
    ),
    "compare": Command("upsnet_ros.cli.compare", "compare", "Set two evaluations side by side."),
    "bench": Command("upsnet_ros.cli.bench", "bench", "Time every stage of the network."),
}

app = typer.Typer(
    name="upsnet",
    help="UPSNet panoptic segmentation for ROS 2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def fail(message: str) -> NoReturn:
    """Ends the command with one line on stderr and exit code 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line ``argv`` (default: the process's own) and exits."""
    wait_passively()
    args = list(sys.argv[1:] if argv is None else argv)
    split = args.index(ROS_ARGS) if ROS_ARGS in args else len(args)
    app(args=args[:split], obj=args[split:], prog_name="upsnet")


def _register(name: str, command: Command) -> None:
    # The stand-in takes every argument as it comes, `--help` too, and hands it to the real command.
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
    def run(ctx: typer.Context) -> None:
        if ctx.obj and not command.ros:
            fail(f"`upsnet {name}` is no ROS process and takes no {ROS_ARGS}")
        try:
            module = importlib.import_module(command.module)
            single = getattr(module, command.function)
            if not isinstance(single, typer.Typer):
                function = single
                single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
                single.command(name)(function)
            single(args=ctx.args, obj=ctx.obj, prog_name=f"upsnet {name}")
        except ModuleNotFoundError as error:
            if error.name == "rclpy":
                fail(f"`upsnet {name}` needs ROS 2: source its setup.bash, or run `make setup`")
            if command.extra and not str(error.name).startswith("upsnet_ros"):
                install = f"pip install 'upsnet_ros[{command.extra}]'"
                fail(f"`upsnet {name}` needs {error.name}: {install}, or run `make setup`")
            raise


for _name, _command in COMMANDS.items():
    _register(_name, _command)
