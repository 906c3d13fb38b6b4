"""Small engines on the CPU, and what must hold of them at any time."""

from __future__ import annotations

import os

import torch
from mistral_checkpoints import reference_of, saved

from nano_batch import InferenceEngine, SamplingParams
from nano_batch.models import load_mistral

# Matrices this small only wait for further threads, long when the machine is busy.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

VOCAB = 97
GREEDY = SamplingParams(temperature=0, max_tokens=24)
# Most tests: a cache that is never short, and steps that hold a whole prompt.
ROOMY = {"block_size": 4, "num_blocks": 400, "max_num_seqs": 8, "max_num_batched_tokens": 128}


class Model:
    """A random checkpoint of Transformers and the same model of this project."""

    def __init__(self, folder, **changes):
        self.reference = reference_of(**changes)
        self.folder = saved(folder, self.reference)
        self.paged = load_mistral(self.folder)
        self.known = {}

    def engine(self, tokenizer=None, **options):
        return InferenceEngine(self.paged, tokenizer, **{**ROOMY, **options})

    def likeliest(self, prompt, tokens):
        """The reference's choice at each place of an output: the output itself, if it was taken greedily."""
        key = (*prompt, -1, *tokens)
        if key not in self.known:
            with torch.no_grad():
                logits = self.reference(torch.tensor([[*prompt, *tokens]])).logits[0]
            self.known[key] = logits[len(prompt) - 1 : -1].argmax(1).tolist()
        return self.known[key]

    def assert_greedy(self, *outputs, count=None):
        for output in outputs:
            assert count is None or len(output.token_ids) == count
            assert output.token_ids == self.likeliest(output.prompt_token_ids, output.token_ids)


def prompts_of(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB, (length,), generator=generator).tolist() for length in lengths]


def assert_idle(engine):
    """Nothing is served, nothing is on its way, and no block belongs to anybody."""
    assert not engine.has_unfinished
    state = engine.engine.snapshot()
    assert not state.block_references.any()
    assert engine.engine.num_running == engine.engine.num_waiting == 0
    assert not engine._requests
    assert not engine._sequences
    assert not engine._pending


def run_to_end(engine, limit=2000):
    for _ in range(limit):
        if not engine.has_unfinished:
            return
        engine.step()
    raise AssertionError(f"the engine has not ended after {limit} steps")
