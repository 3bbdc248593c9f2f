from __future__ import annotations

import pytest

from upsnet_ros.messages.results import absolute_namespace, compressed_topic, full_name


@pytest.mark.parametrize("namespace", ["front/eye", "/front/eye", "/front/eye/"])
def test_a_namespace_is_the_same_however_it_is_spelt(namespace: str) -> None:
    assert absolute_namespace(namespace) == "/front/eye"
    assert full_name("labels", namespace=namespace) == "/front/eye/labels"


@pytest.mark.parametrize("namespace", ["", "/"])
def test_the_root(namespace: str) -> None:
    assert absolute_namespace(namespace) == "/"
    assert full_name("labels", namespace=namespace) == "/labels"


def test_an_absolute_name_stays() -> None:
    assert full_name("/camera/image_raw", namespace="front") == "/camera/image_raw"


@pytest.mark.parametrize("base", ["/cam/image_raw", "/cam/image_raw/compressed"])
def test_a_compressed_topic_is_named_either_way(base: str) -> None:
    assert compressed_topic(base) == "/cam/image_raw/compressed"
