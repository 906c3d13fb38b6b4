"""Text that grows with tokens, stop strings, and a checkpoint's tokenizer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import Bytes, byte_level

pytest.importorskip("torch")

from nano_batch import SamplingParams, errors
from nano_batch.engine.outputs import SequenceOutput
from nano_batch.engine.requests import ServedSequence
from nano_batch.engine.text import CheckpointTokenizer, GrowingText

BYTES = Bytes()
TEXT = st.text(st.sampled_from("ab é€\N{GRINNING FACE}\ufffd"), max_size=12)
TOKENS = st.lists(st.integers(0, 258), max_size=12)


@given(tokens=st.one_of(TEXT.map(BYTES.encode), TOKENS))
@settings(max_examples=300, deadline=None)
def test_grown_text_is_the_text_of_all_tokens(tokens):
    """Up to bytes that are no UTF-8, of which the decoder may join what it replaces."""
    growing, before = GrowingText(BYTES), ""
    for token in tokens:
        growing.add(token)
        assert growing.text.startswith(before)
        before = growing.text
    growing.end()
    whole = BYTES.decode(tokens)
    assert growing.text.replace("\ufffd", "") == whole.replace("\ufffd", "")
    assert "\ufffd" in whole or growing.text == whole


def test_half_a_character_is_held_back():
    growing, told = GrowingText(BYTES), []
    for token in BYTES.encode("a€b"):
        growing.add(token)
        told.append(growing.text)
    assert told == ["a", "a", "a", "a€", "a€b"]


class Counting(Bytes):
    longest = 0

    def decode(self, token_ids):
        self.longest = max(self.longest, len(token_ids))
        return super().decode(token_ids)


def test_text_costs_the_same_at_any_length():
    tokenizer = Counting()
    growing = GrowingText(tokenizer)
    for token in BYTES.encode("ab€ " * 200):
        growing.add(token)
    assert tokenizer.longest <= 10


def served(stop):
    request = SimpleNamespace(params=SamplingParams(stop=stop))
    return ServedSequence("a", request, SequenceOutput(0, text=""), GrowingText(BYTES))


def first_stop(text, stop):
    """Where the first stop string to be complete begins; of those complete together, the first to begin."""
    for end in range(len(text) + 1):
        found = [end - len(word) for word in stop if text[:end].endswith(word) and end >= len(word)]
        if found:
            return min(found)
    return None


STOPS = st.lists(st.text(st.sampled_from("ab €"), min_size=1, max_size=3), max_size=3)


@given(
    text=st.text(st.sampled_from("ab €"), max_size=12),
    stop=STOPS,
    reason=st.sampled_from(["length", "abort"]),
)
@settings(max_examples=300, deadline=None)
def test_a_stop_string_ends_the_text_before_it(text, stop, reason):
    """Whatever ends the sequence at the token that completes it."""
    sequence, place = served(stop), first_stop(text, stop)
    for token in BYTES.encode(text):
        if sequence.take(token, None):
            break
    sequence.end(reason)
    assert sequence.output.text == (text if place is None else text[:place])
    assert sequence.output.finish_reason == (reason if place is None else "stop")
    sequence.end("error")
    assert sequence.output.finish_reason == (reason if place is None else "stop")


def test_text_held_back_is_given_out_at_the_end():
    sequence = served(())
    for token in BYTES.encode("a€")[:-1]:
        sequence.take(token, None)
    assert sequence.output.text == "a"
    sequence.end("stop")
    assert sequence.output.text == BYTES.decode(sequence.output.token_ids) == "a\ufffd"


def test_a_checkpoints_tokenizer(tmp_path):
    library = byte_level()
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = CheckpointTokenizer(tmp_path)
    assert tokenizer.encode("ab c") == library.encode("ab c").ids
    assert len(tokenizer.encode("ab c")) == 4
    assert tokenizer.decode([*tokenizer.encode("ab c"), 94]) == "ab c"  # 94 is </s>
    assert repr(tokenizer) == "CheckpointTokenizer(96 words)"


def test_a_tokenizer_that_is_missing_or_damaged(tmp_path, monkeypatch):
    with pytest.raises(errors.CheckpointError, match="is missing"):
        CheckpointTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    pytest.importorskip("tokenizers")
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        CheckpointTokenizer(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(errors.MissingExtraError, match="engine"):
        CheckpointTokenizer(tmp_path)
