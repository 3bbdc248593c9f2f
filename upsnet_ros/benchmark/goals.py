"""From what was measured to a table: every metric, and whether it reached its goal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from upsnet_ros.benchmark.head import HeadFigures
from upsnet_ros.benchmark.measure import PairedRatio, short
from upsnet_ros.benchmark.race import (
    Agreement,
    AgreementFigures,
    CameraFigures,
    RaceFigures,
    SceneFigures,
)
from upsnet_ros.benchmark.settings import METRICS, Goal
from upsnet_ros.benchmark.stages import MemoryFigures, StageFigures

#: Verdicts. Without a goal a value is only `MEASURED`.
MET, NOT_MET, NOT_MEASURED, MEASURED = "met", "not met", "not measured", "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How a run went.

    Attributes:
        gpu: Name of the GPU; None on a CPU.
        variant: Of the network.
        size: Height and width of the frames.
        precision: Of the fast path.
    """

    gpu: str | None
    variant: str
    size: tuple[int, int]
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a goal.

    Attributes:
        key: The goal's.
        what: The goal's.
        goal: The goal in words.
        value: The figure that decides, or None where there is none.
        shown: The figure with its unit and spread; empty where there is none.
        verdict: `MET`, `NOT_MET` or `NOT_MEASURED`.
        why: Why not measured, or what else has to be known.
    """

    key: str
    what: str
    goal: str
    value: float | None
    shown: str
    verdict: str
    why: str


def check_goal(
    metric: str,
    goal: Goal | None,
    value: float | None,
    shown: str,
    conditions: Conditions,
    *,
    note: str = "",
) -> Outcome:
    """Return whether a metric reached its goal.

    A value that was measured under other conditions than the goal's is shown, but decides nothing.

    Args:
        metric: Key in `METRICS`.
        goal: For it; None if there is none.
        value: What was measured; None if it was not.
        shown: The value with its unit and spread.
        conditions: Of the run.
        note: What else has to be known of the value, or why there is none.
    """
    misfits = [] if goal is None else _misfits(goal, conditions)
    why = note
    if value is None:
        verdict = NOT_MEASURED
    elif goal is None:
        verdict = MEASURED
    elif misfits:
        verdict, why = NOT_MEASURED, "; ".join(misfits)
    else:
        verdict = MET if goal.reached(abs(value)) else NOT_MET
        if goal.chips and not any(name in (conditions.gpu or "") for name in goal.chips):
            why = f"on {conditions.gpu}" + (f"; {note}" if note else "")
    return Outcome(
        key=metric,
        what=METRICS[metric].what,
        goal="" if goal is None else goal.text,
        value=value,
        shown=shown,
        verdict=verdict,
        why=why,
    )


def _misfits(goal: Goal, conditions: Conditions) -> list[str]:
    """Return in what a run differs from what a goal is for."""
    misfits = []
    if goal.on_gpu and conditions.gpu is None:
        misfits.append("no GPU")
    elif goal.on_gpu and conditions.precision == "fp32":
        misfits.append("fp32")
    wrong_variant = goal.variant not in (None, conditions.variant)
    if wrong_variant or goal.size not in (None, conditions.size):
        height, width = conditions.size
        misfits.append(f"{conditions.variant} at {height}x{width}")
    return misfits


_NOT_ASKED = "not asked for"


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured; None where it was not.

    Attributes:
        failed: Why a part of `settings.PARTS` has no figures, by its name.
        memory: What the fast path takes, on CUDA.
        race: A lone frame by the fast path, the plain one, and Mask R-CNN.
        cameras: Frames a second.
        head: Panoptic head and post-processing.
        frames: Agreement of the fast path with plain fp32 on the frames of the race.
        scenes: The same on labelled driving scenes, by the weights that ship, with PQ.
        parity: The same on the parity cases, by name.
        stages: A frame by stage, on CUDA inside its graph.
    """

    failed: dict[str, str] = field(default_factory=dict)
    memory: MemoryFigures | None = None
    race: RaceFigures | None = None
    cameras: CameraFigures | None = None
    head: HeadFigures | None = None
    frames: AgreementFigures | None = None
    scenes: SceneFigures | None = None
    parity: dict[str, Agreement] = field(default_factory=dict)
    stages: StageFigures | None = None


def outcomes(figures: Figures, conditions: Conditions, goals: Sequence[Goal] = ()) -> list[Outcome]:
    """Return the outcome of every metric, in the order of `METRICS`."""
    race, of_metric = figures.race, {goal.metric: goal for goal in goals}
    found = {
        "lone_frame": _lone_frame(figures),
        "graph": _graph(figures.stages),
        "plain": _ratio(race.plain_over_fast if race else None),
        "maskrcnn": _ratio(race.maskrcnn_over_fast if race else None),
        "head": _head(figures),
        "cameras": _cameras(figures.cameras),
        "agreement": _agreement(figures.parity),
        "trained": _trained(figures.scenes),
        "quality": _quality(figures.scenes),
        "memory": _memory(figures),
    }
    results = []
    for key, metric in METRICS.items():
        value, shown, note = found[key]
        if value is None:
            note = figures.failed.get(metric.part, note)
        results.append(check_goal(key, of_metric.get(key), value, shown, conditions, note=note))
    return results


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


def _graph(stages: StageFigures | None) -> _Found:
    if stages is None:
        return None, "", _NOT_ASKED
    if stages.graph_ms is None:
        return None, "", "no CUDA graph on this device"
    times = stages.graph_ms
    return times.p50, f"{short(times.p50)} ms (p99 {short(times.p99)})", ""


