"""The child of `self_test`: runs each kernel and a whole frame, and reports each step.

Every kernel runs with what a frame brings it: its own shapes, at the expected size, in the
network's precision. The reference implementation computes the same, and the frame continues with
its result, so that no kernel can spoil the input of the next one. Then the frame runs as it will
run later.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from upsnet_ros.errors import first_line
from upsnet_ros.inference.self_test import FRAME, GRAPH, KERNELS, OPERATORS, Request
from upsnet_ros.processes.child_processes import end_with_pipe

#: Share of a kernel's values that may differ from the reference, and by how much, relative to each
#: value plus the mean of all. Kernel and reference run in the same precision and accumulate in
#: float32, so a healthy kernel differs by a few roundings: 0.0005 (fp16) or 0.004 (bf16) each. Of
#: values that have nothing to do with each other 2 % come this close by chance. The share is for
#: near-ties, which sums in another order decide otherwise; an error in fewer values is not found.
_SHARE, _TOLERANCE = 0.02, 0.02
#: The share of a frame's pixels whose class may differ, and the mean difference of its largest
#: logits, relative to their spread. Both frames have the same precision, but cuDNN may choose
#: other plans, and with random weights such differences add up. Whole bf16 frames against fp32
#: ones, which is more than plans can do, differ by up to 0.21 and 0.20 (coco-r101-dcn, measured on
#: a CPU). With a wrong operator (features moved by three cells, a level of zeros) they differ by
#: 0.57 and 0.83 or more, in all of cityscapes-r18, cityscapes-r50 and coco-r101-dcn.
_FRAME_SHARE, _FRAME_ERROR = 0.4, 0.5
#: Factor of the offsets of deformable convolutions.
_OFFSETS = 0.1
#: What CUDA and its libraries say for want of memory, or of a GPU that is another process's.
_SHORTAGE = ("out of memory", "busy or unavailable", "ALLOC_FAILED", "can't allocate memory")


class _MismatchError(Exception):
    """A result differs from the reference."""


class Reporter:
    """Writes a line for each phase of each step.

    Args:
        descriptor: Of the pipe to the parent.
        request: What is tested.
    """

    def __init__(self, descriptor: int, request: Request) -> None:
        self._descriptor = descriptor
        self._off = set(request.off)
        self._open: list[str] = []

    def wants(self, name: str) -> bool:
        """Whether a step has not failed yet."""
        return name not in self._off

    def tell(self, **line: object) -> None:
        """Write a line at once: the next instruction may end the process."""
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[], None]]:
        """Report a step's start and end; yields what reports that it has been launched.

        An error fails the step. Where the device does not work any more afterwards, or memory was
        short, it ends the process. Steps may lie within each other.
        """
        self._open.append(name)
        self.tell(phase="compile", step=name)
        try:
            yield lambda: self.tell(phase="test", step=name)
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises, the parent is told
            reason = first_line(error)
            if isinstance(error, MemoryError) or any(said in str(error) for said in _SHORTAGE):
                self.tell(phase="inconclusive", reason=reason)
                sys.exit(0)
            self._off.add(name)
            self.tell(phase="failed", reason=reason)
            if not isinstance(error, _MismatchError) and not _device_works():
                sys.exit(0)  # the parent starts another process
        else:
            self.tell(phase="passed")
        self._open.pop()
        if self._open:
            self.tell(phase="compile", step=self._open[-1])


def serve(steps: Callable[[Request, Reporter], None]) -> None:
    """Run steps for the parent whose pipe and request are on the command line."""
    end_with_pipe(0)
    request = Request.from_json(sys.argv[2])
    reporter = Reporter(int(sys.argv[1]), request)
    steps(request, reporter)
    reporter.tell(phase="done")


def steps(request: Request, report: Reporter) -> None:
    """Test the device, then every kernel in a frame, then the frame.

    ``off`` of only ``*`` asks for the GPU's UUID instead.
    """
    import torch

    device = torch.device(request.device)
    if request.off == ("*",):
        report.tell(uuid=str(torch.cuda.get_device_properties(device).uuid))
        return
    with report.step("device") as launched:
        x = torch.arange(64.0 * 64).reshape(64, 64) / 4096
        product = x.to(device) @ x.to(device)
        launched()
        if not torch.allclose(product.cpu(), x @ x, rtol=0.01):
            raise _MismatchError("a product of matrices is wrong")
    if not report.wants("device"):
        return
    from upsnet_ros.ops import dispatch

    with ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(dispatch.interpreted())
        for name in request.off:
            dispatch.note_failure(name, "failed before")
        with report.step(OPERATORS):
            expected = _check_kernels(request, report)
        if not report.wants(OPERATORS):
            return
        for name in (GRAPH, KERNELS, FRAME):
            if name == FRAME:
                dispatch.set_enabled(False)
            if report.wants(name) and (name == FRAME or report.wants(KERNELS)):
                with report.step(name) as launched:
                    _check_frame(request, expected, launched, graphs=name == GRAPH)
                if report.wants(name):
                    return


def _predictor(request: Request, *, graphs: bool) -> Any:
    import torch

    from upsnet_ros.inference.predictor import Predictor

    predictor = Predictor(
        None,
        variant=request.variant,
        device=request.device,
        precision=request.precision,
        scale=request.scale,
        merge=request.merge,
        # Of no file, for a verdict is one on the kernels; under these all stages have work to do.
        allow_random_weights=True,
        unknown_score=True,
        semantic=True,
        max_logit=True,
        graphs=graphs,
        self_test=False,
    )
    # With random offsets of many cells a deep network is chaotic: in bf16 coco-r101-dcn gives 74 %
    # of the pixels another class than in fp32, which would fail a healthy GPU.
    for name, module in predictor.network.named_modules():
        if name.endswith("offset") and isinstance(module, torch.nn.Conv2d):
            module.weight.data.mul_(_OFFSETS)
            if module.bias is not None:
                module.bias.data.mul_(_OFFSETS)
    return predictor


def _frame(predictor: Any, request: Request) -> Any:
    """Segment a picture of coloured patches, and return the assembly on the device."""
    import cv2
    import numpy as np

    from upsnet_ros.inference.preprocess import upload

    variant, scale = predictor.variant, predictor.scale
    own = (scale, round(variant.max_size * scale / variant.scale))
    height, width = request.size or own
    patches = np.random.default_rng(0).integers(
        0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8
    )
    image = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    (assembly,) = predictor.compute_batch(
        [upload(image.astype(np.uint8), predictor.device)], predictor.settings(), encoding="bgr8"
    )
    return assembly


def _check_kernels(request: Request, report: Reporter) -> Any:
    """Test every kernel of a frame; returns the frame as the references make it."""
    from upsnet_ros.ops import dispatch

    def check(name: str, kernel: Callable[[], Any], reference: Callable[[], Any]) -> Any:
        expected: list[Any] = []  # once: the reference may write into its inputs, as a kernel may
        with report.step(name) as launched:
            result = kernel()
            launched()
            _synchronize()
            expected.append(reference())
            _compare(result, expected[0])
        if not report.wants(name):
            dispatch.note_failure(name, "failed")
        return expected[0] if expected else reference()

    predictor = _predictor(request, graphs=False)
    with dispatch.checked(check):
        return _frame(predictor, request)


def _compare(result: Any, expected: Any) -> None:
    """Raise `_MismatchError` unless nearly all values of an operator are near the expected ones."""
    import torch

    if "indices" in getattr(expected, "_fields", ()):  # a tensor has a method of that name
        _compare_lists(result, expected)
        return
    pairs: Iterable[tuple[Any, Any]] = (
        [(result, expected)]
        if isinstance(expected, torch.Tensor)
        else zip(result, expected, strict=True)
    )
    for got, wanted in pairs:
        if wanted is None or wanted.numel() == 0:
            continue
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise _MismatchError(f"{got.dtype} {tuple(got.shape)} instead of {tuple(wanted.shape)}")
        exact = not wanted.is_floating_point()
        got, wanted = got.float(), wanted.float()
        bound = 0.0 if exact else _TOLERANCE * (wanted.abs() + wanted.abs().mean())
        wrong = 1 - ((got - wanted).abs() <= bound).float().mean().item()
        if wrong > _SHARE:
            raise _MismatchError(f"{100 * wrong:.1f} % of the values are wrong")


def _compare_lists(result: Any, expected: Any) -> None:
    """Compare lists of indices as sets: one missing index shifts all later ones."""
    for n in range(len(expected.counts)):
        got, wanted = (set(x.indices[n, : x.counts[n]].tolist()) for x in (result, expected))
        if len(got ^ wanted) > max(2, _SHARE * len(wanted)):
            raise _MismatchError(f"{len(got ^ wanted)} of {len(wanted)} indices are wrong")


def _check_frame(
    request: Request, expected: Any, launched: Callable[[], None], *, graphs: bool
) -> None:
    """Compare a frame with that of the references, twice: captured, and replayed."""
    from upsnet_ros.ops import dispatch

    predictor = _predictor(request, graphs=graphs)
    for _ in range(2):
        result = _frame(predictor, request)
        launched()
        result, wanted = result.to_host(), expected.to_host()
        if graphs and GRAPH in dispatch.failures():
            raise _MismatchError(dispatch.failures()[GRAPH])
        _compare_frames(result, wanted)


def _compare_frames(result: Any, expected: Any) -> None:
    """Raise `_MismatchError` unless two assemblies on the host say nearly the same."""
    wanted = expected.max_logit
    differ = (result.semantic != expected.semantic).float().mean().item()
    error = (result.max_logit - wanted).abs().mean() / (wanted.std() + 1e-6)
    if not (differ <= _FRAME_SHARE and error.item() <= _FRAME_ERROR):  # NaN is not
        raise _MismatchError(f"{100 * differ:.0f} % of a frame's classes are wrong")


def _synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _device_works() -> bool:
    try:
        _synchronize()
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    serve(steps)
