"""Prints the files that one frame passes on a CPU, and how often it enters each.

    python benchmarks/trace_frame.py                # from the image message to the results
    python benchmarks/trace_frame.py --without-ros  # from Pipeline.submit to the PanopticFrame

A file is entered where one of its functions is called from another file, or by a thread or a
library. The first number counts the files that call it, the second one the functions that do, each
once even if it calls several functions or in a loop: that is how often a reader who follows the
frame turns to that file. Warm-up and timers are not part of the frame.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any

import typer

import upsnet_ros

_PACKAGE = Path(upsnet_ros.__file__).resolve().parent
#: Work of the executor's thread that is not for the frame.
_TIMERS = frozenset({"_look_around", "_health"})
_SECONDS = 300.0


class Trace:
    """Records which functions of this package call which, in all threads started after `install`.

    Attributes:
        calls: (calling function, called function): number of calls. The caller is None where a
            thread or a library calls.
    """

    def __init__(self) -> None:
        self.calls: dict[tuple[CodeType | None, CodeType], int] = defaultdict(int)
        self._on = False

    def install(self) -> None:
        """Profile this thread and those to come."""
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls in the body."""
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def entries(self) -> dict[str, set[tuple[str, str]]]:
        """Return, by file, the files and functions that call it, in the order of the first call."""
        callers: dict[str, set[tuple[str, str]]] = {}
        for caller, called in self.calls:
            entered = callers.setdefault(_name(called), set())
            if caller is None:
                entered.add(("a thread or a library", ""))
            elif _name(caller) != _name(called):
                entered.add((_name(caller), caller.co_name))
        return callers

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not self._on or not _is_ours(frame.f_code):
            return
        caller = frame.f_back
        while caller is not None and not _is_ours(caller.f_code):
            caller = caller.f_back
        above: FrameType | None = frame
        while above is not None:
            if _is_ours(above.f_code) and above.f_code.co_name in _TIMERS:
                return
            above = above.f_back
        self.calls[caller and caller.f_code, frame.f_code] += 1


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(str(_PACKAGE)) and code.co_name != "<module>"


def _name(code: CodeType) -> str:
    return Path(code.co_filename).relative_to(_PACKAGE).as_posix()


def trace_pipeline(image: Any) -> Trace:
    """Trace a frame from `Pipeline.submit` to its `PanopticFrame`."""
    from upsnet_ros.inference.pipeline import Pipeline
    from upsnet_ros.inference.predictor import Predictor

    trace = Trace()
    trace.install()
    with Pipeline(Predictor(device="cpu", precision="fp32")) as pipeline:
        pipeline.submit(image).result()
        with trace.recording():
            pipeline.submit(image).result()
    return trace


def trace_node(image: Any) -> Trace:
    """Trace a frame from its message to the node's results, in one process, over DDS."""
    import rclpy
    from builtin_interfaces.msg import Time
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from upsnet_ros.messages.results import image_message
    from upsnet_ros.msg import PanopticInstanceArray
    from upsnet_ros.node.node import UpsnetNode

    trace = Trace()
    trace.install()
    options = ("device:=cpu", "precision:=fp32", "warm_up:=none", "diagnostics_period:=60.0")
    rclpy.init(args=["--ros-args", *(word for one in options for word in ("-p", one))])
    results: list[str] = []
    executor = SingleThreadedExecutor()
    node, user = UpsnetNode(), rclpy.create_node("trace_frame")
    executor.add_node(node)
    executor.add_node(user)
    for name, kind in (("labels", Image), ("instances", PanopticInstanceArray)):
        user.create_subscription(
            kind, f"/panoptic/{name}", lambda _, name=name: results.append(name), 10
        )
    images = user.create_publisher(Image, "/panoptic/image", qos_profile_sensor_data)

    def spin(until: Any) -> None:
        end = time.monotonic() + _SECONDS
        while not until():
            executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > end:
                raise TimeoutError("no results from the node")

    try:
        if not node.start():
            raise RuntimeError("the node does not start")
        spin(lambda: images.get_subscription_count() > 0)
        for number in (1, 2):  # the first one makes what later ones use again
            message = image_message(image[:, :, ::-1], "rgb8", Header(stamp=Time(sec=number)))
            results.clear()
            trace.calls.clear()
            with trace.recording():
                images.publish(message)
                spin(lambda: len(results) == 2)
            time.sleep(0.5)  # the worker's counts after publishing
    finally:
        executor.shutdown()
        node.stop(timeout=_SECONDS)
        node.destroy_node()
        user.destroy_node()
        rclpy.shutdown()
    return trace


def main(
    without_ros: Annotated[bool, typer.Option(help="From Pipeline.submit only.")] = False,
    rows: Annotated[int, typer.Option(min=32)] = 128,
    columns: Annotated[int, typer.Option(min=32)] = 256,
) -> None:
    """Trace one frame of a synthetic street and print the table."""
    from upsnet_ros.synthetic.dataset import scene_frame

    image = scene_frame("val", 0, 0, (rows, columns)).image
    trace = trace_pipeline(image) if without_ros else trace_node(image)
    entries = trace.entries()
    by_files = {name: len({file for file, _ in callers}) for name, callers in entries.items()}
    often = sum(count > 2 for count in by_files.values())
    print(f"{len(entries)} files; entered from more than two files: {often}")
    for name, callers in entries.items():
        told = ", ".join(sorted(f"{file}:{function}".rstrip(":") for file, function in callers))
        print(f"{by_files[name]:2d} {len(callers):2d}  {name}  <- {told}")


if __name__ == "__main__":
    typer.run(main)
