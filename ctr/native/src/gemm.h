// Matrix products of the sizes that a click model has: hundreds of rows, tens to hundreds of columns.
//
// C = A B. B is packed into panels of PANEL columns ([k][PANEL], zero padded), A is read in place: row-major or
// transposed. A tile of C, TILE_VECTORS large, stays in registers while k runs, and the epilogue says what becomes of it.
// A may be read up to TILE_ROWS - 1 rows (columns, if transposed) beyond its end, which the caller's buffer must allow.
#pragma once

#include <algorithm>
#include <type_traits>

#include "vec.h"

namespace ctr {

constexpr int PANEL = PANEL_VECTORS * LANES;
constexpr int TILE_ROWS = 2 * TILE_VECTORS / PANEL_VECTORS;  // at most

inline std::size_t packed_size(int k, int n) { return std::size_t(k) * std::size_t(round_up(n, PANEL)); }

// Panel j of B [k, n], row-major.
inline void pack_rows(const float* b, std::ptrdiff_t ld, int k, int n, int j, float* packed) {
    float* out = packed + std::size_t(j) * std::size_t(k) * PANEL;
    const int left = n - j * PANEL;
    b += j * PANEL;
    for (int i = 0; i < k; ++i, b += ld, out += PANEL) {
        if (left >= PANEL) {
            std::memcpy(out, b, PANEL * sizeof(float));
        } else {
            std::memcpy(out, b, std::size_t(left) * sizeof(float));
            std::memset(out + left, 0, std::size_t(PANEL - left) * sizeof(float));
        }
    }
}

// Panel j of B = W^T, where W [n, k] is row-major.
inline void pack_columns(const float* w, std::ptrdiff_t ld, int k, int n, int j, float* packed) {
    float* out = packed + std::size_t(j) * std::size_t(k) * PANEL;
    for (int part = 0; part < PANEL; part += LANES) {
        const int first = j * PANEL + part, columns = std::clamp(n - first, 0, LANES);
        for (int i = 0; i < k; i += LANES) {
            const int count = k - i < LANES ? k - i : LANES;
            Vec block[LANES] = {};
            for (int c = 0; c < columns; ++c) block[c] = load(w + (first + c) * ld + i, count);
            transpose(block);
            for (int r = 0; r < count; ++r) store(out + (i + r) * PANEL + part, block[r]);
        }
    }
}

// `a` is row-major: row i starts at a + i * ld.
template <int rows, int vectors>
inline void multiply_rows(const float* a, std::ptrdiff_t ld, const float* panel, int k, Vec* tile) {
    static_assert(rows % 3 == 0);
    Vec c[rows][vectors] = {};
    const float* start[rows / 3];  // few enough for the address registers: the others are one or two ld away
    for (int q = 0; q < rows / 3; ++q) start[q] = a + 3 * q * ld;
    for (int i = 0; i < k; ++i, panel += PANEL) {
        Vec b[vectors];
        for (int v = 0; v < vectors; ++v) b[v] = load(panel + v * LANES);
#pragma GCC unroll 12
        for (int q = 0; q < rows / 3; ++q) {
#pragma GCC unroll 3
            for (int s = 0; s < 3; ++s) {
                const Vec x = splat(start[q][s * ld + i]);
                for (int v = 0; v < vectors; ++v) c[3 * q + s][v] = add_product(c[3 * q + s][v], x, b[v]);
            }
        }
    }
    std::memcpy(tile, c, sizeof c);
}

// `a` is transposed: element (i, k) is at a + k * ld + i.
template <int rows, int vectors>
inline void multiply_columns(const float* a, std::ptrdiff_t ld, const float* panel, int k, Vec* tile) {
    Vec c[rows][vectors] = {};
    for (int i = 0; i < k; ++i, panel += PANEL, a += ld) {
        Vec b[vectors];
        for (int v = 0; v < vectors; ++v) b[v] = load(panel + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; ++r) {
            const Vec x = splat(a[r]);
            for (int v = 0; v < vectors; ++v) c[r][v] = add_product(c[r][v], x, b[v]);
        }
    }
    std::memcpy(tile, c, sizeof c);
}

// `vectors` columns of vectors of C, from column j on.
template <bool transposed, int vectors, class Finish>
void gemm_columns(int m, int n, int k, const float* a, std::ptrdiff_t lda, const float* panel, int j, const Finish& finish) {
    constexpr int ROWS = TILE_VECTORS / vectors;
    Vec tile[ROWS][vectors];
    const auto multiply = [&](auto rows, int i) {
        if constexpr (transposed)
            multiply_columns<rows, vectors>(a + i, lda, panel, k, tile[0]);
        else
            multiply_rows<rows, vectors>(a + i * lda, lda, panel, k, tile[0]);
    };
    for (int i = 0; i < m; i += ROWS) {
        const int rows = m - i < ROWS ? m - i : ROWS;
        if (rows > ROWS / 2)
            multiply(std::integral_constant<int, ROWS>(), i);
        else
            multiply(std::integral_constant<int, ROWS / 2>(), i);
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < vectors; ++v) {
                const int left = n - j - v * LANES;
                if (left > 0) finish(i + r, j + v * LANES, tile[r][v], left < LANES ? left : LANES);
            }
    }
}

// Calls finish(row, column, values, count) for every row and every LANES columns of C; count of them exist.
template <bool transposed, class Finish>
void gemm(int m, int n, int k, const float* a, std::ptrdiff_t lda, const float* packed, const Finish& finish) {
    for (int j = 0; j < n; j += PANEL) {
        const float* panel = packed + std::size_t(j) * std::size_t(k);
        if (n - j > PANEL / 2)
            gemm_columns<transposed, PANEL_VECTORS>(m, n, k, a, lda, panel, j, finish);
        else
            gemm_columns<transposed, PANEL_VECTORS / 2>(m, n, k, a, lda, panel, j, finish);
    }
}

}  // namespace ctr
