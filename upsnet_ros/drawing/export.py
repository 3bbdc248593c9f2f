"""Turns a `PanopticFrame` into what others read: an overlay, COCO's formats, a Cityscapes PNG."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.coco_format import categories_of, rgb_ids
from upsnet_ros.datasets.images import AnyImage, as_bgr
from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.drawing.overlay import draw_overlay
from upsnet_ros.errors import OutputError, SettingsError
from upsnet_ros.inference.frame import (
    LABEL_DIVISOR,
    Instance,
    PanopticFrame,
    StuffSegment,
    check_frame,
)
from upsnet_ros.output_files import write_file


def draw(
    image: AnyImage, frame: PanopticFrame, *, alpha: float = 0.5, taxonomy: Taxonomy | None = None
) -> npt.NDArray[np.uint8]:
    """Return the image with the frame's segments, names and unknown regions drawn on it.

    Args:
        image: The image that was segmented: uint8 (H, W, 3) BGR, a path or a PIL image. It is not
            modified.
        frame: Its segmentation.
        alpha: Weight of the class colours, 0 (none) to 1 (colours only).
        taxonomy: Classes of the frame; by default `PanopticFrame.taxonomy`.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        DatasetError: The path cannot be read as an image.
        ImageError: The image is not uint8 (H, W, 3) of the frame's size, or ``frame`` is not a
            `PanopticFrame`.
        SettingsError: The frame does not name its classes and no taxonomy is given, a class is not
            in the taxonomy, or ``alpha`` is not a number from 0 to 1.
    """
    check_frame(frame)
    return draw_overlay(as_bgr(image), frame, _taxonomy(frame, taxonomy), alpha=alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoFrame:
    """A frame in COCO's formats. All but `png` can be written as JSON.

    Attributes:
        annotation: An entry of ``annotations`` in a panoptic JSON file: ``image_id``,
            ``file_name`` (of `png`) and ``segments_info``. Beside COCO's ``id``, ``category_id``,
            ``area``, ``bbox`` (x, y, width, height) and ``iscrowd``, segments have ``isthing``,
            and things ``score``, as in detectron2.
        png: uint8 (H, W, 3), **RGB**: id = R + 256 G + 65536 B, 0 for void. The ids are those of
            `PanopticFrame.labels`.
        instances: The things as COCO results: ``image_id``, ``category_id``, ``bbox``, ``score``
            and ``segmentation``, a compressed RLE, as ``pycocotools.coco.COCO.loadRes`` takes them.
        categories: ``categories`` of a panoptic JSON file: all classes of the frame's dataset.
    """

    annotation: dict[str, Any]
    png: npt.NDArray[np.uint8]
    instances: list[dict[str, Any]]
    categories: list[dict[str, Any]]

    def __repr__(self) -> str:
        height, width = self.png.shape[:2]
        segments = self.annotation["segments_info"]
        return (
            f"CocoFrame({width}x{height}, image_id {self.annotation['image_id']!r},"
            f" {len(segments)} segments, {len(self.instances)} instances)"
        )


def to_coco(
    frame: PanopticFrame,
    *,
    image_id: int | str = 0,
    file_name: str | None = None,
    taxonomy: Taxonomy | None = None,
) -> CocoFrame:
    """Return the frame in COCO's panoptic format, and its things as COCO instance results.

    Category ids are the class ids of the frame's dataset. Unknown pixels are void (0).

    Args:
        frame: The segmentation.
        image_id: Id of the image in the dataset.
        file_name: Name of the PNG in the annotation; by default the image id with ``.png``.
        taxonomy: Classes of the frame; by default `PanopticFrame.taxonomy`.

    Raises:
        ImageError: It is not a `PanopticFrame`.
        SettingsError: The frame does not name its classes, and no taxonomy is given.
    """
    check_frame(frame)
    classes = _taxonomy(frame, taxonomy)
    if file_name is None:
        file_name = f"{image_id:012d}.png" if isinstance(image_id, int) else f"{image_id}.png"
    segments = [*map(_segment_info, frame.instances), *map(_segment_info, frame.stuff)]
    return CocoFrame(
        annotation={"image_id": image_id, "file_name": file_name, "segments_info": segments},
        png=rgb_ids(frame.labels),
        instances=[
            {
                "image_id": image_id,
                "category_id": instance.class_id,
                "bbox": _bbox(instance),
                "score": instance.score,
                "segmentation": _rle(frame.labels, instance),
            }
            for instance in frame.instances
        ],
        categories=categories_of(classes),
    )


def save_cityscapes_png(
    frame: PanopticFrame, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write the labels as a 16-bit gray PNG in the format of Cityscapes' ``*_instanceIds.png``.

    Pixels are ``class_id * 1000 + k`` for things and ``class_id`` for stuff and void. k starts at
    1; Cityscapes' own files start at 0, but its tools only require that k differs.

    Args:
        frame: The segmentation, by a network with Cityscapes classes.
        path: A file that ends in ``.png``, in a folder that exists.
        overwrite: Whether to replace an existing file.

    Raises:
        ImageError: It is not a `PanopticFrame`.
        OutputError: The file exists, its folder does not, or it cannot be written.
        SettingsError: The ids do not fit into 16 bits, as those of COCO, or ``path`` does not end
            in ``.png``.
    """
    check_frame(frame)
    if not isinstance(path, str | os.PathLike):
        raise SettingsError(f"need the path of a file, got {type(path)}")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise SettingsError(f"{path} must end in .png: labels need a lossless format")
    largest = int(frame.labels.max(initial=0))
    if largest > np.iinfo(np.uint16).max or not (
        frame.taxonomy is None or fits_16_bits(frame.taxonomy)
    ):
        of = "these labels" if frame.taxonomy is None else f"{frame.taxonomy.name} labels"
        raise SettingsError(f"the ids of {of} do not fit into a 16-bit PNG: use to_coco")
    png = encode_png(frame.labels.astype(np.uint16), path)
    write_file(path, png, overwrite=overwrite, option="overwrite=True")


