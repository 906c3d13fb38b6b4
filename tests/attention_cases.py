"""Random sequences in a paged cache, and what attention over them must be: for every backend and device.

All that no query may see is NaN or out of range: blocks of no table, slots past a context or before a window,
table entries that nobody reads, and (on CUDA) the memory that the output will get.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from nano_batch.attention import (
    DecodePlan,
    PrefillPlan,
    dense_attention,
    paged_attention_fwd,
    paged_attention_prefill,
    paged_attention_writing,
)
from nano_batch.attention.cuda.prefill_kernel import prefill_by_kernel
from nano_batch.attention.fp8 import QUANTISED, as_bits, quantised
from nano_batch.attention.rope import Rope, rope_tables, rotated
from nano_batch.kv_cache import KVCache

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 3e-3}
"""Most norm of the difference over norm of the reference, of one sequence, by the query's dtype."""
QUANTISED_LIMIT = 5e-2
"""The same against keys and values before they were quantised, over many heads of the usual scale."""
HEAD_DIMS = (8, 12, 64, 80, 96, 128, 256)
E4M3_NAN = 0x7F


class Case:
    """Rows of a batch with their contexts and queries (the last positions of the context)."""

    def __init__(self, seed, contexts, queries, *, block_size=4, kv_heads=2, group=2, head_dim=8, window=None,
                 dtype=torch.float32, layout="NHD", scale=None, soft_cap=None, fp8=False, per_head=True,
                 integers=torch.int32, unaligned=False, device="cpu"):  # fmt: skip
        self.rng = torch.Generator(device).manual_seed(seed)
        self.device, self.dtype, self.fp8 = torch.device(device), dtype, fp8
        self.window, self.scale, self.soft_cap, self.block_size = window, scale, soft_cap, block_size
        self.contexts, self.queries, self.integers = contexts, queries, integers
        self.columns = max([-(-context // block_size) for context in contexts], default=0) + 1
        self.num_blocks = sum(-(-context // block_size) for context in contexts) + 3
        self.scales = self.draw_scales(kv_heads, per_head) if fp8 else (None, None)
        self.cache = KVCache(
            self.num_blocks, block_size, kv_heads, head_dim, QUANTISED if fp8 else dtype, device,
            layout=layout, key_scale=self.scales[0], value_scale=self.scales[1],
        )  # fmt: skip
        self.views = self.cache.layer(0)
        for view in self.views:
            as_bits(view).fill_(E4M3_NAN if fp8 else float("nan"))
        shape = (kv_heads, head_dim)
        self.given = [[self.draw(context, *shape) for context in contexts] for _ in self.views]
        self.stored = [
            [quantised(one, scale) if fp8 else one for one in rows]
            for rows, scale in zip(self.given, self.scales, strict=True)
        ]
        self.query = self.draw(sum(queries), kv_heads * group, head_dim)
        self.table = self.place()
        if unaligned:
            self.query, *self.views = (off_by_one(tensor) for tensor in (self.query, *self.views))

    def draw(self, *shape):
        exact = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.randn(shape, generator=self.rng, dtype=exact, device=self.device).to(self.dtype)

    def draw_scales(self, kv_heads, per_head):
        """Between a scale at which the largest of these numbers just fits, and a few times that."""
        drawn = torch.rand(2, kv_heads, generator=self.rng, device=self.device) * 0.06 + 0.0125
        return drawn.unbind(0) if per_head else (float(drawn[0, 0]), float(drawn[1, 0]))

    def first_seen(self, row):
        first_query = self.contexts[row] - self.queries[row]
        return 0 if self.window is None else max(0, first_query - self.window + 1)

    def place(self):
        """Put what the queries see in random blocks; table entries that nobody sees hold nonsense."""
        host = torch.Generator().manual_seed(self.rng.initial_seed())
        free = torch.randperm(self.num_blocks, generator=host).tolist()
        nonsense = torch.tensor([-1, self.num_blocks, 10**6, 0])
        table = nonsense[torch.randint(4, (len(self.contexts), self.columns), generator=host)]
        for row, context in enumerate(self.contexts):
            if context == 0 or self.queries[row] == 0:
                continue
            first = self.first_seen(row)
            for column in range(first // self.block_size, (context - 1) // self.block_size + 1):
                table[row, column] = free.pop()
            seen = torch.arange(first, context)
            where = (table[row, seen // self.block_size].to(self.device),
                     (seen % self.block_size).to(self.device))  # fmt: skip
            for view, rows in zip(self.views, self.stored, strict=True):
                as_bits(view)[where] = as_bits(rows[row][first:])
        return table.to(self.device, self.integers)

    def read(self, kind, row):
        """Keys (0) or values (1) of a row as attention must read them, in float64."""
        stored, scale = self.stored[kind][row].double(), self.scales[kind]
        if scale is None:
            return stored
        return stored * (scale.double()[:, None] if isinstance(scale, torch.Tensor) else scale)

    def dense(self, *, quantised=True):
        """A float64 result for each row; over the unquantised keys and values if asked."""
        rows = []
        for row, query in enumerate(self.query.split(self.queries)):
            if self.contexts[row] == 0:
                rows.append(torch.zeros_like(query, dtype=torch.float64))
                continue
            keys, values = (self.read(kind, row) if quantised else self.given[kind][row] for kind in range(2))
            rows.append(
                dense_attention(query, keys, values, scale=self.scale, sliding_window=self.window,
                                soft_cap=self.soft_cap)
            )  # fmt: skip
        return rows

    def lens(self):
        return torch.tensor(self.contexts, dtype=self.integers, device=self.device)

    def starts(self):
        return torch.tensor([0, *self.queries], device=self.device).cumsum(0).to(torch.int32)

    def prefill_plan(self, **known):
        return PrefillPlan(self.starts(), self.lens(), self.table, self.block_size,
                           sliding_window=self.window, **known)  # fmt: skip

    def prefill_by_kernel(self):
        """Of the plan, on a device or in its stead."""
        scale = self.scale or self.query.shape[2] ** -0.5
        return prefill_by_kernel(self.query, *self.views, self.prefill_plan(), scale)

    def rope(self):
        """The turns of all queries' positions."""
        pairs = zip(self.contexts, self.queries, strict=True)
        positions = [torch.arange(context - count, context) for context, count in pairs]
        longest = max(self.contexts, default=0) + 1
        return Rope(
            torch.cat([torch.zeros(0, dtype=torch.int64), *positions]).clamp(min=0).to(self.device),
            *rope_tables(longest, self.query.shape[2], device=self.device),
        )

    def turned(self, first):
        """The queries, of which those from token `first` on are turned."""
        rope, query = self.rope(), self.query.clone()
        query[first:] = rotated(query, rope.positions, rope.cosines, rope.sines)[first:].to(query.dtype)
        return query

    def prefill_turning(self, first=0):
        """By the kernel, which turns queries; from then on the case's are what it turned them to."""
        rope, query, scale = self.rope(), self.query, self.scale or self.query.shape[2] ** -0.5
        self.query = self.turned(first)
        return prefill_by_kernel(query, *self.views, self.prefill_plan(), scale, rope, first)

    def options(self):
        return {"scale": self.scale, "sliding_window": self.window, "soft_cap": self.soft_cap,
                "key_scale": self.scales[0], "value_scale": self.scales[1]}  # fmt: skip

    def decode(self, **options):
        assert set(self.queries) <= {1}
        self.poison()
        output = paged_attention_fwd(
            self.query.unsqueeze(2), *self.views, self.table, self.lens(), self.block_size,
            **self.options(), **options,
        )  # fmt: skip
        assert output.shape == (len(self.contexts), *self.query.shape[1:2], 1, self.query.shape[2])
        return output.squeeze(2)

    def plan(self, settled=False):
        """Updated, of the CUDA kernels."""
        made = DecodePlan(
            self.query,
            *self.views,
            self.table,
            sliding_window=self.window,
            soft_cap=self.soft_cap,
            settled=settled,
        )
        made.update(self.lens())
        return made

    def prefill(self, **options):
        self.poison()
        return paged_attention_prefill(
            self.query, *self.views, self.table, self.lens(), self.starts(), self.block_size,
            **self.options(), **options,
        )  # fmt: skip

    def poison(self):
        """Leave NaN in the memory that the next allocations of the output's size are given."""
        if self.device.type == "cuda":
            kept = [torch.full_like(self.query, float("nan")) for _ in range(4)]
            del kept

    def check(self, output):
        assert output.dtype == self.query.dtype
        assert output.shape == self.query.shape
        self.hold(output, self.dense(), LIMITS[self.query.dtype])

    def check_against_unquantised(self, output):
        assert self.fp8
        self.hold(output, self.dense(quantised=False), QUANTISED_LIMIT)

    def hold(self, output, expected, limit):
        for row, (left, right) in enumerate(zip(output.split(self.queries), expected, strict=True)):
            difference, norm = (left.double() - right).norm(), right.norm()
            assert difference <= limit * norm, f"row {row}: {difference / norm:.2e} exceeds {limit}"

    def __repr__(self):
        return (
            f"Case(contexts={self.contexts}, queries={self.queries}, block_size={self.block_size}, "
            f"query={list(self.query.shape)}, kv_heads={self.cache.num_kv_heads}, dtype={self.dtype}, "
            f"fp8={self.fp8}, layout={self.cache.layout}, window={self.window}, scale={self.scale}, "
            f"soft_cap={self.soft_cap})"
        )


def off_by_one(tensor):
    """The same rows an odd number of elements apart, the first one element into its memory."""
    bits = as_bits(tensor)
    wide = bits.new_empty(*bits.shape[:-1], (bits.shape[-1] + 1) | 1)
    wide[..., 1 : 1 + bits.shape[-1]] = bits
    return wide[..., 1 : 1 + bits.shape[-1]].view(tensor.dtype)


@st.composite
def cases(draw, *, prefill=False, device="cpu", dtypes=tuple(LIMITS), head_dims=HEAD_DIMS,
          most_context=80, most_group=16, soft_caps=True, quantised=True):  # fmt: skip
    """Batches of up to five rows: mostly short contexts, some as long as `most_context`."""
    lengths = st.one_of(st.integers(0, 20), st.integers(0, 80), st.integers(0, most_context))
    contexts = draw(st.lists(lengths, max_size=5))
    queries = [draw(st.integers(0, context)) if prefill and context else 1 for context in contexts]
    dtype = draw(st.sampled_from(dtypes))
    head_dim = draw(st.sampled_from(head_dims))
    scale = draw(st.one_of(st.none(), st.floats(0.1, 2), st.floats(-2, -0.1)))
    return Case(
        draw(st.integers(0, 2**32)), contexts, queries, device=device, dtype=dtype, head_dim=head_dim,
        block_size=draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 32, 64, 100, 128, 256]))),
        kv_heads=draw(st.integers(1, 3)), group=draw(st.integers(1, most_group)),
        window=draw(st.one_of(st.none(), st.integers(1, 45), st.integers(1, most_context))),
        layout=draw(st.sampled_from(["NHD", "HND"])),
        scale=None if scale is None else scale / head_dim**0.5,
        soft_cap=draw(st.one_of(st.none(), st.floats(0.5, 50))) if soft_caps else None,
        fp8=quantised and draw(st.booleans()), per_head=draw(st.booleans()),
    )  # fmt: skip


def check_turning(case, first):
    """The kernel for prompts turns the queries from token `first` on, as they would be before it."""
    arguments = *case.views, case.prefill_plan(), case.scale or 0.1
    given, expected = case.query.clone(), prefill_by_kernel(case.turned(first), *arguments)
    assert torch.equal(prefill_by_kernel(case.query, *arguments, case.rope(), first), expected)
    assert torch.equal(case.query, given)


def check_writing(case, reference, under_test, left=()):
    """`paged_attention_writing` beside writing, then attending by the same kernel: bit for bit the same.

    `reference` and `under_test` are contexts in which each is called; rows in `left` have length -1.
    """
    rows, heads, size = len(case.contexts), case.views[0].shape[2], case.query.shape[-1]
    # Rows lie apart, as in a product of which keys and values are a part.
    keys, values = (case.draw(rows, heads, 2 * size)[..., :size] for _ in range(2))
    rope = Rope(
        (case.lens() - 1).clamp(min=0).long(),
        *rope_tables(max(case.contexts, default=0) + 1, size, device=case.device),
    )
    slots = torch.full((rows,), -1, dtype=torch.int64)
    lens = case.lens()
    for row, context in enumerate(case.contexts):
        if row in left:
            lens[row] = -1
        elif context:
            column, offset = divmod(context - 1, case.block_size)
            block = int(case.table[row, column])
            slots[row] = block * case.block_size + offset
            for view in case.views:
                view[block, offset] = float("nan")
    before, query = [view.clone() for view in case.views], case.query.clone()
    options = {"sliding_window": case.window, "soft_cap": case.soft_cap}
    results = []
    for context, writes in ((reference, False), (under_test, True)):
        for view, old in zip(case.views, before, strict=True):
            view.copy_(old)
        with context:
            made = DecodePlan(case.query, *case.views, case.table, settled=True, **options)
            made.update(lens)
            given = case.table, lens
            if writes:
                output = paged_attention_writing(
                    case.query, keys, values, rope, *case.views, *given, made, scale=case.scale, **options
                )
                assert torch.equal(case.query, query)
            else:
                turned = case.query.clone()
                case.cache.write_kv(keys, values, slots, rope=rope, query=turned)
                output = paged_attention_fwd(
                    turned.unsqueeze(2), *case.views, *given, case.block_size, scale=case.scale, plan=made,
                    validate=False, **options,
                ).squeeze(2)  # fmt: skip
        results.append((output, [view.clone().view(torch.int16) for view in case.views]))
    (wanted, caches), (got, written) = results
    here = [row for row in range(rows) if row not in left]
    assert got[here].isfinite().all()
    assert torch.equal(got[here], wanted[here])
    for one, other in zip(caches, written, strict=True):
        assert torch.equal(one, other)
