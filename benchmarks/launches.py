"""Count what a frame launches on a GPU, stage by stage; no GPU is needed, and nothing is timed.

The default path of a frame runs on fake tensors, which have a shape and a device but no values. An
operation of torch that computes counts as one launch, and so does a Triton kernel. A convolution
that torch runs for CUDA has one more for its bias; by cuDNN's fused operator, bias, addition and
ReLU are in the one. Not counted are views and allocations, what stays on the host, the copies of a
frame to and from the device and into a graph's inputs, and the parts of an operation that torch
itself makes of several kernels (sort, topk, a cuDNN convolution that changes the layout first).

    python benchmarks/launches.py --help
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Annotated, Any, cast
from unittest import mock

import torch
import triton
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upsnet_ros.inference.assemble import FrameSettings
from upsnet_ros.inference.network_paths import BatchedFrames
from upsnet_ros.inference.predictor import MERGES
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.upsnet import STAGES, UPSNet
from upsnet_ros.network.variants import Merge, get_variant
from upsnet_ros.ops import conv_relu, dispatch
from upsnet_ros.ops.camera_input import BYTES_PER_PIXEL

#: They make memory, or another view of it, though their schemas do not say so; or ask about it.
_NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_NO_LAUNCH |= {"_unsafe_view", "_reshape_alias", "device"}
#: What is launched around the stages: a batch is stacked, thresholds become tensors.
_AROUND = "inputs"
#: Entered with the name of what is launched in it, whatever else it seems to launch.
AsOne = Callable[[str], AbstractContextManager[object]]


@contextmanager
def pretended_gpu(as_one: AsOne) -> Iterator[None]:
    """Let CUDA tensors be fake ones, and kernels be noted instead of launched."""

    def note(kernel: Any, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            with as_one(kernel.fn.__name__):
                pass

        return launch

    def by_cudnn(conv: Any, x: Tensor, add: Tensor) -> Tensor:
        # cuDNN's operator has no fake form, torch's convolution does.
        with as_one("cudnn_convolution_add_relu"):
            return conv_relu.conv_relu_reference(conv, x, add=add)

    with ExitStack() as stack:
        for owner, name, value in (
            (triton.runtime.jit.KernelInterface, "__getitem__", note),
            (conv_relu, "_by_cudnn", by_cudnn),
            (torch.cuda, "device", lambda device: nullcontext()),
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (torch.cuda, "Event", mock.MagicMock()),
            (dispatch, "_failures", {}),
            (dispatch, "_enabled", True),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


class Launches(TorchDispatchMode):
    """Counts what is launched while it is entered: ``counts[stage, name]``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._stage = _AROUND
        self._in_one = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is launched inside as of that stage."""
        before, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = before

    @contextmanager
    def as_one(self, name: str) -> Iterator[None]:
        """Count whatever is launched inside as one launch of that name."""
        self._note(name)
        before, self._in_one = self._in_one, True
        try:
            yield
        finally:
            self._in_one = before

    def _note(self, name: str) -> None:
        if not self._in_one:
            self.counts[self._stage, name] += 1

    def __torch_dispatch__(
        self,
        operator: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        name = operator.overloadpacket.__name__
        # On a GPU operators in parts are launched part by part, but torch's Python would take
        # upsampling, one launch there, apart.
        if operator.namespace == "aten" and not name.startswith("upsample"):
            with self:
                parts = operator.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        result = operator(*args, **named)
        on_gpu = any(x.is_cuda for x in tree_leaves((args, result)) if isinstance(x, Tensor))
        aliases = [x.alias_info for x in operator._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if on_gpu and not is_view and name not in _NO_LAUNCH:
            self._note(name)
            if name == "convolution" and args[2] is not None:
                self._note("bias of a convolution")
        return result


def network_on_gpu(variant: str, dtype: torch.dtype) -> UPSNet:
    """Return a network as the predictor prepares it, of fake tensors; inside of `pretended_gpu`."""
    with torch.device("cuda"):
        network = UPSNet(get_variant(variant))
    fold_batch_norm_(network)
    for module in network.modules():  # fake modules cannot be cast as a whole
        for name, weight in list(module.named_parameters(recurse=False)):
            cast = weight.detach().to(dtype)
            if cast.dim() == 4:
                cast = cast.contiguous(memory_format=torch.channels_last)
            setattr(module, name, torch.nn.Parameter(cast, requires_grad=False))
    return network


def launches_of_frame(
    variant: str,
    size: tuple[int, int],
    *,
    batch: int = 1,
    encoding: str = "bgr8",
    options: HeadOptions | None = None,
    merge: Merge | None = None,
) -> Counter[tuple[str, str]]:
    """Return how often a computation of ``batch`` frames launches what, by stage and name.

    Args:
        variant: Of the network, in float16.
        size: Height and width of the camera's image; those of the variant need no resizing.
        batch: Frames at once.
        encoding: One of `kernels.camera.BYTES_PER_PIXEL`.
        options: What is asked of the panoptic head; by default no optional map.
        merge: How the two heads' results become one; by default as the variant has it.
    """
    launches = Launches()
    depth = BYTES_PER_PIXEL[encoding]
    shape = size if depth == 1 else (*size, depth)
    with pretended_gpu(launches.as_one):
        network = network_on_gpu(variant, torch.float16)
        own = network.variant
        frames = BatchedFrames(
            network,
            geometry=lambda *source: Geometry.of(
                source, scale=own.scale, max_size=own.max_size, family=own.family
            ),
            bilinear=own.family == "panoptic_fpn",
            public_ids=torch.arange(own.num_stuff + own.num_classes - 1, device="cuda"),
            graphs=None,
            merge=merge,
        )
        images = [torch.empty(shape, dtype=torch.uint8, device="cuda") for _ in range(batch)]
        settings = FrameSettings(score_threshold=0.5, head=options or HeadOptions())
        # The first frame of a size makes tables and packs weights.
        for _ in range(2):
            launches.counts.clear()
            with launches:
                frames.compute(images, settings, encoding=encoding, stage=launches.stage)
    return launches.counts


def main(
    variant: Annotated[str, typer.Option(help="Network.")] = "cityscapes-r50",
    height: Annotated[int, typer.Option(help="Rows of the camera's image.")] = 1024,
    width: Annotated[int, typer.Option(help="Columns of the camera's image.")] = 2048,
    batch: Annotated[int, typer.Option(min=1, help="Frames at once.")] = 1,
    encoding: Annotated[str, typer.Option(help=f"{', '.join(BYTES_PER_PIXEL)}.")] = "bgr8",
    maps: Annotated[bool, typer.Option(help="With all optional maps.")] = False,
    merge: Annotated[str, typer.Option(help=f"{', '.join(MERGES)}.")] = "auto",
    names: Annotated[bool, typer.Option(help="What is launched, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print how many launches each stage of a computation has."""
    if encoding not in BYTES_PER_PIXEL:
        raise typer.BadParameter(f"{encoding} is none of {', '.join(BYTES_PER_PIXEL)}")
    if merge not in MERGES:
        raise typer.BadParameter(f"{merge} is none of {', '.join(MERGES)}")
    options = HeadOptions(unknown_score=maps, confidence=maps, max_logit=maps)
    counts = launches_of_frame(
        variant,
        (height, width),
        batch=batch,
        encoding=encoding,
        options=options,
        merge=None if merge == "auto" else cast(Merge, merge),
    )
    stages = {name: Counter[str]() for name in (_AROUND, "preprocess", *STAGES)}
    for (stage, name), number in counts.items():
        stages[stage][name] += number
    if as_json:
        typer.echo(json.dumps({name: dict(stage.most_common()) for name, stage in stages.items()}))
        return
    table = Table("stage", "launches", *(["of which"] if names else []))
    for name, stage in stages.items():
        what = ", ".join(f"{number} {kind}" for kind, number in stage.most_common())
        table.add_row(name, str(stage.total()), *([what] if names else []))
    table.add_row("all", str(counts.total()), *([""] if names else []))
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
