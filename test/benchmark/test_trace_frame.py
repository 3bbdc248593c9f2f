from __future__ import annotations

import sys
import threading

import benchmark_script
import pytest

from upsnet_ros.synthetic.dataset import scene_frame


@pytest.fixture
def trace():
    trace = benchmark_script.load("trace_frame").Trace()
    trace.install()
    try:
        yield trace
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_a_file_is_entered_by_the_functions_of_other_files_that_call_it(trace) -> None:
    with trace.recording():
        for frame in (0, 1):
            scene_frame("test", 0, frame, (32, 64))
    entries = trace.entries()

    assert entries["synthetic/dataset.py"] == {("a thread or a library", "")}
    assert entries["synthetic/renderer.py"] == {("synthetic/dataset.py", "scene_frame")}


def test_calls_in_other_threads_count_and_those_outside_of_a_recording_do_not(trace) -> None:
    def render() -> None:
        scene_frame("test", 0, 0, (32, 64))

    render()
    assert not trace.entries()
    with trace.recording():
        thread = threading.Thread(target=render)
        thread.start()
        thread.join()
    assert "synthetic/dataset.py" in trace.entries()
