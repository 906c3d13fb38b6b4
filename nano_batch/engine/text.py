"""Text in front of the engine: a checkpoint's tokenizer, and text that grows with the tokens of an output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nano_batch.errors import CheckpointError, MissingExtraError

TOKENIZER = "tokenizer.json"
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """What the engine asks of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, its special tokens included."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        ...


class CheckpointTokenizer:
    """The `tokenizer.json` of a checkpoint's folder.

    Raises:
        CheckpointError: the file is missing or damaged.
        MissingExtraError: the package tokenizers is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the file."""
        path = Path(folder) / TOKENIZER
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: prompts are lists of token ids without it")
        try:
            self._tokenizer = _library().Tokenizer.from_file(str(path))
        except MissingExtraError:
            raise
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, its special tokens included."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(token_ids)))

    def __repr__(self) -> str:
        return f"CheckpointTokenizer({self._tokenizer.get_vocab_size():,} words)"


class GrowingText:
    """The text of an output, token by token, at a cost that does not grow with its length.

    Tokens are decoded with a few before them, for a token's text may depend on its neighbours, and held back
    while they end within a character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin with no token."""
        self.text = ""
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Tokens from `before` on are decoded; those up to `told` are in the text.
        self._before = self._told = 0

    def add(self, token: int) -> None:
        """Append a token."""
        self._tokens.append(token)
        known = self._tokenizer.decode(self._tokens[self._before : self._told])
        grown = self._tokenizer.decode(self._tokens[self._before :])
        if len(grown) > len(known) and not grown.endswith(INCOMPLETE):
            self.text += grown[len(known) :]
            self._before, self._told = self._told, len(self._tokens)

    def end(self) -> None:
        """No token follows: what was held back is text after all."""
        known = self._tokenizer.decode(self._tokens[self._before : self._told])
        self.text += self._tokenizer.decode(self._tokens[self._before :])[len(known) :]
        self._before = self._told = len(self._tokens)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError(
            "a checkpoint's tokenizer is read by tokenizers: install the extra 'engine' "
            "(pip install 'nano-batch[engine]')"
        ) from error
    return tokenizers
