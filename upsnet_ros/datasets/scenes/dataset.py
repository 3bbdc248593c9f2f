"""Scenes without files: any frame by its address, and sets of frames to learn from."""

from __future__ import annotations

from collections.abc import Iterator

from upsnet_ros.datasets.scenes.renderer import SceneFrame, world
from upsnet_ros.datasets.scenes.seeds import check_split

#: Frames of one street that lie this far apart look different enough to learn from both.
_APART = 23


def scene_frame(
    split: str, sequence: int, frame: int, size: tuple[int, int], *, seed: int = 0
) -> SceneFrame:
    """One frame of one sequence: the same picture for the same arguments, in any process.

    Args:
        split: "train", "val" or "test"; their streets, houses, vehicles and people all differ.
        sequence: Which street, from 0.
        frame: Which moment, from 0, at 10 frames a second.
        size: Rows and columns, at least 16 each.
        seed: Which set of streets.

    Raises:
        ValueError: For an unknown split, a negative number, or a size that is too small.
    """
    rows, columns = _check_size(size)
    for name, value in (("sequence", sequence), ("frame", frame), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} is {value}: it must not be negative")
    return world(check_split(split), seed, sequence).frame(frame, rows, columns)


class DrivingScenes:
    """Frames to learn from or to evaluate on, drawn when they are asked for.

    Frame ``index`` shows street ``index // per_street``; several frames of a street lie seconds
    apart. Indexing is deterministic, and cheaper in order than at random.

    Args:
        split: "train", "val" or "test".
        seed: Which set of streets; the same as of `scene_frame`.
        length: Number of frames.
        size: Rows and columns.
        per_street: Frames of one street.

    Raises:
        ValueError: For an unknown split, a negative seed or length, or a size that is too small.
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
            raise ValueError("seed and length must not be negative, per_street must be positive")
        self.length, self.per_street = length, per_street

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SceneFrame:
        if index < 0:
            index += self.length
        if not 0 <= index < self.length:
            raise IndexError(f"frame {index} of {self.length}")
        sequence, place = divmod(index, self.per_street)
        return scene_frame(self.split, sequence, place * _APART, self.size, seed=self.seed)

    def __iter__(self) -> Iterator[SceneFrame]:
        return (self[index] for index in range(self.length))


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = size
    if min(size) < 16:
        raise ValueError(f"size {rows}x{columns}: scenes need at least 16x16 pixels")
    return rows, columns
