"""How many camera images reach another process, and how late: by our transports and the default.

    python benchmarks/transport.py measure --runs 3

Each run starts a publisher and a subscriber in processes and a ROS domain of their own, and lets
them find each other before the first image is sent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from upsnet_ros.node.topics import input_qos, output_qos
from upsnet_ros.processes.transport import (
    PROFILE_VARIABLES,
    TRANSPORT_VARIABLES,
    private_environment,
)

PROFILE = Path(__file__).resolve().parent.parent / "config" / "fastdds_shm.xml"
TOPIC = "image"
_SECONDS_TO_MEET = 60.0
_SECONDS_UNDER_WAY = 1.0

app = typer.Typer(add_completion=False)


class Profile(str, Enum):
    """Transports of Fast DDS."""

    ours = "ours"
    default = "default"
    large_data = "large_data"


class Reliability(str, Enum):
    """As the node's parameter image_reliability."""

    best_effort = "best_effort"
    reliable = "reliable"


@app.command()
def measure(
    width: int = 2048,
    height: int = 1024,
    rate: Annotated[float, typer.Option(help="Images per second.")] = 30.0,
    seconds: Annotated[float, typer.Option(help="Of sending, in each run.")] = 10.0,
    runs: int = 1,
    reliability: Annotated[
        Reliability, typer.Option(help="Of the subscriber, which is as the node's is.")
    ] = Reliability.best_effort,
    depth: Annotated[
        int, typer.Option(help="Images that may wait for the subscriber; by default as the node's.")
    ] = input_qos("best_effort").depth,
    profile: Annotated[
        list[Profile] | None, typer.Option(help="By default ours and default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of all runs.")] = False,
) -> None:
    """Send images from one process to another, and count what arrives."""
    results = [
        _run(
            one,
            size=(width, height),
            rate=rate,
            seconds=seconds,
            reliability=reliability,
            depth=depth,
        )
        for _ in range(runs)  # in turns, so that what else the machine does hits all alike
        for one in profile or [Profile.ours, Profile.default]
    ]
    if as_json:
        print(json.dumps(results))
        return
    table = Table(
        title=f"rgb8 {width}x{height} at {rate:g} Hz, {reliability.value}, keep last {depth}"
    )
    for heading in ("profile", "sent", "received", "%", "latency p50, ms", "p99, ms"):
        table.add_column(heading, justify="left" if heading == "profile" else "right")
    for one in results:
        table.add_row(*(str(value) for value in one.values()))
    Console().print(table)


def _run(
    profile: Profile,
    *,
    size: tuple[int, int],
    rate: float,
    seconds: float,
    reliability: Reliability,
    depth: int,
) -> dict[str, object]:
    environment = {key: text for key, text in os.environ.items() if key not in TRANSPORT_VARIABLES}
    environment |= private_environment()
    if profile is Profile.ours:
        environment |= dict.fromkeys(PROFILE_VARIABLES, str(PROFILE))
    elif profile is Profile.large_data:
        environment["FASTDDS_BUILTIN_TRANSPORTS"] = "LARGE_DATA"

    def start(role: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, role, *(str(one) for one in arguments)]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    count = round(rate * seconds)
    subscriber = start("subscribe", reliability.value, depth)
    publisher = start("publish", *size, rate, count)
    try:
        if publisher.wait(_SECONDS_TO_MEET + 2 * seconds) != 0:
            raise typer.Exit(1)
        time.sleep(_SECONDS_UNDER_WAY)
        told, _ = subscriber.communicate("", timeout=_SECONDS_TO_MEET)
    finally:
        for process in (publisher, subscriber):
            process.kill()
            process.wait()
    milliseconds = json.loads(told)
    late = np.percentile(milliseconds, (50, 99)) if milliseconds else (np.nan, np.nan)
    return {
        "profile": profile.value,
        "sent": count,
        "received": len(milliseconds),
        "percent": round(100 * len(milliseconds) / count, 1),
        "p50_ms": round(float(late[0]), 1),
        "p99_ms": round(float(late[1]), 1),
    }


@app.command(hidden=True)
def publish(width: int, height: int, rate: float, count: int) -> None:
    """The publisher's process."""
    import rclpy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from upsnet_ros.messages.cdr_image import write_image

    rclpy.init()
    node = rclpy.create_node("publisher")
    publisher = node.create_publisher(Image, TOPIC, output_qos())
    end = time.monotonic() + _SECONDS_TO_MEET
    while not publisher.get_subscription_count():
        if time.monotonic() > end:
            sys.exit("publisher and subscriber do not find each other")
        time.sleep(0.02)
    time.sleep(0.5)  # the subscriber has to know the publisher, too
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    started = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        header = Header()
        header.stamp.sec, header.stamp.nanosec = divmod(time.monotonic_ns(), 1_000_000_000)
        publisher.publish(write_image(pixels, "rgb8", header))
    time.sleep(_SECONDS_UNDER_WAY)  # what was sent last may still be read from here
    node.destroy_node()
    rclpy.shutdown()


@app.command(hidden=True)
def subscribe(reliability: Reliability, depth: int) -> None:
    """The subscriber's process: prints each image's latency in milliseconds, once stdin ends."""
    import rclpy
    from sensor_msgs.msg import Image

    from upsnet_ros.messages.cdr_image import read_image

    rclpy.init()
    node = rclpy.create_node("subscriber")
    latencies: dict[int, float] = {}

    def note(serialized: bytes) -> None:
        stamp = read_image(serialized).header.stamp
        sent = stamp.sec * 1_000_000_000 + stamp.nanosec
        latencies[sent] = (time.monotonic_ns() - sent) / 1e6

    profile = input_qos(reliability.value)
    profile.depth = depth
    node.create_subscription(Image, TOPIC, note, profile, raw=True)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while not over.is_set():
        rclpy.spin_once(node, timeout_sec=0.1)
    print(json.dumps(list(latencies.values())))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    app()
