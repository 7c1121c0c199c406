// Matrix products of the sizes that a click model has: hundreds of rows, tens to hundreds of columns.
//
// C = A B. B is packed into panels of PANEL columns ([k][PANEL], zero padded), A is read in place: row-major or
// transposed. A tile of TILE_ROWS x PANEL of C stays in registers while k runs, and the epilogue says what becomes of it.
// A may be read up to TILE_ROWS - 1 rows (columns, if transposed) beyond its end, which the caller's buffer must allow.
#pragma once

#include <algorithm>
#include <type_traits>

#include "vec.h"

namespace ctr {

constexpr int PANEL = 2 * LANES;

inline std::size_t packed_size(int k, int n) { return std::size_t(k) * std::size_t(round_up(n, PANEL)); }

// Panel j of B [k, n], row-major.
inline void pack_rows(const float* b, std::ptrdiff_t ld, int k, int n, int j, float* packed) {
    float* out = packed + std::size_t(j) * std::size_t(k) * PANEL;
    const int left = n - j * PANEL;
    b += j * PANEL;
    for (int i = 0; i < k; ++i, b += ld, out += PANEL) {
        if (left >= PANEL) {
            store(out, load(b));
            store(out + LANES, load(b + LANES));
        } else {
            std::memcpy(out, b, std::size_t(left) * sizeof(float));
            std::memset(out + left, 0, std::size_t(PANEL - left) * sizeof(float));
        }
    }
}

// Panel j of B = W^T, where W [n, k] is row-major.
inline void pack_columns(const float* w, std::ptrdiff_t ld, int k, int n, int j, float* packed) {
    float* out = packed + std::size_t(j) * std::size_t(k) * PANEL;
    for (int half = 0; half < 2; ++half) {
        const int first = j * PANEL + half * LANES, columns = std::clamp(n - first, 0, LANES);
        for (int i = 0; i < k; i += LANES) {
            const int count = k - i < LANES ? k - i : LANES;
            Vec block[LANES] = {};
            for (int c = 0; c < columns; ++c) block[c] = load(w + (first + c) * ld + i, count);
            transpose(block);
            for (int r = 0; r < count; ++r) store(out + (i + r) * PANEL + half * LANES, block[r]);
        }
    }
}

struct Tile {
    Vec at[TILE_ROWS][2];
};

// `a` is row-major: row i starts at a + i * ld.
template <int tile_rows>
inline void multiply_rows(const float* a, std::ptrdiff_t ld, const float* panel, int k, Tile& tile) {
    static_assert(tile_rows % 3 == 0);
    Vec c[tile_rows][2] = {};
    const float* rows[tile_rows / 3];  // few enough for the address registers: the others are one or two ld away
    for (int q = 0; q < tile_rows / 3; ++q) rows[q] = a + 3 * q * ld;
    for (int i = 0; i < k; ++i, panel += PANEL) {
        const Vec left = load(panel), right = load(panel + LANES);
#pragma GCC unroll 12
        for (int q = 0; q < tile_rows / 3; ++q) {
#pragma GCC unroll 3
            for (int s = 0; s < 3; ++s) {
                const Vec x = splat(rows[q][s * ld + i]);
                c[3 * q + s][0] += x * left;
                c[3 * q + s][1] += x * right;
            }
        }
    }
    std::memcpy(&tile, c, sizeof c);
}

// `a` is transposed: element (i, k) lies at a + k * ld + i.
template <int tile_rows>
inline void multiply_columns(const float* a, std::ptrdiff_t ld, const float* panel, int k, Tile& tile) {
    Vec c[tile_rows][2] = {};
    for (int i = 0; i < k; ++i, panel += PANEL, a += ld) {
        const Vec left = load(panel), right = load(panel + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < tile_rows; ++r) {
            const Vec x = splat(a[r]);
            c[r][0] += x * left;
            c[r][1] += x * right;
        }
    }
    std::memcpy(&tile, c, sizeof c);
}

// Calls finish(row, column, values, count) for every row and every LANES columns of C; count of them exist.
template <bool transposed, class Finish>
void gemm(int m, int n, int k, const float* a, std::ptrdiff_t lda, const float* packed, const Finish& finish) {
    Tile tile;
    const auto multiply = [&](auto tile_rows, int i, const float* panel) {
        if constexpr (transposed)
            multiply_columns<tile_rows>(a + i, lda, panel, k, tile);
        else
            multiply_rows<tile_rows>(a + i * lda, lda, panel, k, tile);
    };
    for (int j = 0; j < n; j += PANEL) {
        const float* panel = packed + std::size_t(j) * std::size_t(k);
        for (int i = 0; i < m; i += TILE_ROWS) {
            const int rows = m - i < TILE_ROWS ? m - i : TILE_ROWS;
            if (rows > TILE_ROWS / 2)
                multiply(std::integral_constant<int, TILE_ROWS>(), i, panel);
            else
                multiply(std::integral_constant<int, TILE_ROWS / 2>(), i, panel);
            for (int r = 0; r < rows; ++r)
                for (int h = 0; h < 2; ++h) {
                    const int left = n - j - h * LANES;
                    if (left > 0) finish(i + r, j + h * LANES, tile.at[r][h], left < LANES ? left : LANES);
                }
        }
    }
}

}  // namespace ctr
