"""Deformable convolution's kernel against its reference implementation."""

from __future__ import annotations

import gc
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from upsnet_ros.ops import deform_conv, dispatch
from upsnet_ros.ops.deform_conv import deform_conv2d, deform_conv2d_reference

deform_conv_triton = pytest.importorskip("upsnet_ros.ops.triton.deform_conv")

#: Small, so that several programs share the work, and the last one has too much of it.
FORM = deform_conv_triton.Form(block=(64, 16, 16))
#: The other kernel, in both orders.
PIPELINED = [
    deform_conv_triton.Form(
        block=(16, 16, 16), warps=4, pipelined=True, channels_outer=channels_outer
    )
    for channels_outer in (False, True)
]
#: How far the result may be off, in the larger of a unit and the result itself.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.1}


def make_case(
    device: torch.device,
    *,
    batch: int = 1,
    channels: int = 5,
    outputs: int = 7,
    kernel: tuple[int, int] = (3, 3),
    size: tuple[int, int] = (7, 10),
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    spread: float = 3.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    out = [
        (s + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for s, k in zip(size, kernel, strict=True)
    ]
    return (
        randn(batch, channels, *size),
        randn(batch, 2 * kernel[0] * kernel[1], *out) * spread,
        randn(outputs, channels, *kernel) / 3,
        randn(outputs),
    )


@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [
        ({"batch": 2}, torch.float32),
        ({"stride": 2, "channels": 17, "outputs": 18}, torch.float16),
        ({"padding": 2, "dilation": 2}, torch.bfloat16),
        ({"kernel": (1, 3), "padding": 0}, torch.float32),
        ({"size": (1, 1), "channels": 1, "outputs": 1}, torch.float32),
        ({"spread": 100.0}, torch.float32),
    ],
    ids=str,
)
def test_kernel_equals_the_twin(
    geometry: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> None:
    input, offset, weight, bias = make_case(device, dtype=dtype, **geometry)
    placement = {k: v for k, v in geometry.items() if k in ("stride", "padding", "dilation")}
    if dtype != torch.float32:
        input = input.contiguous(memory_format=torch.channels_last)
        offset = offset.contiguous(memory_format=torch.channels_last)
    expected = deform_conv2d_reference(input, offset, weight, bias, **placement)
    result = deform_conv_triton.deform_conv2d(input, offset, weight, bias, **placement, form=FORM)
    assert result.dtype == dtype and result.stride() == expected.stride()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("form", PIPELINED, ids=["channels", "taps"])
@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [
        ({"batch": 3, "channels": 32, "size": (3, 7)}, torch.float32),
        ({"stride": 2, "channels": 16, "outputs": 18, "size": (5, 6)}, torch.float16),
        ({"padding": 2, "dilation": 2, "channels": 16, "size": (3, 5)}, torch.bfloat16),
        ({"kernel": (1, 3), "padding": 0, "channels": 48, "size": (4, 7)}, torch.float32),
        ({"size": (1, 1), "channels": 16, "outputs": 1}, torch.float32),
        ({"spread": 100.0, "channels": 16, "size": (4, 5)}, torch.float32),
    ],
    ids=str,
)
def test_the_pipelined_kernel_equals_the_other_one(
    geometry: dict[str, Any], dtype: torch.dtype, form: Any, device: torch.device
) -> None:
    input, offset, weight, bias = make_case(device, dtype=dtype, **geometry)
    placement = {k: v for k, v in geometry.items() if k in ("stride", "padding", "dilation")}
    if form.channels_outer:
        tensors, options = (input, offset, weight, bias), {"relu": True}
    else:
        tensors, options = (input, offset, weight, None), {}
    got = deform_conv_triton.deform_conv2d(*tensors, **placement, **options, form=form)
    want = deform_conv_triton.deform_conv2d(*tensors, **placement, **options, form=FORM)
    assert got.dtype == dtype and got.stride() == want.stride()
    # Both blend and round alike; sums come in another order.
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("form", PIPELINED, ids=["channels", "taps"])
def test_whole_pixels_and_places_far_outside_by_the_pipelined_kernel(
    form: Any, device: torch.device
) -> None:
    input, offset, weight, bias = make_case(device, channels=16, size=(4, 6))
    offset = offset.round()
    for far, channel in ((math.nan, 0), (math.inf, 3), (-1e30, 5), (-1.0, 7), (1e9, 17)):
        offset[:, channel] = far
    got = deform_conv_triton.deform_conv2d(input, offset, weight, bias, form=form)
    want = deform_conv_triton.deform_conv2d(input, offset, weight, bias, form=FORM)
    assert got.isfinite().all()
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_the_form_is_that_of_the_table_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    form_of, form = deform_conv_triton.form_of, deform_conv_triton.Form
    measured = form(block=(128, 128, 64), stages=3, pipelined=True)
    table = {(256, 128): measured, (96, 128): measured}
    monkeypatch.setattr(deform_conv_triton, "FASTEST", table)
    half, single = torch.float16, torch.float32
    assert form_of(256, 128, half) == measured
    assert form_of(256, 128, single) == form_of(128, 128, half) == form()  # not measured
    assert form_of(96, 128, half) == form()  # no multiple of 64 channels
    assert form_of(256, 19, half).block == (64, 32, 32)
    assert form_of(256, 3, half).block == (64, 16, 32)
    case = make_case(torch.device("cpu"), channels=96)
    with pytest.raises(ValueError, match="multiples of 64 channels, not 96"):
        deform_conv_triton.deform_conv2d(*case, form=measured)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", deform_conv_triton.FORMS, ids=str)
def test_every_form_that_is_raced_gives_the_same(form: Any) -> None:
    device, last = torch.device("cuda"), torch.channels_last
    case = make_case(device, channels=256, outputs=128, size=(33, 50), batch=2, dtype=torch.float16)
    input, offset, weight, bias = case
    tensors = (input.contiguous(memory_format=last), offset.contiguous(memory_format=last))
    want = deform_conv2d_reference(*tensors, weight, bias)
    got = deform_conv_triton.deform_conv2d(*tensors, weight, bias, form=form)
    torch.testing.assert_close(got, want, atol=0.3, rtol=0.02)


def test_whole_pixels_and_places_far_outside(device: torch.device) -> None:
    """Samples at exactly -1 and H do not count, nor do those that are not a number."""
    input, offset, weight, _ = make_case(device)
    offset = offset.round()
    for far, channel in ((math.nan, 0), (math.inf, 3), (-1e30, 5)):
        outside = offset.clone()
        outside[:, channel] = far
        tap = channel // 2
        without = weight.clone()
        without[:, :, tap // 3, tap % 3] = 0
        expected = deform_conv2d_reference(input, offset, without)
        result = deform_conv_triton.deform_conv2d(input, outside, weight, form=FORM)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_packed_weight_and_relu(dtype: torch.dtype, device: torch.device) -> None:
    input, offset, weight, bias = make_case(device, dtype=dtype)
    packed = deform_conv_triton.pack_weight(weight)
    result = deform_conv_triton.deform_conv2d(
        input, offset, weight, bias, relu=True, packed=packed, form=FORM
    )
    expected = deform_conv2d_reference(input, offset, weight, bias, relu=True)
    assert (expected == 0).any()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


def test_a_weight_is_packed_once_until_it_changes(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = []
    pack = deform_conv_triton.pack_weight
    monkeypatch.setattr(
        deform_conv_triton, "pack_weight", lambda weight: packed.append(1) or pack(weight)
    )
    input, offset, first, _ = make_case(device, size=(3, 4))
    weight = torch.nn.Parameter(first)

    def assert_right(weight: Tensor) -> None:
        with torch.inference_mode():
            result = deform_conv2d(input, offset, weight)
        expected = deform_conv2d_reference(input, offset, weight.detach())
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-5)

    by_kernel = dispatch.interpreted() if device.type == "cpu" else nullcontext()
    with by_kernel, torch.no_grad():
        assert_right(weight)
        assert_right(weight)
        assert len(packed) == 1
        weight.mul_(-2)
        assert_right(weight)
        assert len(packed) == 2
        weight.data = first + 3
        assert_right(weight)
        assert_right(weight)
        assert len(packed) == 3
    number = len(deform_conv._packed_weights)
    del weight
    gc.collect()
    assert len(deform_conv._packed_weights) == number - 1


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_weight_packed_on_one_stream_is_waited_for_on_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But not in a capture, which cannot wait for what lies before it; its warm-up has waited."""
    done: list[str] = []
    state = {"capturing": False}

    class Event:
        def record(self) -> None:
            done.append("record")

        def wait(self) -> None:
            done.append("wait")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["capturing"])
    with FakeTensorMode():
        weight = torch.nn.Parameter(torch.empty(3, 2, 1, 1, device="cuda"), requires_grad=False)
        for capturing, expected in (
            (True, []),  # not kept: it is there at the replay only
            (False, ["record"]),
            (False, ["record", "wait"]),
            (True, ["record", "wait"]),
        ):
            state["capturing"] = capturing
            deform_conv._packed(weight, lambda weight: weight.clone())
            assert done == expected
