"""Without a GPU: every kernel compiles, spills nothing and stays within its registers; the cache on disk."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nano_batch import errors
from nano_batch.attention.cuda import program
from nano_batch.attention.cuda.program import compiled
from nano_batch.attention.cuda.variant import choose

pytest.importorskip("cuda.core", reason="needs the extra 'cuda'")
ARCHITECTURES = ["sm_80", "sm_90a", "sm_120"]
COPY = {"UNIT": 16}
COLD_SPILLS = 64
"""Bytes that 256 dimensions may spill: what is only needed from one pair of row and head to the next."""


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
        (fp16, True, 128, 16, 32, True, True, 128),
        (bf16, True, 256, 8, 64, False, True, 2048),
        (fp32, False, 128, 4, 16, False, True, 4096),
        (fp32, False, 256, 8, 16, True, True, 8192),
        (fp32, True, 80, 1, 7, False, True, 640),
        (bf16, False, 128, 4, 16, False, False, 2050),
        (fp16, True, 12, 6, 1, False, False, 24),
    ]
    for number, (element, fp8, head_dim, group, block_size, soft_cap, aligned, apart) in enumerate(cases):
        table = torch.int64 if number % 3 == 1 else torch.int32
        variant = choose(element, fp8, head_dim, group, block_size, table, soft_cap, aligned, apart)
        assert variant.source == ("decode.cu" if aligned and element != fp32 else "decode_plain.cu")
        yield variant.source, variant.defines(), 255
    for tile in (16, 32):
        for length in ("int", "long long"):
            yield "plan.cu", {"TILE": tile, "LENGTH_TYPE": length}, 64


def configurations():
    """(source, defines, most registers of a thread) of every kernel."""
    return [*cache_configurations(), *decode_configurations()]


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NANO_BATCH_CACHE", str(tmp_path))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("source", "defines", "registers"), configurations(), ids=str)
def test_a_kernel_compiles_without_spills(source, defines, registers, arch):
    made = compiled(source, defines, arch)
    assert made.cubin.startswith(b"\x7fELF")
    assert made.resources
    allowed = COLD_SPILLS if source == "decode.cu" and defines["HEAD_DIM"] == 256 else 0
    assert made.spills <= 2 * allowed  # each byte is stored and loaded
    for name, one in made.resources.items():
        assert name.encode() in made.cubin
        assert 0 < one.registers <= registers, name
        assert one.stack_bytes <= allowed, name


def test_every_source_is_compiled():
    assert {source for source, _, _ in configurations()} == {
        file.name for file in program.FOLDER.glob("*.cu")
    }


def test_spills_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    (tmp_path / "spill.cu").write_text("""
        extern "C" __global__ void __launch_bounds__(1024, 2) spill(float* x) {
            float y[64];
            for (int i = 0; i < 64; i++) y[i] = x[i * threadIdx.x];
            __syncthreads();
            for (int i = 0; i < 64; i++) for (int j = 0; j < 64; j++) x[i * 64 + j] = y[i] * y[j];
        }""")
    made = compiled("spill.cu", {}, "sm_80")
    assert made.registers("spill") <= 32
    assert made.spills > 0


@pytest.fixture
def compilations(monkeypatch):
    """Counts the runs of the compiler."""
    runs = []
    compile_now = program._compile
    monkeypatch.setattr(program, "_compile", lambda *args: runs.append(args) or compile_now(*args))
    return runs


def test_a_binary_is_made_once(compilations, tmp_path):
    first = compiled("copy_blocks.cu", COPY, "sm_80")
    assert compiled("copy_blocks.cu", COPY, "sm_80") == first
    assert len(compilations) == 1
    (entry,) = (tmp_path / "kernels").iterdir()
    assert entry.name.startswith("copy_blocks-")


def test_defines_architecture_compiler_and_sources_each_make_another(compilations, tmp_path, monkeypatch):
    folder = tmp_path / "sources"
    folder.mkdir()
    for file in program.FOLDER.glob("*.cu*"):
        (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    compiled("copy_blocks.cu", COPY, "sm_80")
    monkeypatch.setattr(program, "FOLDER", folder)
    compiled("copy_blocks.cu", COPY, "sm_80")
    assert len(compilations) == 1
    compiled("copy_blocks.cu", {"UNIT": 8}, "sm_80")
    compiled("copy_blocks.cu", COPY, "sm_90a")
    assert len(compilations) == 3
    for name in ("copy_blocks.cu", "elements.cuh"):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write("\n// changed\n")
        compiled("copy_blocks.cu", COPY, "sm_80")
    assert len(compilations) == 5
    headers = program._toolchain()[1]
    monkeypatch.setattr(program, "_toolchain", lambda: ("99.0", headers))
    compiled("copy_blocks.cu", COPY, "sm_80")
    assert len(compilations) == 6


@pytest.mark.parametrize(
    "damage", [lambda kept: kept[:-1], lambda kept: b"", lambda kept: kept[:-9] + b"123456789"]
)
def test_a_damaged_entry_is_made_anew(damage, compilations, tmp_path):
    first = compiled("copy_blocks.cu", COPY, "sm_80")
    (entry,) = (tmp_path / "kernels").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert compiled("copy_blocks.cu", COPY, "sm_80") == first
    assert len(compilations) == 2
    compiled("copy_blocks.cu", COPY, "sm_80")
    assert len(compilations) == 2


def test_a_folder_that_cannot_be_written_only_costs_time(compilations, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANO_BATCH_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        compiled("copy_blocks.cu", COPY, "sm_80")
    assert len(compilations) == 2
    assert "compiles it anew" in caplog.text


def test_two_processes_at_once(tmp_path):
    command = (
        "from nano_batch.attention.cuda.program import compiled; import hashlib;"
        "print(hashlib.sha256(compiled('copy_blocks.cu', {'UNIT': 16}, 'sm_80').cubin).hexdigest())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(printed) == 1
    assert [entry.suffix for entry in (tmp_path / "kernels").iterdir()] == [".bin"]


def test_an_error_names_the_source_and_brings_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    (tmp_path / "wrong.cu").write_text('extern "C" __global__ void wrong() { nothing_known(SIZE); }')
    with pytest.raises(
        errors.KernelCompileError, match=r"wrong.cu for sm_80 with -DSIZE=3(.|\n)*nothing_known"
    ):
        compiled("wrong.cu", {"SIZE": 3}, "sm_80")
    with pytest.raises(errors.KernelCompileError, match="sm_12345"):
        compiled("wrong.cu", {"SIZE": 3}, "sm_12345")
    assert not list(tmp_path.rglob("*.bin"))


def test_an_unknown_source_is_refused():
    with pytest.raises(errors.InvalidArgumentError, match=r"no CUDA source 'cash.cu'; there are .*cache.cu"):
        compiled("cash.cu", {}, "sm_80")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    program._toolchain.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'nano-batch\[cuda\]'"):
        compiled("copy_blocks.cu", COPY, "sm_80")
