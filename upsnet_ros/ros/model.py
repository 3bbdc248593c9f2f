"""The network that answers: loaded at configure, exchanged while it runs, given back at cleanup."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.ros.camera_image import CameraImage, ImageKind
from upsnet_ros.ros.settings import NodeSettings

if TYPE_CHECKING:
    from upsnet_ros.inference.pipeline import Pipeline  # and torch
    from upsnet_ros.inference.predictor import Predictor

__all__ = ["SHIPPED_WEIGHTS", "Model"]

SHIPPED_WEIGHTS = (
    "the weights that ship were made on drawn driving scenes; for a camera's pictures set the"
    " parameter weights to an official UPSNet checkpoint, or to your own"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    predictor: Predictor
    pipeline: Pipeline
    settings: NodeSettings  # those that it was loaded with


class Model:
    """Holds the predictor and its pipeline. A frame that was submitted is finished by the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        self._wanted: NodeSettings | None = None

    @property
    def predictor(self) -> Predictor | None:
        """The network of this moment; None where none is loaded."""
        return None if self._loaded is None else self._loaded.predictor

    @property
    def pipeline(self) -> Pipeline | None:
        """What carries frames through the network, likewise."""
        return None if self._loaded is None else self._loaded.pipeline

    def load(self, settings: NodeSettings, *, kinds: Iterable[ImageKind]) -> Predictor:
        """Loads what the settings describe.

        Args:
            settings: Of the node.
            kinds: Of the image that each camera sent last, for ``warm_up``.

        Raises:
            SettingsError: There are neither weights nor leave to do without.
            CheckpointError: The weights are missing or cannot be used.
            ValueError: The device is not there, or cannot do the precision.
            RuntimeError: It ran out of memory, or the device failed.
        """
        loaded = _load(settings, kinds)
        with self._lock:
            self._loaded, self._wanted = loaded, settings
        return loaded.predictor

    def reload(self, settings: NodeSettings, *, kinds: Iterable[ImageKind]) -> str:
        """Loads the weights of ``settings`` and puts them in the place of those that run.

        Takes as long as loading does, in whatever thread; frames go on meanwhile, and those that
        the old weights began they finish. Where it raises (as `load` does), the old weights go on.

        Returns:
            What runs now.

        Raises:
            RuntimeError: Nothing was loaded, or it was given back meanwhile.
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
        dataset, other = (one.predictor.taxonomy.name for one in (before, loaded))
        if dataset != other:
            # The classes were announced at activate, and the labels' encoding chosen at configure.
            raise RuntimeError(
                f"the weights are of {other}'s classes, the node runs with {dataset}'s: clean it up"
                " and configure it for them"
            )
        from upsnet_ros.ros.engine import apply_settings

        with self._lock:
            if self._loaded is not before or self._wanted is None:
                raise RuntimeError("the node was cleaned up meanwhile")
            apply_settings(loaded.predictor, self._wanted)  # they may have changed meanwhile
            self._loaded = loaded

    def apply(self, settings: NodeSettings) -> None:
        """Gives the network those settings that may change while it runs."""
        with self._lock:
            if self._loaded is None:
                return
            from upsnet_ros.ros.engine import apply_settings

            apply_settings(self._loaded.predictor, settings)
            self._wanted = settings

    def takes(self, encoding: str) -> bool:
        """Whether images of that encoding need not be made BGR before they are submitted."""
        return self._running().predictor.takes(encoding)

    def submit(self, images: Sequence[CameraImage]) -> list[Future[PanopticFrame]]:
        """Has images segmented, in their order; those that fit each other together.

        Raises:
            ValueError: There are more of them than the pipeline holds.
            RuntimeError: Nothing is loaded.
        """
        from upsnet_ros.inference.pipeline import PipelineClosedError

        while True:
            running = self._running()
            try:
                return running.pipeline.submit_together(
                    [image.pixels for image in images],
                    encodings=[image.encoding for image in images],
                )
            except PipelineClosedError:
                if self._loaded is running:  # rather than exchanged a moment ago
                    raise

    def release(self, *, wait: bool = True) -> None:
        """Gives the memory back, where there is a network; frames not begun yet are cancelled.

        Args:
            wait: Whether to wait for those that were begun; until then they keep the memory.
        """
        with self._lock:
            if self._loaded is None:
                return
            pipeline, self._loaded, self._wanted = self._loaded.pipeline, None, None
        pipeline.close(cancel=True, wait=wait)
        del pipeline
        from upsnet_ros.ros.engine import free_memory

        free_memory()

    def recover(self, error: Exception) -> None:
        """Gives memory back where a frame ended for want of it; the next one may need less.

        Args:
            error: What ended the frame. What it held on to is let go.

        Raises:
            RuntimeError: The device does not work any more.
        """
        from upsnet_ros.ros.engine import free_memory, let_go, ran_out_of_memory

        if ran_out_of_memory(error):
            let_go(error)
            free_memory()

    def _running(self) -> _Loaded:
        loaded = self._loaded
        if loaded is None:
            raise RuntimeError("no network is loaded")
        return loaded

    def describe(self) -> dict[str, str]:
        """What runs, as key and text for the diagnostics; empty where nothing does."""
        loaded = self._loaded
        if loaded is None:
            return {}
        return {
            "variant": loaded.predictor.variant.name,
            "device": str(loaded.predictor.device),
            "precision": loaded.predictor.precision,
            "weights": _source(loaded),
        }

    def gpu_memory(self) -> dict[str, str]:
        """How full the GPU is, likewise."""
        predictor = self.predictor
        if predictor is None:
            return {}
        from upsnet_ros.ros.engine import gpu_memory

        return gpu_memory(predictor.device)

    def kernel_failures(self) -> dict[str, str]:
        """Kernels that failed, by name, and why; their plain forms run instead."""
        if self.predictor is None:
            return {}
        from upsnet_ros.kernels import failures

        return failures()


def _load(settings: NodeSettings, kinds: Iterable[ImageKind]) -> _Loaded:
    settings.require_weights()
    from upsnet_ros.ros import engine

    predictor = engine.load_predictor(settings)
    batch = engine.batch_size(settings, predictor.device)
    if settings.warm_up_size:
        width, height = settings.warm_up_size
        kinds = [ImageKind((height, width, 3))] * batch
    if settings.warm_up != "none":
        engine.warm_up(predictor, kinds, batch=batch)
    pipeline = engine.open_pipeline(predictor, batch=batch)
    return _Loaded(predictor=predictor, pipeline=pipeline, settings=settings)


def _source(loaded: _Loaded) -> str:
    origin, path = loaded.predictor.origin.value, loaded.predictor.weights
    return str(path) if origin == "file" else f"{origin} weights"
