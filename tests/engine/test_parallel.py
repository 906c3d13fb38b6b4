"""A model split among ranks: the same weights, the same tokens, one cache size, and one end."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

torch = pytest.importorskip("torch")

from torch.distributed import HashStore  # noqa: E402

from nano_batch.engine import InferenceEngine, SamplingParams, inference_engine  # noqa: E402
from nano_batch.engine.parallel_engine import ParallelEngine  # noqa: E402
from nano_batch.engine.rank_processes import RankProcesses  # noqa: E402
from nano_batch.engine.ranks import Ranks  # noqa: E402
from nano_batch.errors import DeviceError, InvalidArgumentError, ParallelError, StalledError  # noqa: E402
from nano_batch.models import MistralConfig, load_mistral  # noqa: E402
from nano_batch.models.parallel import Shard  # noqa: E402

CPU = torch.device("cpu")
OPTIONS = {"device": "cpu", "load_format": "dummy", "num_blocks": 18, "max_num_seqs": 6}
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


def prompts_of(seed, count=6, longest=40, words=4096):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest, (count,), generator=generator).tolist()
    # A common beginning of a block and more: the prefix cache has something to find.
    common = torch.randint(words, (20,), generator=generator).tolist()
    drawn = (torch.randint(words, (length,), generator=generator).tolist() for length in lengths)
    return [common + prompt for prompt in drawn]


def params_of(count, tokens=24):
    kinds = [
        {"temperature": 0.0},
        {"temperature": 0.9, "seed": 3},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 4},
        {"temperature": 0.8, "repetition_penalty": 1.3, "seed": 5},
        {"temperature": 1.2, "n": 2, "seed": 6},
        {"temperature": 0.0, "logprobs": 2},
    ]
    return [SamplingParams(max_tokens=tokens, **kinds[at % len(kinds)]) for at in range(count)]


def tokens_of(outputs):
    return [[sequence.token_ids for sequence in output.sequences] for output in outputs]


def serve_to_the_end(engine):
    while engine.has_unfinished:
        engine.step()


def gone(process_id, within_s=10.0):
    """Whether a process has ended, or ends soon; one that nobody has waited for counts as ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with open(f"/proc/{process_id}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def one():
    """An engine on one device."""
    return InferenceEngine.from_pretrained("tiny", **OPTIONS)


@pytest.fixture(scope="module")
def two():
    """The same on two ranks, of which this process has started one."""
    with InferenceEngine.from_pretrained("tiny", tensor_parallel_size=2, **OPTIONS) as engine:
        yield engine
        process_ids = engine.ranks.processes.process_ids
    assert process_ids
    assert all(gone(process_id) for process_id in process_ids)


class InThreads:
    """Two ranks as threads of this process: rank 1 does `follows(its engine)`, and what it raised is kept."""

    def __init__(self, follows=ParallelEngine.follow, **options):
        self.engines, self.raised, self.store = {}, None, HashStore()
        self.options = {"num_blocks": 24, **options}
        self.follows = follows
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()
        self.leader = self._make(0)

    def _make(self, rank):
        ranks = Ranks(self.store, rank, 2, CPU)
        model = load_mistral("tiny", load_format="dummy", shard=ranks.shard)
        self.engines[rank] = ParallelEngine(model, ranks=ranks, max_num_seqs=6, **self.options)
        return self.engines[rank]

    def _follow(self):
        try:
            self.follows(self._make(1))
        except Exception as error:
            self.raised = error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leader.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


# --- weights ---


def whole_from_parts(name, parts, whole):
    """What the parts are together: one beside or below the other, or all the same."""
    if parts[0].shape == whole.shape:
        assert torch.equal(parts[0], parts[1])
        return parts[0]
    dim = 0 if parts[0].shape[0] != whole.shape[0] else 1
    split_by_columns = name.split(".")[-2] in ("o_proj", "down_proj")
    assert (dim == 1) == split_by_columns
    return torch.cat(parts, dim)


@pytest.mark.parametrize("source", ["dummy", "auto"])
def test_parts_are_the_whole(tmp_path, source):
    folder, options = "tiny", {"load_format": source}
    if source == "auto":
        save_file = pytest.importorskip("safetensors.torch").save_file
        seeded = load_mistral("tiny", load_format="dummy", seed=9).state_dict()
        save_file({name: view.contiguous() for name, view in seeded.items()}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(
            """{"architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 4096,
            "hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 4, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 32, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
            "hidden_act": "silu", "max_position_embeddings": 32768, "torch_dtype": "float32",
            "sliding_window": null, "tie_word_embeddings": false}"""
        )
        folder = tmp_path
    whole = load_mistral(folder, **options).state_dict()
    halves = [load_mistral(folder, shard=Shard(rank, 2), **options) for rank in (0, 1)]
    assert halves[0].config.num_heads == 4
    assert halves[0].weight_bytes < 0.75 * sum(4 * view.numel() for view in whole.values())
    parts = [half.state_dict() for half in halves]
    assert parts[0].keys() == whole.keys()
    for name, view in whole.items():
        assert torch.equal(whole_from_parts(name, [part[name] for part in parts], view), view), name


@pytest.mark.parametrize(
    ("changes", "size", "said"),
    [
        ({"num_heads": 8, "num_kv_heads": 2}, 4, "num_kv_heads=2 cannot be split among 4"),
        ({"num_heads": 8, "num_kv_heads": 2}, 3, "num_heads=8 cannot be split among 3"),
        ({"num_heads": 4, "num_kv_heads": 2, "intermediate_size": 7}, 2, "intermediate_size=7 cannot be"),
    ],
)
def test_what_does_not_divide_is_refused(changes, size, said):
    with pytest.raises(InvalidArgumentError, match=said):
        Shard(0, size).config(MistralConfig(**changes))


def test_bad_ranks_and_devices_are_refused_before_a_process_starts(monkeypatch):
    with pytest.raises(InvalidArgumentError, match="rank 2 is not from 0 to 1"):
        Shard(2, 2)
    with pytest.raises(InvalidArgumentError, match="num_heads=8 cannot be split among 3"):
        InferenceEngine.from_pretrained("tiny", tensor_parallel_size=3, **OPTIONS)
    with pytest.raises(InvalidArgumentError, match="tensor_parallel_size=0"):
        InferenceEngine.from_pretrained("tiny", tensor_parallel_size=0, **OPTIONS)
    with pytest.raises(DeviceError, match=r"cuda:1 is one device; tensor_parallel_size=2"):
        InferenceEngine.from_pretrained("tiny", tensor_parallel_size=2, **{**OPTIONS, "device": "cuda:1"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="tensor_parallel_size=2; there are 1 CUDA devices"):
        InferenceEngine.from_pretrained("tiny", tensor_parallel_size=2, **{**OPTIONS, "device": "cuda"})


# --- tokens ---


def test_two_ranks_give_the_tokens_of_one_device(one, two):
    """Greedy and sampled, with penalties and n = 2, preempted, and again from the prefix cache."""
    prompts, params = prompts_of(1), params_of(6)
    for again in (False, True):
        outputs = [engine.generate(prompts, params, progress=False) for engine in (one, two)]
        assert tokens_of(outputs[0]) == tokens_of(outputs[1])
        assert sum(output.metrics.preemptions for output in outputs[1]) > 0
        cached = [[output.metrics.cached_tokens for output in each] for each in outputs]
        assert cached[0] == cached[1]
        assert any(cached[1]) or not again
    logprobs = [[told.logprob for told in each[5].logprobs] for each in outputs]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)


def test_drawn_seeds_are_rank_0s(two):
    """A request without a seed gets the same one on all ranks, and another one the next time."""
    params = SamplingParams(temperature=1.5, max_tokens=12)
    first, second = (two.generate([[5, 6, 7]], params, progress=False)[0].token_ids for _ in range(2))
    assert len(first) == len(second) == 12
    assert first != second


def test_aborted_requests_leave_and_others_go_on(one, two):
    prompts = prompts_of(2, count=3)
    params = SamplingParams(temperature=0.0, max_tokens=24)
    alone = one.generate(prompts[2], params, progress=False)[0]
    outputs = [two.add_request(str(at), prompt, params) for at, prompt in enumerate(prompts)]
    two.abort("0")
    for _ in range(5):
        two.step()
    two.abort("1")
    serve_to_the_end(two)
    assert [output.finish_reason for output in outputs] == ["abort", "abort", "length"]
    assert 0 < len(outputs[1].token_ids) < 24
    assert outputs[2].token_ids == alone.token_ids
    assert two.generate(prompts[:1], params, progress=False)[0].finish_reason == "length"


def test_rank_0s_tokens_count():
    """A rank whose logits are other ones, for whatever reason, goes the way of rank 0 all the same."""
    with InThreads() as ranks:
        follower = None
        while follower is None:
            follower = ranks.engines.get(1)
        honest = follower.model.paged
        follower.model.paged = lambda *args: honest(*args).neg()
        prompts, params = prompts_of(3, count=4), params_of(4, tokens=20)
        given = ranks.leader.generate(prompts, params, progress=False)
    alone = InferenceEngine.from_pretrained("tiny", **OPTIONS).generate(prompts, params, progress=False)
    assert tokens_of(given) == tokens_of(alone)
    assert ranks.raised is None


def test_an_interrupt_waits_for_the_step_and_loses_nothing(one, two):
    """As on one device: `generate` aborts its requests, and the engine goes on, on all ranks."""
    prompts, params = prompts_of(6, count=2), SamplingParams(temperature=0.0, max_tokens=20)
    honest, steps = two._launch, []

    def launch():
        steps.append(None)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return honest()

    two._launch = launch
    try:
        with pytest.raises(KeyboardInterrupt):
            two.generate(prompts, params, progress=False)
    finally:
        del two._launch
    assert not two.has_unfinished
    alone = one.generate(prompts, params, progress=False)
    assert tokens_of(two.generate(prompts, params, progress=False)) == tokens_of(alone)


# --- the channels ---


def test_long_and_short_commands_arrive_in_order():
    sent = [[("add", (list(range(size)),)), ("step", ())] for size in (0, 10, 1500, 100_000, 3)]
    heard = []

    def follows(engine):
        for _ in sent:
            heard.append(engine.ranks.told())
        engine.follow()

    with InThreads(follows) as ranks:
        for commands in sent:
            ranks.leader.ranks.tell(commands)
    assert heard == sent
    assert ranks.raised is None


def test_the_cache_is_as_large_as_the_smallest_device_allows(monkeypatch):
    monkeypatch.setattr(inference_engine, "blocks_that_fit", lambda model, *_, **__: 31 - model.shard.rank)
    with InThreads(num_blocks=None) as ranks:
        pass
    assert [ranks.engines[rank].cache.num_blocks for rank in (0, 1)] == [30, 30]


def test_followers_take_no_requests_and_leaders_do_not_follow():
    with InThreads() as ranks:
        with pytest.raises(ParallelError, match=r"rank 0 leads"):
            ranks.leader.follow()
        ranks.leader.generate([[1, 2]], progress=False)
        with pytest.raises(ParallelError, match=r"rank 1 takes no requests"):
            ranks.engines[1].add_request("a", [1, 2])
    with pytest.raises(ParallelError, match="closed"):
        ranks.leader.add_request("a", [1, 2])
    with pytest.raises(ParallelError, match="closed"):
        ranks.leader.step()


def test_a_stalled_engine_goes_on():
    """It stalls on all ranks alike: there is nothing that one of them does not know."""

    def stall_once(engine):
        honest = engine._launch

        def launch():
            engine._launch = honest
            raise StalledError("a test")

        engine._launch = launch

    def follows(engine):
        stall_once(engine)
        engine.follow()

    with InThreads(follows) as ranks:
        stall_once(ranks.leader)
        ranks.leader.add_request("a", [1, 2], SamplingParams(temperature=0.0, max_tokens=4))
        with pytest.raises(StalledError):
            ranks.leader.step()
        serve_to_the_end(ranks.leader)
        assert len(ranks.leader.generate([[1, 2]], progress=False)[0].token_ids) == 16
    assert ranks.raised is None


# --- failures ---


def test_a_rank_that_fails_ends_all():
    def follows(engine):
        engine.runner.launch = None  # the next step raises a TypeError
        engine.follow()

    with InThreads(follows) as ranks:
        began = time.monotonic()
        with pytest.raises(ParallelError, match="the engine has ended"):
            ranks.leader.generate(prompts_of(4), progress=False)
        assert time.monotonic() - began < 20
    assert isinstance(ranks.raised, ParallelError)
    assert isinstance(ranks.raised.__cause__, TypeError)


def test_a_killed_rank_is_named_within_seconds():
    engine = InferenceEngine.from_pretrained("tiny", tensor_parallel_size=2, **OPTIONS)
    (process_id,) = engine.ranks.processes.process_ids
    output = engine.add_request("a", [1, 2, 3], SamplingParams(max_tokens=200, ignore_eos=True))
    for _ in range(4):
        engine.step()
    os.kill(process_id, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(ParallelError, match="rank 1 ended with exit code -9"):
        serve_to_the_end(engine)
    assert time.monotonic() - began < 10
    assert len(output.token_ids) > 0
    assert gone(process_id)
    with pytest.raises(ParallelError, match="closed"):
        engine.step()
    engine.close()


def no_start(rank, reason):
    raise ValueError(reason)


def test_a_rank_that_cannot_start_is_named():
    processes = RankProcesses(2, no_start, ("of a test",))
    processes.await_start()
    assert processes.lost(grace_s=20.0) == "rank 1 ended with exit code 1: ValueError: of a test"
    processes.end(0.0)


def test_what_all_ranks_refuse_is_raised_as_on_one_device():
    before = set(multiprocessing.active_children())
    with pytest.raises(InvalidArgumentError, match="seed=-1"):
        InferenceEngine.from_pretrained("tiny", tensor_parallel_size=2, model_seed=-1, **OPTIONS)
    assert set(multiprocessing.active_children()) <= before


SERVES = """
    import os, sys, time
    from nano_batch.engine import InferenceEngine, SamplingParams

    def main():
        engine = InferenceEngine.from_pretrained(
            "tiny", device=sys.argv[1], load_format="dummy", num_blocks=24, max_num_seqs=6,
            tensor_parallel_size=2,
        )
        if not engine.leads:
            engine.follow()
        elif sys.argv[2] == "dies":
            print(engine.ranks.processes.process_ids, flush=True)
            engine.generate([[1, 2]], progress=False)
            os.kill(os.getpid(), 9)
        else:
            params = SamplingParams(temperature=0.7, seed=1, max_tokens=20)
            outputs = engine.generate([[7, 8], [9]], params, progress=False)
            print([output.token_ids for output in outputs], flush=True)
            # It ends without closing the engine.

    if __name__ == "__main__":
        main()
"""


def script(folder):
    path = folder / "serves.py"
    path.write_text(textwrap.dedent(SERVES))
    return str(path)


def said_by(command, timeout_s=90):
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=TWO_GPUS)])
def test_torchrun(tmp_path, one, device):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ran = said_by([*launcher, script(tmp_path), device, "ends"])
    assert ran.returncode == 0, ran.stderr
    if device == "cpu":
        params = SamplingParams(temperature=0.7, seed=1, max_tokens=20)
        alone = one.generate([[7, 8], [9]], params, progress=False)
        assert str([output.token_ids for output in alone]) in ran.stdout


