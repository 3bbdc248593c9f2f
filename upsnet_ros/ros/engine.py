"""All that the node needs torch for; imported at configure, for a waiting node needs none."""

from __future__ import annotations

import ctypes
import gc
import sys
import traceback
from collections import Counter
from collections.abc import Iterable

import torch

from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.ros.camera_image import ImageKind
from upsnet_ros.ros.settings import NodeSettings
from upsnet_ros.ros.transitions import first_line

__all__ = [
    "apply_settings",
    "batch_size",
    "free_memory",
    "gpu_memory",
    "let_go",
    "load_predictor",
    "open_pipeline",
    "ran_out_of_memory",
    "warm_up",
]


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
        unknown_threshold=settings.unknown_threshold,
        label_resize=settings.label_resize,
        allow_random_weights=settings.allow_random_weights,
        unknown_score=_needs_unknown_score(settings),
        semantic=settings.publish_semantic,
        measure=settings.measure_stages,
    )


def apply_settings(predictor: Predictor, settings: NodeSettings) -> None:
    """Gives the network those settings that may change while it runs."""
    predictor.set_score_threshold(settings.score_threshold)
    predictor.set_unknown_threshold(settings.unknown_threshold)
    predictor.set_outputs(
        unknown_score=_needs_unknown_score(settings), semantic=settings.publish_semantic
    )


def batch_size(settings: NodeSettings, device: torch.device) -> int:
    """How many frames are computed together at most."""
    if settings.batch:
        return settings.batch
    # docs/performance.md: on a CPU a batch is no faster than its frames are one by one. On a GPU
    # each size of a batch is a graph, and eight of them are kept.
    return min(len(settings.cameras), 4) if device.type == "cuda" else 1


def warm_up(predictor: Predictor, kinds: Iterable[ImageKind], *, batch: int) -> None:
    """Computes frames of each kind, or of the network's own size where there is none.

    Libraries choose their algorithms, and memory is taken, with the first frames of a size.

    Args:
        predictor: To be warmed up.
        kinds: Of the images that are expected, one for each camera: so many of a kind may come to
            be computed together.
        batch: How many of them are computed together at most.
    """
    variant, scale = predictor.variant, predictor.scale
    own = ImageKind((scale, round(variant.max_size * scale / variant.scale), 3))
    for kind, cameras in Counter(list(kinds) or [own] * batch).items():
        batches = range(1, min(cameras, batch) + 1)
        predictor.prepare(kind.shape, encoding=kind.encoding, batches=batches)


def open_pipeline(predictor: Predictor, *, batch: int) -> Pipeline:
    """What carries the cameras' frames through the network, up to ``batch`` of them together."""
    # A CPU is busy with one computation, and what waits for the next would only grow old.
    return Pipeline(predictor, depth=2 if predictor.device.type == "cuda" else 1, batch=batch)


def free_memory() -> None:
    """Gives memory that nobody uses back to the system."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps what was freed between blocks that are still in use, a network's worth of it.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def ran_out_of_memory(error: Exception) -> bool:
    """Whether that is why it was raised."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        # What torch says of a CPU's memory has no type of its own.
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def let_go(error: BaseException) -> None:
    """Lets go of what the functions that an error went through held, a frame's tensors for one.

    The error has no traceback any more then.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link.__traceback__ = None  # for a cleared frame still holds its function's closure
        link = link.__cause__ or link.__context__
    gc.collect()  # a module that is called through hooks leaves a cycle behind


def gpu_memory(device: torch.device) -> dict[str, str]:
    """How full the GPU is, as keys and values for the diagnostics; empty for a CPU."""
    if device.type != "cuda":
        return {}
    mib = 1 << 20
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:  # of a device that does not work any more
        return {"gpu_error": first_line(error)}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "gpu_memory_allocated_mib": str(torch.cuda.memory_allocated(device) // mib),
        "gpu_memory_reserved_mib": str(torch.cuda.memory_reserved(device) // mib),
        "gpu_memory_free_mib": str(free // mib),
        "gpu_memory_total_mib": str(total // mib),
    }


def _needs_unknown_score(settings: NodeSettings) -> bool:
    # The regions listed in `instances` have a mean score.
    return settings.publish_unknown_score or settings.publish_instances
