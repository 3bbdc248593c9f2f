"""Time UPSNet stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from upsnet_ros.benchmark.frames import SEED, frames
from upsnet_ros.benchmark.machine import describe_machine
from upsnet_ros.benchmark.settings import (
    BenchSettings,
    make_predictor,
    set_threads,
)
from upsnet_ros.benchmark.stages import measure_stages

__all__ = ["run"]


def run(settings: BenchSettings, *, progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Measure and return a report fit for JSON; docs/performance.md describes its keys.

    Args:
        settings: What to measure.
        progress: Called after each of ``warmup + iterations`` frames.

    Raises:
        ValueError: A setting is not possible, `CheckpointError` among them.
    """
    set_threads(settings.threads)
    images = frames(settings.image, height=settings.height, width=settings.width)
    predictor = make_predictor(settings, graphs=False, measure=True)
    machine = describe_machine(predictor.device)
    figures = measure_stages(
        predictor,
        images,
        warmup=settings.warmup,
        iterations=settings.iterations,
        progress=progress,
    )
    return {
        "settings": {
            **asdict(settings),
            "device": str(predictor.device),
            "precision": predictor.precision,
            "threads": torch.get_num_threads(),
            "weights": settings.weights or "random",
            "seed": SEED,
            "network_size": list(predictor.geometry(settings.height, settings.width).size),
        },
        "machine": machine,
        **asdict(figures),
        **_gpu_memory(predictor.device),
    }


def _gpu_memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {"gpu_memory_mib": round(torch.cuda.max_memory_allocated(device) / 2**20, 1)}
