"""Where a frame's graph spends the GPU's time: by stage and by kernel.

Stages are timed by events inside the graph, kernels by CUPTI. Writes FILE.json after each step, and
FILE_kernels.csv. On a CPU, where there are no graphs, it times the stages of calls, which shows
that the script runs. `UPSNET_CUDNN_PLANS` says how many plans cuDNN times for each convolution.

    python benchmarks/gpu/profile_frame.py --help
"""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from upsnet_ros.benchmark.measure import Summary, captured, describe_machine, device_ms
from upsnet_ros.benchmark.settings import BenchSettings
from upsnet_ros.benchmark.stages import frames, graph_stages, make_predictor
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.cuda_graph import cudnn_plans
from upsnet_ros.inference.preprocess import upload
from upsnet_ros.ops.dispatch import failures

#: Tensors of NaN, in half precision, that a graph's memory held before.
_POISON = (8, 1 << 26)
#: Share of labels that no NaN has changed.
_LEAST_EQUAL = 0.99
#: Kernels that are listed, those that take longest.
_LISTED = 70


def poisoned(compute: Callable[[], list[Assembly]], device: torch.device) -> dict[str, Any]:
    """Compare a frame in fresh memory with one in memory full of NaN.

    Returns:
        ``equal``, the share of equal values in each of two results, and ``changed_by_nan``.
        Convolutions that add up in any order may change single pixels; NaN that is read spreads.
    """
    found: list[list[Assembly]] = []

    def compute_in_nan() -> None:
        junk = [
            torch.full((_POISON[1],), float("nan"), device=device, dtype=torch.float16)
            for _ in range(_POISON[0] if device.type == "cuda" else 0)
        ]
        del junk
        found.append(compute())

    want = compute()[0].to_host()
    with captured(compute_in_nan, device) as replay:
        replay()
        got = found[-1][0].to_host()
    equal = {
        name: float((getattr(want, name) == getattr(got, name)).float().mean())
        for name in ("labels", "table")
    }
    changed = not bool(got.finite.all()) or equal["labels"] < _LEAST_EQUAL
    return {"equal": equal, "changed_by_nan": changed}


def kernels_of(replay: Callable[[], object], path: Path) -> dict[str, Any]:
    """Write the kernels of one replay in order to a CSV file; return sums by kernel."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        replay()
        torch.cuda.synchronize()
    events = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    events.sort(key=lambda event: event.time_range.start)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("start_us", "us", "gap_us", "name"))
        last = begin = events[0].time_range.start if events else 0
        for event in events:
            span = event.time_range
            values = (span.start - begin, span.elapsed_us(), span.start - last)
            rows.writerow((*(round(value, 2) for value in values), event.name[:160]))
            last = span.end
    number, total = Counter[str](), Counter[str]()
    for event in events:
        number[event.name[:110]] += 1
        total[event.name[:110]] += event.time_range.elapsed_us()
    listed = [(name, number[name], round(us, 1)) for name, us in total.most_common(_LISTED)]
    return {"launches": len(events), "busy_us": round(sum(total.values()), 1), "kernels": listed}


def main(
    out: Annotated[Path, typer.Option(help="What the files' names begin with.")],
    variant: Annotated[str, typer.Option()] = "cityscapes-r50",
    size: Annotated[str, typer.Option(metavar="HxW")] = "1024x2048",
    precision: Annotated[str, typer.Option()] = "fp16",
    device: Annotated[str, typer.Option()] = "cuda",
    replays: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """Profile one frame."""
    height, width = map(int, size.split("x"))
    settings = BenchSettings(
        variant=variant,
        height=height,
        width=width,
        device=device,
        precision=precision,
        threads=None,
        iterations=replays,
        warmup=3,
        weights=None,
        image=None,
    )
    report: dict[str, Any] = {"settings": asdict(settings), "cudnn_plans": cudnn_plans()}

    def note(**values: Any) -> None:
        report.update(values, kernels_failed=failures())
        out.with_name(f"{out.name}.json").write_text(json.dumps(report, indent=1))
        typer.echo(f"{', '.join(values)}: {json.dumps(values)[:400]}")

    image = frames(None, height=height, width=width)[0]
    predictor = make_predictor(settings, graphs=False)
    there = predictor.device
    note(machine=describe_machine(there), cudnn=torch.backends.cudnn.version())
    pixels = upload(image, there)
    compute = partial(predictor.compute_batch, [pixels], predictor.settings())
    begin = time.perf_counter()
    with torch.inference_mode(), captured(compute, there) as replay:
        note(warm_up_and_capture_s=round(time.perf_counter() - begin, 2))
        times = device_ms(replay, there, warmup=3, iterations=replays)
        note(graph_ms=asdict(Summary.of(times)))
        if there.type == "cuda":
            note(peak_reserved_mib=torch.cuda.max_memory_reserved(there) >> 20)
            note(**kernels_of(replay, out.with_name(f"{out.name}_kernels.csv")))
        note(**poisoned(compute, there))
    stages, _ = graph_stages(settings, image)
    note(stages_ms={name: asdict(summary) for name, summary in stages.items()})


if __name__ == "__main__":
    typer.run(main)
