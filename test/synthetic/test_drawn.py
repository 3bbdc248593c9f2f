from __future__ import annotations

from pathlib import Path

import numpy as np

from upsnet_ros.datasets.base import VOID, Dataset, Sample
from upsnet_ros.synthetic.dataset import SceneDataset, fill_cache

OPTIONS = {"split": "train", "seed": 3, "length": 2, "size": (64, 128)}


def test_scenes_are_labelled_in_our_order() -> None:
    dataset: Dataset = SceneDataset(**OPTIONS)
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
            a.name == b.name
            and np.array_equal(a.image, b.image)
            and np.array_equal(a.semantic, b.semantic)
            and np.array_equal(a.unknown, b.unknown)
            and [t.box for t in a.things] == [t.box for t in b.things]
        )

    drawn = SceneDataset(**OPTIONS)[1]
    first = SceneDataset(**OPTIONS, cache=tmp_path)[1]
    files = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert files == [f"train3_000000_000001_{kind}.png" for kind in ("ids", "image", "unknown")]
    assert same(drawn, first)
    assert same(drawn, SceneDataset(**OPTIONS, cache=tmp_path)[1])


def test_a_cache_is_filled_by_several_processes(tmp_path: Path) -> None:
    options = {**OPTIONS, "length": 6}
    scenes = SceneDataset(**options, cache=tmp_path)
    missing = scenes.streets()
    assert missing == [range(4), range(4, 6)]
    assert scenes[5].name == "train3_000001_000001"
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert sorted(fill_cache(scenes, workers=2)) == [2, 4]
    assert len(list(tmp_path.rglob("*.png"))) == 3 * len(scenes)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "drawn again"
    assert np.array_equal(scenes[2].image, SceneDataset(**options)[2].image)
