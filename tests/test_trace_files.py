"""Reading traces: small hand-made files of each format, and the real ones where they are."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pytest

from nano_batch.errors import MalformedLineError, TraceFormatError, UnknownOptionError, WorkloadError
from nano_batch.workloads import Workload

REAL = Path(__file__).parents[2] / "shared" / "traces"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real traces (../shared/traces) are not here")

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 23:59:59.5000000,374,44\r\n"
    "2023-11-17 00:00:01.0000001,396,109"
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,GPT-4,1087,0,1087,API log\n"
    '118,"ChatGPT, new",417,276,693,Conversation log\n'
)
MOONCAKE = [
    {"timestamp": 1000, "input_length": 600, "output_length": 6, "hash_ids": [0, 1]},
    {"timestamp": 4000, "input_length": 512, "output_length": 4, "hash_ids": [0]},
]


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def mooncake(*items: object) -> str:
    return "\n".join(json.dumps(item) for item in items)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_azure(tmp_path, suffix):
    workload = Workload.read(write(tmp_path / f"azure.csv{suffix}", AZURE))
    assert workload.arrival_s.tolist() == [0.0, 1.5000001]
    assert workload.prompt_tokens.tolist() == [374, 396]
    assert workload.output_tokens.tolist() == [44, 109]
    assert (workload.name, workload.skipped_lines) == ("azure", 0)


def test_azure_with_time_zones(tmp_path):
    rows = "2024-05-10 00:00:00.009930+00:00,1,2\n2024-05-10T02:00:01+02:00,3,4\n2024-05-10 00:00:02Z,5,6"
    workload = Workload.read(write(tmp_path / "a.csv", f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}"))
    assert workload.arrival_s.tolist() == [0.0, 0.99007, 1.99007]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_burst_gpt_leaves_failed_requests_out_and_counts_them(tmp_path, suffix):
    workload = Workload.read(write(tmp_path / f"burst.csv{suffix}", BURST))
    assert workload.arrival_s.tolist() == [0.0, 113.0]
    assert workload.prompt_tokens.tolist() == [472, 417]
    assert workload.skipped_lines == 1
    assert "1 lines skipped" in repr(workload)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mooncake(tmp_path, suffix):
    workload = Workload.read(write(tmp_path / f"m.jsonl{suffix}", mooncake(*MOONCAKE)))
    assert workload.arrival_s.tolist() == [0.0, 3.0]
    assert workload.block_size == 512
    assert [workload.block_ids_of(row) for row in range(2)] == [[0, 1], [0]]


def test_mooncake_with_large_ids_is_renumbered(tmp_path):
    items = [{**MOONCAKE[0], "hash_ids": [2**62, 5]}, {**MOONCAKE[1], "hash_ids": [2**62]}]
    workload = Workload.read(write(tmp_path / "m.jsonl", mooncake(*items)))
    assert [workload.block_ids_of(row) for row in range(2)] == [[1, 0], [1]]


def test_rows_out_of_order_are_sorted_with_their_content(tmp_path):
    workload = Workload.read(write(tmp_path / "m.jsonl", mooncake(*reversed(MOONCAKE))))
    assert workload.prompt_tokens.tolist() == [600, 512]
    assert workload.block_ids_of(0) == [0, 1]


BAD_LINES = {
    "azure": [
        "2023-11-16,1,2",
        "2023-13-16 00:00:00,1,2",
        "2023-11-16 25:00:00,1,2",
        "2023-11-16 18:15:46,1",
        "2023-11-16 18:15:46,1,x",
        "2023-11-16 18:15:46,0,1",
        "2023-11-16 18:15:46,1.5,1",
        "2023-11-16 18:15:46,-3,1",
        "2023-11-16 18:15:46,1,99999999999",
        "\ufffd,1,2",
    ],
    "burst": ["x,M,1,1,2,L", "nan,M,1,1,2,L", "-1,M,1,1,2,L", "1,M,1,1,2", "1,M,1,-1,2,L", "1,M,,1,2,L"],
    "mooncake": [
        "{",
        "[]",
        json.dumps({**MOONCAKE[0], "timestamp": None}),
        json.dumps({**MOONCAKE[0], "timestamp": True}),
        json.dumps({"timestamp": 1}),
        json.dumps({**MOONCAKE[0], "hash_ids": [1]}),
        json.dumps({**MOONCAKE[0], "hash_ids": [1, -2]}),
        json.dumps({**MOONCAKE[0], "hash_ids": [1, "2"]}),
        json.dumps({**MOONCAKE[0], "hash_ids": "12"}),
        json.dumps({**MOONCAKE[0], "output_length": 2.0}),
        json.dumps({**MOONCAKE[0], "input_length": True}),
    ],
}
GOOD = {"azure": AZURE.replace("\r\n", "\n"), "burst": BURST, "mooncake": mooncake(*MOONCAKE) + "\n"}


@pytest.mark.parametrize(
    ("kind", "line"), [(kind, line) for kind, lines in BAD_LINES.items() for line in lines]
)
def test_a_malformed_line_is_named_or_counted(tmp_path, kind, line):
    first, rest = GOOD[kind].split("\n", 1)
    path = write(tmp_path / "trace.txt", f"{first}\n{line}\n\n{rest}")
    with pytest.raises(MalformedLineError, match=r"trace\.txt, line 2: ") as caught:
        Workload.read(path)
    assert caught.value.line == 2
    good = Workload.read(write(tmp_path / "good.txt", GOOD[kind]))
    skipping = Workload.read(path, on_error="skip")
    assert skipping == good
    assert skipping.skipped_lines == good.skipped_lines + 1


def test_bytes_that_are_no_text_are_a_malformed_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(AZURE.encode() + b"\n\xff\xfe,1,2\n")
    with pytest.raises(MalformedLineError, match="line 4"):
        Workload.read(path)


@pytest.mark.parametrize("text", ["", "\n\n", "a,b,c\n1,2,3", "hello", "timestamp,tokens\n"])
def test_an_unknown_format_is_refused(tmp_path, text):
    with pytest.raises(TraceFormatError, match=r"x\.csv begins with"):
        Workload.read(write(tmp_path / "x.csv", text))


def test_a_file_without_requests_is_refused(tmp_path):
    with pytest.raises(TraceFormatError, match="holds no request"):
        Workload.read(write(tmp_path / "x.csv", AZURE.split("\r\n")[0]))
    with pytest.raises(TraceFormatError, match="1 lines skipped"):
        Workload.read(write(tmp_path / "x.csv", AZURE.split("\r\n")[0] + "\nx,y,z"), on_error="skip")


def test_a_damaged_gzip_is_refused(tmp_path):
    whole = gzip.compress((AZURE + "\n" + AZURE.split("\r\n")[1] * 1).encode() * 50)
    for name, data in (("cut.gz", whole[: len(whole) // 2]), ("bad.gz", whole[:-6] + b"\0\0\0\0\0\0")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WorkloadError, match=name):
            Workload.read(tmp_path / name, on_error="skip")


def test_a_missing_file_and_a_misspelt_option(tmp_path):
    with pytest.raises(FileNotFoundError):
        Workload.read(tmp_path / "none.csv")
    with pytest.raises(UnknownOptionError, match="did you mean 'skip'"):
        Workload.read(write(tmp_path / "x.csv", AZURE), on_error="skipp")


def test_a_read_workload_is_recreated_from_its_file(tmp_path):
    path = write(tmp_path / "azure.csv", AZURE)
    part = Workload.read(path)[1:].shifted()
    assert Workload.from_spec(part.spec, path=path) == part
    with pytest.raises(WorkloadError, match="file"):
        Workload.from_spec(part.spec)


def facts(tokens: np.ndarray) -> list[float]:
    return [float(np.median(tokens)), float(tokens.mean()), *np.quantile(tokens, [0.95, 0.99]).tolist()]


@needs_real
def test_the_real_azure_trace():
    start = time.process_time()
    workload = Workload.read(REAL / "AzureLLMInferenceTrace_conv.csv.gz")
    assert time.process_time() - start < 1.0
    assert len(workload) == 19_366
    assert facts(workload.prompt_tokens) == pytest.approx([1020, 1155, 4083, 4142], abs=0.5)
    assert facts(workload.output_tokens) == pytest.approx([129, 211, 451, 601], abs=0.5)
    assert workload.rate_per_s == pytest.approx(5.53, abs=0.005)
    assert workload.arrival_cv == pytest.approx(1.09, abs=0.005)


@needs_real
def test_the_real_mooncake_trace():
    start = time.process_time()
    workload = Workload.read(REAL / "mooncake_fast25_synthetic_trace.jsonl.gz")
    assert time.process_time() - start < 1.0
    assert len(workload) == 3_993
    assert facts(workload.prompt_tokens) == pytest.approx([11_587, 15_325, 48_905, 66_456], abs=0.9)
    assert facts(workload.output_tokens) == pytest.approx([69, 149, 519, 768], abs=0.5)
    assert workload.rate_per_s == pytest.approx(3.91, abs=0.005)
    assert len(np.unique(workload.block_ids)) == 43_924


@needs_real
def test_a_generated_workload_is_close_to_the_trace_it_is_like():
    real = Workload.read(REAL / "AzureLLMInferenceTrace_conv.csv.gz")
    made = Workload.synthetic(len(real), like="azure_conv")
    for name in ("prompt_tokens", "output_tokens"):
        a, b = np.sort(getattr(real, name)), np.sort(getattr(made, name))
        grid = np.union1d(a, b)
        distance = np.abs(np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")).max() / len(
            real
        )
        assert distance < 0.12, name
