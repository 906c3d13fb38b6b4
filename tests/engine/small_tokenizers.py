"""Tokenizers without a download: one byte a token, and words."""

from __future__ import annotations

import pytest


class Bytes:
    """A token is a byte of UTF-8, after some that have no text: characters are split over tokens."""

    special = 3

    def encode(self, text):
        return [byte + self.special for byte in text.encode()]

    def decode(self, token_ids):
        return bytes(t - self.special for t in token_ids if t >= self.special).decode(errors="replace")


def byte_level(vocab_size=97):
    """A byte-level tokenizer of the library with few merges; its text joins tokens without spaces."""
    tokenizers = pytest.importorskip("tokenizers")
    characters = [*map(chr, range(32, 126))]
    words = [c if c != " " else "\u0120" for c in characters] + ["</s>", "<s>"]
    vocab = {word: at for at, word in enumerate(words[:vocab_size])}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token=None))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.add_special_tokens(["</s>", "<s>"])
    return model
