"""Time every Triton kernel and its reference implementation on this machine's GPU.

A kernel's time is taken inside a CUDA graph of several runs, so that launches from the host do not
count; with --eager they do. Inputs that fit the GPU's cache are read from there. The reference runs
eagerly. Times are medians over rounds; prints Markdown for docs/kernels.md.

    python benchmarks/kernel_times.py --help
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from kernel_cases import Case, cases

#: Runs of a kernel in one graph.
_RUNS = 10


def in_graph(run: Callable[[], Any]) -> Callable[[], None]:
    """Capture `_RUNS` runs in a graph, and return what replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()  # compiles
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_RUNS):
            run()
    return graph.replay


def microseconds(run: Callable[[], Any], *, rounds: int, runs: int) -> float:
    """Return the median time of one of the ``runs`` that a call makes."""
    run()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / runs)
    return statistics.median(times)


def row(case: Case, *, rounds: int, eager: bool, reference: bool) -> str:
    """Return a case's line of the table."""
    if eager:
        time = microseconds(case.kernel, rounds=rounds, runs=1)
    else:
        time = microseconds(in_graph(case.kernel), rounds=rounds, runs=_RUNS)
    plain = f"{microseconds(case.reference, rounds=3, runs=1):.0f}" if reference else ""
    return f"| {case.name} | {time:.1f} | {plain} |"


def main(
    batch: Annotated[int, typer.Option(min=1, help="Frames.")] = 1,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each kernel.")] = 50,
    eager: Annotated[bool, typer.Option("--eager", help="Launch from the host.")] = False,
    reference: Annotated[bool, typer.Option(help="Time the references too.")] = True,
    only: Annotated[str, typer.Option(help="Cases whose names begin so.")] = "",
) -> None:
    """Print a table of times."""
    if not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device to time kernels on")
    torch.manual_seed(0)
    typer.echo(f"{torch.cuda.get_device_name()}, {dtype}, batch {batch}\n")
    typer.echo("| kernel | µs | reference, µs |\n|---|---|---|")
    with torch.inference_mode():
        for case in cases("cuda", getattr(torch, dtype), batch=batch):
            if not case.name.startswith(only):
                continue
            try:
                line = row(case, rounds=rounds, eager=eager, reference=reference)
            except Exception as error:  # noqa: BLE001 - the other kernels can still be timed
                reason = (str(error) or type(error).__name__).splitlines()[0]
                line = f"| {case.name} | failed: {reason} | |"
            typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
