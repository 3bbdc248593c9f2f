"""What configure allocates, cleanup frees, and an error leaves behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from child_path import with_support
from rclpy.lifecycle import TransitionCallbackReturn

from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.node.camera import Camera

pytestmark = pytest.mark.dds

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR
MIB = 1 << 20


@pytest.fixture
def shapes(monkeypatch):
    """The size (width, height) of every image that a predictor is given, batch by batch."""
    seen, compute = [], Predictor.compute_batch

    def spy(self, images, *args, **options):
        seen.append(*{(image.shape[1], image.shape[0]) for image in images})
        return compute(self, images, *args, **options)

    monkeypatch.setattr(Predictor, "compute_batch", spy)
    return seen


@pytest.mark.parametrize(
    ("warm_up", "expected"), [("200x90", [(200, 90)]), ("auto", [(128, 64)]), ("none", [])]
)
def test_configure_computes_a_frame_before_any_camera_is_heard(
    bench, shapes, warm_up, expected, capfd
):
    one = bench(f"warm_up:={warm_up}")
    assert one.node.trigger_configure() is SUCCESS
    assert shapes == expected
    told = r"configured: .*; " + (r"warm-up took \d+\.\d s" if expected else "no warm-up")
    assert re.search(told, capfd.readouterr().err)


def test_the_size_of_the_last_frame_is_remembered(bench, shapes):
    one = bench("warm_up:=auto")
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.start()
    one.show(camera, lambda: labels)
    assert one.node.trigger_deactivate() is SUCCESS
    assert one.node.trigger_cleanup() is SUCCESS
    shapes.clear()
    assert one.node.trigger_configure() is SUCCESS
    assert shapes == [(64, 48)]


# In a process of its own, in which no other test allocates or frees memory.
MEASURE = """
import gc, json, os, sys
from pathlib import Path
from node_bench import Bench

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

bench, sizes = Bench(int(sys.argv[1]), "warm_up:=auto", "precision:=fp32"), []
for _ in range(3):
    bench.node.trigger_configure()
    configured = resident()
    bench.node.trigger_cleanup()
    sizes.append((configured, resident()))
bench.close()
json.dump(sizes, sys.stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_cleanup_gives_the_memory_back(domain):
    command = [sys.executable, "-c", MEASURE, str(domain)]
    result = subprocess.run(
        command, env=with_support(), capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    # The first time libraries, too, take memory. How much of it the allocator has in use later on
    # is chance, so what may be left is told by the weights alone, which are 58 MiB.
    sizes = json.loads(result.stdout.splitlines()[-1])  # above, Fast DDS may complain
    before = sizes[0][1]
    assert max(configured for configured, _ in sizes) > before + 30 * MIB
    for _, cleaned_up in sizes[1:]:
        left = cleaned_up - before
        assert left < 12 * MIB, f"{left / MIB:.0f} MiB are left"


@pytest.mark.gpu
def test_cleanup_gives_the_memory_of_the_gpu_back(bench):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    one = bench("device:=cuda", "warm_up:=auto")
    assert one.node.trigger_configure() is SUCCESS
    assert one.node.trigger_cleanup() is SUCCESS
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    assert one.node.trigger_configure() is SUCCESS
    assert torch.cuda.memory_allocated() > allocated + 20 * MIB
    assert one.node.trigger_cleanup() is SUCCESS
    assert torch.cuda.memory_allocated() <= allocated
    assert torch.cuda.memory_reserved() <= reserved


def test_after_bad_weights_configure_works_with_good_ones(bench, capfd):
    one = bench("weights:=/no/such.pth")
    camera, labels = one.camera(), one.collect("labels")
    assert one.node.trigger_configure() is FAILURE
    assert "configure failed: there is no weights file /no/such.pth" in capfd.readouterr().err
    assert one.node.state == "unconfigured"
    assert one.set(weights="") == (True, "")
    assert one.node.start()
    one.show(camera, lambda: labels)


def test_an_error_that_nobody_foresaw_leads_to_where_configure_works(bench, monkeypatch, capfd):
    one = bench()
    camera, labels = one.camera(), one.collect("labels")
    before = len(list(one.node.publishers))
    subscribe = Camera.subscribe

    def broken(self):
        subscribe(self)
        raise TypeError("a bug")

    monkeypatch.setattr(Camera, "subscribe", broken)
    assert one.node.trigger_configure() is SUCCESS
    assert one.node.trigger_activate() is ERROR
    assert "activate failed:\nTraceback" in capfd.readouterr().err
    assert one.node.state == "unconfigured"
    assert one.node.model.predictor is None
    assert len(list(one.node.publishers)) == before
    assert camera.get_subscription_count() == 0

    monkeypatch.setattr(Camera, "subscribe", subscribe)
    assert one.node.start()
    one.show(camera, lambda: labels)
