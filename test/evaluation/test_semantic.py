from __future__ import annotations

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.evaluation.maps import Overlaps, map_from_labels
from upsnet_ros.evaluation.panoptic_quality import class_ious, class_pixels, mean_iou


def test_equals_cityscapesscripts(categories, tmp_path) -> None:
    rng = np.random.default_rng(0)
    ids = [0, 4, *CITYSCAPES.public_ids.tolist()]  # two of Cityscapes' void labels
    names, pixels = [], []
    for number in range(4):
        truth = rng.choice(ids, (8, 11)).repeat(5, axis=0).repeat(5, axis=1).astype(np.uint8)
        guess = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice(ids, truth.shape))
        files = [tmp_path / f"a_{number:06d}_000000_{side}.png" for side in ("pred", "labelIds")]
        for file, labels in zip(files, (guess, truth), strict=True):
            assert cv2.imwrite(str(file), labels.astype(np.uint8))
        names.append([str(file) for file in files])
        sides = (map_from_labels(labels, CITYSCAPES) for labels in (truth, guess))
        pixels.append(class_pixels(Overlaps.from_maps(*sides), categories))
    args = evalPixelLevelSemanticLabeling.args
    args.quiet, args.evalInstLevelScore, args.evalPixelAccuracy, args.JSONOutput = (
        True, False, False, False,
    )  # fmt: skip
    theirs = evalPixelLevelSemanticLabeling.evaluateImgLists(
        *(list(side) for side in zip(*names, strict=True)), args
    )
    ours = class_ious(np.sum(pixels, axis=0))
    for place, info in enumerate(categories.classes):
        assert ours[place] == pytest.approx(theirs["classScores"][info.name], abs=1e-12)
    assert mean_iou(ours) == pytest.approx(theirs["averageScoreClasses"], abs=1e-12)


def test_classes_without_pixels_are_left_out() -> None:
    ious = class_ious(np.array([[3, 0, 0], [6, 5, 0]]))
    np.testing.assert_array_equal(ious, [0.5, 0, np.nan])
    assert mean_iou(ious) == 0.25
    assert np.isnan(mean_iou(class_ious(np.zeros((2, 3), np.int64))))
