"""What benchmarks/soak.py calls steady, and what growth."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    for needed in ("psutil", "scipy", "typer"):
        pytest.importorskip(needed)
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def half_an_hour(soak: ModuleType, **growth_an_hour: float) -> list[Any]:
    """Noisy samples, one in five seconds, with a bad start and outliers."""
    rng = np.random.default_rng(0)
    level = {
        "p50_ms": 90.0, "p99_ms": 110.0, "cpu_ms": 80.0, "rss_mib": 1000.0, "descriptors": 25.0,
        "threads": 21.0,
    }  # fmt: skip
    samples = []
    for number in range(360):
        seconds = 5.0 * (number + 1)
        values = {}
        for name, base in level.items():
            value = base + growth_an_hour.get(name, 0.0) * seconds / 3600
            if name.endswith("_ms"):
                value += base * (rng.normal(0, 0.05) + (number % 40 == 0))
            if name == "rss_mib":
                value += rng.normal(0, 0.5) - 200 * (number < 20)  # libraries come late
            values[name] = value
        samples.append(soak.Sample(seconds=seconds, answered=50, **values))
    return samples


def test_noise_and_a_slow_start_are_no_growth(soak: ModuleType) -> None:
    report = soak.assess(half_an_hour(soak))
    assert report["verdict"] == "steady"
    assert abs(report["slopes_an_hour"]["rss_mib"]) < 2
    assert report["medians"]["p50_ms"] == pytest.approx(90, rel=0.02)


@pytest.mark.parametrize(
    ("name", "an_hour"), [("rss_mib", 20), ("descriptors", 3), ("threads", 2), ("p50_ms", 40)]
)
def test_growth_is_named(soak: ModuleType, name: str, an_hour: float) -> None:
    assert soak.assess(half_an_hour(soak, **{name: an_hour}))["verdict"] == f"grew: {name}"


def test_less_than_is_allowed_is_no_growth(soak: ModuleType) -> None:
    samples = half_an_hour(soak, rss_mib=10, descriptors=1, p50_ms=10)
    assert soak.assess(samples)["verdict"] == "steady"
