"""All that the node needs torch for; imported at configure, for a waiting node needs none."""

from __future__ import annotations

import torch

from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.ros.settings import NodeSettings

__all__ = ["free_memory", "gpu_memory", "load_predictor"]


def load_predictor(settings: NodeSettings) -> Predictor:
    """The network that the settings describe.

    Raises:
        CheckpointError: The weights are missing or cannot be used.
        ValueError: The device is not there, or cannot do the precision.
    """
    return Predictor(
        settings.weights or None,
        variant=settings.variant,
        device=settings.device,
        precision=settings.precision,
        scale=settings.scale or None,
        score_threshold=settings.score_threshold,
        label_resize=settings.label_resize,
        allow_random_weights=settings.allow_random_weights,
        # The regions listed in `instances` have a mean score.
        unknown_score=settings.publish_unknown_score or settings.publish_instances,
        semantic=settings.publish_semantic,
        measure=settings.measure_stages,
    )


def free_memory() -> None:
    """Gives GPU memory that no tensor uses back to the system."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def gpu_memory(device: torch.device) -> dict[str, str]:
    """How full the GPU is, as keys and values for the diagnostics; empty for a CPU."""
    if device.type != "cuda":
        return {}
    mib = 1 << 20
    free, total = torch.cuda.mem_get_info(device)
    return {
        "gpu": torch.cuda.get_device_name(device),
        "gpu_memory_allocated_mib": str(torch.cuda.memory_allocated(device) // mib),
        "gpu_memory_reserved_mib": str(torch.cuda.memory_reserved(device) // mib),
        "gpu_memory_free_mib": str(free // mib),
        "gpu_memory_total_mib": str(total // mib),
    }
