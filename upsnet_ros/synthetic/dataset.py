"""Single frames, datasets in memory or in a cache, and files in the layout of Cityscapes.

`write_scenes` writes, for tools and readers of Cityscapes:

leftImg8bit_sequence/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png   every frame
leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png            annotated frames
gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png             uint8 label ids
                                    ..._gtFine_instanceIds.png        uint16 instance ids
                                    ..._gtFine_unknownMask.png        255 on unknown objects
                                    ..._gtFine_depth.tiff             float32 metres, if asked for
camera/SPLIT/CITY/CITY_SEQUENCE_FRAME_camera.json                     with the depth
gtFine/cityscapes_panoptic_SPLIT/..._gtFine_panoptic.png and cityscapes_panoptic_SPLIT.json
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import Sample
from upsnet_ros.datasets.coco_format import rgb_ids
from upsnet_ros.datasets.images import read_image, read_labels
from upsnet_ros.datasets.readers import sample_of_ids
from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.errors import DatasetError, OutputError, SettingsError
from upsnet_ros.output_files import OutputFolder, replacing, write_whole
from upsnet_ros.processes.task_pool import in_order
from upsnet_ros.synthetic.canvas import Camera
from upsnet_ros.synthetic.labels import categories, entry, panoptic_folder
from upsnet_ros.synthetic.renderer import SceneFrame, world
from upsnet_ros.synthetic.texture import check_split

#: Number of frames between two frames of a street in a dataset, so that they look different.
_APART = 23


def scene_frame(
    split: str, sequence: int, frame: int, size: tuple[int, int], *, seed: int = 0
) -> SceneFrame:
    """Return one frame of one sequence; it depends only on the arguments.

    Args:
        split: "train", "val" or "test"; their streets, houses, vehicles and people all differ.
        sequence: Index of the street, from 0.
        frame: Index of the frame, from 0, at 10 frames per second.
        size: Height and width, at least 16 pixels each.
        seed: Seed of the set of streets.

    Raises:
        SettingsError: If the split is unknown, an index is negative, or the size is too small.
    """
    rows, columns = _check_size(size)
    for name, value in (("sequence", sequence), ("frame", frame), ("seed", seed)):
        if value < 0:
            raise SettingsError(f"{name} is {value}: it must not be negative")
    return world(check_split(split), seed, sequence).frame(frame, rows, columns)


class DrivingScenes:
    """Dataset of synthetic frames, rendered on access.

    Frame ``index`` shows street ``index // per_street``; the frames of a street are seconds apart.
    Indexing is deterministic; sequential access is faster than random access.

    Args:
        split: "train", "val" or "test".
        seed: Seed of the set of streets, as in `scene_frame`.
        length: Number of frames.
        size: Height and width, pixels.
        per_street: Number of frames of each street.

    Raises:
        SettingsError: If the split is unknown, seed or length is negative, or the size is too
            small.
    """

    def __init__(
        self,
        split: str,
        seed: int,
        length: int,
        size: tuple[int, int],
        *,
        per_street: int = 4,
    ) -> None:
        self.split, self.seed, self.size = check_split(split), seed, _check_size(size)
        if seed < 0 or length < 0 or per_street < 1:
            raise SettingsError("seed and length must not be negative, per_street must be positive")
        self.length, self.per_street = length, per_street

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SceneFrame:
        if index < 0:
            index += self.length
        if not 0 <= index < self.length:
            raise IndexError(f"frame {index} of {self.length}")
        sequence, position = divmod(index, self.per_street)
        return scene_frame(self.split, sequence, position * _APART, self.size, seed=self.seed)

    def __iter__(self) -> Iterator[SceneFrame]:
        return (self[index] for index in range(self.length))


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = size
    if min(size) < 16:
        raise SettingsError(f"size {rows}x{columns}: scenes need at least 16x16 pixels")
    return rows, columns


# A third of the time of the defaults for a tenth more bytes. OpenCV before 4.12 cannot select the
# filter, and takes longer.
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
_DEPTH = [cv2.IMWRITE_TIFF_COMPRESSION, 5]  # LZW, which every reader of TIFF knows

_IMAGE = "_leftImg8bit.png"
_CHUNK = 8  # consecutive frames that one process renders: they share a street


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneJob:
    """Which frames to write, and where.

    Attributes:
        out: Root folder; created if missing.
        split: "train", "val" or "test".
        seed: Seed of the set of streets; part of the city's name.
        sequences: Number of sequences, each on its own street.
        length: Number of frames per sequence.
        size: Height and width, pixels.
        every: Annotate every n-th frame.
        first: Index of the first sequence.
        depth: Whether to write the depth and the camera of annotated frames.
    """

    out: Path
    split: str
    seed: int
    sequences: int
    length: int
    size: tuple[int, int]
    every: int = 1
    first: int = 0
    depth: bool = False

    def __post_init__(self) -> None:
        check_split(self.split)
        if min(self.sequences, self.length, self.every) < 1 or min(self.seed, self.first) < 0:
            raise SettingsError(
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


def files_of(job: SceneJob) -> frozenset[str]:
    """Return the names of all files that a job writes, relative to its folder."""
    names = {panoptic_folder(Path(), job.split).with_suffix(".json")}
    for sequence in range(job.first, job.first + job.sequences):
        for frame in range(job.length):
            names.update(_paths(job, sequence, frame).values())
    return frozenset(name.as_posix() for name in names)


def _paths(job: SceneJob, sequence: int, frame: int) -> dict[str, Path]:
    """Return the files of a frame by what they hold, relative to the job's folder."""
    name, city = f"{job.city}_{sequence:06d}_{frame:06d}", Path(job.split, job.city)
    paths = {"frame": "leftImg8bit_sequence" / city / f"{name}{_IMAGE}"}
    if frame % job.every == 0:
        paths["image"] = "leftImg8bit" / city / f"{name}{_IMAGE}"
        for kind in ("labelIds", "instanceIds", "unknownMask"):
            paths[kind] = "gtFine" / city / f"{name}_gtFine_{kind}.png"
        paths["panoptic"] = panoptic_folder(Path(), job.split) / f"{name}_gtFine_panoptic.png"
        if job.depth:
            paths["depth"] = "gtFine" / city / f"{name}_gtFine_depth.tiff"
            paths["camera"] = "camera" / city / f"{name}_camera.json"
    return paths


