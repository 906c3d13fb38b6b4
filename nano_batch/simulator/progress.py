"""A progress bar for calls that may take seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Told = Callable[[int, int, float], None]


@contextmanager
def progress_bar(shown: bool, requests: int) -> Iterator[Told | None]:
    """What the simulator calls now and then: with requests finished, steps planned, virtual seconds."""
    if not shown:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=requests, unit=" requests", desc="simulating") as bar:

        def told(finished: int, steps: int, now_s: float) -> None:
            bar.update(finished - bar.n)
            bar.set_postfix_str(f"step {steps:,}, {now_s:,.1f} s simulated", refresh=False)

        yield told
        bar.update(requests - bar.n)
