"""A step's attention as one operator: its kernels in Triton's interpreter and as machine code, and its bookkeeping."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from fastsample.shared_prefix.decode import Directory, decode_op, tiles_of
from fastsample.shared_prefix.prefix import PrefixLayer
from fastsample.torch_ops import decode

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
SHARED = 99 * 1024  # bytes that a block can have on the smallest of these GPUs


@needs_triton
def test_interpreted():
    """Every test of `decode_interpreted.py`, in a process of its own: within twice the naive error of float64."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(Path(__file__).parent / "decode_interpreted.py")],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@needs_triton
@pytest.mark.parametrize(("arch", "dtype", "width", "groups"), [
    (80, "bf16", 64, 3), (90, "bf16", 128, 8), (90, "fp32", 64, 4), (120, "bf16", 256, 8), (80, "fp32", 128, 4),
    (90, "fp32", 256, 8), (90, "bf16", 64, 71),
])  # fmt: skip
def test_machine_code(arch, dtype, width, groups, tmp_path):
    """Nothing is spilled, shared memory suffices on every GPU, half-precision products run on the tensor cores."""
    from fastsample.torch_ops import decode_kernels as kernels

    blocks = decode.Blocks.of(groups, width, width, 2 if dtype == "bf16" else 4)
    same = dict(HEADS=8 * groups, GROUPS=groups, D=width, DV=width, BLOCK_D=blocks.width, BLOCK_DV=blocks.value_width,
                BLOCK_N=blocks.keys, HAS_SOFTCAP=True, HAS_WINDOW=True)  # fmt: skip
    triton_is = tuple(map(int, version("triton").split(".")[:2]))
    # A few registers of float32 heads of 256, at their stores and loads: more of them with Triton 3.9 than before it.
    most = (9 if triton_is >= (3, 9) else 4) * (dtype == "fp32" and width == 256)
    for kernel, warps, more in (
        (kernels.read_prefixes, decode.PREFIX_WARPS, dict(BLOCK_ROWS=decode.TILE_ROWS, BLOCK_G=blocks.heads)),
        (kernels.read_tails, decode.TAIL_WARPS, dict(BLOCK_G=blocks.groups, HAS_SINKS=True)),
    ):
        compiled = _compiled(kernel, arch, dtype, warps, same | more)
        assert compiled.metadata.shared <= SHARED
        assert ("mma" in compiled.asm["ptx"]) == (dtype == "bf16")
        if triton_is >= (3, 6):
            assert len(_spills(compiled.asm["cubin"], tmp_path)) <= most, kernel
    if triton_is < (3, 6):
        pytest.skip(
            "Triton before 3.6 spills 15 registers on sm_120, and 223 of float32 heads of 256: slower, as right"
        )


def _compiled(kernel, arch, dtype, warps, constants):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {"query": dtype, "keys": dtype, "values": dtype, "result": dtype, "sinks": "fp32", "table": "i64",
             "lengths": "i64", "tiles": "i32", "order": "i32", "group": "i32"}  # fmt: skip
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in kinds or name.startswith("part_"):
            signature[name] = "*" + kinds.get(name, "fp32")
        else:
            signature[name] = "fp32" if name in ("scale", "softcap") else "i32"
        if signature[name].startswith("*") or re.search("row_|head_|key_|value_|_stride", name):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = dict(num_warps=warps, **decode.OPTIONS)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def _spills(cubin, folder):
    import triton

    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    text = subprocess.run([tool, "-c", file], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\b(?:STL|LDL)\b", text)


def test_tiles():
    """Rows of one prefix beside each other, sixteen at most."""
    assert tiles_of([]) == []
    assert tiles_of([1, 0, 1, 1]) == [(0, 0, 1), (1, 1, 3)]
    assert tiles_of([0] * 35) == [(0, 0, 16), (0, 16, 16), (0, 32, 3)]


def test_directory():
    """Every row once, in the tile of its prefix; places without a row continue nothing."""
    where = Directory(8, 4, 8, torch.device("cpu"))
    for group in ([2, 0, 2, 1, 0], [1], [0, 1, 2, 2, 2, 2, 0, 0]):
        where.set(group)
        assert where.group.tolist() == [*group, *[-1] * (8 - len(group))]
        found = {}
        for prefix, first, count in where.tiles.tolist():
            found |= dict.fromkeys(where.order[first : first + count].tolist(), prefix)
        assert found == dict(enumerate(group))


def test_parts_follow_from_the_length_alone():
    """Of equal size, 32 at most, of 256 keys as long as those suffice."""
    assert [decode.parts(n) for n in (1, 256, 257, 8192, 8193, 100_000)] == [1, 1, 2, 32, 17, 25]
    assert decode.span(8193) == 512


def test_table():
    """Addresses and lengths; what is not there has no keys."""
    layer = PrefixLayer(torch.zeros(1, 2, 300, 8), torch.zeros(1, 2, 300, 8), None)
    table = Directory(2, 2, 2, torch.device("cpu")).table([layer])
    assert table.tolist() == [[layer.keys.data_ptr(), layer.values.data_ptr(), 300, 256], [0, 0, 0, 1]]


def test_the_operator_can_be_traced():
    """Shapes and dtypes without a device; torch's own checks of an operator."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    where = Directory(3, 1, 1, torch.device("cpu"))
    where.set([0, 0])
    layer = PrefixLayer(draw(1, 2, 9, 8), draw(1, 2, 9, 8), None)
    arguments = (
        draw(3, 4, 8), draw(3, 2, 16, 8), draw(3, 2, 16, 8), torch.tensor([3, 0, 0]), where.group, where.order,
        where.tiles, where.table([layer]), 1, [layer.keys], [layer.values], None, 0.3, None, None,
    )  # fmt: skip
    torch.library.opcheck(decode_op, arguments, test_utils=("test_schema", "test_faketensor"))
    assert decode_op(*arguments).shape == (3, 4, 8)


def test_why_it_is_missing():
    """A sentence where Triton cannot run."""
    assert "not on cpu" in decode.missing("cpu")
