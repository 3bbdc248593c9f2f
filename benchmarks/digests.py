"""Digests of what the network makes of 40 frames, to compare two commits on one machine.

    python benchmarks/digests.py frames.npz --out before.txt
    python benchmarks/digests.py frames.npz --compare before.txt

The synthetic frames are rendered once, into the file, so that both commits see the same pixels.
Each frame is computed in fp32 on the CPU in batches of 1 and 4, with labels resized by nearest and
bilinear: 160 lines of batch, resize, frame and the SHA-256 of labels, unknown mask and segments.
Exits with 1 where a line differs. Another processor, or number of threads, rounds differently.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.inference.predictor import Predictor

Image = npt.NDArray[np.uint8]

SIZES = ((256, 512), (300, 400))
BATCHES = (1, 4)
RESIZES = ("nearest", "bilinear")
_FIELDS = ("id", "class_id", "class_name", "score", "box", "detection_box", "area")


def render(path: Path, count: int) -> None:
    """Write frames of the test split in alternating sizes, four a street, BGR."""
    from upsnet_ros.synthetic.dataset import scene_frame

    frames = {
        f"{index:03}": scene_frame("test", index // 4, 23 * (index % 4), SIZES[index % 2]).image
        for index in range(count)
    }
    np.savez_compressed(path, **frames)


def digest(frame: PanopticFrame) -> str:
    """Return the SHA-256 of everything a frame says, as hex."""
    segments = [
        tuple(getattr(segment, name, None) for name in _FIELDS)
        for segment in (*frame.instances, *frame.stuff)
    ]
    parts = (
        frame.labels.astype(np.int32).tobytes(),
        frame.unknown.astype(np.uint8).tobytes(),
        repr(segments).encode(),
    )
    return hashlib.sha256(b"".join(parts)).hexdigest()


def digests(
    frames: dict[str, Image], *, weights: Path | None, batch: int, label_resize: str
) -> Iterator[tuple[str, str]]:
    """Yield each frame's name and digest; frames of one size are computed together."""
    predictor = Predictor(weights, device="cpu", scale=256, label_resize=label_resize)
    names = sorted(frames, key=lambda name: (frames[name].shape, name))
    with Pipeline(predictor, batch=batch) as pipeline:
        for start in range(0, len(names), batch):
            group = names[start : start + batch]
            results = pipeline.submit_together([frames[name] for name in group])
            for name, result in zip(group, results, strict=True):
                yield name, digest(result.result())


def main(
    frames: Annotated[Path, typer.Argument(help="File of frames; rendered if it does not exist.")],
    count: Annotated[int, typer.Option(min=1, help="Frames to render.")] = 40,
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint. Not given: the bundled weights.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the lines here too.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Lines of another commit.")] = None,
) -> None:
    """Print digests, or compare them with those of another commit."""
    if not frames.exists():
        render(frames, count)
    with np.load(frames) as file:
        images = {name: file[name] for name in file.files}
    lines = []
    for batch in BATCHES:
        for resize in RESIZES:
            for name, value in digests(images, weights=weights, batch=batch, label_resize=resize):
                lines.append(f"{batch} {resize} {name} {value}")
                typer.echo(lines[-1])
    if out is not None:
        out.write_text("\n".join(lines) + "\n")
    if compare is not None:
        before = compare.read_text().splitlines()
        same = len({*lines} & {*before})
        typer.echo(f"{same} of {max(len(lines), len(before))} equal", err=True)
        if lines != before:
            for line in sorted({*lines} - {*before}):
                typer.echo(f"differs: {line}", err=True)
            sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
