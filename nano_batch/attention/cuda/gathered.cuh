// A warp's running softmax over tiles of a pair on tensor cores, whatever the way in which they come: what it multiplies keys
// with, and what it has gathered of their values.
//
// Before it come SLICES and OUTPUTS, products of 16 dimensions for a tile's scores and for the output, and Dimensions, which of
// them stand where: of a query a lane holds of_query(slice, lane) and the next one, and those PAIRS_APART further on; row
// lane / 4 of product `output` is of_output(output, lane), and row lane / 4 + 8 ROWS_APART further on.
#pragma once
#include "ptx.cuh"

#include "worker.cuh"

constexpr int COLUMNS = (HEADS + 7) / 8;  // matrices of 8 heads
constexpr bool BF16 = ELEMENT == 1 && !FP8;  // a float8 cache is multiplied as float16
constexpr bool QUERY_IN_SHARED = HEAD_DIM > 128 || FP8;  // where registers would not do
constexpr float LOG2_E = 1.4426950408889634f;

namespace {

// A pair's query heads as the second factor of the scores.
struct Query {
    unsigned registers[COLUMNS][QUERY_IN_SHARED ? 1 : SLICES][2];
    uint2* shared;             // the lane's own, 32 apart: [COLUMNS, SLICES]
    float factors[FP8 ? COLUMNS : 1][FP8 ? 2 : 1];

    // What the scores of column 2 (lane % 4), or of the next, still have to be multiplied by.
    __device__ __forceinline__ float factor(int column, int next) const {
        return FP8 ? factors[column][next] : factors[0][0];
    }

    // row: the pair's first query head; `heads` of them are real. unit: a factor of all scores.
    __device__ __forceinline__ void load(const Element* row, long long head_stride, int heads, float unit, int lane) {
        factors[0][0] = unit;
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
            const int head = column * 8 + lane / 4;
            const Element* at = row + head * head_stride;
            if constexpr (FP8) load_for_fp8(at, head < heads, unit, column, lane);
            else {
#pragma unroll
                for (int slice = 0; slice < SLICES; slice++) {
                    const int dim = Dimensions::of_query(slice, lane);
                    const auto* pairs = reinterpret_cast<const unsigned*>(at + dim);
                    const bool real = head < heads && dim < HEAD_DIM;
                    set(column, slice, real ? pairs[0] : 0, real ? pairs[Dimensions::PAIRS_APART / 2] : 0);
                }
            }
        }
    }
    __device__ __forceinline__ void get(unsigned (&b)[2], int column, int slice) const {
        if constexpr (QUERY_IN_SHARED) {
            const uint2 both = shared[(column * SLICES + slice) * 32];
            b[0] = both.x, b[1] = both.y;
        } else b[0] = registers[column][slice][0], b[1] = registers[column][slice][1];
    }

  private:
    __device__ __forceinline__ void set(int column, int slice, unsigned first, unsigned second) {
        if constexpr (QUERY_IN_SHARED) shared[(column * SLICES + slice) * 32] = make_uint2(first, second);
        else registers[column][slice][0] = first, registers[column][slice][1] = second;
    }
    // As float16, scaled by a power of two so that no number is too large for it.
    __device__ __forceinline__ void load_for_fp8(const Element* at, bool real, float unit, int column, int lane) {
        uint2 numbers[SLICES];  // four elements each
        float most = 0;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            const int dim = Dimensions::of_query(slice, lane);
            const auto* pairs = reinterpret_cast<const unsigned*>(at + dim);
            numbers[slice] = real && dim < HEAD_DIM ? make_uint2(pairs[0], pairs[1]) : make_uint2(0, 0);
            const float2 first = floats_of(numbers[slice].x), second = floats_of(numbers[slice].y);
            most = fmaxf(fmaxf(most, fmaxf(fabsf(first.x), fabsf(first.y))), fmaxf(fabsf(second.x), fabsf(second.y)));
        }
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        const int exponent = most > 0 ? min(max(ilogbf(most), -126), 126) : 0;
        const float down = ldexpf(1.0f, -exponent), up = ldexpf(unit, exponent);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            const float2 first = floats_of(numbers[slice].x), second = floats_of(numbers[slice].y);
            set(column, slice, pack<false>(first.x * down, first.y * down), pack<false>(second.x * down, second.y * down));
        }
        factors[column][0] = __shfl_sync(~0u, up, lane % 4 * 8);
        factors[column][1] = __shfl_sync(~0u, up, lane % 4 * 8 + 4);
    }
};

