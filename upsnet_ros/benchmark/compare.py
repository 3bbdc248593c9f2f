"""`upsnet bench --compare`: the whole table of goals in one run, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from upsnet_ros.benchmark.agreement import (
    Agreement,
    AgreementFigures,
    compare_frames,
    compare_on_scenes,
    exactly,
)
from upsnet_ros.benchmark.cameras import measure_cameras
from upsnet_ros.benchmark.figures import Figures, outcomes
from upsnet_ros.benchmark.frames import SEED, frames
from upsnet_ros.benchmark.goals import Conditions
from upsnet_ros.benchmark.head import measure_head
from upsnet_ros.benchmark.machine import describe_machine
from upsnet_ros.benchmark.memory import MemoryMeter
from upsnet_ros.benchmark.parity_cases import parity_cases
from upsnet_ros.benchmark.race import race
from upsnet_ros.benchmark.rival import MaskRCNN
from upsnet_ros.benchmark.settings import (
    BenchSettings,
    CompareSettings,
    make_predictor,
    set_threads,
)
from upsnet_ros.benchmark.stages import graph_ms, measure_stages
from upsnet_ros.datasets.drawn import DrawnScenes
from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.kernels import failures

__all__ = ["compare"]

#: Called with what is being measured.
Progress = Callable[[str], None]

# Rounds of one camera and of several; and frames of a round for each that is raced.
_ROUNDS, _FRAMES_A_ROUND = 5, 2


def compare(
    settings: BenchSettings, goals: CompareSettings, *, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Measure and return a report fit for JSON; docs/performance.md describes its keys.

    Raises:
        ValueError: A setting is not possible, `CheckpointError` among them.
    """
    return _Comparison(settings, goals, progress).run()


class _Comparison:
    def __init__(self, settings: BenchSettings, goals: CompareSettings, progress: Progress) -> None:
        set_threads(settings.threads)
        self._settings, self._goals, self._progress = settings, goals, progress
        # Before anything takes its time: what is not there, is said at once.
        self._cases = parity_cases(Path(goals.parity)) if goals.parity else []
        self._images = frames(settings.image, height=settings.height, width=settings.width)
        progress("loading the network")
        self._fast = make_predictor(settings)
        self._precision = self._fast.precision
        self._machine = describe_machine(self._fast.device)

    def run(self) -> dict[str, Any]:
        settings, fast = self._settings, self._fast
        figures = Figures()
        if self._wants("race"):
            self._race(figures)
        if self._wants("cameras"):
            self._cameras(figures)
        if self._wants("head"):
            self._head(figures)
        if self._wants("agreement"):
            self._agreement(figures)
        if self._wants("stages"):
            self._stages(figures)
        conditions = Conditions(
            gpu=self._machine.get("gpu"),
            variant=fast.variant.name,
            size=(settings.height, settings.width),
            precision=self._precision,
        )
        return {
            "settings": {
                **asdict(settings),
                **asdict(self._goals),
                "device": str(fast.device),
                "precision": self._precision,
                "threads": torch.get_num_threads(),
                "weights": settings.weights or "random",
                "seed": SEED,
                # Whether the plain path that is raced may round what it multiplies to 10 bits.
                "tf32": fast.device.type == "cuda" and torch.backends.cudnn.allow_tf32,
                "network_size": list(fast.geometry(settings.height, settings.width).size),
            },
            "machine": self._machine,
            "goals": [asdict(outcome) for outcome in outcomes(figures, conditions)],
            **asdict(figures),
            "kernels_failed": failures(),
        }

    def _wants(self, part: str) -> bool:
        return part in self._goals.parts

    def _race(self, figures: Figures) -> None:
        settings, fast = self._settings, self._fast
        meter = MemoryMeter(fast.device)
        with Pipeline(fast) as pipeline:
            self._progress("memory")
            for image in self._images:
                pipeline.submit(image).result()
            figures.memory = meter.read()
            self._progress("loading what it is compared with")
            plain = self._plain
            rival = MaskRCNN(
                size=fast.geometry(settings.height, settings.width).size,
                device=fast.device,
                dtype=self._fast.dtype,
            )
            steps = _Steps(self._progress, "frame", settings.warmup + settings.iterations)
            figures.race = race(
                pipeline,
                plain,
                rival,
                self._images,
                warmup=settings.warmup,
                iterations=settings.iterations,
                progress=steps,
            )

    def _cameras(self, figures: Figures) -> None:
        figures.cameras = measure_cameras(
            self._fast,
            self._images,
            cameras=self._goals.cameras,
            frames=_FRAMES_A_ROUND * self._settings.iterations,
            rounds=_ROUNDS,
            progress=_Steps(self._progress, "round of cameras", 1 + _ROUNDS),
        )

    def _head(self, figures: Figures) -> None:
        self._progress("panoptic head and post-processing")
        settings = self._settings
        try:
            figures.head = measure_head(
                self._fast, warmup=settings.warmup, iterations=settings.iterations
            )
        except RuntimeError as error:  # what else is measured need not be lost for it
            figures.head_failed = str(error)

    def _agreement(self, figures: Figures) -> None:
        settings, count = self._settings, self._goals.scenes
        steps = _Steps(self._progress, "agreement, frame", len(self._images))
        found = compare_frames(self._fast, exactly(self._plain), self._images, progress=steps)
        figures.frames = AgreementFigures.of(found)

        # The weights that ship, whatever network is timed: of others nothing is known to be right.
        fast, exact = (
            Predictor(
                device=settings.device,
                precision=precision,
                scale=min(settings.height, settings.width),
                plain=plain,
            )
            for precision, plain in ((self._precision, False), ("fp32", True))
        )
        size = (settings.height, settings.width)
        scenes = DrawnScenes(split="val", seed=SEED, length=count, size=size)
        steps = _Steps(self._progress, "agreement, scene", count)
        figures.scenes = compare_on_scenes(fast, exactly(exact), scenes, progress=steps)
        figures.parity = self._parity()

    def _parity(self) -> dict[str, Agreement]:
        steps = _Steps(self._progress, "agreement, parity case", len(self._cases))
        found = {}
        for case in self._cases:
            with case.weights() as weights:
                fast, exact = (
                    Predictor(
                        weights,
                        variant=case.variant,
                        device=self._settings.device,
                        precision=precision,
                        scale=case.scale,
                        plain=plain,
                    )
                    for precision, plain in ((self._precision, False), ("fp32", True))
                )
            (found[case.path.stem],) = compare_frames(fast, exactly(exact), [case.image()])
            steps()
        return found

    def _stages(self, figures: Figures) -> None:
        settings, images = self._settings, self._images
        counts = {"warmup": settings.warmup, "iterations": settings.iterations}
        self._progress("a frame's graph")
        figures.graph_ms = graph_ms(self._fast, images[0], **counts)
        steps = _Steps(self._progress, "stages, frame", settings.warmup + settings.iterations)
        staged = make_predictor(settings, graphs=False, measure=True)
        figures.stages = measure_stages(staged, images, **counts, progress=steps)

    @cached_property
    def _plain(self) -> Predictor:
        return make_predictor(self._settings, precision="fp32", plain=True)


class _Steps:
    """Tells what is being measured, and how far it is."""

    def __init__(self, progress: Progress, what: str, steps: int) -> None:
        self._progress, self._what, self._steps = progress, what, steps
        self._done = 0
        self._tell()

    def __call__(self) -> None:
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._done < self._steps:
            self._progress(f"{self._what} {self._done + 1} of {self._steps}")
