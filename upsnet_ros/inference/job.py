"""A frame in flight: what is computed for it, and what comes of it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.frame_settings import FrameSettings
from upsnet_ros.inference.ring import CudaSlot, HostSlot, Ring
from upsnet_ros.inference.segmenter import Segmenter
from upsnet_ros.inference.stage_timer import StageTimer, stage_of

__all__ = ["Job", "compute", "outcome"]


@dataclass(slots=True, eq=False)
class Job:
    """A frame in flight.

    Attributes:
        slot: Its memory.
        shape: Of the image.
        encoding: Of the image.
        settings: By which it is segmented.
        timer: What measures its stages, if anything does.
        answer: What its sender waits for.
        error: What ended its computation.
    """

    slot: HostSlot | CudaSlot
    shape: tuple[int, ...]
    encoding: str
    settings: FrameSettings
    timer: StageTimer | None
    answer: Future[PanopticFrame]
    error: Exception | None = None

    def goes_with(self, other: Job) -> bool:
        """Whether one batch can hold both."""
        return (self.shape, self.encoding, self.settings) == (
            other.shape,
            other.encoding,
            other.settings,
        )


def compute(predictor: Segmenter, ring: Ring, jobs: list[Job]) -> None:
    """Launch what computes these jobs, but for cancelled ones, and what brings the results here.

    An error becomes that of its job. A batch that fails is computed once more, frame by frame: to
    learn whose fault it was, and because one frame alone takes less memory.
    """
    wanted = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
    if not wanted:
        return
    try:
        _compute_together(predictor, ring, wanted)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends one frame, not the pipeline
        if len(wanted) == 1:
            wanted[0].error = error
            return
    else:
        return
    for job in wanted:
        try:
            _compute_together(predictor, ring, [job])
        except Exception as error:  # noqa: BLE001 - as above
            job.error = error


@torch.inference_mode()
def _compute_together(predictor: Segmenter, ring: Ring, jobs: list[Job]) -> None:
    stage = stage_of(*(job.timer for job in jobs))  # a batch's time is that of each frame in it
    with ring.computing():
        images = [job.slot.arrive() for job in jobs]
        first = jobs[0]
        assemblies = predictor.compute_batch(
            images, first.settings, encoding=first.encoding, stage=stage
        )
        for job, assembly in zip(jobs, assemblies, strict=True):
            job.slot.download(assembly, stage_of(job.timer))


def outcome(predictor: Segmenter, job: Job) -> tuple[PanopticFrame | None, Exception | None]:
    """Wait for a job: its frame, or why there is none, or neither if it was cancelled.

    Nothing uses the job's slot afterwards.
    """
    try:
        if job.error is None and not job.answer.cancelled():
            frame = predictor.frame(job.slot.collect())
            timings = {} if job.timer is None else job.timer.milliseconds()
            return replace(frame, timings=timings), None
        job.slot.settle()
    except Exception as error:  # noqa: BLE001 - as above
        # A device that failed fails again here; what it said first says more.
        return None, None if job.answer.cancelled() else job.error or error
    return None, job.error
