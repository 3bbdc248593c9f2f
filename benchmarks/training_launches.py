"""Count what a training step launches on a GPU and how often it waits; no GPU is needed.

Nothing is timed. A step on synthetic scenes is computed on the CPU, by the operators that a GPU
would be given: torchvision's for RoIAlign and deformable convolutions, which have gradients. An
operation of torch that computes counts as one launch; views and allocations do not count. Decoding
and suppressing proposals, for which a GPU has kernels, counts as four launches. A wait is a value
or a shape that the host asks for.

    python benchmarks/training_launches.py --help
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from upsnet_ros.datasets.base import Bitmask
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network import batched_selection
from upsnet_ros.network.batched_operators import Operators
from upsnet_ros.network.checkpoint import load_checkpoint
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.ops import deform_conv, roi_align
from upsnet_ros.synthetic.dataset import SceneDataset
from upsnet_ros.training.loading import Batch, prepare
from upsnet_ros.training.objective import TrainingNetwork
from upsnet_ros.training.optimizer import build_optimizer, thaw_batch_norms_
from upsnet_ros.training.settings import LossSettings, OptimizerSettings, Quirks, TargetSettings
from upsnet_ros.weights import shipped_weights

VARIANT = "cityscapes-r18"
#: They make memory, or another view of it, though their schemas do not say so.
_NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_NO_LAUNCH |= {"_unsafe_view", "_reshape_alias", "detach", "lift_fresh"}
#: They ask for a type, make a number of the host, or mark a function for a profiler.
_NO_LAUNCH |= {"promote_types", "scalar_tensor"}
_NO_LAUNCH |= {"_record_function_enter_new", "_record_function_exit"}
#: What makes the host wait for a GPU.
_WAITS = {"nonzero", "tolist", "item", "cpu", "__bool__", "__float__", "__int__"}
#: Launches of the kernels that stand for one call.
_KERNELS = {"decode_at": 1, "suppress": 3}


class Launches(TorchDispatchMode):
    """Counts operations while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.paused = False

    def __torch_dispatch__(
        self,
        operator: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = operator.overloadpacket.__name__
        aliases = [x.alias_info for x in operator._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if not (self.paused or is_view or name in _NO_LAUNCH):
            self.counts[name] += 1
            if name == "convolution" and args[2] is not None:
                self.counts["bias of a convolution"] += 1
        return operator(*args, **(kwargs or {}))

    @contextmanager
    def counted_as(self, name: str | None) -> Iterator[None]:
        """Count what is launched inside as the kernels of that name, or not at all."""
        if not self.paused and name is not None:
            self.counts[name] += _KERNELS[name]
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def wrapped(self, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        """Return a function that is counted so."""

        def call(*args: Any, **options: Any) -> Any:
            with self.counted_as(name):
                return function(*args, **options)

        return call


class Waits(TorchFunctionMode):
    """Counts what the host waits for, outside of what stands for kernels."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self.count = 0
        self._launches = launches

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(function, "__name__", "") in _WAITS and not self._launches.paused:
            self.count += 1
        return function(*args, **(kwargs or {}))


def batch_of(count: int, *, size: tuple[int, int], quirks: Quirks) -> Batch:
    """Return a batch of synthetic scenes of that height and width."""
    scenes = SceneDataset(split="train", seed=0, length=count, size=size, cache=None)
    num_stuff = get_variant(VARIANT).num_stuff
    images = []
    for index in range(count):
        sample = scenes[index]
        geometry = Geometry.of(sample.size, scale=size[0], max_size=size[1])
        images.append(prepare(sample, geometry, num_stuff=num_stuff, seed=index, quirks=quirks))
    return Batch.join(images)


def launches_of_step(
    count: int, *, size: tuple[int, int] = (256, 512)
) -> tuple[dict[str, Counter[str]], int]:
    """Return what a step of ``count`` images launches, by its parts, and how often it waits.

    Args:
        count: Images of the step, which is one pass.
        size: Height and width of the images.
    """
    torch.manual_seed(0)
    quirks = Quirks()
    network = UPSNet(get_variant(VARIANT))
    load_checkpoint(network, shipped_weights(VARIANT))
    thaw_batch_norms_(network, shared=False)
    network.train()
    model = TrainingNetwork(
        network,
        targets=TargetSettings(rpn_top_n=1000, rois=128, roi_positives=32),
        losses=LossSettings(semantic_roi=0.2, unknown_pixels="unknown"),
        quirks=quirks,
    )
    settings = OptimizerSettings(kind="adamw", learning_rate=1e-4, clip_norm=10.0)
    optimizer = build_optimizer(network, settings, quirks, fused=True)
    batch = batch_of(count, size=size, quirks=quirks)
    launches = Launches()
    waits = Waits(launches)
    parts: dict[str, Counter[str]] = {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        launches.counts = parts[name] = Counter()
        with launches:
            yield

    with ExitStack() as stack:
        for owner, name, value in (
            (roi_align, "_gather", roi_align.roi_align_reference),
            (deform_conv, "fits", lambda *_: False),
            (
                batched_selection,
                "decode_at",
                launches.wrapped(batched_selection.decode_at, "decode_at"),
            ),
            (Operators, "suppress", launches.wrapped(Operators.suppress, "suppress")),
            (Bitmask, "rasterise", launches.wrapped(Bitmask.rasterise, None)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        # The first step fills tables and makes the optimiser's state.
        model(batch)["total"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with waits:
            with part("forward"):
                total = model(batch)["total"]
                assert bool(total.detach().isfinite())
            with part("backward"):
                total.backward()
            with part("step"):
                torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0, foreach=True)
                optimizer.step()
    return parts, waits.count


def main(
    images: Annotated[list[int], typer.Option(help="Images of a step; may be repeated.")] = [1, 4],  # noqa: B006
    names: Annotated[bool, typer.Option(help="What is launched, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print launches and waits of steps of some images."""
    report = {}
    for count in images:
        parts, waits = launches_of_step(count)
        report[count] = {name: part.total() for name, part in parts.items()} | {"waits": waits}
        if not as_json:
            per_image = parts["forward"].total() / count
            typer.echo(
                f"{count} images: "
                + ", ".join(f"{name} {number}" for name, number in report[count].items())
                + f"; forward per image {per_image:.0f}"
            )
        for name, part in parts.items() if names and not as_json else ():
            typer.echo(f"  {name}: " + ", ".join(f"{n} {kind}" for kind, n in part.most_common()))
    if as_json:
        typer.echo(json.dumps(report))


if __name__ == "__main__":
    typer.run(main)
