"""All that `upsnet bench --compare` measured, and what it says about each goal."""

from __future__ import annotations

from dataclasses import dataclass, field

from upsnet_ros.benchmark.agreement import Agreement, AgreementFigures, SceneFigures
from upsnet_ros.benchmark.cameras import CameraFigures
from upsnet_ros.benchmark.goals import GOALS, Conditions, Outcome, judge
from upsnet_ros.benchmark.head import HeadFigures
from upsnet_ros.benchmark.memory import MemoryFigures
from upsnet_ros.benchmark.race import RaceFigures
from upsnet_ros.benchmark.stages import StageFigures
from upsnet_ros.benchmark.summary import PairedRatio, Summary, short

__all__ = ["Figures", "outcomes"]

_NOT_ASKED = "not asked for"


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured; None where it was not.

    Attributes:
        memory: What the fast path takes, on CUDA.
        race: A lone frame by the fast path, the plain one, and Mask R-CNN.
        cameras: Frames a second.
        head: Panoptic head and post-processing.
        head_failed: Why there are no figures of that; empty where nothing failed.
        frames: Agreement of the fast path with plain fp32 on the frames of the race.
        scenes: Likewise on labelled driving scenes, by the weights that ship, with PQ.
        parity: Likewise on the parity cases, by name.
        stages: A frame without a graph, by stage.
        graph_ms: A frame's graph, bytes on the GPU to labels there, by the GPU's clock.
    """

    memory: MemoryFigures | None = None
    race: RaceFigures | None = None
    cameras: CameraFigures | None = None
    head: HeadFigures | None = None
    head_failed: str = ""
    frames: AgreementFigures | None = None
    scenes: SceneFigures | None = None
    parity: dict[str, Agreement] = field(default_factory=dict)
    stages: StageFigures | None = None
    graph_ms: Summary | None = None


def outcomes(figures: Figures, conditions: Conditions) -> list[Outcome]:
    """Judge every goal, in the order of `GOALS`."""
    race = figures.race
    found = {
        "lone_frame": _lone_frame(figures),
        "plain": _ratio(race.plain_over_fast if race else None),
        "maskrcnn": _ratio(race.maskrcnn_over_fast if race else None),
        "head": _head(figures),
        "cameras": _cameras(figures.cameras),
        "agreement": _agreement(figures.parity),
        "quality": _quality(figures.scenes),
        "memory": _memory(figures),
    }
    judged = []
    for goal in GOALS:
        value, shown, note = found[goal.key]
        judged.append(judge(goal, value, shown, conditions, note=note))
    return judged


#: A figure, the same with its unit and spread, and what has to be said about it.
_Found = tuple[float | None, str, str]


def _lone_frame(figures: Figures) -> _Found:
    if figures.race is None:
        return None, "", _NOT_ASKED
    fast = figures.race.fast_ms
    shown = f"{short(fast.p50)} ms (p99 {short(fast.p99)})"
    if figures.cameras is not None:
        shown += f", {figures.cameras.one_hz.p50:.3g} frames/s in flight"
    return fast.p50, shown, ""


def _ratio(ratio: PairedRatio | None) -> _Found:
    return (None, "", _NOT_ASKED) if ratio is None else (ratio.median, _spread(ratio), "")


def _head(figures: Figures) -> _Found:
    head = figures.head
    if head is None:
        return None, "", figures.head_failed or _NOT_ASKED
    times = f"{short(head.all_ms.p50)} ms (p99 {short(head.all_ms.p99)})"
    shown = f"{times}, {head.accepted} masks stay"
    return head.all_ms.p50, shown, ""


def _cameras(cameras: CameraFigures | None) -> _Found:
    if cameras is None:
        return None, "", _NOT_ASKED
    shown = (
        f"{_spread(cameras.gain)}: {cameras.all_hz.p50:.3g} frames/s by {cameras.one_hz.p50:.3g}"
    )
    return cameras.gain.median, shown, "" if cameras.cameras == 4 else f"{cameras.cameras} cameras"


def _agreement(parity: dict[str, Agreement]) -> _Found:
    if not parity:
        return None, "", "no folder of parity cases given: --parity"
    figures = AgreementFigures.of(list(parity.values()))
    least, middle = figures.minimum, figures.median
    shown = (
        f"{least.segment:.2f} % (median {middle.segment:.2f}); class {least.category:.2f} %,"
        f" numbers too {least.label:.2f} %"
    )
    return least.segment, shown, ""


def _quality(scenes: SceneFigures | None) -> _Found:
    if scenes is None:
        return None, "", _NOT_ASKED
    shown = f"{scenes.difference:+.2f}: {scenes.fast_pq:.2f} for {scenes.exact_pq:.2f}"
    return scenes.difference, shown, f"{scenes.agreement.pictures} drawn scenes, shipped weights"


def _memory(figures: Figures) -> _Found:
    memory = figures.memory
    if memory is None:
        return None, "", "no GPU" if figures.race is not None else _NOT_ASKED
    shown = f"{memory.beyond_mib / 1024:.2f} GiB beside {memory.weights_mib / 1024:.2f} of weights"
    return memory.beyond_mib / 1024, shown, ""


def _spread(ratio: PairedRatio) -> str:
    return f"{ratio.median:.2f} (p10 {ratio.p10:.2f}, p90 {ratio.p90:.2f}, {ratio.pairs} pairs)"
