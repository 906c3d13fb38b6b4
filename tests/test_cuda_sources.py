"""Without a GPU: every kernel compiles, spills nothing and stays within its registers; the cache on disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from nano_batch import errors
from nano_batch.attention.cuda import SOURCES as ATTENTION
from nano_batch.attention.cuda import prefill_kernel
from nano_batch.attention.cuda.plan import plan_defines
from nano_batch.attention.cuda.variant import choose
from nano_batch.cuda import program
from nano_batch.cuda.launch import HOPPER
from nano_batch.cuda.program import compiled
from nano_batch.engine.cuda import SOURCES as ENGINE
from nano_batch.engine.cuda import newest, pinned
from nano_batch.models.cuda import SOURCES as LAYERS
from nano_batch.models.cuda import hopper, layer

pytest.importorskip("cuda.core", reason="needs the extra 'cuda'")
ARCHITECTURES = ["sm_80", HOPPER, "sm_120"]
PACKAGE = Path(program.__file__).parents[1]
COPY_BLOCKS, COPY = ATTENTION / "copy_blocks.cu", {"UNIT": 16}
COLD_SPILLS = 128
"""Bytes that a kernel full of sums may spill: what is only needed from one tile to the next."""


def cache_configurations():
    types = [("bf16", "bf16", 8), ("half", "half", 8), ("float", "float", 4), ("bf16", "fp8", 8),
             ("float", "fp8", 4), ("half", "fp8", 1), ("bf16", "bf16", 1)]  # fmt: skip
    for new, stored, vector in types:
        for rope in range(2):
            defines = {"NEW": new, "STORED": stored, "VEC": vector, "ROPE": rope, "TOKENS": 4 >> rope}
            yield "cache.cu", {**defines, "THREADS": 128}, 128
    defines = {"NEW": "double", "STORED": "double", "VEC": 2, "ROPE": 0, "TOKENS": 4, "THREADS": 128}
    yield "cache.cu", defines, 128
    for unit in (1, 2, 4, 8, 16):
        yield "copy_blocks.cu", {"UNIT": unit}, 40


def decode_configurations():
    """As they are chosen."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    cases = [  # element, fp8, head_dim, group, block_size, soft cap, rows are aligned, bytes between tokens
        (bf16, False, 128, 4, 16, False, True, 2048),
        (bf16, False, 128, 16, 1, False, True, 0),
        (bf16, False, 64, 8, 256, True, True, 1024),
        (fp16, False, 64, 32, 7, False, True, 0),
        (fp16, False, 80, 1, 16, False, True, 0),
        (bf16, False, 96, 6, 32, False, True, 192),
        (bf16, False, 256, 8, 16, False, True, 512),
        (bf16, True, 64, 1, 16, False, True, 512),
        (bf16, True, 128, 4, 16, False, True, 1024),
        (bf16, True, 128, 8, 1, True, True, 1024),
        (fp16, True, 96, 8, 16, False, True, 768),
        (fp16, True, 128, 16, 32, True, True, 128),
        (bf16, True, 256, 8, 64, False, True, 2048),
        (fp32, False, 128, 4, 16, False, True, 4096),
        (fp32, False, 256, 8, 16, True, True, 8192),
        (fp32, True, 80, 1, 7, False, True, 640),
        (bf16, False, 128, 4, 16, False, False, 2050),
        (fp16, True, 12, 6, 1, False, False, 24),
        (bf16, False, 128, 4, 16, False, True, 2048),
        (fp16, False, 96, 3, 1, True, True, 0),
    ]
    for number, (element, fp8, head_dim, group, block_size, soft_cap, aligned, apart) in enumerate(cases):
        table = torch.int64 if number % 3 == 1 else torch.int32
        few = number % 4 < 2
        variant = choose(few, element, fp8, head_dim, group, block_size, table, soft_cap, aligned, apart)
        assert variant.source == ("decode.cu" if aligned and element != fp32 else "decode_plain.cu")
        yield variant.source, variant.defines(settled=number % 2 == 0), 255
    for element, head_dim, group, block_size, soft_cap in [
        (bf16, 128, 4, 16, False), (fp16, 128, 16, 256, True), (bf16, 64, 7, 32, False),
    ]:  # fmt: skip
        chosen = choose(
            True, element, False, head_dim, group, block_size, torch.int32, soft_cap, True, 0, True
        )
        assert chosen.source == "decode_hopper.cu"
        for writes in (False, True):
            yield chosen.source, chosen.defines(writes=writes), 255
    for tile in (16, 32):
        for length in (torch.int32, torch.int64):
            yield "plan.cu", plan_defines(tile, length), 64


