from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future

import pytest

from upsnet_ros.ros.worker import FrameWorker

SECONDS = 30


class Steps:
    """Computes when it is let to, and keeps what it was given."""

    def __init__(self):
        self.submitted = threading.Semaphore(0)
        self.under_way = []  # (frames, their futures), as they were submitted
        self.published = []
        self.failures = []
        self.refused = []
        self.threads = {"submit": set(), "publish": set()}
        self.publishing = threading.Event()
        self.publishing.set()

    def decode(self, camera, frame):
        if frame == "malformed":
            self.refused.append(camera)
            return None
        if isinstance(frame, Exception):
            raise frame
        return frame

    def submit(self, images):
        self.threads["submit"].add(threading.current_thread())
        if "no room" in images:
            raise ValueError("no room")
        futures = [Future() for _ in images]
        self.under_way.append((list(images), futures))
        self.submitted.release()
        return futures

    def publish(self, camera, image, result):
        self.threads["publish"].add(threading.current_thread())
        assert self.publishing.wait(SECONDS)
        if isinstance(result, Exception):
            raise result
        self.published.append((camera, image, result))

    def failed(self, camera, error):
        self.failures.append((camera, error))

    def wait_submitted(self, times=1):
        """Waits for so many submissions more; returns the frames of the last."""
        for _ in range(times):
            assert self.submitted.acquire(timeout=SECONDS)
        return self.under_way[-1][0]

    def compute(self, submission, result="computed"):
        """Ends one of the submissions, by its number or the last as -1."""
        for future in self.under_way[submission][1]:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture
def worker(steps):
    worker = FrameWorker(cameras=["front", "left", "right"], steps=steps)
    yield worker
    ending = threading.Thread(target=worker.stop)
    ending.start()
    while ending.is_alive():
        steps.publishing.set()
        for _, futures in list(steps.under_way):
            for future in futures:
                if not future.done():
                    future.set_result("at the end")
        ending.join(0.01)


def names(published):
    return [(camera, image) for camera, image, _ in published]


def test_the_newest_frame_wins_and_the_older_ones_are_returned(steps, worker):
    worker.start()
    assert worker.offer("front", 1) is None
    steps.wait_submitted()
    assert [worker.offer("front", number) for number in range(2, 8)] == [None, 2, 3, 4, 5, 6]
    steps.compute(0)
    steps.wait_submitted()
    steps.compute(1)
    worker.stop()
    assert steps.published == [("front", 1, "computed"), ("front", 7, "computed")]


def test_frames_are_submitted_and_answered_off_the_callers_thread(steps, worker):
    worker.start()
    for number in range(2):
        worker.offer("front", number)
        steps.wait_submitted()
        steps.compute(-1)
    worker.stop()
    used = steps.threads["submit"] | steps.threads["publish"]
    assert [len(threads) for threads in steps.threads.values()] == [1, 1]
    assert len(used) == 2
    assert threading.current_thread() not in used


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_no_camera_starves_under_overload(steps, worker, batch, depth):
    worker.start(batch=batch, depth=depth)
    for turn in range(30):
        worker.offer("front", turn)
        worker.offer("front", turn)  # twice as fast as the others
        worker.offer("left", turn)
        worker.offer("right", turn)
        steps.wait_submitted()
        steps.compute(turn)
    worker.stop()
    counts = Counter(camera for camera, _, _ in steps.published)
    assert set(counts) == {"front", "left", "right"}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_frames_that_wait_are_submitted_together_and_a_lone_one_alone(steps, worker):
    worker.start(batch=2)
    worker.offer("front", 1)
    assert steps.wait_submitted() == [1]
    for camera, frame in {"right": 2, "front": 3, "left": 4}.items():
        worker.offer(camera, frame)
    steps.compute(0)
    assert steps.wait_submitted() == [4, 2], "who was served longest ago"
    steps.compute(1)
    assert steps.wait_submitted() == [3]
    steps.compute(2)
    worker.stop()
    assert names(steps.published) == [("front", 1), ("left", 4), ("right", 2), ("front", 3)]


