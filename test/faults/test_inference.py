"""Inference that fails: no memory, no device, no kernel; and weights that are no weights."""

from __future__ import annotations

import os
import pickle
import weakref
from contextlib import contextmanager

import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from faults import fault, repeats
from node_bench import Bench, image
from safetensors.torch import save_file
from std_srvs.srv import Trigger

from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.node import model as node_model
from upsnet_ros.ops import dispatch

pytestmark = pytest.mark.dds

MIB = 1 << 20


class Street:
    """A camera before a node, whose frames have stamps that grow."""

    def __init__(self, bench):
        self._bench = bench
        self._camera, self._labels = bench.camera(), bench.collect("labels")
        self._shown = 0  # the last frame's stamp, in seconds

    def show(self):
        self._shown += 1
        self._camera.publish(image(self._shown * 1_000_000_000))

    def until(self, condition, what):
        return self._bench.until(condition, what, again=self.show, every=0.5)

    def is_answered(self):
        """A frame shown from now on is answered, and all is well again."""
        before = self._shown
        self._labels.clear()
        self.until(lambda: any(one.header.stamp.sec > before for one in self._labels), "an answer")
        self.until(lambda: self._bench.values().get("state") == "active", "all well again")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of good weights."""
    network = UPSNet(get_variant("cityscapes-r18"))
    draw_weights_(network, seed=0)
    path = tmp_path_factory.mktemp("weights") / "good.safetensors"
    save_file(network.state_dict(), path)
    return path


@contextmanager
def running(domain, weights, namespace):
    bench = Bench(domain, f"weights:={weights}", namespace=namespace)
    assert bench.node.start()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def bench(domain, weights):
    with running(domain, weights, "failing") as bench:
        yield bench


@pytest.fixture
def fresh_bench(domain, weights):
    """A node that has not logged an error yet: of the same place, it logs one in some seconds."""
    with running(domain, weights, "fresh") as bench:
        yield bench


@pytest.fixture(scope="module")
def street(bench):
    return Street(bench)


@pytest.fixture
def own_weights(bench, weights):
    """The file of the node's weights, which is good again for the next test."""
    good = weights.read_bytes()
    yield weights
    if weights.is_dir():
        weights.rmdir()
    weights.write_bytes(good)
    assert bench.set(weights=str(weights)) == (True, "")


#: As torch and Python raise them; a new one for each frame.
ERRORS = {
    "no memory of the GPU": lambda: torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 9 GiB"
    ),
    "no memory of the CPU": lambda: RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: 9 bytes"
    ),
    "no memory of Python": MemoryError,
    "device error": lambda: torch.AcceleratorError("CUDA error: an illegal memory access"),
    "cuDNN": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
}


@fault(
    "The network runs out of memory, or its device fails, in the midst of a frame",
    often="{cases} kinds of errors",
    happens="The frame is counted as failed, with the error in the log and in diagnostics at level"
    " ERROR; after a lack of memory the frame's tensors are released and the caches emptied; the"
    " next frame is answered",
)
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_in_the_network(fresh_bench, kind, monkeypatch, capfd):
    bench, street = fresh_bench, Street(fresh_bench)
    street.is_answered()
    tensors, alive_when_freed = [], []
    free = node_model.free_memory

    def fail(module, inputs, output):
        held = torch.zeros(MIB)
        tensors.extend(weakref.ref(one) for one in (held, inputs[0]))
        raise ERRORS[kind]()

    def look_and_free():
        alive_when_freed.append(sum(one() is not None for one in tensors))
        free()

    monkeypatch.setattr(node_model, "free_memory", look_and_free)
    network = bench.node.model.predictor.network
    with network.resnet_backbone.register_forward_hook(fail):
        street.until(lambda: bench.values().get("state") == "failed", "the failure in diagnostics")
        told = bench.values()
        assert int(told["failed_frames"]) >= 1
        error = ERRORS[kind]()
        reason = f"{type(error).__name__}: {str(error) or 'MemoryError'}"
        assert told["last_failure"] == reason
        assert bench.statuses()[-1].level == DiagnosticStatus.ERROR
        assert f"a frame was not segmented: {reason}\n" in capfd.readouterr().err
        if "memory of" in kind:
            bench.until(lambda: alive_when_freed, "memory given back")
            assert set(alive_when_freed) == {0}
        else:
            assert not alive_when_freed
    street.is_answered()


