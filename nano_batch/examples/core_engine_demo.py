"""The core from end to end: allocation, scheduling, attention over the paged cache, release.

Two requests with a common beginning are served by a tiny transformer. Every line printed with a mark is
checked; the program ends with 0 if all hold.
"""

from __future__ import annotations

import torch

from nano_batch.attention import dense_attention, paged_attention_fwd
from nano_batch.core import Engine, SchedulerOutput
from nano_batch.kv_cache import KVCache
from nano_batch.models import PagedRunner, TinyTransformer

NUM_BLOCKS = 100
BLOCK_SIZE = 16
MAX_TOKENS = 50
PROMPTS = {"demo_1": [1, 2, 3, 4, 5], "demo_2": [1, 2, 3, 4, 5, *range(20, 40)]}


class Report:
    """Prints each check as it is made, and remembers whether all held."""

    def __init__(self) -> None:
        """Begin with no check made."""
        self.made = 0
        self.failed = 0

    def check(self, holds: bool, sentence: str) -> None:
        """Print a sentence with whether it holds."""
        self.made += 1
        self.failed += not holds
        print(f"  [{'ok' if holds else 'FAILED'}] {sentence}")


def main() -> int:
    """Run the demo; return 0 if every check holds, else 1."""
    report = Report()
    model = TinyTransformer(seed=1)
    engine = Engine(num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
    runner = PagedRunner(model, model.new_cache(NUM_BLOCKS, BLOCK_SIZE))
    usage = runner.cache.get_memory_usage()
    print(f"{NUM_BLOCKS} blocks of {BLOCK_SIZE} tokens, {usage.total_bytes:,} bytes of keys and values")

    first = show_allocation(report, engine)
    generated = serve(engine, runner, first)
    show_scheduling(report, model, generated)
    show_attention(report)
    show_prefix_and_release(report, engine)
    print(f"{report.made - report.failed} of {report.made} checks hold")
    return int(report.failed > 0)


def show_allocation(report: Report, engine: Engine) -> SchedulerOutput:
    """Plan the first step and look at the blocks that it took."""
    print("\nallocation")
    for name, prompt in PROMPTS.items():
        engine.add_request(request_id=name, prompt_token_ids=prompt, max_tokens=MAX_TOKENS)
    output = engine.step()
    for name, table, count in zip(
        output.scheduled_requests, output.block_tables, output.num_tokens_per_request, strict=True
    ):
        needed = -(-count // BLOCK_SIZE)
        report.check(len(table) == needed, f"{name}: {count} prompt tokens take blocks {table}: {needed}")
    slots = output.slot_mappings
    report.check(len(set(slots)) == len(slots), f"each of the {len(slots)} tokens has its own slot")
    owned = sum(map(len, output.block_tables))
    report.check(engine.num_free_blocks == NUM_BLOCKS - owned, f"{engine.num_free_blocks} blocks stay free")
    return output


def serve(engine: Engine, runner: PagedRunner, output: SchedulerOutput) -> dict[str, list[int]]:
    """Run the step given and all that follow; return each request's tokens, the likeliest every time."""
    generated: dict[str, list[int]] = {name: [] for name in PROMPTS}
    while True:
        tokens = {name: int(logits.argmax()) for name, logits in runner.run(output).items()}
        for name, token in tokens.items():
            generated[name].append(token)
        engine.update(tokens)
        if not engine.has_unfinished:
            return generated
        output = engine.step()


def show_scheduling(report: Report, model: TinyTransformer, generated: dict[str, list[int]]) -> None:
    """Compare what was generated step by step over the cache with the dense model."""
    print("\nscheduling: both requests decode together, one token a step")
    for name, prompt in PROMPTS.items():
        dense = model.greedy(prompt, MAX_TOKENS)
        begin = " ".join(map(str, dense[:8]))
        report.check(generated[name] == dense, f"{name}: {MAX_TOKENS} tokens as the dense model's: {begin} …")


def show_attention(report: Report) -> None:
    """Attend to keys in scattered blocks, and to the same keys in a row."""
    print("\nattention over the paged cache")
    generator = torch.Generator().manual_seed(0)
    cache = KVCache(8, BLOCK_SIZE, num_kv_heads=2, head_dim=64, dtype=torch.float32, device="cpu")
    context, table = 41, torch.tensor([[5, 2, 7]], dtype=torch.int32)
    keys, values = torch.randn(2, context, 2, 64, generator=generator)
    positions = torch.arange(context)
    slots = table[0, positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE
    cache.write_kv(keys, values, slots)
    query = torch.randn(1, 8, 1, 64, generator=generator)
    lens = torch.tensor([context], dtype=torch.int32)
    paged = paged_attention_fwd(query, *cache.get_kv_cache(), table, lens, BLOCK_SIZE)
    dense = dense_attention(query[:, :, 0], keys, values)
    error = float((paged[:, :, 0].double() - dense).abs().max())
    report.check(error <= 1e-5, f"{context} keys in blocks {table[0].tolist()}: within 1e-5 of dense float64")


def show_prefix_and_release(report: Report, engine: Engine) -> None:
    """Look at what the requests left behind, and let a third one use it."""
    print("\nrelease")
    state = engine.snapshot()
    report.check(not state.block_references.any(), "no block has an owner any more")
    kept, free = engine.num_cached_blocks, engine.num_free_blocks
    report.check(kept + free == NUM_BLOCKS, f"{free} blocks are free, {kept} full ones stay cached")
    engine.add_request(request_id="demo_3", prompt_token_ids=PROMPTS["demo_2"], max_tokens=1)
    output = engine.step()
    cached = output.num_cached_tokens[0]
    report.check(cached == BLOCK_SIZE, f"demo_3 asks what demo_2 asked: {cached} tokens are there already")
    engine.abort("demo_3")
    engine.update({})
    report.check(not engine.has_unfinished, "demo_3 is aborted; once its step is over, nothing is left to do")


if __name__ == "__main__":
    raise SystemExit(main())