def _ratio(ratio: PairedRatio | None) -> _Found:
    return (None, "", _NOT_ASKED) if ratio is None else (ratio.median, _spread(ratio), "")


def _head(figures: Figures) -> _Found:
    head = figures.head
    if head is None:
        return None, "", _NOT_ASKED
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


def _trained(scenes: SceneFigures | None) -> _Found:
    if scenes is None:
        return None, "", _NOT_ASKED
    mean, least = scenes.agreement.mean.segment, scenes.agreement.minimum.segment
    return mean, f"{mean:.2f} % (minimum {least:.2f})", f"{scenes.agreement.pictures} scenes"


def _quality(scenes: SceneFigures | None) -> _Found:
    if scenes is None:
        return None, "", _NOT_ASKED
    shown = f"{scenes.difference:+.2f}: {scenes.fast_pq:.2f} for {scenes.exact_pq:.2f}"
    return scenes.difference, shown, f"{scenes.agreement.pictures} drawn scenes, shipped weights"


def _memory(figures: Figures) -> _Found:
    memory = figures.memory
    if memory is None:
        return None, "", "no GPU" if figures.race is not None else _NOT_ASKED
    steady, peak, weights = (
        f"{mib / 1024:.2f}"
        for mib in (memory.steady_mib, memory.reserved_peak_mib, memory.weights_mib)
    )
    shown = f"{steady} GiB beside {weights} of weights; peak of the first frame {peak}"
    return memory.steady_mib / 1024, shown, ""


def _spread(ratio: PairedRatio) -> str:
    return f"{ratio.median:.2f} (p10 {ratio.p10:.2f}, p90 {ratio.p90:.2f}, {ratio.pairs} pairs)"


def to_markdown(report: Mapping[str, Any]) -> str:
    """Write a report of `compare` as Markdown: where it ran, the goals, and what is behind them."""
    settings, machine = report["settings"], report["machine"]
    height, width = settings["network_size"]
    where = machine.get("gpu") or f"{machine['cpu']}, {settings['threads']} threads"
    lines = [
        f"{settings['variant']} at {height}x{width}, {settings['precision']}, on {where};"
        f" weights {settings['weights']}, drawn frames of seed {settings['seed']},"
        f" {settings['iterations']} after {settings['warmup']}; load average"
        f" {machine['load_average'][0]} at the start; torch {machine['versions']['torch']}.",
        "",
        *_table(("", "goal", "here", ""), map(_goal, report["goals"])),
    ]
    further = list(details(report))
    if further:
        lines += ["", *_table(("beside it", ""), further)]
    return "\n".join(lines) + "\n"


def _goal(outcome: Mapping[str, Any]) -> tuple[str, ...]:
    verdict = f"**{outcome['verdict']}**"
    if outcome["why"]:
        verdict += f": {outcome['why']}"
    return outcome["what"], outcome["goal"] or "-", outcome["shown"] or "-", verdict


def details(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a report of `compare` holds beside its goals: a name, and its values."""
    if (race := report["race"]) is not None:
        for key, name in (("fast", "lone frame"), ("plain", "plain"), ("maskrcnn", "Mask R-CNN")):
            yield f"{name}, ms: p50, p99", _p50_p99(race[f"{key}_ms"])
        yield (
            "instances; boxes of the mask heads; instances of Mask R-CNN",
            f"{race['instances']:g}; {race['boxes']:g}; {race['maskrcnn_instances']:g}",
        )
    if (head := report["head"]) is not None:
        parts = (head[f"{key}_ms"]["p50"] for key in ("accept", "maps", "segments"))
        yield "mask removal, head, segments, ms: p50", ", ".join(map(short, parts))
    if (memory := report["memory"]) is not None:
        peak, steady = (
            ", ".join(f"{memory[f'{key}_mib']:.0f}" for key in keys)
            for keys in (("tensors_peak", "reserved_peak"), ("reserved", "driver"))
        )
        yield "memory at the peak, MiB: tensors, pools", peak
        yield "memory once warm, MiB: pools, driver", steady
    if report["frames"] is not None:
        yield _markdown_agreement("frames", report["frames"])
    if report["scenes"] is not None:
        yield _markdown_agreement("scenes", report["scenes"]["agreement"])
    for name, shares in report["parity"].items():
        yield f"{name}: same segment, class, label", _shares(shares)
    if report["stages"] is not None:
        for name, stage in report["stages"]["stages_ms"].items():
            if stage is not None:
                yield f"{name}, ms: p50, p99", _p50_p99(stage)
        if (graph := report["stages"]["graph_ms"]) is not None:
            yield "graph, bytes to labels on the GPU, ms: p50, p99", _p50_p99(graph)
        share = f"{report['stages']['panoptic_share']:.1%}"
        yield "panoptic head and post-processing, share of a frame", share
    for part, reason in report["failed"].items():
        yield f"part {part} failed", reason
    for kernel, reason in report["kernels_failed"].items():
        yield f"kernel {kernel} failed", reason


def _markdown_agreement(name: str, figures: Mapping[str, Any]) -> tuple[str, str]:
    median, least = (_shares(figures[key]) for key in ("median", "minimum"))
    return (
        f"{figures['pictures']} {name}: same segment, class, label",
        f"{median}; least {least}",
    )


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{shares[key]:.2f} %" for key in ("segment", "category", "label"))


def _p50_p99(summary: Mapping[str, float]) -> str:
    return f"{short(summary['p50'])}, {short(summary['p99'])}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [_row(head), _row(["---"] * len(head))]
    # A reason may be an error's text, over several lines.
    lines += [_row([" ".join(cell.replace("|", "\\|").split()) for cell in row]) for row in rows]
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
