"""Compile every Triton kernel for a GPU, which need not be here.

At the sizes of cityscapes-r50 at 1024x2048, with the arguments that the launchers would pass.
Prints what ptxas gave each kernel: registers of a thread, bytes spilled to the stack, shared
memory, and how many programs fit a multiprocessor at once. Times it says nothing about.

    python benchmarks/kernel_resources.py --help
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

# Of the interpreter there would be nothing to compile.
os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
import typer
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

#: Of sm_80 to sm_90: registers and bytes of shared memory of a multiprocessor, warps at once.
_REGISTERS, _SHARED, _WARPS = 65536, 227 * 1024, 64
_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compile_kernel(
    function: Any, arguments: dict[str, Any], *, capability: int, warps: int, stages: int
) -> dict[str, Any]:
    """Compile for a compute capability, and return what the kernel takes."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes = {}
    for place, parameter in enumerate(function.params):
        value = arguments[parameter.name]
        free = not parameter.do_not_specialize and isinstance(value, int)
        if parameter.is_constexpr or (free and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = parameter.annotation_type or mangle_type(value)
        # torch's allocations are aligned; Triton looks at sizes when it is launched.
        if isinstance(value, torch.Tensor) or (free and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    kernel = triton.compile(
        ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [_TOOL, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    registers = -(-found["REG"] // 8) * 8 * 32 * warps
    shared = max(kernel.metadata.shared, 1024)
    return {
        "kernel": function.__name__.strip("_").removesuffix("_kernel"),
        "warps": warps,
        "registers": found["REG"],
        "spilled_bytes": found["STACK"],
        "shared_bytes": kernel.metadata.shared,
        "programs": min(_REGISTERS // registers, _SHARED // shared, _WARPS // warps, 32),
    }


def launches(dtype: torch.dtype) -> None:
    """Call every launcher at the sizes of cityscapes-r50, with tensors that hold nothing."""

    def kernels(name: str) -> Any:
        return importlib.import_module(f"upsnet_ros.kernels.{name}_triton")

    def empty(*shape: int, of: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=of)

    size, stuff, classes, things = (1024, 2048), 11, 19, 100
    number = empty(1, of=torch.int32)
    boxes, kinds = empty(1, things, 4), empty(1, things, of=torch.int64)
    masks = empty(1, things, 28, 28)
    kernels("camera").camera_input(
        empty(1, *size, 3, of=torch.uint8), "bgr8", scale=1.0, size=size, padded=size,
        means=(103.0, 116.0, 123.0), dtype=dtype,
    )  # fmt: skip
    pyramid = [
        empty(1, 256, 1024 // stride, 2048 // stride, of=dtype).contiguous(
            memory_format=torch.channels_last
        )
        for stride in (4, 8, 16, 32)
    ]
    kernels("nms").batched_nms(empty(5, 1000, 4), empty(5, of=torch.int32), 0.7, limit=1000)
    kernels("fpn_roi_align").fpn_roi_align(pyramid, empty(1, 1000, 4), 7, numbers=number)
    kernels("fpn_roi_align").fpn_roi_align(pyramid, boxes, 14, numbers=number)
    for outputs, channels in ((128, 256), (128, 128)):
        feature = pyramid[0][:, :channels].contiguous(memory_format=torch.channels_last)
        kernels("deform_conv").deform_conv2d(
            feature, empty(1, 18, *feature.shape[2:], of=dtype),
            empty(outputs, channels, 3, 3, of=dtype), empty(outputs, of=dtype), relu=True,
        )  # fmt: skip
    kernels("hidden_masks").accept_masks(
        boxes, kinds, masks, number, size=size, threshold=0.3, rounds=1
    )
    kernels("panoptic").panoptic_maps(
        empty(1, classes, 256, 512),
        boxes,
        kinds,
        masks,
        number,
        empty(1),
        size=size,
        num_stuff=stuff,
    )
    maps = empty(1, *size, of=torch.int16)
    axes = [torch.arange(side) for side in size]
    kernels("segments").segment_table(
        maps, maps, kinds, torch.arange(classes), *axes, num_stuff=stuff, stuff_area_limit=2048
    )


def main(
    capability: Annotated[int, typer.Option(help="Compute capability: 90 is Hopper.")] = 90,
    dtype: Annotated[
        str, typer.Option(help="Of features: bfloat16, float16, float32.")
    ] = "bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile every kernel and print what it takes."""
    taken: list[dict[str, Any]] = []

    def compile_instead(
        self: Any, *args: Any, grid: Any, warmup: bool, num_warps: int = 4, num_stages: int = 3,
        **named: Any,
    ) -> None:  # fmt: skip
        arguments = dict(zip(self.arg_names, args, strict=False)) | named
        usage = compile_kernel(
            self, arguments, capability=capability, warps=num_warps, stages=num_stages
        )
        if usage not in taken:
            taken.append(usage)

    JITFunction.run = compile_instead
    launches(getattr(torch, dtype))
    if as_json:
        typer.echo(json.dumps(taken))
        return
    table = Table("kernel", "warps", "registers", "spilled bytes", "shared bytes", "programs")
    for usage in taken:
        table.add_row(*map(str, usage.values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