def output_folder(job: SceneJob) -> OutputFolder:
    """Return the folder of a job, a context manager to enter around `write_scenes`.

    Other jobs may write to the same folder.

    Raises:
        OutputError: If the folder holds something that no such job wrote.
    """
    return OutputFolder(job.out, command="scenes", names=files_of(job), again="update")


def write_scenes(job: SceneJob, *, workers: int = 1) -> Iterator[Path]:
    """Render and write all frames of a job.

    Args:
        job: What to write.
        workers: Number of processes. Scripts that ask for several need the usual
            ``if __name__ == "__main__"`` around what they do.

    Yields:
        The sequence image of each frame once all of the frame's files are there, in any order.
        The panoptic JSON is written, with what other jobs wrote to it, before the last one ends.

    Raises:
        OutputError: If a file cannot be written.
    """
    for path in _paths(job, job.first, 0).values():
        (job.out / path).parent.mkdir(parents=True, exist_ok=True)
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
    for written in in_order(partial(_chunk_writer, job), chunks, processes=workers):
        yield from written


def _chunk_writer(job: SceneJob) -> Callable[[tuple[int, range]], Iterable[_Written]]:
    """Return a function that writes some frames of a sequence, for a worker process."""

    def write(chunk: tuple[int, range]) -> list[_Written]:
        sequence, frames = chunk
        return [_write_frame(job, sequence, frame) for frame in frames]

    return write


def _write_frame(job: SceneJob, sequence: int, frame: int) -> _Written:
    scene = scene_frame(job.split, sequence, frame, job.size, seed=job.seed)
    paths = {kind: job.out / path for kind, path in _paths(job, sequence, frame).items()}
    path = paths["frame"]
    _write(path, scene.image, _PICTURE)
    if "image" not in paths:
        return path, None
    _link(path, paths["image"])
    _write(paths["labelIds"], scene.semantic, _LABELS)
    _write(paths["instanceIds"], scene.instances.astype(np.uint16), _LABELS)
    _write(paths["unknownMask"], scene.unknown.astype(np.uint8) * 255, _LABELS)
    if job.depth:
        _write(paths["depth"], scene.depth, _DEPTH)
        content = json.dumps(_camera(scene.camera), indent=1).encode()
        write_whole(paths["camera"], content, durable=False)
    ids = np.ascontiguousarray(rgb_ids(scene.instances)[..., ::-1])
    _write(paths["panoptic"], ids, _LABELS)
    return path, entry(path.name.removesuffix(_IMAGE), scene.instances)


def _camera(camera: Camera) -> dict[str, dict[str, float]]:
    """Return the intrinsic parameters in pixels and the mounting, by the names of Cityscapes."""
    return {
        "intrinsic": {
            "fx": camera.focal,
            "fy": camera.focal,
            "u0": (camera.columns - 1) / 2,
            "v0": (camera.rows - 1) / 2,
        },
        "extrinsic": {"z": camera.height, "pitch": camera.pitch},
    }