// All queries, with their strides in elements.
struct Queries {
    const Element* data;
    long long row, head;
    float scale;
    Scales key_scale;

    // Those of a pair.
    __device__ __forceinline__ void load(Query& to, const Cursor& pair, int lane) const {
        to.load(data + pair.row * row + first_query_head(pair.head) * head, head, query_heads(pair.head),
                scale * key_scale.at(pair.head), lane);
    }
};

// What a warp has gathered of a pair. Of each number in a lane's registers the head is 8 column + 2 (lane % 4), or
// the next one for odd places; rows are tokens or dimensions, lane / 4 and 8 more for the last two places.
struct Gathered {
    float output[COLUMNS][OUTPUTS][4];
    float largest[COLUMNS][2];  // of all scores so far, in powers of two
    float total[COLUMNS][2];    // of the weights of this lane's tokens

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
#pragma unroll
            for (int i = 0; i < 2; i++) largest[column][i] = NOTHING, total[column][i] = 0;
#pragma unroll
            for (int tile = 0; tile < OUTPUTS; tile++)
#pragma unroll
                for (int i = 0; i < 4; i++) output[column][tile][i] = 0;
        }
    }

    // From scores to weights, as the second factor of the output; `low` to `high` - 1 are the tokens that are seen.
    __device__ __forceinline__ void weigh(unsigned (&weight)[COLUMNS][2], float (&score)[COLUMNS][4],
                                          const Query& query, float soft_cap, int low, int high, int lane) {
        const bool partly = low > 0 || high < TILE;
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
            float most[2] = {NOTHING, NOTHING};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float& at = score[column][i];
                const float product = at * query.factor(column, i % 2);
                at = SOFT_CAP ? soft_cap * LOG2_E * tanhf(product / soft_cap) : product * LOG2_E;
                const int token = i / 2 * 8 + lane / 4;
                if (partly && (token < low || token >= high)) at = NOTHING;
                most[i % 2] = fmaxf(most[i % 2], at);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int step = 4; step < 32; step *= 2) most[i] = fmaxf(most[i], __shfl_xor_sync(~0u, most[i], step));
                most[i] = fmaxf(most[i], largest[column][i]);  // finite: a tile has a token that is seen
            }
            if (__any_sync(~0u, most[0] > largest[column][0] || most[1] > largest[column][1])) {
                const float keep[2] = {ptx::exp2(largest[column][0] - most[0]), ptx::exp2(largest[column][1] - most[1])};
#pragma unroll
                for (int tile = 0; tile < OUTPUTS; tile++)
#pragma unroll
                    for (int i = 0; i < 4; i++) output[column][tile][i] *= keep[i % 2];
#pragma unroll
                for (int i = 0; i < 2; i++) total[column][i] *= keep[i], largest[column][i] = most[i];
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float* at = &score[column][half * 2];
#pragma unroll
                for (int i = 0; i < 2; i++) total[column][i] += at[i] = ptx::exp2(at[i] - largest[column][i]);
                weight[column][half] = ptx::transpose(pack<BF16>(at[0], at[1]));
            }
        }
    }

    __device__ __forceinline__ void store(WarpSums& sums, int warp, int lane) const {
#pragma unroll
        for (int column = 0; column < COLUMNS; column++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float sum = total[column][i];
#pragma unroll
                for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
                const int head = column * 8 + lane % 4 * 2 + i;
                if (head >= HEADS) continue;
                if (lane < 4) sums.largest[warp][head] = largest[column][i], sums.total[warp][head] = sum;
#pragma unroll
                for (int tile = 0; tile < OUTPUTS; tile++) {
                    const int dim = Dimensions::of_output(tile, lane);
                    if (dim >= HEAD_DIM) continue;
                    float* const to = &sums.value[warp][head][dim];
                    const float2 both = make_float2(output[column][tile][i], output[column][tile][2 + i]);
                    if constexpr (Dimensions::ROWS_APART == 1) *reinterpret_cast<float2*>(to) = both;
                    else to[0] = both.x, to[Dimensions::ROWS_APART] = both.y;
                }
            }
    }
};

}  // namespace
