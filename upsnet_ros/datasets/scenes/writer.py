"""Writes scenes as Cityscapes lays its data out, so that its tools and readers take them.

leftImg8bit_sequence/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png   every frame
leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png            annotated frames
gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png             uint8 label ids
                                    ..._gtFine_instanceIds.png        uint16 instance ids
                                    ..._gtFine_unknownMask.png        255 on unknown objects
gtFine/cityscapes_panoptic_SPLIT/..._gtFine_panoptic.png and cityscapes_panoptic_SPLIT.json
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.dataset import scene_frame
from upsnet_ros.datasets.scenes.panoptic import categories, entry, panoptic_folder, panoptic_image
from upsnet_ros.datasets.scenes.renderer import SceneFrame
from upsnet_ros.datasets.scenes.seeds import check_split
from upsnet_ros.orphans import end_with_parent

# A third of the time that the defaults take, for a tenth more bytes. OpenCV before 4.12 cannot
# choose the filter, and takes longer.
_FILTER = (
    [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    if hasattr(cv2, "IMWRITE_PNG_FILTER")
    else []
)
_PICTURE = [
    *_FILTER,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
]
_LABELS = [*_FILTER, cv2.IMWRITE_PNG_COMPRESSION, 2]

_CHUNK = 8  # frames that one process draws in a row: they share a street


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneJob:
    """What to write.

    Attributes:
        out: Root folder; made where it is missing.
        split: "train", "val" or "test".
        seed: Which set of streets; part of the city's name.
        sequences: Number of sequences, each on a street of its own.
        length: Frames of a sequence.
        size: Rows and columns.
        every: Every how many frames one is annotated.
        first: Number of the first sequence.
    """

    out: Path
    split: str
    seed: int
    sequences: int
    length: int
    size: tuple[int, int]
    every: int = 1
    first: int = 0

    def __post_init__(self) -> None:
        check_split(self.split)
        if min(self.sequences, self.length, self.every) < 1 or min(self.seed, self.first) < 0:
            raise ValueError(
                "sequences, length and every must be at least 1, seed and first at least 0"
            )

    @property
    def city(self) -> str:
        """Name of the city, without an underscore as Cityscapes' file names demand."""
        return f"drawn{self.seed}"

    @property
    def total(self) -> int:
        """Number of frames."""
        return self.sequences * self.length


def write_scenes(job: SceneJob, *, workers: int = 1) -> Iterator[Path]:
    """Draws and writes all frames of a job.

    Args:
        job: What to write.
        workers: Number of processes. Scripts that ask for several need the usual
            ``if __name__ == "__main__"`` around what they do.

    Yields:
        The sequence image of each frame once all of the frame's files are there, in any order.
        The panoptic JSON is written, with what other jobs wrote to it, before the last one ends.

    Raises:
        OSError: Where a file cannot be written.
    """
    for kind in ("leftImg8bit_sequence", "leftImg8bit", "gtFine"):
        (job.out / kind / job.split / job.city).mkdir(parents=True, exist_ok=True)
    panoptic_folder(job.out, job.split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path, record in _run(job, workers):
        if record is not None:
            images.append(record[0])
            annotations.append(record[1])
        yield path
    _write_json(job, images, annotations)


_Written = tuple[Path, tuple[dict[str, Any], dict[str, Any]] | None]


def _run(job: SceneJob, workers: int) -> Iterator[_Written]:
    chunks = [
        (sequence, range(start, min(start + _CHUNK, job.length)))
        for sequence in range(job.first, job.first + job.sequences)
        for start in range(0, job.length, _CHUNK)
    ]
    if workers <= 1:
        for sequence, frames in chunks:
            yield from _write_chunk(job, sequence, frames)
        return
    # Forked from a process without threads: a copy of OpenCV's or rich's threads may hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
        futures = [pool.submit(_write_chunk, job, *chunk) for chunk in chunks]
        for future in futures:
            yield from future.result()


def _begin() -> None:
    end_with_parent()
    cv2.setNumThreads(1)  # the processes fill the cores already


def _write_chunk(job: SceneJob, sequence: int, frames: range) -> list[_Written]:
    return [_write_frame(job, sequence, frame) for frame in frames]


def _write_frame(job: SceneJob, sequence: int, frame: int) -> _Written:
    scene = scene_frame(job.split, sequence, frame, job.size, seed=job.seed)
    name = f"{job.city}_{sequence:06d}_{frame:06d}"
    picture = f"{name}_leftImg8bit.png"
    path = job.out / "leftImg8bit_sequence" / job.split / job.city / picture
    _write(path, scene.image, _PICTURE)
    if frame % job.every:
        return path, None
    _link(path, job.out / "leftImg8bit" / job.split / job.city / picture)
    return path, _write_truth(job, name, scene)


def _write_truth(
    job: SceneJob, name: str, scene: SceneFrame
) -> tuple[dict[str, Any], dict[str, Any]]:
    truth = job.out / "gtFine" / job.split / job.city
    _write(truth / f"{name}_gtFine_labelIds.png", scene.semantic, _LABELS)
    _write(truth / f"{name}_gtFine_instanceIds.png", scene.instances.astype(np.uint16), _LABELS)
    mask = scene.unknown.astype(np.uint8) * 255
    _write(truth / f"{name}_gtFine_unknownMask.png", mask, _LABELS)
    image, annotation = entry(name, scene.instances)
    folder = panoptic_folder(job.out, job.split)
    _write(folder / annotation["file_name"], panoptic_image(scene.instances), _LABELS)
    return image, annotation


def _write(path: Path, image: npt.NDArray[Any], flags: list[int]) -> None:
    done, data = cv2.imencode(".png", image, flags)
    if not done:
        raise OSError(f"{path}: OpenCV could not encode it as PNG")
    path.write_bytes(data.tobytes())


def _link(source: Path, target: Path) -> None:
    """The same picture under another name, without its bytes where the file system allows."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copyfile(source, target)


def _write_json(
    job: SceneJob, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> None:
    path = panoptic_folder(job.out, job.split).with_suffix(".json")
    if path.exists():  # frames of other seeds stay
        old = json.loads(path.read_text())
        new = {image["id"] for image in images}
        images = [image for image in old["images"] if image["id"] not in new] + images
        annotations = [a for a in old["annotations"] if a["image_id"] not in new] + annotations
    content = {
        "images": sorted(images, key=lambda image: image["id"]),
        "annotations": sorted(annotations, key=lambda annotation: annotation["image_id"]),
        "categories": categories(),
    }
    path.write_text(json.dumps(content, indent=1, sort_keys=True))
