from __future__ import annotations

from pathlib import Path

import numpy as np

from upsnet_ros.datasets.base import VOID, Dataset, Sample
from upsnet_ros.datasets.drawn import DrawnScenes

OPTIONS = {"split": "train", "seed": 3, "length": 2, "size": (64, 128)}


def test_scenes_are_labelled_in_our_order() -> None:
    dataset: Dataset = DrawnScenes(**OPTIONS)
    assert len(dataset) == 2
    sample = dataset[0]
    assert sample.image.shape == (64, 128, 3)
    classes = set(np.unique(sample.semantic).tolist())
    assert classes <= {*range(19), VOID}
    assert 0 in classes  # a road
    assert sample.unknown is not None
    assert (sample.semantic[sample.unknown] == VOID).all()
    for thing in sample.things:
        assert 11 <= thing.semantic_id < 19
        painted = thing.shape.paint(np.arange(64), np.arange(128)) > 0
        assert (sample.semantic[painted] == thing.semantic_id).all()


def test_a_cache_gives_the_same_frames(tmp_path: Path) -> None:
    def same(a: Sample, b: Sample) -> bool:
        return (
            np.array_equal(a.image, b.image)
            and np.array_equal(a.semantic, b.semantic)
            and np.array_equal(a.unknown, b.unknown)
            and [t.box for t in a.things] == [t.box for t in b.things]
        )

    drawn = DrawnScenes(**OPTIONS)[1]
    first = DrawnScenes(**OPTIONS, cache=tmp_path)[1]
    files = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert files == [f"train3_000000_000001_{kind}.png" for kind in ("ids", "image", "unknown")]
    assert same(drawn, first)
    assert same(drawn, DrawnScenes(**OPTIONS, cache=tmp_path)[1])
