// SIMD through the compiler's vector types: one source for AVX-512, AVX2, SSE and NEON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif

namespace ctr {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_VECTORS = 24, PANEL_VECTORS = 4;  // 24 of 32 registers accumulate
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE_VECTORS = 12, PANEL_VECTORS = 2;  // 12 of 16
#else
constexpr int LANES = 4, TILE_VECTORS = 12, PANEL_VECTORS = 2;
#endif

// Any address will do: rows of a table and columns of a batch start where they start.
typedef float Vec __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

// The first `count` lanes alone: the others read as zero and are not written.
inline Vec load(const float* p, int count) {
    if (count == LANES) return load(p);
#if defined(__AVX512F__)
    return Vec(_mm512_maskz_loadu_ps(__mmask16((1U << count) - 1), p));
#else
    Vec v = {};
    std::memcpy(&v, p, std::size_t(count) * sizeof(float));
    return v;
#endif
}

inline void store(float* p, Vec v, int count) {
    if (count == LANES) return store(p, v);
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, __mmask16((1U << count) - 1), __m512(v));
#else
    std::memcpy(p, &v, std::size_t(count) * sizeof(float));
#endif
}

// body(c, count) for every LANES columns of n.
template <class Body>
inline void each(int n, const Body& body) {
    int c = 0;
    for (; c + LANES <= n; c += LANES) body(c, LANES);
    if (c < n) body(c, n - c);
}

inline Vec splat(float x) { return x - Vec{}; }  // unlike x + 0, x - 0 is x for -0 too and costs nothing

// x * y + sum, rounded once where the processor can. Left to the compiler it is fused in one loop and not in another (GCC
// for Zen 3), and sums that are to have the same bits differ.
inline Vec add_product(Vec sum, Vec x, Vec y) {
#if defined(__AVX512F__)
    return Vec(_mm512_fmadd_ps(__m512(x), __m512(y), __m512(sum)));
#elif defined(__FMA__) && defined(__AVX2__)
    return Vec(_mm256_fmadd_ps(__m256(x), __m256(y), __m256(sum)));
#else
    return sum + x * y;
#endif
}

inline float sum(Vec v) {
    float part[LANES];
    store(part, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) part[i] += part[i + half];
    return part[0];
}

typedef std::int32_t IntVec __attribute__((vector_size(sizeof(Vec))));

// Writes the lanes that are not 0, and beside them `first` + lane * `step`, and returns how many these are. A whole vector is
// written: what is beyond the count has no meaning.
inline int compress(Vec v, std::int32_t first, std::int32_t step, float* value, std::int32_t* at) {
#if defined(__AVX512F__)
    const __mmask16 mask = _mm512_cmp_ps_mask(__m512(v), _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i place = _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(step)), _mm512_set1_epi32(first));
    _mm512_storeu_ps(value, _mm512_maskz_compress_ps(mask, __m512(v)));
    _mm512_storeu_si512(at, _mm512_maskz_compress_epi32(mask, place));
    return __builtin_popcount(mask);
#else
    int count = 0;
    for (int i = 0; i < LANES; ++i) {
        value[count] = v[i];
        at[count] = first + i * step;
        count += v[i] != 0;
    }
    return count;
#endif
}

// Exchanges the blocks of `half` x `half` beside the diagonal, for half = 1, 2, 4 ...
template <int half>
inline void transpose_blocks(Vec* block) {
    IntVec low, high;
    for (int i = 0; i < LANES; ++i) {
        low[i] = i & half ? i - half + LANES : i;
        high[i] = i & half ? i + LANES : i + half;
    }
    for (int i = 0; i < LANES; ++i) {
        if (i & half) continue;
        const Vec a = block[i], b = block[i + half];
        block[i] = __builtin_shuffle(a, b, low);
        block[i + half] = __builtin_shuffle(a, b, high);
    }
    if constexpr (2 * half < LANES) transpose_blocks<2 * half>(block);
}

// block [LANES][LANES], in place.
inline void transpose(Vec* block) { transpose_blocks<1>(block); }

// Floats that begin with a cache line: a load across two lines costs two.
template <class T>
struct CacheLines {
    using value_type = T;
    static constexpr std::align_val_t LINE{64};
    CacheLines() = default;
    template <class U>
    CacheLines(const CacheLines<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), LINE)); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, LINE); }
    bool operator==(const CacheLines&) const { return true; }
};
using Floats = std::vector<float, CacheLines<float>>;

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

}  // namespace ctr
