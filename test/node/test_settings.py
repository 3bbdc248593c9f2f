from __future__ import annotations

import math

import pytest

from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.errors import SettingsError
from upsnet_ros.inference.model import AUTO, PRECISIONS
from upsnet_ros.network.variants import VARIANTS
from upsnet_ros.node.parameters import NodeSettings, parameters
from upsnet_ros.weights import SHIPPED_VARIANT

INFOS = {info.name: info for info in parameters()}


def test_what_the_network_offers_is_what_can_be_set():
    assert set(INFOS["variant"].choices) == {AUTO, *VARIANTS}
    assert INFOS["variant"].default == AUTO
    assert set(INFOS["precision"].choices) == {"auto", *PRECISIONS}


def test_every_default_is_allowed_and_every_parameter_described():
    NodeSettings()
    for info in INFOS.values():
        info.check(info.default)
        assert info.text.endswith(".")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"variant": "cityscapes-r34"},
            "variant must be one of auto, cityscapes-r50, .*'cityscapes-r34'",
        ),
        ({"precision": "int8"}, "precision must be one of auto, fp32, fp16, bf16, not 'int8'"),
        ({"score_threshold": 1.0}, r"score_threshold must be -1.0 to 0.99, not 1.0"),
        ({"score_threshold": math.nan}, "score_threshold must be -1.0 to 0.99, not nan"),
        ({"score_threshold": 1}, "score_threshold must be of type double, not 1"),
        ({"scale": True}, "scale must be of type integer, not True"),
        ({"scale": 31}, "scale must be at least 32, or 0, not 31"),
        ({"scale": 5000}, "scale must be 0 to 4096, not 5000"),
        ({"autostart": 1}, "autostart must be of type boolean, not 1"),
        ({"weights": None}, "weights must be of type string, not None"),
        ({"warm_up": "1920*1080"}, "warm_up must be auto, none or a size such as 1920x1080, not"),
        ({"warm_up": "0x8"}, "warm_up must be auto"),
        ({"max_rate": -1.0}, "max_rate must be 0.0 to 1000.0"),
        ({"cameras": ()}, "cameras must name a camera"),
        ({"cameras": ("front", "front")}, "cameras must differ"),
        ({"cameras": ("front", "")}, "the empty name stands for a single camera only"),
        ({"cameras": ("front camera",)}, "'front camera' cannot be part of a topic's name"),
        ({"cameras": ("/front",)}, "'/front' cannot be part"),
        ({"cameras": ("front/",)}, "'front/' cannot be part"),
        ({"cameras": ["front"]}, "cameras must be of type string array"),
    ],
)
def test_values_that_cannot_be_used_are_refused_with_a_reason(changes, says):
    with pytest.raises(SettingsError, match=says):
        NodeSettings(**changes)


def test_names_of_cameras():
    assert NodeSettings().cameras == ("",)
    NodeSettings(cameras=("front", "rear_left", "robot1/arm"))


def test_size_of_the_warm_up():
    assert NodeSettings(warm_up="1920x1080").warm_up_size == (1920, 1080)
    assert NodeSettings(warm_up="none").warm_up_size is None


@pytest.mark.parametrize(
    ("asked", "taxonomy", "encoding"),
    [
        ("auto", CITYSCAPES, "16UC1"),
        ("auto", COCO, "32SC1"),
        ("16UC1", CITYSCAPES, "16UC1"),
        ("32SC1", CITYSCAPES, "32SC1"),
        ("32SC1", COCO, "32SC1"),
    ],
)
def test_encoding_of_labels(asked, taxonomy, encoding):
    settings = NodeSettings(labels_encoding=asked)
    assert settings.resolved_labels_encoding(max(taxonomy.by_id)) == encoding


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(SettingsError, match="16UC1; use 32SC1"):
        NodeSettings(labels_encoding="16UC1").resolved_labels_encoding(max(COCO.by_id))
    # The largest id of 16 bits, and the first that is too large.
    assert NodeSettings().resolved_labels_encoding(64) == "16UC1"
    assert NodeSettings().resolved_labels_encoding(65) == "32SC1"


def test_weights_are_asked_for():
    NodeSettings(weights="some.pth").require_weights()
    NodeSettings(allow_random_weights=True).require_weights()
    NodeSettings().require_weights()  # some ship
    NodeSettings(variant=SHIPPED_VARIANT).require_weights()
    with pytest.raises(SettingsError, match="no weights: "):
        NodeSettings(variant="coco-r50").require_weights()