def read_depth(
    root: Path, split: str, name: str, *, size: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], Camera]:
    """Return the depth and the camera of a frame, which `write_scenes` wrote with ``depth``.

    Args:
        root: Folder of the job.
        split: "train", "val" or "test".
        name: ``CITY_SEQUENCE_FRAME``.
        size: Height and width of the frame, pixels.

    Returns:
        float32 (H, W), metres along the optical axis, infinity in the sky; and the camera.

    Raises:
        DatasetError: A file is missing or damaged.
    """
    city = name.split("_")[0]
    path = root / "gtFine" / split / city / f"{name}_gtFine_depth.tiff"
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if depth is None or depth.dtype != np.float32 or depth.shape != size:
        raise DatasetError(f"{path} holds no depth of {name}: write it with upsnet scenes --depth")
    path = root / "camera" / split / city / f"{name}_camera.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        camera = Camera(
            rows=size[0],
            columns=size[1],
            focal=float(content["intrinsic"]["fx"]),
            height=float(content["extrinsic"]["z"]),
            pitch=float(content["extrinsic"]["pitch"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"cannot read the camera in {path}: {error}") from None
    return np.asarray(depth, np.float32), camera


def _write(path: Path, image: npt.NDArray[Any], flags: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, image, flags)
    if not done:
        raise OutputError(f"cannot write {path}: OpenCV could not encode it")
    write_whole(path, data.tobytes(), durable=False)


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the file system has no links."""
    try:
        with replacing(target, durable=False) as new:
            new.unlink()
            os.link(source, new)
    except OutputError:  # not every file system has links
        with replacing(target, durable=False) as new:
            shutil.copyfile(source, new)


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
    write_whole(path, json.dumps(content, indent=1, sort_keys=True).encode(), durable=False)


# For cached frames: level 1 is hardly larger than the best level, and much faster.
_CACHED = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class SceneDataset:
    """Synthetic driving scenes with Cityscapes' classes.

    Random access takes three times as long as sequential access, since the street has to be laid
    out first. With a cache, each frame is rendered once; `fill_cache` renders all frames in order,
    on several cores.

    Args:
        split: ``train``, ``val`` or ``test``; their scenes are disjoint.
        seed: Seed of the set of streets.
        length: Number of frames.
        size: Height and width of a frame, pixels.
        cache: Folder for rendered frames; None renders them on every access. Delete it after
            changes of the renderer.

    Raises:
        SettingsError: If a value is invalid.
    """

    def __init__(
        self,
        *,
        split: str,
        seed: int,
        length: int,
        size: tuple[int, int],
        cache: str | Path | None = None,
    ) -> None:
        self.taxonomy = CITYSCAPES
        self._scenes = DrivingScenes(split, seed, length, size)
        self._set = f"{split}{seed}"
        self._cache: Path | None = None
        if cache is not None:
            self._cache = Path(cache).expanduser() / f"{self._set}_{size[0]}x{size[1]}"
            self._cache.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Sample:
        name = self._name(index)
        if self._cache is not None:
            return self._cached(index, self._cache / name)
        scene = self._scenes[index]
        return sample_of_ids(
            scene.instances, scene.image, name=name, source=name, unknown=scene.unknown
        )

    def streets(self) -> list[range]:
        """Return the frames of each street."""
        each = self._scenes.per_street
        return [range(i, min(i + each, len(self))) for i in range(0, len(self), each)]

    def render(self, indices: range) -> int:
        """Render missing frames into the cache; return the number of frames in ``indices``."""
        if self._cache is None:
            raise ValueError("the dataset has no cache")
        for index in indices:
            self._rendered(index, self._cache / self._name(index))
        return len(indices)

    def _name(self, index: int) -> str:
        street, position = divmod(index, self._scenes.per_street)
        return f"{self._set}_{street:06d}_{position:06d}"

    def _rendered(self, index: int, base: Path) -> tuple[Path, Path, Path]:
        """Return the cached files of a frame; render them if missing."""
        image, ids, unknown = (
            base.with_name(f"{base.name}_{kind}.png") for kind in ("image", "ids", "unknown")
        )
        if not image.is_file():
            scene: SceneFrame = self._scenes[index]
            _write(ids, scene.instances.astype(np.uint16), _CACHED)
            _write(unknown, scene.unknown.astype(np.uint8), _CACHED)
            _write(image, scene.image, _CACHED)  # last: if it exists, so do the others
        return image, ids, unknown

    def _cached(self, index: int, base: Path) -> Sample:
        image, ids, unknown = self._rendered(index, base)
        pixels = read_image(image)
        size = (pixels.shape[0], pixels.shape[1])
        return sample_of_ids(
            read_labels(ids, size=size),
            pixels,
            name=base.name,
            source=base.name,
            unknown=read_labels(unknown, size=size) > 0,
        )


def fill_cache(scenes: SceneDataset, *, workers: int) -> Iterator[int]:
    """Render all frames that the cache lacks, street by street.

    Args:
        scenes: A dataset with a cache.
        workers: Number of processes. Scripts need the usual ``if __name__ == "__main__"`` around
            what they do.

    Yields:
        The number of frames of each street once they are cached, in the order of the streets.
    """
    return in_order(partial(_renderer, scenes), scenes.streets(), processes=workers)


def _renderer(scenes: SceneDataset) -> Callable[[range], int]:
    return scenes.render
