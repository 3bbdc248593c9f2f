"""Whether the node grows or slows down over time: memory, handles, threads, latency; a verdict.

    python benchmarks/soak.py --minutes 30 --out soak.json

Starts `upsnet node` with a small network in a ROS domain of its own and shows it the next frame as
soon as the last one was answered, which is the highest rate that the machine holds. The first
quarter of the time is the warm-up; over the rest a line is fitted that outliers do not move.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer
from scipy.stats import theilslopes

from upsnet_ros.benchmark.measure import describe_machine
from upsnet_ros.processes.child_processes import child_command
from upsnet_ros.processes.transport import private_environment, use_shared_memory_profile

MIB = 1 << 20
#: What may be added over an hour, by the fitted line, for the verdict to be good.
ALLOWED_AN_HOUR = {"rss_mib": 16.0, "descriptors": 2.0, "threads": 1.0}
#: By how much the median latency may grow over the run, of itself.
ALLOWED_LATENCY_GROWTH = 0.1
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Sample:
    """The node over one period.

    Attributes:
        seconds: Since the start, at the period's end.
        answered: Frames in the period.
        p50_ms: Median latency of these, from publishing the image to its labels.
        p99_ms: 99th percentile.
        cpu_ms: Processor time that the node took for a frame, which other load distorts least.
        rss_mib: Memory of the node's process.
        descriptors: Its open files and sockets.
        threads: Its threads.
    """

    seconds: float
    answered: int
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    rss_mib: float
    descriptors: int
    threads: int


def main(
    minutes: float = 30.0,
    period: Annotated[float, typer.Option(help="Seconds between two samples.")] = 5.0,
    variant: str = "cityscapes-r18",
    scale: int = 128,
    width: int = 512,
    height: int = 256,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Run the node at its highest rate, and assess whether its resources stay constant."""
    os.environ.update(private_environment())
    use_shared_memory_profile()
    arguments = ["--variant", variant, "--scale", str(scale), "--device", "cpu"]
    node = subprocess.Popen(child_command("upsnet_ros.cli", "node", *arguments))
    try:
        samples = _watch(node.pid, size=(width, height), seconds=60 * minutes, period=period)
    finally:
        node.send_signal(signal.SIGINT)
        node.wait()
    report = {
        "machine": describe_machine(torch.device("cpu")),
        "arguments": {"variant": variant, "scale": scale, "width": width, "height": height},
        "frames": sum(one.answered for one in samples),
        **assess(samples),
        "samples": [asdict(one) for one in samples],
    }
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n")
    del report["samples"]
    print(json.dumps(report, indent=1))
    if report["verdict"] != "steady":
        raise typer.Exit(1)


def assess(samples: list[Sample]) -> dict[str, Any]:
    """The verdict: what grew, by a robust line over the last three quarters of the samples."""
    kept = samples[len(samples) // 4 :]
    hours = np.array([one.seconds for one in kept]) / 3600
    slopes = {
        name: float(theilslopes([getattr(one, name) for one in kept], hours)[0])
        for name in (*ALLOWED_AN_HOUR, "p50_ms", "p99_ms", "cpu_ms")
    }
    grown = [name for name, most in ALLOWED_AN_HOUR.items() if slopes[name] > most]
    median = float(np.median([one.p50_ms for one in kept]))
    if slopes["p50_ms"] * (hours[-1] - hours[0]) > ALLOWED_LATENCY_GROWTH * median:
        grown.append("p50_ms")
    return {
        "verdict": f"grew: {', '.join(grown)}" if grown else "steady",
        "slopes_an_hour": {name: round(slope, 3) for name, slope in slopes.items()},
        "medians": {
            name: round(float(np.median([getattr(one, name) for one in kept])), 3)
            for name in slopes
        },
        "first": asdict(kept[0]),
        "last": asdict(kept[-1]),
    }


def _watch(pid: int, *, size: tuple[int, int], seconds: float, period: float) -> list[Sample]:
    import rclpy
    from rclpy.qos import QoSProfile
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from upsnet_ros.messages.results import image_message

    rclpy.init()
    beside = rclpy.create_node("soak")
    camera = beside.create_publisher(Image, "/panoptic/image", QoSProfile(depth=5))
    answers: list[int] = []
    beside.create_subscription(
        Image, "/panoptic/labels", lambda msg: answers.append(msg.header.stamp.sec), 10
    )
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    process, samples, latencies, number = psutil.Process(pid), [], [], 0
    started: float | None = None
    sampled = used = 0.0
    while started is None or time.monotonic() < started + seconds:
        number += 1
        header = Header()
        header.stamp.sec = number
        picture = np.roll(noise, number, axis=1)
        shown = time.monotonic()
        camera.publish(serialize_message(image_message(picture, "rgb8", header)))
        patience = shown + (
            _PATIENCE_SECONDS if started else 1.0
        )  # the node starts, or should live
        while number not in answers and time.monotonic() < patience:
            rclpy.spin_once(beside, timeout_sec=0.1)
        now = time.monotonic()
        if number in answers:
            if started is None:
                started = sampled = now
                used = _processor_seconds(process)
            latencies.append(1e3 * (now - shown))
        elif started or not process.is_running():
            raise typer.BadParameter(f"frame {number} was not answered")
        answers.clear()
        if started and now - sampled > period:
            median, high = np.percentile(latencies, (50, 99)).tolist()
            before, used = used, _processor_seconds(process)
            samples.append(
                Sample(
                    seconds=now - started,
                    answered=len(latencies),
                    p50_ms=median,
                    p99_ms=high,
                    cpu_ms=1e3 * (used - before) / len(latencies),
                    rss_mib=process.memory_info().rss / MIB,
                    descriptors=process.num_fds(),
                    threads=process.num_threads(),
                )
            )
            sampled = now
            latencies.clear()
    beside.destroy_node()
    rclpy.shutdown()
    return samples


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    typer.run(main)
