"""A run of the real engine in which everything happens that the event log can say."""

import numpy as np

from nano_batch import Engine


def eventful_run(options):
    """An engine that was driven to its end: shared prefixes, forks that copy on write, preemptions, an abort.

    It takes more steps than lie between two keyframes. `options` are further settings of the engine.
    """
    settings = {"num_blocks": 48, "block_size": 4, "event_log": True, "watermark": 0.0, **options}
    engine = Engine(**settings, max_num_seqs=8, max_num_batched_tokens=24)
    rng = np.random.default_rng(5)
    prefix = rng.integers(0, 100, 13).tolist()
    for i in range(100):
        prompt = (prefix if i % 2 else []) + rng.integers(0, 100, int(rng.integers(1, 30))).tolist()
        engine.add_request(f"a{i}", prompt, int(rng.integers(1, 40)), n=3 if i % 5 == 0 else 1)
    while engine.has_unfinished:
        output = engine.step()
        parallel = {
            name: 3 if int(name[1:]) % 5 == 0 else 1 for name in output.sampled_requests if "/" not in name
        }
        tokens = rng.integers(0, 100, 3).tolist()
        given = {name: tokens if parallel.get(name) == 3 else tokens[0] for name in output.sampled_requests}
        engine.update(given)
        if output.step == 20:
            engine.abort(output.scheduled_requests[0].split("/")[0])
    return engine
