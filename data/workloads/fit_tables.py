"""Fit the length tables beside this file to published facts.

`uv run --with scipy python data/workloads/fit_tables.py` writes them anew.

Each table is a quantile function, piecewise linear in probability. Median, p95 and p99 are points of it;
mean, mu and sigma (of ln tokens) are equality constraints; what they leave open is chosen as smooth as
possible against the normal score, so that it is near a log-normal wherever the facts allow it. No trace is
read.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.stats import norm

HERE = Path(__file__).parent
NAMES = ("median", "mean", "p95", "p99", "mu", "sigma")
GRID = np.array(
    [
        0,
        0.0025,
        0.01,
        0.025,
        0.05,
        0.1,
        0.15,
        0.2,
        0.25,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
        0.93,
        0.95,
        0.97,
        0.98,
        0.99,
        0.995,
        1,
    ]
)
FIXED = {"median": 0.5, "p95": 0.95, "p99": 0.99}
SPLITWISE = "Patel et al., Splitwise (ISCA 2024)"
MOONCAKE = "Qin et al., Mooncake (FAST 2025)"
TRACES = {
    "azure_conv": {
        "description": "Azure LLM inference trace 2023, conversation",
        "cite": SPLITWISE,
        "licence": "CC-BY 4.0",
        "prompt": (1020, 1155, 4083, 4142, 6.633, 0.985),
        "output": (129, 211, 451, 601, 5.019, 0.859),
        "rate": 5.53,
        "cv": 1.09,
        "note": "the rate drifts over the hour",
    },
    "azure_code": {
        "description": "Azure LLM inference trace 2023, code",
        "cite": SPLITWISE,
        "licence": "CC-BY 4.0",
        "prompt": (1469, 2048, 7303, 7436, 6.999, 1.360),
        "output": (13, 28, 90, 251, 2.788, 0.847),
        "rate": 2.57,
        "cv": 13.2,
        "note": "on/off, gaps to 217 s",
    },
    "mooncake_conversation": {
        "description": "Mooncake conversation trace",
        "cite": MOONCAKE,
        "licence": "Apache-2.0",
        "prompt": (6909, 12035, 39551, 85400, 8.737, 1.199),
        "output": (350, 343, 698, 1119, 5.336, 1.358),
        "rate": 3.40,
        "cv": 1.0,
        "note": "near-Poisson on 3 s ticks: the CV of 1 is Poisson's, not a measured one",
    },
    "mooncake_synthetic": {
        "description": "Mooncake synthetic trace",
        "cite": MOONCAKE,
        "licence": "Apache-2.0",
        "prompt": (11587, 15325, 48905, 66456, 7.982, 2.700),
        "output": (69, 149, 519, 768, 3.916, 1.768),
        "rate": 3.91,
        "cv": 1.01,
        "note": "prefix sharing is not part of this table",
    },
}
SOURCE = "computed over the whole published trace; mu and sigma are the mean and deviation of ln(tokens)"
POINTS = (np.arange(20_000) + 0.5) / 20_000


def moments(tokens: np.ndarray) -> np.ndarray:
    """mean / mu / sigma of the piecewise-linear quantile function, before rounding to whole tokens."""
    values = np.interp(POINTS, GRID, tokens)
    logs = np.log(values)
    return np.array([values.mean(), logs.mean(), logs.std()])


def fit(facts: dict[str, float]) -> np.ndarray:
    """Tokens at the probabilities of the grid."""
    at = {name: int(np.flatnonzero(p == GRID)[0]) for name, p in FIXED.items()}
    free = np.setdiff1d(np.arange(len(GRID)), list(at.values()))
    score = norm.ppf(np.clip(GRID, 0.0005, 0.9995))
    target = np.array([facts["mean"], facts["mu"], facts["sigma"]])

    def table(x: np.ndarray) -> np.ndarray:
        y = np.empty(len(GRID))
        y[free] = x
        for name, index in at.items():
            y[index] = np.log(facts[name])
        return y

    def roughness(x: np.ndarray) -> float:
        slopes = np.diff(table(x)) / np.diff(score)
        return float(np.sum(np.diff(slopes) ** 2))

    def gap(x: np.ndarray) -> np.ndarray:
        return (moments(np.exp(table(x))) - target) / np.array([facts["mean"], 1, 1])

    start = np.interp(
        GRID,
        [0, 0.5, 0.95, 0.99, 1],
        np.log(
            [max(1, facts["median"] / 20), facts["median"], facts["p95"], facts["p99"], facts["p99"] * 1.05]
        ),
    )
    result = minimize(
        roughness,
        start[free],
        method="SLSQP",
        bounds=[(0, np.log(facts["p99"] * 4))] * len(free),
        constraints=[{"type": "eq", "fun": gap}, {"type": "ineq", "fun": lambda x: np.diff(table(x))}],
        options={"maxiter": 2000, "ftol": 1e-9},
    )
    print(result.message, result.nit, gap(result.x))
    return np.maximum.accumulate(np.round(np.exp(table(result.x)), 2))


def fitted(facts: dict[str, float], tokens: np.ndarray) -> dict[str, float]:
    """The facts as the rounded table has them."""
    values = np.maximum(np.floor(np.interp(POINTS, GRID, tokens) + 0.5), 1)
    quantiles = np.quantile(values, [0.5, 0.95, 0.99])
    got = (
        quantiles[0],
        values.mean(),
        quantiles[1],
        quantiles[2],
        np.log(values).mean(),
        np.log(values).std(),
    )
    return {name: round(float(value), 3) for name, value in zip(NAMES, got, strict=True)}


def main() -> None:
    """Fit and write every table."""
    for name, trace in TRACES.items():
        out = {
            "name": name,
            "version": 1,
            "description": trace["description"],
            "cite": trace["cite"],
            "licence_of_the_trace": trace["licence"],
            "fitted_by": "data/workloads/fit_tables.py, to the facts alone",
            "arrivals": {
                "rate_per_s": trace["rate"],
                "cv": trace["cv"],
                "note": trace["note"],
                "source": SOURCE.split(";")[0],
            },
        }
        for side in ("prompt", "output"):
            facts = dict(zip(NAMES, trace[side], strict=True))
            tokens = fit(facts)
            out[side] = {
                "facts": facts,
                "source": SOURCE,
                "fitted": fitted(facts, tokens),
                "probabilities": GRID.tolist(),
                "tokens": tokens.tolist(),
            }
            print(name, side, facts, out[side]["fitted"], tokens.tolist(), sep="\n  ")
        text = json.dumps(out, indent=1)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
