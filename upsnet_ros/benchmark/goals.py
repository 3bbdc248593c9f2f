"""The goals of the GPU path, and what became of them in one run."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GOALS", "MET", "NOT_MEASURED", "NOT_MET", "Conditions", "Goal", "Outcome", "judge"]

MET, NOT_MET, NOT_MEASURED = "met", "not met", "not measured"

#: What goals are of, where they depend on it.
_VARIANT, _SIZE, _GPU = "cityscapes-r50", (1024, 2048), "H200"


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
class Goal:
    """A line of the table.

    Attributes:
        key: Its name for machines.
        what: What is measured.
        text: The goal in words.
        limit: The figure that decides.
        at_least: Whether more is better; else less is.
        strict: Whether the limit itself is not enough.
        of_gpu: Whether it says something only on a GPU, in half precision.
        of_size: Whether it is of R50 at 1024x2048.
        of_chip: Whether it is of one GPU by name.
    """

    key: str
    what: str
    text: str
    limit: float
    at_least: bool = False
    strict: bool = False
    of_gpu: bool = True
    of_size: bool = True
    of_chip: bool = False

    def reached(self, value: float) -> bool:
        """Whether a figure is good enough."""
        if value == self.limit:
            return not self.strict
        return value > self.limit if self.at_least else value < self.limit


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


GOALS = (
    Goal(
        key="lone_frame",
        what="lone frame, host image in to host labels out, p50",
        text="at most 8 ms on an H200; 5 to aim at",
        limit=8.0,
        of_chip=True,
    ),
    Goal(
        key="plain",
        what="times as fast as this project's plain eager fp32",
        text="at least 10",
        limit=10.0,
        at_least=True,
    ),
    Goal(
        key="maskrcnn",
        what="times as fast as torchvision's Mask R-CNN, half precision, channels-last",
        text="more than 1",
        limit=1.0,
        at_least=True,
        strict=True,
    ),
    Goal(
        key="head",
        what="panoptic head and post-processing, 100 instances, 1024x2048",
        text="at most 0.5 ms",
        limit=0.5,
        of_size=False,  # its inputs are drawn at that size, whatever else is measured
    ),
    Goal(
        key="cameras",
        what="frames/s of four cameras, batched, by those of one",
        text="at least 1.5",
        limit=1.5,
        at_least=True,
    ),
    Goal(
        key="agreement",
        what="pixels labelled as by fp32 eager, least of the parity cases",
        text="at least 99 %",
        limit=99.0,
        at_least=True,
        of_gpu=False,
        of_size=False,
    ),
    Goal(
        key="quality",
        what="PQ on driving scenes against fp32 eager, points",
        text="within 0.2",
        limit=0.2,
        of_gpu=False,
        of_size=False,
    ),
    Goal(
        key="memory",
        what="GPU memory beyond the weights, batch 1",
        text="under 2 GiB",
        limit=2.0,
        strict=True,
    ),
)


def judge(
    goal: Goal, value: float | None, shown: str, conditions: Conditions, *, note: str = ""
) -> Outcome:
    """Decide about a goal.

    A figure that was measured under other conditions than the goal's is shown, but decides nothing.

    Args:
        goal: To decide about.
        value: The figure; None where there is none.
        shown: The figure with its unit and spread.
        conditions: Of the run.
        note: What else has to be known of the figure; where there is none, why.
    """
    misfits = _misfits(goal, conditions)
    if value is None:
        verdict, why = NOT_MEASURED, note
    elif misfits:
        verdict, why = NOT_MEASURED, "; ".join(misfits)
    else:
        verdict, why = (MET if goal.reached(abs(value)) else NOT_MET), note
        if goal.of_chip and _GPU not in (conditions.gpu or ""):
            why = f"on {conditions.gpu}" + (f"; {note}" if note else "")
    return Outcome(
        key=goal.key,
        what=goal.what,
        goal=goal.text,
        value=value,
        shown=shown,
        verdict=verdict,
        why=why,
    )


def _misfits(goal: Goal, conditions: Conditions) -> list[str]:
    """Return in what a run differs from what a goal is of."""
    misfits = []
    if goal.of_gpu and conditions.gpu is None:
        misfits.append("no GPU")
    elif goal.of_gpu and conditions.precision == "fp32":
        misfits.append("fp32")
    if goal.of_size and (conditions.variant, conditions.size) != (_VARIANT, _SIZE):
        height, width = conditions.size
        misfits.append(f"{conditions.variant} at {height}x{width}")
    return misfits
