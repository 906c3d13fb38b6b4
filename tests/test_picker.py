"""The workload picker from Python: what it takes, what it refuses by name, what it keeps."""

import gzip

import pytest

from nano_batch import Workload, drive, lab
from nano_batch.errors import NanoBatchError, TraceFormatError, UnknownOptionError, WorkloadError
from nano_batch.picker.widget import UPLOAD_BYTES


@pytest.fixture
def picker():
    return lab.pick_workload(24, seed=1, arrivals="at_once")


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "mine.csv"
    Workload.synthetic(30, like="azure_code", seed=3).to_csv(path)
    return path


def test_it_begins_with_a_built_in_workload(picker):
    assert picker.workload == Workload.synthetic(24, like="azure_conv", seed=1, arrivals="at_once")
    assert (picker.builtin, picker.path, picker.error) == ("azure_conv", "", "")


def test_another_built_in_one_has_the_same_options(picker):
    picker.builtin = "azure_code"
    assert picker.workload == Workload.synthetic(24, like="azure_code", seed=1, arrivals="at_once")


def test_a_path(picker, trace):
    picker.path = str(trace)
    assert picker.workload == Workload.read(trace)
    assert (picker.builtin, picker.path) == ("", str(trace))
    picker.builtin = "azure_conv"
    assert picker.path == ""


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["mine.csv", "C:\\traces\\mine.csv", "/a/mine.csv", "../../mine.csv"])
def test_an_upload(picker, trace, pack, name):
    picker.upload(name, pack(trace.read_bytes()))
    assert picker.workload == Workload.read(trace)
    assert picker.workload.name == "mine"
    assert (picker.builtin, picker.path, picker._uploaded) == ("", "", name)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "\\"])
def test_an_upload_without_a_name(picker, trace, name):
    picker.upload(name, trace.read_bytes())
    assert len(picker.workload) == 30


def test_what_was_understood_is_shown_before_anything_runs(picker, trace):
    text = trace.read_text(encoding="utf-8").splitlines()
    trace.write_text("\n".join([*text, "broken,line", "1,2"]), encoding="utf-8")
    picker.path = str(trace)
    for shown in (repr(picker), picker._understood):
        for fact in ("30 requests", "/s over", "2 lines skipped", "median", "p99"):
            assert fact in shown, (fact, shown)
    assert picker._repr_mimebundle_()[0]["text/html"] == picker._understood


REFUSED = {
    "not a trace": (TraceFormatError, lambda p, t: setattr(p, "path", str(t / "text.md"))),
    "no such file": (WorkloadError, lambda p, t: setattr(p, "path", str(t / "none.csv"))),
    "a folder": (WorkloadError, lambda p, t: setattr(p, "path", str(t))),
    "a misspelt name": (UnknownOptionError, lambda p, t: setattr(p, "builtin", "azure_cod")),
    "an empty upload": (TraceFormatError, lambda p, t: p.upload("x.csv", b"")),
    "noise": (TraceFormatError, lambda p, t: p.upload("x.csv", bytes(range(256)) * 9)),
    "half a gzip": (TraceFormatError, lambda p, t: p.upload("x.gz", gzip.compress(b"a" * 999)[:20])),
    "a header alone": (
        TraceFormatError,
        lambda p, t: p.upload("x.csv", b"TIMESTAMP,ContextTokens,GeneratedTokens\n"),
    ),
    "too large": (WorkloadError, lambda p, t: p.upload("x.csv", b"1" * (UPLOAD_BYTES + 1))),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("before", ["built in", "a path", "an upload"])
def test_what_is_refused_is_named_and_the_last_good_one_stays(picker, trace, tmp_path, case, before):
    (tmp_path / "text.md").write_text("# A title\n", encoding="utf-8")
    if before == "a path":
        picker.path = str(trace)
    elif before == "an upload":
        picker.upload("mine.csv", trace.read_bytes())
    good = (picker.workload, picker.builtin, picker.path, picker._uploaded, picker._understood)
    error, do = REFUSED[case]
    for _ in range(2):  # the same bad choice again is said again
        with pytest.raises(error):
            do(picker, tmp_path)
        assert (picker.workload, picker.builtin, picker.path, picker._uploaded, picker._understood) == good
        assert picker.error.startswith(f"{error.__name__}: ")
        assert repr(picker).startswith(f"{error.__name__}: ")
        assert len(repr(picker).splitlines()) <= 3
    picker.builtin = "mooncake_conversation"
    assert picker.error == ""


def test_from_the_page_nothing_is_raised_and_each_question_is_answered(picker, trace):
    good = picker.workload
    picker.set_state({"path": "none.csv"})
    assert picker.error.startswith("WorkloadError: none.csv cannot be opened")
    assert (picker.workload, picker.path, picker._answers) == (good, "", 1)
    content = trace.read_bytes()
    picker._message(None, {"name": "mine.csv", "size": len(content)}, [memoryview(content)])
    assert (len(picker.workload), picker.error, picker._answers) == (30, "", 2)
    picker._message(None, {"name": "big.csv", "size": 7_000_000}, [])
    assert picker.error == "WorkloadError: big.csv has 7.0 MB; an upload may have 5 MB: give its path instead"
    assert (len(picker.workload), picker._answers) == (30, 3)


def test_a_choice_can_be_followed(picker, trace):
    seen = []
    picker.observe(lambda change: seen.append(change["new"].name), "workload")
    picker.path = str(trace)
    picker.builtin = "azure_code"
    assert seen == ["mine", "azure_code"]


def test_malformed_lines_can_refuse_a_file(trace):
    strict = lab.pick_workload(24, on_error="raise")
    trace.write_text(trace.read_text(encoding="utf-8") + "broken\n", encoding="utf-8")
    with pytest.raises(NanoBatchError, match="line 32"):
        strict.path = str(trace)


def test_bad_options_are_refused_at_once():
    with pytest.raises(UnknownOptionError, match="did you mean 'azure_code'"):
        lab.pick_workload(24, like="azure_cod")
    with pytest.raises(UnknownOptionError, match="did you mean 'skip'"):
        lab.pick_workload(24, on_error="skp")


def test_a_run_can_be_written_back_and_picked_again(picker, tmp_path):
    run = lab.serve(picker.workload, memory_tokens=131_072)
    again = run.to_workload()
    assert (again.prompt_tokens == picker.workload.prompt_tokens).all()
    assert (again.output_tokens == picker.workload.output_tokens).all()
    again.to_csv(tmp_path / "again.csv.gz")
    picker.path = str(tmp_path / "again.csv.gz")
    assert picker.workload == again
    second = drive(lab.Engine(131_072 // 16, 16), picker.workload)
    assert (second.requests.finish_s == run.requests.finish_s).all()
