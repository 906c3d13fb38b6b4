"""The attention kernels on the CPU under AddressSanitizer, and with mistakes planted in their sources."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_cases import Case, check_writing
from cuda_on_cpu.build import HERE
from cuda_on_cpu.device import cpu_device

from nano_batch.attention.cuda import SOURCES

SIZES = {"dtype": torch.float32, "head_dim": 12, "group": 6, "block_size": 7, "window": 150}


@pytest.fixture(scope="session")
def sanitizer(libraries):
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        assert os.environ.get("CI") != "true", "CI needs the libasan of g++"
        pytest.skip("g++ has no AddressSanitizer here")
    return path.resolve()


def run_sanitized(sanitizer, libraries, *words, script="sanitized.py"):
    environment = os.environ | {"LD_PRELOAD": str(sanitizer), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, str(HERE / script), str(libraries), str(HERE.parent), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("source", ["decode.cu", "decode_hopper.cu", "decode_plain.cu", "prefill.cu"])
def test_no_kernel_leaves_its_memory(sanitizer, libraries, source):
    run = run_sanitized(sanitizer, libraries, source, "good")
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("all within\n")


@pytest.mark.parametrize("kind", ["good", "short"])
def test_no_kernel_of_a_layer_leaves_its_memory(sanitizer, libraries, kind):
    run = run_sanitized(sanitizer, libraries, kind, script="layer_sanitized.py")
    if kind == "good":
        assert run.returncode == 0, run.stderr
        assert run.stdout.endswith("all within\n")
    else:
        assert run.returncode != 0
        assert "AddressSanitizer: heap-buffer-overflow" in run.stderr
        assert "few_rows.cu:" in run.stderr


@pytest.mark.parametrize(
    ("source", "entry"),
    [*itertools.product(["decode.cu", "decode_plain.cu"], ["past", "before"]), ("prefill.cu", "past")],
)
def test_a_block_outside_the_cache_is_seen(sanitizer, libraries, source, entry):
    run = run_sanitized(sanitizer, libraries, source, entry)
    assert run.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in run.stderr
    lines = [line for line in run.stderr.splitlines() if f"/{source}:" in line]
    assert lines, run.stderr


SYNC = "meet_readers();\n"
MISTAKES = [
    ("worker.cuh", SYNC + "        each_element", "each_element"),
    ("worker.cuh", SYNC + "    for (int which", "for (int which"),
    ("combine.cuh", "2 * (first + i) + (i == 0)", "2 * (first + i)"),
    ("combine.cuh", "real = i < parts.count;", "real = i < parts.count - 1;"),
    ("walk.cuh", "? length - window : 0", "? length - window + 1 : 0"),
    ("worker.cuh", "kv_head(head) * GROUP", "kv_head(head) * HEADS"),
    ("plan.cu", "share.first_worker = first.into == 0 ?", "share.first_worker = first.into <= 1 ?"),
    ("decode_plain.cu", "token % BLOCK_SIZE, head_of_cache), first + i < end, lane);\n        }",
     "token % BLOCK_SIZE, 0), first + i < end, lane);\n        }"),
]  # fmt: skip
MERGE_MISTAKES = [
    ("combine.cuh", SYNC + "    each_element", "each_element"),
    ("combine.cuh", "weights[2 * count] = total", "weights[2 * count - 1] = total"),
    ("combine.cuh", "i < count; i += 32) total", "i < count - 1; i += 32) total"),
]

COPIED_SIZES = {"dtype": torch.bfloat16, "head_dim": 128, "group": 16, "block_size": 32, "window": 100}
COPIED_MISTAKES = [
    ("decode_hopper.cu", "ring.full[stage].wait(round);", ""),
    ("decode_hopper.cu", "stage = warp, round ^= 1;", "stage = warp;"),
    ("decode_hopper.cu", "piece % 8 ^ token % 8", "piece % 8 ^ token % 4"),
    ("decode_hopper.cu", "token % BLOCK_SIZE << 16", "0 << 16"),
    ("decode_hopper.cu", "a[i] &= seen[i / 2];", ""),
    ("decode_hopper.cu", "output * 2 + lane / 8 % 2", "output * 2"),
    ("gathered.cuh", "total[column][i] *= keep[i], ", ""),
    ("worker.cuh", SYNC + "        each_element", "each_element"),
]

WRITING_MISTAKES = [
    ("turn.cuh", "- __fmul_rn(second, sine)", "+ __fmul_rn(second, sine)"),
    ("decode_hopper.cu", "turn_of_query.apply(pair_query);", ""),
    ("decode_hopper.cu", "turn_words(key[0], key[1], cosine, sine);", ""),
    ("decode_hopper.cu", "*reinterpret_cast<unsigned*>(keys + there) = key[half];", ""),
    ("decode_hopper.cu", "*reinterpret_cast<unsigned*>(value_to + half * APART) = value[half];", ""),
    ("decode_hopper.cu", "(at.span.length - 1) % BLOCK_SIZE;", "at.span.length % BLOCK_SIZE;"),
]

PREFILL_SIZES = {"dtype": torch.bfloat16, "head_dim": 64, "group": 6, "block_size": 7, "window": 50}
PREFILL_MISTAKES = [
    ("prefill.cu", "ptx::await_copies<1>", "ptx::await_copies<2>"),
    ("prefill.cu", "key > newest ||", "key > newest + 1 ||"),
    ("prefill.cu", "key <= newest - window)", "key < newest - window)"),
    ("prefill.cu", "from + ahead - window + 1", "from + ahead - window + 99"),
    ("prefill.cu", "at < count ?", "at < count - 1 ?"),
    ("prefill.cu", "total[i] *= keep[i], ", ""),
    ("prefill_products.cuh", "(piece % 8 ^ key % 8)", "(piece % 8 ^ threadIdx.x % 2)"),
]

# Of queries that the kernel turns, the first four of which are turned.
TURNING_MISTAKES = [
    ("prefill.cu", "token[lower] >= turned", "token[lower] > turned"),
    ("prefill.cu", "            angle[lower] = -1;\n", ""),
    ("prefill.cu", "lane % 4 * 2;\n    }", "lane % 4;\n    }"),
    ("prefill.cu", "cosines + piece * 8)", "cosines)"),
    ("prefill.cu", "positions[token[lower]]", "token[lower]"),
]


def decoded(case):
    return case.decode(backend="cuda")


def decoded_behind_others(case):
    return case.decode(backend="cuda", plan=case.plan(settled=True))


def outcomes(libraries, sources, case, attend, **device):
    """For both orders of lanes: whether it comes out right."""
    for backwards in (False, True):
        options = {"backwards": backwards, "multiprocessors": 2, "sources": sources, **device}
        with cpu_device(libraries, **options):
            output = attend(case)
        try:
            case.check(output)
            yield True
        except AssertionError:
            yield False


def planted(tmp_path, file, text, mistake):
    """The sources with a mistake in one place; with none where there is no text."""
    sources = tmp_path / "sources"
    sources.mkdir()
    for path in SOURCES.glob("*.cu*"):
        shutil.copy(path, sources)
    changed = (sources / file).read_text(encoding="utf-8")
    assert changed.count(text) == 1 or not text
    (sources / file).write_text(changed.replace(text, mistake) if text else changed, encoding="utf-8")
    return sources


@pytest.mark.parametrize(("file", "text", "mistake"), [("walk.cuh", "", ""), *MISTAKES])
def test_a_planted_mistake_is_found(libraries, tmp_path, file, text, mistake):
    """In a batch of decodes with split contexts and a window."""
    case = Case(7, [150, 0, 220, 40], [1] * 4, **SIZES)
    sources = planted(tmp_path, file, text, mistake)
    assert all(outcomes(libraries, sources, case, decoded)) == (not text)


@pytest.mark.parametrize(("file", "text", "mistake"), [("walk.cuh", "", ""), *MERGE_MISTAKES])
def test_a_planted_mistake_in_a_merge_of_many_parts_is_found(libraries, tmp_path, file, text, mistake):
    """In one context among some forty workers."""
    case = Case(7, [2_600], [1], **{**SIZES, "window": None}, kv_heads=1)
    sources = planted(tmp_path, file, text, mistake)
    assert all(outcomes(libraries, sources, case, decoded, multiprocessors=20)) == (not text)


@pytest.mark.parametrize(("file", "text", "mistake"), [("walk.cuh", "", ""), *COPIED_MISTAKES])
def test_a_planted_mistake_in_copied_tiles_is_found(libraries, tmp_path, file, text, mistake):
    """In more tiles than are looked up at once, and than shared memory has room for."""
    case = Case(7, [150, 0, 220, 40, 95], [1] * 5, **COPIED_SIZES)
    sources = planted(tmp_path, file, text, mistake)
    assert all(outcomes(libraries, sources, case, decoded_behind_others, multiprocessors=1, hopper=True)) == (
        not text
    )


@pytest.mark.parametrize(("file", "text", "mistake"), [("walk.cuh", "", ""), *WRITING_MISTAKES])
def test_a_planted_mistake_in_writing_is_found(libraries, tmp_path, file, text, mistake):
    """Beside the kernels as they are, of which one writes and one attends."""
    sources = planted(tmp_path, file, text, mistake)
    right = []
    for backwards in (False, True):
        case = Case(7, [150, 0, 220, 40, 95, 17], [1] * 6, **COPIED_SIZES)
        options = {"backwards": backwards, "multiprocessors": 1, "hopper": True}
        try:
            kernels = [cpu_device(libraries, sources=taken, **options) for taken in (None, sources)]
            check_writing(case, *kernels, {3})
            right.append(True)
        except AssertionError:
            right.append(False)
    assert all(right) == (not text)


@pytest.mark.parametrize(("file", "text", "mistake"), [("prefill.cu", "", ""), *PREFILL_MISTAKES])
def test_a_planted_mistake_in_prompts_is_found(libraries, tmp_path, file, text, mistake):
    """In prompts that begin behind others, with a window."""
    case = Case(7, [220, 0, 40], [150, 2, 40], **PREFILL_SIZES)
    sources = planted(tmp_path, file, text, mistake)
    assert all(outcomes(libraries, sources, case, Case.prefill_by_kernel)) == (not text)


@pytest.mark.parametrize(("file", "text", "mistake"), [("prefill.cu", "", ""), *TURNING_MISTAKES])
def test_a_planted_mistake_in_turning_is_found(libraries, tmp_path, file, text, mistake):
    """In prompts of which a block has several."""
    case = Case(7, [20, 33, 9, 40], [5, 2, 9, 3], **PREFILL_SIZES)
    sources = planted(tmp_path, file, text, mistake)
    assert all(outcomes(libraries, sources, case, lambda case: case.prefill_turning(4))) == (not text)
