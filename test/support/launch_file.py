"""Runs a launch file with a stand-in for each executable, and reads what it would have started."""

from __future__ import annotations

from pathlib import Path

import yaml
from launch import LaunchDescription, LaunchService
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessStart
from launch.events.process import ProcessStarted
from launch.launch_description_sources import PythonLaunchDescriptionSource


class LaunchFile:
    """A launch file of this package, by name."""

    def __init__(self, name: str) -> None:
        self.path = Path(__file__).resolve().parents[2] / "launch" / name

    def declared(self) -> dict[str, DeclareLaunchArgument]:
        """Its arguments, those of included files among them; of a name the first."""
        source = PythonLaunchDescriptionSource(str(self.path))
        arguments: dict[str, DeclareLaunchArgument] = {}
        for argument in source.try_get_launch_description_without_context().get_launch_arguments():
            arguments.setdefault(argument.name, argument)
        return arguments

    def launch(self, **arguments: str) -> tuple[int, dict[str, ProcessStarted]]:
        """The exit code, and what was started by executable; each process only sleeps a little."""
        started: dict[str, ProcessStarted] = {}

        def note(event: ProcessStarted, _context) -> None:
            started[Path(event.cmd[3]).name] = event

        service = LaunchService(noninteractive=True)
        service.include_launch_description(
            LaunchDescription(
                [
                    RegisterEventHandler(OnProcessStart(on_start=note)),
                    IncludeLaunchDescription(
                        PythonLaunchDescriptionSource(str(self.path)),
                        launch_arguments=[("launch-prefix", "sh -c 'sleep 1'"), *arguments.items()],
                    ),
                ]
            )
        )
        return service.run(), started

    def start(self, **arguments: str) -> dict[str, ProcessStarted]:
        """As `launch`, of arguments that are good."""
        code, started = self.launch(**arguments)
        assert code == 0
        return started


def options(process: ProcessStarted, option: str) -> list[str]:
    """Every value that follows ``option`` on the command line."""
    return [
        value for key, value in zip(process.cmd, process.cmd[1:], strict=False) if key == option
    ]


class _Loader(yaml.SafeLoader):
    """Reads what launch_ros writes, which tags lists as Python's tuples."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", yaml.SafeLoader.construct_sequence)


def node_parameters(process: ProcessStarted) -> dict[str, object]:
    """The node's parameters from its files; a later file overrides an earlier one."""
    merged: dict[str, object] = {}
    for file in options(process, "--params-file"):
        for section in yaml.load(Path(file).read_text(), _Loader).values():
            merged.update(section["ros__parameters"])
    return merged
