"""`upsnet bench goals`: every goal measured in one run."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from upsnet_ros.benchmark.goals import Conditions, Figures, outcomes
from upsnet_ros.benchmark.head import measure_head
from upsnet_ros.benchmark.measure import describe_machine
from upsnet_ros.benchmark.race import (
    Agreement,
    AgreementFigures,
    MaskRCNN,
    compare_frames,
    compare_on_scenes,
    exactly,
    measure_cameras,
    race,
)
from upsnet_ros.benchmark.settings import PARTS, BenchSettings, CompareSettings
from upsnet_ros.benchmark.stages import (
    SEED,
    Image,
    frame_memory,
    frames,
    make_predictor,
    measure_stages,
    set_threads,
)
from upsnet_ros.errors import SettingsError, first_line
from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.ops.dispatch import failures
from upsnet_ros.synthetic.dataset import SceneDataset

# Beside these there are cases of training and of single operators.
_OTHERS = ("train_", "unit_")


@dataclass(frozen=True, slots=True)
class ParityCase:
    """A network and a picture.

    Attributes:
        path: The case's file.
        meta: What the case says of itself.
    """

    path: Path
    meta: dict[str, Any]

    @property
    def variant(self) -> str:
        """Name of the network."""
        return str(self.meta["variant"])

    @property
    def scale(self) -> int:
        """Pixels of the short side at which the network runs."""
        return int(self.meta["target"])

    def image(self) -> Image:
        """Read the picture, uint8 (H, W, 3), BGR."""
        with np.load(self.path) as case:
            return np.asarray(case["image"], np.uint8)

    @contextmanager
    def weights(self) -> Iterator[Path]:
        """Make the network's weights, as a file that is there while the context lasts.

        Raises:
            ValueError: The rule makes others than the case was recorded with.
        """
        folder = self.path.parents[1]
        rule = _rule(folder / "make_weights.py")
        table = folder / f"state_dict_{self.variant}.tsv"
        arrays = rule.make_state_dict(table, self.meta["seed"], self.meta.get("overrides", []))
        if rule.checksum(arrays) != self.meta["weights_checksum"]:
            raise SettingsError(f"parity case {self.path}: its weights cannot be generated here")
        with tempfile.TemporaryDirectory(prefix="upsnet_parity_") as temporary:
            path = Path(temporary) / "weights.safetensors"
            tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
            path.write_bytes(save(tensors))
            yield path


def parity_cases(folder: Path) -> list[ParityCase]:
    """Return the cases of whole frames in a folder.

    Raises:
        ValueError: There are none.
    """
    cases = []
    for path in sorted((folder / "cases").glob("*.npz")):
        if not path.name.startswith(_OTHERS):
            with np.load(path) as case:
                cases.append(ParityCase(path, json.loads(str(case["meta_json"]))))
    if not cases:
        raise SettingsError(f"{folder} has no parity cases: no cases/*.npz of whole frames")
    return cases


def _rule(path: Path) -> ModuleType:
    """Import a rule, under a name that nothing else has."""
    spec = importlib.util.spec_from_file_location(f"upsnet_ros_parity_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SettingsError(f"{path} is not there, by which parity cases are made")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: Called with what is being measured.
Progress = Callable[[str], None]
#: Called after each part with its name, its seconds and the report so far.
Finished = Callable[[str, float, dict[str, Any]], None]

# Rounds of one camera and of several; and frames of a round for each that is raced.
_ROUNDS, _FRAMES_A_ROUND = 5, 2
#: Parts that need the reference path, or UPSNet's panoptic head.
_OF_UPSNET = ("race", "head", "agreement")


def compare(
    settings: BenchSettings,
    goals: CompareSettings,
    *,
    progress: Progress = lambda _: None,
    finished: Finished = lambda _, __, ___: None,
) -> dict[str, Any]:
    """Measure and return a report fit for JSON; docs/performance.md describes its keys.

    A part that fails does not end the run: the report names it, with the reason.

    Args:
        settings: The network, frames and device.
        goals: What to measure.
        progress: Called with what is being measured, whenever that changes.
        finished: Called after each part with its name, the seconds that it took, and the report
            of all parts so far.

    Raises:
        ValueError: A setting is not possible, `CheckpointError` among them.
    """
    return _Comparison(settings, goals, progress).run(finished)


class _Comparison:
    def __init__(self, settings: BenchSettings, goals: CompareSettings, progress: Progress) -> None:
        set_threads(settings.threads)
        self._settings, self._goals, self._progress = settings, goals, progress
        # Before anything takes its time: what is missing is reported at once.
        self._cases = parity_cases(Path(goals.parity)) if goals.parity else []
        self._images = frames(settings.image, height=settings.height, width=settings.width)
        progress("loading the network")
        self._fast = make_predictor(settings)
        wanted = [part for part in goals.parts if part in _OF_UPSNET]
        if wanted and self._fast.variant.family != "upsnet":
            raise SettingsError(
                f"{', '.join(wanted)} compare with UPSNet's definition, which"
                f" {self._fast.variant.name} does not have: use --only cameras,stages"
            )
        self._precision = self._fast.precision
        self._machine = describe_machine(self._fast.device)

    def run(self, finished: Finished) -> dict[str, Any]:
        figures = Figures()
        measures = {
            "race": self._race,
            "cameras": self._cameras,
            "head": self._head,
            "agreement": self._agreement,
            "stages": self._stages,
        }
        for part in PARTS:
            if part not in self._goals.parts:
                continue
            self._progress(part)
            begin = time.perf_counter()
            try:
                measures[part](figures)
            except RuntimeError as error:  # what else can be measured need not be lost for it
                figures.failed[part] = first_line(error)
            finished(part, time.perf_counter() - begin, self._report(figures))
        return self._report(figures)

    def _report(self, figures: Figures) -> dict[str, Any]:
        settings, fast = self._settings, self._fast
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
                "variant": fast.variant.name,
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
            "goals": [
                asdict(outcome) for outcome in outcomes(figures, conditions, self._goals.goals)
            ],
            **asdict(figures),
            "kernels_failed": failures(),
        }

    def _race(self, figures: Figures) -> None:
        settings, fast = self._settings, self._fast
        with Pipeline(fast) as pipeline:
            self._progress("memory")
            figures.memory = frame_memory(
                fast, self._images, segment=lambda image: pipeline.submit(image).result()
            )
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
        figures.head = measure_head(
            self._fast, warmup=settings.warmup, iterations=settings.iterations
        )

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
                self_test=False,
            )
            for precision, plain in ((self._precision, False), ("fp32", True))
        )
        size = (settings.height, settings.width)
        scenes = SceneDataset(split="val", seed=SEED, length=count, size=size)
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
                        self_test=False,
                    )
                    for precision, plain in ((self._precision, False), ("fp32", True))
                )
            (found[case.path.stem],) = compare_frames(fast, exactly(exact), [case.image()])
            steps()
        return found

    def _stages(self, figures: Figures) -> None:
        settings = self._settings
        steps = _Steps(self._progress, "stages, frame", settings.warmup + settings.iterations)
        staged = make_predictor(settings, measure=True)
        figures.stages = measure_stages(staged, settings, self._images, progress=steps)

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
