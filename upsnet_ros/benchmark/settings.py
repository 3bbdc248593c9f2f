"""What `upsnet bench` is asked to measure, and the predictors that it measures."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import torch

from upsnet_ros.inference.predictor import Predictor

__all__ = [
    "PARTS",
    "BenchSettings",
    "CompareSettings",
    "make_predictor",
    "set_threads",
]

#: Parts of `upsnet bench --compare`, in the order in which they are measured.
PARTS = ("race", "cameras", "head", "agreement", "stages")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What to measure.

    Attributes:
        variant: Network to run.
        height: Rows of the frames, and with `width` what the network runs at.
        width: Columns of the frames.
        device: As in `Predictor`.
        precision: As in `Predictor`.
        threads: Of torch and OpenCV on the CPU; None leaves them as they are.
        iterations: Frames to measure.
        warmup: Frames before those.
        weights: File of weights; None draws them at random.
        image: Picture to segment, resized; None draws driving scenes.
    """

    variant: str
    height: int
    width: int
    device: str
    precision: str
    threads: int | None
    iterations: int
    warmup: int
    weights: str | None
    image: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """What to measure of the table of goals.

    Attributes:
        cameras: How many share a network.
        scenes: Driving scenes on which the fast path is compared with plain fp32, pixel by pixel
            and by PQ.
        parity: Folder in the layout of test/parity, whose cases are compared; None for none.
        parts: Of `PARTS`, what to measure.

    Raises:
        ValueError: A value is not possible.
    """

    cameras: int = 4
    scenes: int = 12
    parity: str | None = None
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ValueError(f"no part {', '.join(unknown)!r}; use some of {', '.join(PARTS)}")
        for name, least in (("cameras", 2), ("scenes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")


def make_predictor(
    settings: BenchSettings,
    *,
    precision: str | None = None,
    plain: bool = False,
    graphs: bool = True,
    measure: bool = False,
) -> Predictor:
    """Make the predictor that the settings describe.

    Args:
        settings: What to measure.
        precision: Another than that of the settings.
        plain: As in `Predictor`.
        graphs: As in `Predictor`.
        measure: As in `Predictor`.

    Raises:
        ValueError: A setting is not possible, `CheckpointError` among them.
    """
    return Predictor(
        settings.weights,
        variant=settings.variant,
        device=settings.device,
        precision=precision or settings.precision,
        scale=min(settings.height, settings.width),
        allow_random_weights=settings.weights is None,
        plain=plain,
        graphs=graphs,
        measure=measure,
    )


def set_threads(threads: int | None) -> None:
    """Let torch and OpenCV use so many threads on the CPU; None leaves them."""
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
