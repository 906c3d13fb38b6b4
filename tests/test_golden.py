"""Small scenarios that can be checked by hand; `nano_batch_rs/tests/golden.rs` runs them without Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nano_batch import Engine

SCENARIOS = sorted(Path(__file__).with_name("golden").glob("*.json"))


def arrive(engine: Engine, request: dict[str, Any]) -> None:
    options = {name: value for name, value in request.items() if name not in ("id", "step", "prompt")}
    engine.add_request(request["id"], request["prompt"], **options)


def serve_step(engine: Engine, sizes: dict[str, int]) -> dict[str, Any]:
    """Plan a step and give every sample the token 9; what a scenario says of it."""
    output = engine.step()
    said: dict[str, Any] = {
        "scheduled": output.scheduled_requests,
        "tokens": output.num_tokens_per_request,
        "start": output.num_computed_tokens,
        "cached": output.num_cached_tokens,
        "tables": output.block_tables,
        "slots": output.slot_mappings,
        "sampled": output.sampled_requests,
        "preempted": output.preempted,
        "swap_out": [list(pair) for pair in output.swap_out],
        "swap_in": [list(pair) for pair in output.swap_in],
        "copies": [list(pair) for pair in output.copies],
    }
    tokens = {name: [9] * sizes[name] if sizes.get(name, 1) > 1 else 9 for name in output.sampled_requests}
    said["ends"] = [list(end) for end in engine.update(tokens)]
    return said


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_scenario(path: Path) -> None:
    scenario = json.loads(path.read_text(encoding="utf-8"))
    engine = Engine(**scenario["engine"])
    sizes = {request["id"]: request.get("n", 1) for request in scenario["requests"]}
    rare = ("preempted", "swap_out", "swap_in", "copies", "ends")
    nothing: dict[str, list[Any]] = {name: [] for name in rare}
    for number, expected in enumerate(scenario["steps"], start=1):
        for request in scenario["requests"]:
            if request["step"] == number:
                arrive(engine, request)
        assert serve_step(engine, sizes) == {**nothing, **expected}, f"step {number}"
    assert not engine.has_unfinished


def test_the_scenarios_are_there() -> None:
    assert len(SCENARIOS) >= 7
