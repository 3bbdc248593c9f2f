from __future__ import annotations

from dataclasses import replace

import pytest

from upsnet_ros.ros.model import Model
from upsnet_ros.ros.settings import NodeSettings
from upsnet_ros.weights import SHIPPED_VARIANT

SETTINGS = NodeSettings(device="cpu", warm_up="none")


def test_nothing_named_runs_what_ships():
    model = Model()
    assert model.describe() == {}
    predictor = model.load(SETTINGS, sizes=[])
    told = model.describe()
    assert (told["variant"], told["weights"]) == (SHIPPED_VARIANT, "shipped weights")
    assert model.predictor is predictor
    model.release()
    assert model.predictor is None


def test_weights_of_other_classes_do_not_take_the_place_of_those_that_run():
    model = Model()
    before = model.load(SETTINGS, sizes=[])
    with pytest.raises(RuntimeError, match="the weights are of coco's classes, the node runs with"):
        model.reload(replace(SETTINGS, variant="coco-r50", allow_random_weights=True), sizes=[])
    assert model.predictor is before