def test_an_engine_that_nobody_holds_ends_its_ranks():
    engine = InferenceEngine.from_pretrained("tiny", tensor_parallel_size=2, **OPTIONS)
    (process_id,) = engine.ranks.processes.process_ids
    engine.add_request("a", [1, 2, 3])
    engine.step()
    del engine
    gc.collect()
    assert gone(process_id)


def test_ranks_end_when_rank_0_is_killed(tmp_path):
    ran = said_by([sys.executable, script(tmp_path), "cpu", "dies"])
    assert ran.returncode == -signal.SIGKILL
    process_ids = [int(each) for each in ran.stdout.strip().strip("[]").split(",")]
    assert len(process_ids) == 1
    assert all(gone(process_id) for process_id in process_ids)


# --- CUDA ---


@TWO_GPUS
@pytest.mark.parametrize("steps_in_flight", [0, 1])
@pytest.mark.parametrize("cuda_graphs", [False, None])
def test_two_gpus_give_the_tokens_of_one(steps_in_flight, cuda_graphs):
    options = {
        **OPTIONS, "device": "cuda", "dtype": torch.float32, "steps_in_flight": steps_in_flight,
        "cuda_graphs": cuda_graphs,
    }  # fmt: skip
    prompts, params = prompts_of(5), params_of(6)
    alone = InferenceEngine.from_pretrained("tiny", **options).generate(prompts, params, progress=False)
    with InferenceEngine.from_pretrained("tiny", tensor_parallel_size=2, **options) as engine:
        assert (engine.runner.decode_graphs is not None) == (cuda_graphs is None)
        assert tokens_of(engine.generate(prompts, params, progress=False)) == tokens_of(alone)


@TWO_GPUS
def test_a_killed_rank_is_named_within_seconds_on_gpus():
    options = {**OPTIONS, "device": "cuda", "dtype": torch.bfloat16, "num_blocks": 100}
    engine = InferenceEngine.from_pretrained("tiny", tensor_parallel_size=2, **options)
    (process_id,) = engine.ranks.processes.process_ids
    engine.add_request("a", [1, 2, 3], SamplingParams(max_tokens=200, ignore_eos=True))
    for _ in range(20):
        engine.step()
    os.kill(process_id, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(ParallelError, match="rank 1 ended with exit code -9"):
        serve_to_the_end(engine)
    assert time.monotonic() - began < 15
