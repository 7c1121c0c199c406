// Products with the activations of a ReLU, most of which are 0: half by the ReLU, half of those again by dropout.
//
// A is turned into lists of what is not 0 in each of its rows, B is packed into panels as in gemm.h. The sum of an element
// runs over the same k in the same order in one chain, and a product with 0 adds nothing: the result is gemm()'s to the
// last bit, so that which of both is taken is a matter of speed alone.
#pragma once

#include <cstdint>
#include <vector>

#include "gemm.h"

namespace ctr {

// The lists of A [m, k], cut at every DEPTH columns: as many rows of a panel stay in the first-level cache.
struct Lists {
    static constexpr int DEPTH = 128, ROOM = DEPTH + LANES;  // a list is written a vector at a time
    // Per cent of A above which gemm() is faster for n columns: with more of them the lists serve more products. Without
    // instructions that compress a vector it always is.
    static int most(int n) { return LANES == 16 ? 60 - 30 * PANEL / round_up(std::max(n, 1), PANEL) : 0; }

    int m = 0, k = 0;
    Floats value;                      // [blocks, m, ROOM]
    std::vector<std::int32_t> at;      // where the row of B is in a panel,  from the block's first on
    std::vector<std::int32_t> length;  // [blocks, m]
    Floats partial;                  // [m, PANEL], sums between two blocks

    // A is row-major, or transposed: element (i, k) is at a + k * ld + i.
    template <bool transposed>
    void fill(const float* a, std::ptrdiff_t ld, int height, int width);

  private:
    void append(std::size_t list, Vec v, int first) {
        const std::size_t end = list * ROOM + std::size_t(length[list]);
        length[list] += compress(v, first * PANEL, PANEL, &value[end], &at[end]);
    }
};

// Whether so much of A [m, k], row-major, is 0 that lists pay: by a few of its rows, for it decides about speed alone.
inline bool mostly_zero(const float* a, std::ptrdiff_t ld, int m, int k, int n) {
    if (!Lists::most(n)) return false;
    const int step = std::max(m / 8, 1);
    int seen = 0, not_zero = 0;
    for (int r = 0; r < m; r += step, seen += k)
        for (int c = 0; c < k; ++c) not_zero += a[r * ld + c] != 0;
    return std::int64_t(not_zero) * 100 <= std::int64_t(seen) * Lists::most(n);
}

template <bool transposed>
void Lists::fill(const float* a, std::ptrdiff_t ld, int height, int width) {
    m = height, k = width;
    const std::size_t lists = std::size_t((k + DEPTH - 1) / DEPTH) * std::size_t(m);
    if (length.size() < lists) {
        value.resize(lists * ROOM);
        at.resize(lists * ROOM);
        length.resize(lists);
    }
    if (partial.size() < std::size_t(m) * PANEL) partial.resize(std::size_t(m) * PANEL);
    std::fill_n(length.begin(), lists, 0);
    std::size_t list = 0;
    for (int block = 0; block < k; block += DEPTH, list += std::size_t(m)) {
        const int depth = k - block < DEPTH ? k - block : DEPTH;
        if constexpr (transposed) {
            for (int i = 0; i < m; i += LANES) {
                const int wide = m - i < LANES ? m - i : LANES;
                for (int c = 0; c < depth; c += LANES) {
                    const int high = depth - c < LANES ? depth - c : LANES;
                    Vec square[LANES] = {};
                    for (int r = 0; r < high; ++r) square[r] = load(a + (block + c + r) * ld + i, wide);
                    transpose(square);
                    for (int r = 0; r < wide; ++r) append(list + std::size_t(i + r), square[r], c);
                }
            }
        } else {
            for (int i = 0; i < m; ++i)
                each(depth, [&](int c, int n) { append(list + std::size_t(i), load(a + i * ld + block + c, n), c); });
        }
    }
}

// `vectors` columns of vectors of C, from column j on.
template <int vectors, class Finish>
void gemm_columns(Lists& a, int n, const float* panel, int j, const Finish& finish) {
    std::size_t list = 0;
    for (int block = 0; block < a.k; block += Lists::DEPTH, panel += Lists::DEPTH * PANEL) {
        for (int r = 0; r < a.m; ++r, ++list) {
            float* partial = a.partial.data() + std::ptrdiff_t(r) * PANEL;
            Vec c[vectors] = {};
            if (block) std::memcpy(c, partial, sizeof c);
            const float* value = &a.value[list * Lists::ROOM];
            const std::int32_t* at = &a.at[list * Lists::ROOM];
            for (int i = 0, length = a.length[list]; i < length; ++i) {
                const Vec x = splat(value[i]);
                for (int v = 0; v < vectors; ++v) c[v] = add_product(c[v], x, load(panel + at[i] + v * LANES));
            }
            if (block + Lists::DEPTH < a.k) {
                std::memcpy(partial, c, sizeof c);
                continue;
            }
            for (int v = 0; v < vectors; ++v) {
                const int left = n - j - v * LANES;
                if (left > 0) finish(r, j + v * LANES, c[v], left < LANES ? left : LANES);
            }
        }
    }
}

// As gemm() in gemm.h: finish(row, column, values, count) for every row and every LANES columns of C = A B.
template <class Finish>
void gemm(Lists& a, int n, const float* packed, const Finish& finish) {
    for (int j = 0; j < n; j += PANEL) {
        const float* panel = packed + std::size_t(j) * std::size_t(a.k);
        if (n - j > PANEL / 2)
            gemm_columns<PANEL_VECTORS>(a, n, panel, j, finish);
        else
            gemm_columns<PANEL_VECTORS / 2>(a, n, panel, j, finish);
    }
}

}  // namespace ctr
