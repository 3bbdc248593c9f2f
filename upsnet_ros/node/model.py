"""The node's network: loaded at configure, replaced at run time, freed at cleanup.

Importing this module does not import torch, which takes seconds and much memory: a node that waits
to be configured does not need it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.node.camera_image import CameraImage, ImageKind
from upsnet_ros.node.memory import free_memory, ran_out_of_memory, read_gpu_memory, release_frames
from upsnet_ros.node.parameters import NodeSettings

if TYPE_CHECKING:
    import torch

    from upsnet_ros.inference.pipeline import Pipeline
    from upsnet_ros.inference.predictor import Predictor

SHIPPED_WEIGHTS = (
    "the bundled weights were trained on synthetic street scenes; for a real camera run"
    " `upsnet weights get coco-fpn-r50` and set the parameter weights to coco-fpn-r50"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    predictor: Predictor
    pipeline: Pipeline
    settings: NodeSettings  # at the time of loading
    warm_up_seconds: float | None  # None without a warm-up


class Model:
    """Holds the predictor and its pipeline; a submitted frame is finished by the same pair."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        self._wanted: NodeSettings | None = None

    @property
    def predictor(self) -> Predictor | None:
        """The current predictor; None if no network is loaded."""
        return None if self._loaded is None else self._loaded.predictor

    @property
    def pipeline(self) -> Pipeline | None:
        """The current pipeline; None if no network is loaded."""
        return None if self._loaded is None else self._loaded.pipeline

    def load(self, settings: NodeSettings, *, kinds: Iterable[ImageKind]) -> Predictor:
        """Load the network of these settings.

        Args:
            settings: Settings of the node.
            kinds: Kind of each camera's last image, for ``warm_up``.

        Raises:
            SettingsError: There are no weights, and random ones are not allowed.
            CheckpointError: The weights are missing or cannot be used.
            ValueError: The device does not exist, or does not support the precision.
            RuntimeError: It ran out of memory, or the device failed.
        """
        loaded = _load(settings, kinds)
        with self._lock:
            self._loaded, self._wanted = loaded, settings
        return loaded.predictor

    def reload(self, settings: NodeSettings, *, kinds: Iterable[ImageKind]) -> str:
        """Load the weights of ``settings`` and replace the current ones.

        Blocks while loading; frames are processed during that time, and those that the old weights
        started are finished by them. If it raises (as `load` does), the old weights are kept.

        Returns:
            Description of the current weights.

        Raises:
            RuntimeError: Nothing was loaded, or the node was cleaned up during loading.
        """
        before = self._loaded
        if before is None:
            raise RuntimeError("no network is loaded: configure the node, which loads the weights")
        loaded = _load(settings, kinds)
        try:
            self._exchange(before, loaded)
        except BaseException:
            loaded.pipeline.close()
            raise
        before.pipeline.close()
        return _source(loaded)

    def _exchange(self, before: _Loaded, loaded: _Loaded) -> None:
        classes, others = (one.predictor.taxonomy for one in (before, loaded))
        if classes != others:
            # The classes were announced at activate, and the labels' encoding chosen at configure.
            raise RuntimeError(
                f"the weights are of {others.name}'s classes, the node runs with {classes.name}'s:"
                " clean it up and configure it for them"
            )
        with self._lock:
            if self._loaded is not before or self._wanted is None:
                raise RuntimeError("the node was cleaned up during loading")
            apply_settings(loaded.predictor, self._wanted)  # they may have changed during loading
            self._loaded = loaded

    def apply(self, settings: NodeSettings) -> None:
        """Apply those settings that may change at run time."""
        with self._lock:
            if self._loaded is None:
                return
            apply_settings(self._loaded.predictor, settings)
            self._wanted = settings

    def takes(self, encoding: str) -> bool:
        """Whether images of that encoding may be submitted without conversion to BGR."""
        return self._running().predictor.takes(encoding)

    def submit(
        self, images: Sequence[CameraImage], *, unknown_score: bool, semantic: bool
    ) -> list[Future[PanopticFrame]]:
        """Submit images for inference, in order; images of one size and encoding are batched.

        Args:
            images: Images of the cameras.
            unknown_score: Whether to compute `PanopticFrame.unknown_score`.
            semantic: Whether to compute ``semantic`` and ``confidence``.

        Raises:
            ValueError: There are more images than the pipeline holds.
            RuntimeError: Nothing is loaded.
        """
        from upsnet_ros.errors import PipelineClosedError

        while True:
            running = self._running()
            running.predictor.set_outputs(unknown_score=unknown_score, semantic=semantic)
            try:
                return running.pipeline.submit_together(
                    [image.pixels for image in images],
                    encodings=[image.encoding for image in images],
                )
            except PipelineClosedError:
                if self._loaded is running:  # not just replaced by `reload`
                    raise

    def release(self, *, wait: bool = True) -> None:
        """Free the network's memory, if one is loaded; frames that have not started are cancelled.

        Args:
            wait: Whether to wait for started frames; until they end they keep the memory.
        """
        with self._lock:
            if self._loaded is None:
                return
            pipeline, self._loaded, self._wanted = self._loaded.pipeline, None, None
        pipeline.close(cancel=True, wait=wait)
        del pipeline
        free_memory()

    def recover(self, error: Exception) -> None:
        """Free memory if a frame failed because there was not enough; the next one may need less.

        Args:
            error: The error of the frame; objects that it references are released.

        Raises:
            RuntimeError: The device does not work any more.
        """
        if ran_out_of_memory(error):
            release_frames(error)
            free_memory()

    def _running(self) -> _Loaded:
        loaded = self._loaded
        if loaded is None:
            raise RuntimeError("no network is loaded")
        return loaded

    def describe(self) -> dict[str, str]:
        """Return the model's properties for the diagnostics; empty if none is loaded."""
        loaded = self._loaded
        if loaded is None:
            return {}
        return {
            "variant": loaded.predictor.variant.name,
            "device": str(loaded.predictor.device),
            "precision": loaded.predictor.precision,
            "weights": _source(loaded),
            **({"label_map": loaded.settings.label_map} if loaded.settings.label_map else {}),
        }

    @property
    def warm_up_seconds(self) -> float | None:
        """Duration of the last warm-up, seconds; None if there was none."""
        return None if self._loaded is None else self._loaded.warm_up_seconds

    def gpu_memory(self) -> dict[str, str]:
        """Return the GPU's memory use for the diagnostics; empty if no network is loaded."""
        predictor = self.predictor
        if predictor is None:
            return {}
        return read_gpu_memory(predictor.device)

    def kernel_failures(self) -> dict[str, str]:
        """Return why kernels failed, by name; their references run instead."""
        if self.predictor is None:
            return {}
        from upsnet_ros.ops.dispatch import failures

        return failures()


