"""Compile every Triton kernel for a GPU, which need not be here.

At the sizes of cityscapes-r50 at 1024x2048, with the arguments that the launchers would pass.
Prints what ptxas gave each kernel: registers of a thread, bytes spilled to the stack, shared
memory, and how many programs fit a multiprocessor at once. Times it says nothing about. Kernels are
asked for in several sizes of batch; one that would be recompiled for a larger one is listed
again.

    python benchmarks/kernel_resources.py --help
"""

from __future__ import annotations

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
from kernel_cases import cases
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

#: Of sm_80 to sm_90: registers and bytes of shared memory of a multiprocessor, warps at once.
_REGISTERS, _SHARED, _WARPS = 65536, 227 * 1024, 64
_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
#: 3 and 16 are what Triton would tell apart from each other and from 1.
_BATCHES = (1, 3, 16)


def source_of(function: Any, arguments: dict[str, Any]) -> ASTSource:
    """Return what Triton would compile for arguments, by its rules for ints and addresses."""
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
        aligned = isinstance(value, torch.Tensor) and not parameter.do_not_specialize_on_alignment
        if aligned or (free and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)


def resources_of(source: ASTSource, *, capability: int, warps: int, stages: int) -> dict[str, Any]:
    """Compile for a compute capability, and return what the kernel takes."""
    kernel = triton.compile(
        source,
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
        "warps": warps,
        "registers": found["REG"],
        "spilled_bytes": found["STACK"],
        "shared_bytes": kernel.metadata.shared,
        "programs": min(_REGISTERS // registers, _SHARED // shared, _WARPS // warps, 32),
    }


def main(
    capability: Annotated[int, typer.Option(help="Compute capability: 90 is Hopper.")] = 90,
    dtype: Annotated[
        str, typer.Option(help="Of features: bfloat16, float16, float32.")
    ] = "bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile every kernel and print what it takes."""
    taken: list[dict[str, Any]] = []
    seen = set()
    asked: dict[str, Any] = {}

    def compile_instead(
        self: Any, *args: Any, grid: Any, warmup: bool, num_warps: int = 4, num_stages: int = 3,
        **named: Any,
    ) -> None:  # fmt: skip
        source = source_of(self, dict(zip(self.arg_names, args, strict=False)) | named)
        key = (source.hash(), num_warps, num_stages)
        if key in seen:
            return
        seen.add(key)
        usage = resources_of(source, capability=capability, warps=num_warps, stages=num_stages)
        name = self.__name__.strip("_").removesuffix("_kernel")
        taken.append({"kernel": name, **asked, **usage})

    JITFunction.run = compile_instead
    for batch in _BATCHES:
        for case in cases("meta", getattr(torch, dtype), batch=batch):
            asked = {"case": case.name, "batch": batch}
            case.kernel()
    if as_json:
        typer.echo(json.dumps(taken))
        return
    table = Table("kernel", "of", "batch", "warps", "registers", "spilled", "shared", "programs")
    for usage in taken:
        table.add_row(*map(str, usage.values()))
    console = Console()
    console.width = max(console.width, 110)  # not a terminal: 80, which breaks names
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