def fits_16_bits(taxonomy: Taxonomy) -> bool:
    """Return whether all label values of a taxonomy fit into uint16."""
    largest = int(taxonomy.public_ids.max()) * LABEL_DIVISOR + LABEL_DIVISOR - 1
    return largest <= np.iinfo(np.uint16).max


def encode_png(pixels: npt.NDArray[Any], path: Path) -> bytes:
    """Return the bytes of a PNG, compressed little, because writing has to keep up with a camera.

    Args:
        pixels: (H, W) gray or (H, W, 3) BGR, of 8 or 16 bits.
        path: The file that they are for, which errors name.

    Raises:
        OutputError: OpenCV cannot encode them.
    """
    encoded, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded:
        raise OutputError(f"cannot encode {path}")
    return data.tobytes()


def _taxonomy(frame: PanopticFrame, given: Taxonomy | None) -> Taxonomy:
    taxonomy = frame.taxonomy if given is None else given
    if taxonomy is None:
        raise SettingsError("the frame does not name its classes: pass taxonomy=")
    if not isinstance(taxonomy, Taxonomy):
        raise SettingsError(f"taxonomy must be a Taxonomy, not {taxonomy!r}")
    return taxonomy


def _segment_info(segment: Instance | StuffSegment) -> dict[str, Any]:
    info: dict[str, Any] = {
        "id": segment.id,
        "category_id": segment.class_id,
        "area": segment.area,
        "bbox": _bbox(segment),
        "iscrowd": 0,
        "isthing": isinstance(segment, Instance),
    }
    return info | {"score": segment.score} if isinstance(segment, Instance) else info


def _bbox(segment: Instance | StuffSegment) -> list[int]:
    x1, y1, x2, y2 = segment.box
    return [x1, y1, x2 - x1 + 1, y2 - y1 + 1]


def _rle(labels: npt.NDArray[np.int32], instance: Instance) -> dict[str, Any]:
    """Return the compressed RLE of an instance's pixels.

    COCO's runs go down the columns of the whole image and alternate between outside and inside,
    starting outside.
    """
    height, width = labels.shape
    x1, _, x2, _ = instance.box
    inside = (labels[:, x1 : x2 + 1] == instance.id).T.reshape(-1)
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False)) + x1 * height
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    return {"size": [height, width], "counts": _compress(counts)}


def _compress(counts: list[int]) -> str:
    """Return run lengths as COCO's text.

    From the fourth on, a run is stored as the difference to the second last one. Numbers are
    written in groups of 5 bits, the lowest first, with bit 5 set if another group follows, and 48
    added to make each a printable character. The highest bit of the last group is the sign.
    """
    text = bytearray()
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        while True:
            group = rest & 31
            rest >>= 5  # keeps the sign
            ended = rest == (-1 if group & 16 else 0)
            text.append(48 + group + (0 if ended else 32))
            if ended:
                break
    return text.decode()
