"""Race the forms of the deformable convolution on this machine's GPU, and print who wins.

The layers are those of cityscapes-r50's semantic head at 1024x2048: 256 to 128 and 128 to 128
channels on P2 .. P5. All forms run on P2; the fastest ones then run on all levels, and the one with
the least sum wins, unless its result differs. What is printed at the end goes into `FASTEST` of
`upsnet_ros/ops/triton/deform_conv.py`. Each time is written as soon as it is taken.

    python benchmarks/deform_forms.py --help
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from upsnet_ros.ops.triton.deform_conv import FORMS, Form, deform_conv2d, pack_weight

#: Channels in and out of the layers, and rows and columns of the levels.
LAYERS = ((256, 128), (128, 128))
LEVELS = ((256, 512), (128, 256), (64, 128), (32, 64))
#: Forms that run on all levels.
_FINALISTS = 6
#: Relative error, in half precision, above which a form is wrong.
_LARGEST_ERROR = 5e-3

#: Returns the microseconds and the relative error of a form on a level, (rows, columns).
Measure = Callable[[Form, tuple[int, int]], tuple[float, float]]
Note = Callable[[dict[str, object]], None]


def winner(forms: Sequence[Form], measure: Measure, note: Note) -> Form:
    """Return the fastest form of a layer; what cannot run or is wrong does not win.

    Args:
        forms: The first of them is the one to beat.
        measure: Runs a form.
        note: Told of each measurement.
    """

    def time(form: Form, level: tuple[int, int]) -> float:
        try:
            microseconds, error = measure(form, level)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the form is out of the race
            note({"form": str(form), "level": level, "failed": str(failure)[:200]})
            return float("inf")
        note({"form": str(form), "level": level, "us": round(microseconds, 1), "error": error})
        return microseconds if error <= _LARGEST_ERROR else float("inf")

    first = {form: time(form, LEVELS[0]) for form in forms}
    best = sorted(forms, key=first.__getitem__)[:_FINALISTS]
    sums = {
        form: first[form] + sum(time(form, level) for level in LEVELS[1:])
        for form in dict.fromkeys((forms[0], *best))
        if first[form] < float("inf")
    }
    return min(sums, key=sums.__getitem__, default=forms[0])


def measure_on_gpu(channels: int, outputs: int, *, rounds: int) -> Measure:
    """Return what times a layer's forms, in half precision."""
    from kernel_times import in_graph, microseconds

    options = {"device": "cuda", "dtype": torch.float16}
    weight = torch.randn(outputs, channels, 3, 3, **options) / (9 * channels) ** 0.5  # type: ignore[arg-type]
    bias = torch.randn(outputs, **options)  # type: ignore[arg-type]
    packed = pack_weight(weight)

    def measure(form: Form, level: tuple[int, int]) -> tuple[float, float]:
        torch.manual_seed(0)
        x, offset = (  # offsets of about a pixel
            torch.randn(1, *level, depth, **options).permute(0, 3, 1, 2)  # type: ignore[arg-type]
            for depth in (channels, 18)
        )

        def run(form: Form = form) -> Tensor:
            return deform_conv2d(x, offset, weight, bias, relu=True, packed=packed, form=form)

        want = run(FORMS[0]).float()
        error = float((run().float() - want).norm() / want.norm())
        return microseconds(in_graph(run), rounds=rounds, runs=10), error

    return measure


def main(
    out: Annotated[Path | None, typer.Option(help="JSON lines, one a measurement.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each form.")] = 15,
) -> None:
    """Race the forms and print the table."""
    if not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device to race on")

    def note(row: dict[str, object]) -> None:
        typer.echo(json.dumps(row))
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")

    for channels, outputs in LAYERS:
        with torch.inference_mode():
            best = winner(FORMS, measure_on_gpu(channels, outputs, rounds=rounds), note)
        note({"layer": (channels, outputs), "fastest": str(best)})
        typer.echo(f"    ({channels}, {outputs}): {best},")


if __name__ == "__main__":
    typer.run(main)