@fault(
    "A GPU that does not answer any more when diagnostics ask how full it is",
    often="once",
    happens="Diagnostics go on, at level WARN, with the error as `gpu_error`",
)
def test_a_gpu_that_is_gone(bench, street, monkeypatch):
    def gone(device):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "mem_get_info", gone)
    predictor = bench.node.model.predictor
    monkeypatch.setattr(predictor, "device", torch.device("cuda"))
    bench.until(lambda: "gpu_error" in bench.values("model"), "the error in diagnostics")
    assert bench.values("model")["gpu_error"].startswith("CUDA error: unspecified launch failure")
    monkeypatch.setattr(predictor, "device", torch.device("cpu"))
    street.is_answered()


@fault(
    "A Triton kernel that does not compile",
    often="once",
    happens="Its plain form gives the frame's result at once and from then on; a warning and"
    " diagnostics at level WARN name kernel and reason",
)
def test_a_kernel_that_does_not_compile(bench, street, monkeypatch, caplog):
    errors = pytest.importorskip("triton.errors")
    monkeypatch.setattr(dispatch, "_failures", {})
    monkeypatch.setattr(dispatch, "_enabled", True)

    class Broken(errors.TritonError):
        pass

    def kernel():
        raise Broken("ptxas exited with code 255")

    def through_dispatch(module, inputs, output):
        return dispatch.run("p2p3", torch.device("cuda"), kernel=kernel, reference=lambda: output)

    street.is_answered()
    before = bench.values()["failed_frames"]
    network = bench.node.model.predictor.network
    with network.resnet_backbone.register_forward_hook(through_dispatch):
        street.is_answered()
        assert "kernel p2p3 failed, its plain form runs instead: ptxas exited" in caplog.text
        bench.until(lambda: "kernel_failed p2p3" in bench.values("model"), "diagnostics")
        assert bench.values("model")["kernel_failed p2p3"] == "ptxas exited with code 255"
        status = next(one for one in bench.statuses() if one.name.endswith("model"))
        assert status.level == DiagnosticStatus.WARN
        assert bench.values()["failed_frames"] == before


class Malicious:
    """Makes a folder where it is unpickled."""

    def __init__(self, trace):
        self._trace = trace

    def __reduce__(self):
        return os.mkdir, (self._trace,)


def replace_by(kind, path):
    """Puts something in the place of weights; returns the path to name from then on."""
    good = path.read_bytes()
    match kind:
        case "garbage":
            path.write_bytes(b"no weights at all" * 1000)
        case "cut off":
            path.write_bytes(good[: len(good) // 2])
        case "empty":
            path.write_bytes(b"")
        case "header of 2^60 bytes":
            path.write_bytes((1 << 60).to_bytes(8, "little") + good[8:])
        case "gone":
            path.unlink()
        case "a folder":
            path.unlink()
            path.mkdir()
        case "a pickle that runs code":
            path = path.with_suffix(".pth")
            path.write_bytes(pickle.dumps({"weight": Malicious(str(path) + ".ran")}, protocol=2))
        case "a zip file that runs code":
            path = path.with_suffix(".pth")
            torch.save({"weight": Malicious(str(path) + ".ran")}, path)
    return path


KINDS = ("garbage", "cut off", "empty", "header of 2^60 bytes", "gone", "a folder",
         "a pickle that runs code", "a zip file that runs code")  # fmt: skip


@fault(
    "The weights' file is replaced by garbage, half of itself, nothing, a folder, or a pickle that"
    " runs code, and reloaded",
    often="{cases} kinds",
    happens="~/reload_weights answers with the reason; the old weights are kept, no code is run,"
    " the next frame is answered",
)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_replaced_by(bench, street, own_weights, kind):
    street.is_answered()
    old = bench.node.model.predictor
    path = replace_by(kind, own_weights)
    assert bench.set(weights=str(path)) == (True, "")
    answer = bench.call(Trigger, "reload_weights", Trigger.Request())
    assert not answer.success
    assert str(path) in answer.message and "\n" not in answer.message
    assert bench.node.model.predictor is old
    assert not (own_weights.parent / "good.pth.ran").exists()
    street.is_answered()


@fault(
    "The weights' file is overwritten in its place again and again while it is reloaded",
    often="{reloads} reloads",
    happens="Each reload succeeds or tells why not; the process lives (a mapped file that shrinks"
    " would end it)",
)
@pytest.mark.parametrize("reloads", repeats(2, 40))
def test_weights_overwritten_while_they_load(bench, street, own_weights, reloads):
    path = own_weights
    good = path.read_bytes()
    client = bench.other.create_client(Trigger, "/failing/upsnet/reload_weights")
    bench.until(client.service_is_ready, "the service")
    answers = []
    for _ in range(reloads):
        answer = client.call_async(Trigger.Request())

        def overwrite():
            path.write_bytes(good[:4096])
            path.write_bytes(good)

        bench.until(answer.done, "an answer", again=overwrite, every=0.001)
        answers.append(answer.result())
    assert all(one.success or str(path) in one.message for one in answers)
    street.is_answered()
