"""Times kernels on this machine's CPU against their references: benchmarks/kernels.py --help.

The figures of docs/performance.md come from here. Contestants run in turn, so that a load that
comes and goes slows all of them; times are wall clock, or processor time with --processor-time
(one thread only: waiting threads spin and would count).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table

from upsnet_ros.ops.deform_conv import deform_conv2d, deform_conv2d_reference
from upsnet_ros.ops.roi_align import roi_align, roi_align_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """One job, and who can do it; the first contestant is what the others are compared with."""

    name: str
    contestants: dict[str, Callable[[], object]]


def deform_conv_race(channels: int, outputs: int, height: int, width: int) -> Race:
    """A layer of the semantic head; a plain convolution shows what the arithmetic alone costs."""
    input, offset, weight, bias = (
        torch.randn(1, channels, height, width).to(memory_format=torch.channels_last),
        torch.randn(1, 18, height, width).to(memory_format=torch.channels_last),
        torch.randn(outputs, channels, 3, 3) / 48,
        torch.randn(outputs),
    )
    half = [tensor.bfloat16() for tensor in (input, offset, weight, bias)]
    contiguous = input.contiguous()
    return Race(
        name=f"deformable 3x3, {channels} -> {outputs}, {height}x{width}",
        contestants={
            "torchvision": lambda: deform_conv2d_reference(contiguous, offset, weight, bias),
            "ours": lambda: deform_conv2d(input, offset, weight, bias),
            "ours, contiguous input": lambda: deform_conv2d(contiguous, offset, weight, bias),
            "ours, bfloat16": lambda: deform_conv2d(*half),
            "plain convolution": lambda: F.conv2d(input, weight, bias, padding=1),
        },
    )


def roi_align_race(count: int, bins: int, height: int, width: int) -> Race:
    """Boxes of 16 to 200 pixels on one pyramid level of stride 4."""
    feature = torch.randn(1, 256, height, width).to(memory_format=torch.channels_last)
    contiguous = feature.contiguous()
    size = 16 * 12.5 ** torch.rand(count, 2)
    corner = torch.rand(count, 2) * (torch.tensor([4.0 * width, 4.0 * height]) - size)
    rois = torch.cat((torch.zeros(count, 1), corner, corner + size), dim=1)
    return Race(
        name=f"RoIAlign {bins}x{bins}, {count} boxes, 256 channels, {height}x{width}",
        contestants={
            "torchvision": lambda: roi_align_reference(contiguous, rois, bins, 0.25),
            "torchvision, channels-last": lambda: roi_align_reference(feature, rois, bins, 0.25),
            "ours": lambda: roi_align(feature, rois, bins, 0.25),
        },
    )


def measure(race: Race, *, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of each contestant by round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in race.contestants}
    for number in range(rounds + 1):
        for name, run in race.contestants.items():
            begin = clock()
            run()
            if number:
                times[name].append(1e3 * (clock() - begin))
    return times


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each contestant.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    height: Annotated[int, typer.Option(help="Rows of the image; P2 has a quarter.")] = 512,
    width: Annotated[int, typer.Option(help="Columns of the image.")] = 1024,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="Leave out time that others had the CPU.")
    ] = False,
) -> None:
    """Race every kernel and print a table."""
    if processor_time and threads > 1:
        raise typer.BadParameter("processor time says nothing with more than one thread")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    p2 = height // 4, width // 4
    races = (
        deform_conv_race(256, 128, *p2),
        deform_conv_race(128, 128, *p2),
        deform_conv_race(256, 128, p2[0] // 4, p2[1] // 4),
        roi_align_race(1000, 7, *p2),
        roi_align_race(100, 14, *p2),
    )
    clock = time.process_time if processor_time else time.perf_counter
    table = Table("race", "contestant", "median ms", "min", "max", "of the first")
    with torch.inference_mode():
        for race in races:
            times = measure(race, rounds=rounds, clock=clock)
            first = next(iter(times.values()))
            for number, (name, values) in enumerate(times.items()):
                ratio = statistics.median(v / f for v, f in zip(values, first, strict=True))
                figures = (statistics.median(values), min(values), max(values))
                title = "" if number else race.name
                table.add_row(title, name, *(f"{f:.1f}" for f in figures), f"{ratio:.3f}")
            table.add_section()
    console = Console()
    console.width = max(console.width, 110)  # not a terminal: 80, which breaks every name
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