def prefill_configurations():
    for element, head_dim, group, block_size in [
        (torch.bfloat16, 128, 4, 16), (torch.bfloat16, 64, 8, 32), (torch.float16, 128, 1, 16),
        (torch.float16, 128, 6, 7), (torch.bfloat16, 128, 16, 1),
    ]:  # fmt: skip
        for blocks, on_hopper in [(2, False), (2, True), (3, True)][: 2 + (group.bit_count() == 1)]:
            macros = prefill_kernel.defines(element, head_dim, group, block_size, blocks, on_hopper)
            yield "prefill.cu", macros, 168 if blocks == 3 else 255


def layer_configurations():
    norms = [  # with 48 registers a multiprocessor takes five blocks of 256, which keep two vectors a thread
        ("bf16", 8, 0, 256, 2, 1, 48), ("bf16", 8, 1, 256, 2, 1, 48), ("half", 8, 1, 512, 2, 1, 48),
        ("float", 4, 1, 512, 2, 1, 48), ("bf16", 8, 1, 1024, 2, 1, 48), ("bf16", 8, 1, 1024, 0, 1, 56),
        ("float", 4, 0, 1024, 0, 1, 56), ("half", 1, 1, 32, 1, 1, 32), ("bf16", 8, 1, 256, 2, 2, 56),
        ("half", 8, 1, 1024, 0, 2, 64), ("float", 4, 1, 1024, 2, 3, 64),
    ]  # fmt: skip
    names = "ELEMENT", "VEC", "RESIDUAL", "THREADS", "VECTORS", "PARTS", "EMBEDS"
    for *values, registers in norms:
        for embeds in {0, 1 - values[2]}:
            yield "rms_norm.cu", dict(zip(names, [*values, embeds], strict=True)), registers
    for element, vector in [("bf16", 8), ("half", 8), ("float", 4), ("bf16", 1)]:
        yield "take_rows.cu", {"ELEMENT": element, "VEC": vector, "THREADS": layer.TAKING_THREADS}, 32
        yield "silu_mul.cu", {"ELEMENT": element, "VEC": vector, "THREADS": 128, "VECTORS": 2}, 40
    for element in ("bf16", "half"):
        yield "few_rows.cu", {"ELEMENT": element}, 128
    rows = 1, 33, 65, 96, 112, *range(128, 257, 8)
    matrices = (28672, True, 1), (4096, False, 1), (4096, False, 2), (6144, False, 1), (32000, False, 1)
    builds = {hopper.hopper_build(count, *matrix, 132): None for count in rows for matrix in matrices}
    norms = [
        (4096, False, "adds"),
        (28672, True, "divides"),
        (6144, False, "divides"),
        (32000, False, "divides"),
    ]
    for count, (n, gated, role) in product([1, 65, 96, 112, 128], norms):
        builds[hopper.hopper_build(count, n, gated, 1, 132, **{role: True})] = None
    for number, build in enumerate(builds):
        element = (torch.bfloat16, torch.float16)[number % 2]
        yield "few_rows_hopper.cu", build.defines(element), 168 if build.tokens > 64 else 255
    for element in (torch.bfloat16, torch.float16):
        yield "many_rows_hopper.cu", hopper.many_rows_defines(element), 168


def engine_configurations():
    for element, vector in [("bf16", 8), ("half", 1), ("float", 4)]:
        yield "newest.cu", {"ELEMENT": element, "VEC": vector, "THREADS": newest.LOGIT_THREADS}, 64
    yield "newest.cu", {"ELEMENT": "float", "VEC": 1, "THREADS": newest.TOKEN_THREADS}, 64
    for vector in (1, 4):
        yield "pinned.cu", pinned.copy_defines(vector), 64


