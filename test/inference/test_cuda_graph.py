"""Graphs on a GPU (never run so far: no GPU)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from upsnet_ros import ops as kernels
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.cuda_graph import CudaRecorder, GraphCache
from upsnet_ros.ops import dispatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def no_failures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_failures", {})
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def cache() -> GraphCache:
    return GraphCache(torch.device("cuda"), limit=2)


class Network:
    """Convolutions by cuDNN and products by cuBLAS, of images in one batch."""

    def __init__(self, channels: int) -> None:
        generator = torch.Generator("cuda").manual_seed(channels)

        def weight(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device="cuda").half() / 8

        self._conv, self._linear = weight(channels, 3, 3, 3), weight(channels, channels)

    def __call__(self, images: Tensor) -> list[Assembly]:
        features = torch.conv2d(images.half() / 255, self._conv, padding=1).relu()
        scores = features.permute(0, 2, 3, 1) @ self._linear
        best = scores.max(dim=3)
        return [
            Assembly(
                labels=labels.int(),
                unknown=logits > 1,
                table=torch.ones(1, 7, dtype=torch.int32, device="cuda"),
                details=torch.zeros(1, 5, device="cuda"),
                finite=torch.ones(1, dtype=torch.bool, device="cuda"),
                semantic=None,
                unknown_score=None,
                confidence=None,
                max_logit=logits.float(),
            )
            for logits, labels in zip(best.values, best.indices, strict=True)
        ]


def pixels(seed: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, 96, 160), generator=generator, dtype=torch.uint8).cuda()


def agree(got: list[Assembly], want: list[Assembly]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one.max_logit, other.max_logit, rtol=1e-2, atol=1e-2)
        assert (one.labels == other.labels).float().mean() > 0.97


def test_replays_equal_plain_calls_and_outlive_each_other(cache: GraphCache) -> None:
    network = Network(16)
    got = [cache.run("a", network, (pixels(seed, batch=2),)) for seed in range(4)]
    assert len(cache) == 1
    for seed, assemblies in enumerate(got):
        agree(assemblies, network(pixels(seed, batch=2)))


def test_graphs_share_a_pool_in_any_order(cache: GraphCache) -> None:
    small, large = Network(16), Network(64)
    got = []
    for seed, network in enumerate((small, large, small, small, large, large, small)):
        assemblies = cache.run(network, network, (pixels(seed),))
        got.append((network, seed, assemblies))
    for network, seed, assemblies in got:
        agree(assemblies, network(pixels(seed)))


def test_a_graph_outlives_another_that_is_given_up(cache: GraphCache) -> None:
    """Their workspaces of cuBLAS must not be one that goes with the first of them."""
    networks = [Network(channels) for channels in (64, 32, 16)]
    for network in networks:  # the third displaces the first
        cache.run(network, network, (pixels(0),))
    torch.cuda.empty_cache()
    junk = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(64)]
    for seed in range(3):
        for network in networks[1:]:
            agree(cache.run(network, network, (pixels(seed),)), network(pixels(seed)))
    assert len(cache) == 2 and all(bool(x.isnan().all()) for x in junk)


def test_one_graph_is_enough_of_a_limit() -> None:
    cache = GraphCache(torch.device("cuda"), limit=1)
    networks = [Network(16), Network(32)]
    for seed, network in enumerate(networks * 2):
        agree(cache.run(network, network, (pixels(seed),)), network(pixels(seed)))
    assert kernels.failures() == {}


def test_what_is_given_up_comes_to_its_end() -> None:
    """Its replay still waits in the stream when its memory is given to the next."""
    cache = GraphCache(torch.device("cuda"), limit=1)
    first, second = Network(64), Network(32)
    want = first(pixels(1))
    cache.run(first, first, (pixels(0),))
    torch.cuda._sleep(200_000_000)  # a tenth of a second
    got = cache.run(first, first, (pixels(1),))
    agree(cache.run(second, second, (pixels(2),)), second(pixels(2)))
    agree(got, want)


def test_an_error_belongs_to_its_replay(cache: GraphCache, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(16)
    before = cache.run("a", network, (pixels(0),))
    with monkeypatch.context() as patch:

        def fail(*_: object) -> Assembly:
            raise torch.OutOfMemoryError("no room for the outputs")

        patch.setattr(Assembly, "map", fail)
        with pytest.raises(torch.OutOfMemoryError):
            cache.run("a", network, (pixels(1),))
    after = cache.run("a", network, (pixels(2),))
    agree(before, network(pixels(0)))
    agree(after, network(pixels(2)))
    assert len(cache) == 1


def test_its_stream_is_nobody_elses() -> None:
    """Torch has 32 streams of a priority, and gives them out again from the first."""
    others = {torch.cuda.Stream().cuda_stream for _ in range(70)}
    assert CudaRecorder(torch.device("cuda"))._stream.cuda_stream not in others


def test_neither_capture_nor_replay_waits_for_the_host(cache: GraphCache) -> None:
    network, images = Network(16), [pixels(seed) for seed in range(3)]
    want = [network(image) for image in images]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    got = [cache.run("a", network, (image,)) for image in images]
    torch.cuda.set_sync_debug_mode("default")
    assert len(cache) == 1
    for one, other in zip(got, want, strict=True):
        agree(one, other)


def test_its_switch_for_cudnn_is_back_as_it_was(cache: GraphCache) -> None:
    before = torch.backends.cudnn.benchmark
    cache.run("a", Network(16), (pixels(0),))
    assert torch.backends.cudnn.benchmark == before


def test_clearing_gives_the_memory_back(cache: GraphCache) -> None:
    network = Network(16)

    def large(images: Tensor) -> list[Assembly]:
        room = torch.ones(1 << 26, device="cuda")  # 256 MiB
        return network(images + (room[0] - 1).byte())

    network(pixels(0))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    del cache.run("a", large, (pixels(0),))[:]
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved() - before
    cache.clear()
    assert held >= 1 << 28
    assert torch.cuda.memory_reserved() - before < 1 << 26


def break_a_capture() -> None:
    """By a wait for the host. Afterwards all is as before; called in a process of its own."""
    cache, network = GraphCache(torch.device("cuda")), Network(8)

    def waiting(images: Tensor) -> list[Assembly]:
        return network(images * int(images.amax() > 0))

    stream = torch.cuda.current_stream()
    for seed in range(2):
        agree(cache.run("a", waiting, (pixels(seed),)), network(pixels(seed)))
    assert len(cache) == 0 and torch.cuda.current_stream() == stream
    assert "captur" in kernels.failures()["graph"], kernels.failures()
    torch.cuda.empty_cache()
    for seed in range(2):
        agree(cache.run("b", network, (pixels(seed),)), network(pixels(seed)))
    assert len(cache) == 1, kernels.failures()
    assert bool(torch.rand(8, device="cuda").cpu().pin_memory().isfinite().all())
    print("as before")


def test_a_wait_for_the_host_is_named_and_leaves_nothing_behind() -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r});"
    code += f"import {Path(__file__).stem} as here; here.break_a_capture()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.stdout == "as before\n", done.stderr
    assert done.stderr.count("no CUDA graph") == 1, done.stderr


def test_streams_of_several_threads_take_turns(cache: GraphCache) -> None:
    networks = [Network(16), Network(32)]
    wrong: list[str] = []

    def use(number: int) -> None:
        network = networks[number % 2]
        with torch.cuda.stream(torch.cuda.Stream()):
            for seed in range(20):
                try:
                    got = cache.run(network, network, (pixels(seed),))
                    agree(got, network(pixels(seed)))
                except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
                    wrong.append(repr(error))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(cache) == 2


def test_others_may_allocate_and_copy_while_it_captures(cache: GraphCache) -> None:
    ended = threading.Event()
    rounds = 0

    def upload() -> None:
        nonlocal rounds
        with torch.cuda.stream(torch.cuda.Stream()):
            while not ended.is_set():
                held = torch.ones(rounds % 50 + 1, 1 << 14).pin_memory()
                assert float(held.to("cuda", non_blocking=True)[0, 0]) == 1
                rounds += 1

    thread = threading.Thread(target=upload)
    thread.start()
    try:
        for channels in range(8, 40, 4):
            network = Network(channels)
            agree(cache.run(network, network, (pixels(0),)), network(pixels(0)))
    finally:
        ended.set()
        thread.join()
    assert rounds > 0 and kernels.failures() == {}
