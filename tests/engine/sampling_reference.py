"""Sampling by its definitions: one row at a time, float64, Python integers."""

from __future__ import annotations

import numpy as np

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(value):
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def uniform(seed, sequence_index, place):
    stream = mix((mix((seed + GAMMA) & MASK) + (sequence_index + 1) * GAMMA) & MASK)
    return (mix((stream + (place + 1) * GAMMA) & MASK) >> 11) / 2**53


def scores(logits, params, prompt, output, stops=()):
    """The logits after penalties and barred stop tokens."""
    row = np.array(logits, dtype=np.float64)
    for token in set(prompt) | set(output):
        row[token] *= 1 / params.repetition_penalty if row[token] > 0 else params.repetition_penalty
    for token in set(output):
        row[token] -= params.presence_penalty + params.frequency_penalty * output.count(token)
    if len(output) + 1 < params.min_tokens:
        row[list(stops)] = -np.inf
    return row


def near(one, limit):
    """Whether float32 may take the two for equal, or in another order; equal numbers are equal there too."""
    return 0 < abs(one - limit) < 1e-5 * limit < 1e-5


def probabilities(row, params):
    """What each token is drawn with; None where rounding may decide what a filter keeps."""
    shares = np.exp((row - row.max()) / params.temperature)
    order = sorted(range(len(row)), key=lambda token: (-shares[token], token))
    top = order[: params.top_k or len(row)]
    total, before, kept = shares[top].sum(), 0.0, []
    for token in top:
        if any(near(*pair) for pair in ((before / total, params.top_p), (shares[token], params.min_p))):
            return None
        if before < params.top_p * total or params.top_p == 1:
            kept.append(token)
        before += shares[token]
    result = np.zeros(len(row))
    for token in kept:
        if shares[token] >= params.min_p:
            result[token] = shares[token]
    # Equal logits on both sides of the k-th place are told apart by their ids, nearly equal ones by rounding.
    edge = shares[order[len(top) - 1 : len(top) + 1]]
    if len(top) < len(row) and near(*edge):
        return None
    return result / result.sum()


def log_softmax(row):
    row = np.array(row, dtype=np.float64)
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum())