def name_of(value):
    return value.name if isinstance(value, Path) else str(value)


def configurations():
    """(source, defines, most registers of a thread) of every kernel."""
    of_attention = [*cache_configurations(), *decode_configurations(), *prefill_configurations()]
    of_layers = layer_configurations()
    return (
        [(ATTENTION / source, *rest) for source, *rest in of_attention]
        + [(LAYERS / source, *rest) for source, *rest in of_layers]
        + [(ENGINE / source, *rest) for source, *rest in engine_configurations()]
    )


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NANO_BATCH_CACHE", str(tmp_path))


def compilations():
    """Each configuration with each architecture that it is launched on."""
    for source, *rest in configurations():
        only_hopper = source.stem.endswith("_hopper") or rest[0].get("HOPPER")
        for arch in [HOPPER] if only_hopper else ARCHITECTURES:
            yield source, *rest, arch


@pytest.mark.parametrize(("source", "defines", "registers", "arch"), list(compilations()), ids=name_of)
def test_a_kernel_compiles_without_spills(source, defines, registers, arch):
    made = compiled(source, defines, arch)
    assert made.cubin.startswith(b"\x7fELF")
    assert made.resources
    full = defines.get("HEAD_DIM") == 256
    full |= source.stem == "few_rows_hopper" and defines["GATED"] and defines["TOKENS"] > 64
    allowed = COLD_SPILLS if full else 0
    assert made.spills <= 2 * allowed  # each byte is stored and loaded
    for name, one in made.resources.items():
        assert name.encode() in made.cubin
        assert 0 < one.registers <= registers, name
        assert one.stack_bytes <= allowed, name
        assert not one.serialized, name


def test_every_source_is_compiled():
    assert {source for source, _, _ in configurations()} == set(PACKAGE.rglob("*.cu"))


def test_the_plain_kernel_has_no_ptx():
    """Nor does what it includes, of which it takes one half."""
    text = (ATTENTION / "decode_plain.cu").read_text()
    plain, rest = (program.SHARED / "ptx.cuh").read_text().split("#ifdef PLAIN_CUDA")[1].split("#else", 1)
    included = [
        (ATTENTION / name).read_text() for name in ("element.cuh", "worker.cuh", "combine.cuh", "walk.cuh")
    ]
    assert "asm" not in text + plain + "".join(included)
    assert "asm" in rest


def test_spills_are_seen(tmp_path):
    (tmp_path / "spill.cu").write_text("""
        extern "C" __global__ void __launch_bounds__(1024, 2) spill(float* x) {
            float y[64];
            for (int i = 0; i < 64; i++) y[i] = x[i * threadIdx.x];
            __syncthreads();
            for (int i = 0; i < 64; i++) for (int j = 0; j < 64; j++) x[i * 64 + j] = y[i] * y[j];
        }""")
    made = compiled(tmp_path / "spill.cu", {}, "sm_80")
    assert made.registers("spill") <= 32
    assert made.spills > 0


def test_products_that_are_awaited_at_once_are_seen(tmp_path):
    """As they are where the assembler sees a way around the place that awaits them: at half the speed."""
    for name in ("few_rows_hopper.cu", "tile.cuh", "undivided_norm.cuh", "silu.cuh"):
        shutil.copy(LAYERS / name, tmp_path)
    tile, awaits = tmp_path / "tile.cuh", "        hopper::await_products<0>();\n"
    assert tile.read_text().count(awaits) == 1
    tile.write_text(tile.read_text().replace(awaits, awaits.replace("hopper", "if (count > 0) hopper")))
    defines = hopper.hopper_build(1, 6144, False, 1, 132).defines(torch.bfloat16)
    made = compiled(tmp_path / "few_rows_hopper.cu", defines, HOPPER)
    assert made.resources["few_rows_hopper"].serialized


