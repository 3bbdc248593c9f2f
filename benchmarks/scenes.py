"""Time how fast driving scenes are drawn and written: python benchmarks/scenes.py --help.

A frame's time is what one process takes; the last row is `upsnet scenes` with several processes,
from its start to its end. With --processor-time frames are timed by the processor's clock, for
machines that others use too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from upsnet_ros.synthetic.dataset import SceneJob, scene_frame, write_scenes
from upsnet_ros.synthetic.renderer import SceneFrame


def frame_times(
    streets: int, frames: int, size: tuple[int, int], clock: Callable[[], float]
) -> Iterator[float]:
    """Milliseconds to draw each of ``frames`` frames on each street, its first one left out."""
    for street in range(streets):
        scene_frame("val", street, 0, size)  # lays out the street and draws its textures
        for frame in range(1, frames + 1):
            start = clock()
            scene: SceneFrame = scene_frame("val", street, frame, size)
            yield 1000 * (clock() - start)
            assert scene.image.shape[:2] == size


def writing_time(
    streets: int,
    frames: int,
    size: tuple[int, int],
    *,
    workers: int,
    clock: Callable[[], float],
) -> float:
    """Milliseconds a frame, drawn and written by ``workers`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        job = SceneJob(
            out=Path(folder), split="val", seed=0, sequences=streets, length=frames, size=size
        )
        start = clock()
        count = sum(1 for _ in write_scenes(job, workers=workers))
        return 1000 * (clock() - start) / count


def main(
    streets: Annotated[int, typer.Option(help="Different streets.")] = 12,
    frames: Annotated[int, typer.Option(help="Frames on each.")] = 6,
    height: Annotated[int, typer.Option()] = 512,
    width: Annotated[int, typer.Option()] = 1024,
    workers: Annotated[int, typer.Option(help="Processes that write.")] = 2,
    written: Annotated[int, typer.Option(help="Frames of each of two streets to write.")] = 100,
    processor_time: Annotated[bool, typer.Option(help="Do not count waiting.")] = False,
) -> None:
    """Print a table of frame times and of the writer's throughput."""
    clock = time.process_time if processor_time else time.perf_counter
    times = list(frame_times(streets, frames, (height, width), clock))
    deciles = statistics.quantiles(times, n=10)
    table = Table("what", "value", title=f"driving scenes, {height}x{width}")
    table.add_row("draw a frame, median", f"{statistics.median(times):.0f} ms")
    table.add_row("draw a frame, 90 % within", f"{deciles[-1]:.0f} ms")
    size = height, width
    alone = writing_time(streets, frames, size, workers=1, clock=clock)  # its streets are laid out
    table.add_row("draw and write a frame, mean", f"{alone:.0f} ms")
    together = writing_time(2, written, size, workers=workers, clock=time.perf_counter)
    table.add_row(f"upsnet scenes, {workers} processes", f"{1000 / together:.1f} frames/s")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
