"""Random changes of labelled images: scale, window, mirror, colour."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from upsnet_ros.datasets.base import Sample, Thing
from upsnet_ros.datasets.shapes import Bitmask
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.training.settings import AugmentSettings

Indices = npt.NDArray[np.intp]


def mirrored(sample: Sample) -> Sample:
    """Return the sample mirrored left to right."""
    width = sample.size[1]
    things = []
    for thing in sample.things:
        x1, y1, x2, y2 = thing.box
        box = (width - x2 - 1, y1, width - x1 - 1, y2)
        things.append(replace(thing, box=box, shape=thing.shape.flipped(width)))
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        semantic=np.ascontiguousarray(sample.semantic[:, ::-1]),
        things=tuple(things),
        unknown=None if sample.unknown is None else sample.unknown[:, ::-1].copy(),
    )


def cropped(sample: Sample, *, x1: int, y1: int, x2: int, y2: int) -> Sample:
    """Return columns x1 .. x2 - 1 and rows y1 .. y2 - 1; objects keep what is inside."""
    window = (slice(y1, y2), slice(x1, x2))
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[window]),
        semantic=np.ascontiguousarray(sample.semantic[window]),
        things=tuple(_parts(sample.things, np.arange(y1, y2), np.arange(x1, x2))),
        unknown=None if sample.unknown is None else sample.unknown[window].copy(),
    )


def _parts(things: Sequence[Thing], rows: Indices, columns: Indices) -> Iterator[Thing]:
    for thing in things:
        part = thing.shape.paint(rows, columns).astype(bool)
        if part.any():
            shape = Bitmask.of(part)
            yield replace(thing, box=shape.bounds, shape=shape)


def recoloured(image: npt.NDArray[np.uint8], strength: float) -> npt.NDArray[np.uint8]:
    """Return a BGR image with brightness, contrast, saturation and hue changed at random."""
    jitter = v2.ColorJitter(
        brightness=strength, contrast=strength, saturation=strength, hue=min(0.1 * strength, 0.5)
    )
    rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)
    changed = jitter(tv_tensors.Image(rgb)).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(changed[..., ::-1])


def _draw(limit: int) -> int:
    """Return a random whole number from 0 to limit."""
    return int(torch.randint(limit + 1, ()))


def augment(sample: Sample, settings: AugmentSettings, *, seed: int) -> tuple[Sample, Geometry]:
    """Change a sample at random, the same way for the same seed.

    Returns:
        The changed sample, not resized yet, and the geometry that says how it should be.
    """
    # torchvision draws from the global generator, so that is seeded, and put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scale = settings.scales[_draw(len(settings.scales) - 1)]
        geometry = Geometry.of(sample.size, scale=scale, max_size=settings.max_size)
        if settings.crop is not None:
            # Rounded down: the window must not be larger than asked for when it is resized.
            height, width = (
                min(side, math.floor(wanted / geometry.scale))
                for side, wanted in zip(sample.size, settings.crop, strict=True)
            )
            y1, x1 = _draw(sample.size[0] - height), _draw(sample.size[1] - width)
            sample = cropped(sample, x1=x1, y1=y1, x2=x1 + width, y2=y1 + height)
            geometry = geometry.of_part((height, width))
        if float(torch.rand(())) < settings.flip:
            sample = mirrored(sample)
        if settings.color > 0:
            sample = replace(sample, image=recoloured(sample.image, settings.color))
    return sample, geometry