@pytest.fixture
def compilations(monkeypatch):
    """Counts the runs of the compiler."""
    runs = []
    compile_now = program._compile
    monkeypatch.setattr(program, "_compile", lambda *args: runs.append(args) or compile_now(*args))
    return runs


def test_a_binary_is_made_once(compilations, tmp_path):
    first = compiled(COPY_BLOCKS, COPY, "sm_80")
    assert compiled(COPY_BLOCKS, COPY, "sm_80") == first
    assert len(compilations) == 1
    (entry,) = (tmp_path / "kernels").iterdir()
    assert entry.name.startswith("copy_blocks-")


def test_defines_architecture_compiler_and_sources_each_make_another(compilations, tmp_path, monkeypatch):
    room = Path(shutil.copytree(ATTENTION, tmp_path / "room"))
    shared = Path(shutil.copytree(program.SHARED, tmp_path / "shared"))
    source = room / COPY_BLOCKS.name
    compiled(COPY_BLOCKS, COPY, "sm_80")
    monkeypatch.setattr(program, "SHARED", shared)
    compiled(source, COPY, "sm_80")
    assert len(compilations) == 1
    compiled(source, {"UNIT": 8}, "sm_80")
    compiled(source, COPY, "sm_90a")
    assert len(compilations) == 3
    for changed in (source, room / "walk.cuh", shared / "elements.cuh"):
        with changed.open("a", encoding="utf-8") as file:
            file.write("\n// changed\n")
        compiled(source, COPY, "sm_80")
    assert len(compilations) == 6
    headers = program._toolchain()[1]
    monkeypatch.setattr(program, "_toolchain", lambda: ("99.0", headers))
    compiled(source, COPY, "sm_80")
    assert len(compilations) == 7


@pytest.mark.parametrize(
    "damage", [lambda kept: kept[:-1], lambda kept: b"", lambda kept: kept[:-9] + b"123456789"]
)
def test_a_damaged_entry_is_made_anew(damage, compilations, tmp_path):
    first = compiled(COPY_BLOCKS, COPY, "sm_80")
    (entry,) = (tmp_path / "kernels").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert compiled(COPY_BLOCKS, COPY, "sm_80") == first
    assert len(compilations) == 2
    compiled(COPY_BLOCKS, COPY, "sm_80")
    assert len(compilations) == 2


def test_a_folder_that_cannot_be_written_only_costs_time(compilations, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANO_BATCH_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        compiled(COPY_BLOCKS, COPY, "sm_80")
    assert len(compilations) == 2
    assert "compiles it anew" in caplog.text


def test_two_processes_at_once(tmp_path):
    command = (
        "from nano_batch.attention.cuda import SOURCES; from nano_batch.cuda.program import compiled;"
        "import hashlib; binary = compiled(SOURCES / 'copy_blocks.cu', {'UNIT': 16}, 'sm_80').cubin;"
        "print(hashlib.sha256(binary).hexdigest())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(printed) == 1
    assert [entry.suffix for entry in (tmp_path / "kernels").iterdir()] == [".bin"]


def test_an_error_names_the_source_and_brings_the_log(tmp_path):
    (tmp_path / "wrong.cu").write_text('extern "C" __global__ void wrong() { nothing_known(SIZE); }')
    with pytest.raises(
        errors.KernelCompileError, match=r"wrong.cu for sm_80 with -DSIZE=3(.|\n)*nothing_known"
    ):
        compiled(tmp_path / "wrong.cu", {"SIZE": 3}, "sm_80")
    with pytest.raises(errors.KernelCompileError, match="sm_12345"):
        compiled(tmp_path / "wrong.cu", {"SIZE": 3}, "sm_12345")
    assert not list(tmp_path.rglob("*.bin"))


def test_an_unknown_source_is_refused():
    with pytest.raises(errors.InvalidArgumentError, match=r"no CUDA source 'cash.cu'; there are .*cache.cu"):
        compiled(ATTENTION / "cash.cu", {}, "sm_80")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    program._toolchain.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'nano-batch\[cuda\]'"):
        compiled(COPY_BLOCKS, COPY, "sm_80")