def test_no_more_submissions_than_its_depth_and_answers_in_their_order(steps, worker):
    worker.start(depth=2)
    for camera in ("front", "left", "right"):
        worker.offer(camera, camera)
    steps.wait_submitted(2)
    steps.compute(1)  # the second before the first
    assert not steps.submitted.acquire(timeout=0.05)
    assert not steps.published
    steps.compute(0)
    steps.wait_submitted()
    steps.compute(2)
    worker.stop()
    assert names(steps.published) == [("front", "front"), ("left", "left"), ("right", "right")]


def test_the_next_frame_is_computed_while_an_answer_is_published(steps, worker):
    worker.start()
    steps.publishing.clear()
    worker.offer("front", 1)
    steps.wait_submitted()
    worker.offer("left", 2)
    steps.compute(0)
    assert steps.wait_submitted() == [2]
    assert not steps.published
    assert not worker.idle


def test_stop_finishes_the_begun_frames_and_gives_the_waiting_ones_back(steps, worker):
    worker.start(depth=2)
    for camera in ("front", "left"):
        worker.offer(camera, 1)
    steps.wait_submitted(2)
    worker.offer("front", 2)
    worker.offer("left", 3)
    left = {}
    stopping = threading.Thread(target=lambda: left.update(worker.stop()))
    stopping.start()
    while worker.offer("right", 4) is None:  # until it stops: then it takes no frame
        pass
    steps.compute(0)
    steps.compute(1)
    stopping.join(SECONDS)
    assert names(steps.published) == [("front", 1), ("left", 1)]
    assert {"front": 2, "left": 3}.items() <= left.items()
    assert worker.idle


@pytest.mark.parametrize("step", ["decode", "submit", "compute", "publish"])
def test_an_exception_ends_one_frame_only(steps, worker, step):
    worker.start()
    error = RuntimeError("CUDA out of memory")
    worker.offer("front", {"decode": error, "submit": "no room"}.get(step, 1))
    if step in ("compute", "publish"):
        steps.wait_submitted()
        if step == "compute":
            steps.compute(0, error)
        else:
            for future in steps.under_way[0][1]:
                future.set_result(error)  # which publish raises
    worker.offer("left", 2)
    assert steps.wait_submitted() == [2]
    steps.compute(-1)
    worker.stop()
    ((camera, raised),) = steps.failures
    assert camera == "front"
    assert str(raised) == ("no room" if step == "submit" else str(error))
    assert names(steps.published) == [("left", 2)]
    assert worker.idle


def test_a_frame_that_cannot_be_decoded_does_not_hold_up_those_beside_it(steps, worker):
    worker.start(batch=3)
    worker.offer("front", 0)
    steps.wait_submitted()
    error = MemoryError()
    for camera, frame in {"left": error, "right": 1, "front": "malformed"}.items():
        worker.offer(camera, frame)
    steps.compute(0)
    assert steps.wait_submitted() == [1]
    steps.compute(1)
    worker.stop()
    assert steps.failures == [("left", error)]
    assert steps.refused == ["front"]
    assert worker.idle


def test_a_frame_that_was_refused_is_over(steps, worker):
    worker.start()
    worker.offer("front", "malformed")
    worker.offer("left", 1)
    assert steps.wait_submitted() == [1]


def test_it_can_be_started_again_but_not_twice(steps, worker):
    worker.start()
    with pytest.raises(RuntimeError, match="runs already"):
        worker.start()
    assert worker.stop() == {}
    assert worker.stop() == {}
    worker.start()
    worker.offer("right", 5)
    steps.wait_submitted()
    steps.compute(0)
    worker.stop()
    assert names(steps.published) == [("right", 5)]


def test_stop_need_not_wait_for_a_frame_that_takes_too_long(steps, worker):
    worker.start()
    worker.offer("front", 1)
    steps.wait_submitted()
    assert not worker.left_alone
    worker.stop(timeout=0.01)
    assert worker.left_alone
    worker.stop()  # there is nothing to stop any more
    assert worker.left_alone
    with pytest.raises(RuntimeError, match="runs already"):
        worker.start()
    steps.compute(0)
    for thread in worker._stopped:
        thread.join(SECONDS)
    assert not worker.left_alone
    assert names(steps.published) == [("front", 1)]
    worker.start()