def _load(settings: NodeSettings, kinds: Iterable[ImageKind]) -> _Loaded:
    settings.require_weights()
    settings.check_classes()  # before torch is imported, which takes seconds
    kinds = list(kinds)
    if settings.warm_up_size:
        width, height = settings.warm_up_size
        kinds = [ImageKind((height, width, 3))]
    predictor = load_predictor(settings, kinds)
    batch = batch_size(settings, predictor.device)
    if settings.warm_up_size:
        kinds *= batch
    seconds = None
    if settings.warm_up != "none":
        seconds = warm_up(predictor, kinds, batch=batch)
    pipeline = open_pipeline(predictor, batch=batch)
    return _Loaded(
        predictor=predictor, pipeline=pipeline, settings=settings, warm_up_seconds=seconds
    )


def _source(loaded: _Loaded) -> str:
    origin, path = loaded.predictor.origin.value, loaded.predictor.weights
    return str(path) if origin == "file" else f"{origin} weights"


def load_predictor(settings: NodeSettings, kinds: Sequence[ImageKind]) -> Predictor:
    """Return the network of the settings, on a device that passed the self-test.

    Args:
        settings: Settings of the node.
        kinds: Kinds of the expected images; the self-test uses the first one.

    Raises:
        CheckpointError: The weights are missing or cannot be used.
        ValueError: The device does not exist, or does not support the precision.
    """
    from upsnet_ros.inference.predictor import Predictor

    return Predictor(
        settings.weights or None,
        variant=settings.variant,
        device=settings.device,
        precision=settings.precision,
        scale=settings.scale or None,
        score_threshold=None if settings.score_threshold < 0 else settings.score_threshold,
        unknown_threshold=settings.unknown_threshold,
        label_resize=settings.label_resize,
        merge=settings.merge,
        label_map=settings.label_map or None,
        allow_random_weights=settings.allow_random_weights,
        measure=settings.measure_stages,
        self_test=settings.self_test,
        expected_size=(kinds[0].shape[0], kinds[0].shape[1]) if kinds else None,
    )


def apply_settings(predictor: Predictor, settings: NodeSettings) -> None:
    """Apply to the network those settings that may change while it runs."""
    own = predictor.variant.panoptic_score_threshold
    predictor.set_score_threshold(settings.score_threshold_or(own))
    predictor.set_unknown_threshold(settings.unknown_threshold)


def batch_size(settings: NodeSettings, device: torch.device) -> int:
    """Return how many frames are computed together at most."""
    if settings.batch:
        return settings.batch
    # docs/performance.md: on a CPU a batch is no faster than its frames are one by one. On a GPU
    # each size of a batch is a graph, and eight of them are kept.
    return min(len(settings.cameras), 4) if device.type == "cuda" else 1


def warm_up(predictor: Predictor, kinds: Iterable[ImageKind], *, batch: int) -> float:
    """Compute frames of each kind, or of the network's own size if ``kinds`` is empty.

    With the first frames of a size, libraries choose their algorithms and allocate memory.

    Args:
        predictor: The predictor.
        kinds: Kinds of the expected images, one for each camera.
        batch: Maximum number of frames that are computed together.

    Returns:
        Duration, seconds.
    """
    start = time.monotonic()
    variant, scale = predictor.variant, predictor.scale
    own = ImageKind((scale, round(variant.max_size * scale / variant.scale), 3))
    for kind, cameras in Counter(list(kinds) or [own] * batch).items():
        batches = range(1, min(cameras, batch) + 1)
        predictor.prepare(kind.shape, encoding=kind.encoding, batches=batches)
    return time.monotonic() - start


def open_pipeline(predictor: Predictor, *, batch: int) -> Pipeline:
    """Return a pipeline that computes up to ``batch`` frames together."""
    from upsnet_ros.inference.pipeline import Pipeline

    # One computation keeps a CPU busy, and a frame that waits for the next one only gets older.
    return Pipeline(predictor, depth=2 if predictor.device.type == "cuda" else 1, batch=batch)
