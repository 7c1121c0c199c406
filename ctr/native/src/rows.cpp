#include "rows.h"

#include "vec.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

namespace ctr {

namespace {

constexpr int AHEAD = 32;  // rows fetched before they are needed: memory answers many at a time

float* row_of(const Table& table, std::int32_t id) { return table.data + std::ptrdiff_t(id) * table.stride; }

void prefetch(const float* row, int floats) {
    const std::uintptr_t first = std::uintptr_t(row) & ~std::uintptr_t(63), end = std::uintptr_t(row + floats);
    for (std::uintptr_t line = first; line < end; line += 64) __builtin_prefetch(reinterpret_cast<const void*>(line), 1);
}

// Calls run with the dim as a constant: the paper's sizes unrolled, 0 for all others, which go in a loop.
template <class Run>
void with_dim(int dim, const Run& run) {
    switch (dim) {
        case 4: return run(std::integral_constant<int, 4>());
        case 8: return run(std::integral_constant<int, 8>());
        case 10: return run(std::integral_constant<int, 10>());
        case 16: return run(std::integral_constant<int, 16>());
        case 32: return run(std::integral_constant<int, 32>());
        default: return run(std::integral_constant<int, 0>());
    }
}

// As torch clamps a gradient: +-FLT_MAX^0.375, so that no square overflows.
constexpr float BOUND = 2.8147497e14F;

// D at most, as in torch: D w does not overflow then, nor does a gradient divided by D underflow.
constexpr float LARGEST = FLT_MAX * FLT_EPSILON;

template <int fixed>
float norm_of(const float* s, int dim) {
    float part[4] = {};
    for (int i = 0; i < dim; ++i) part[i % 4] += s[i] * s[i];
    return std::clamp(std::sqrt((part[0] + part[1]) + (part[2] + part[3])), FLT_MIN, FLT_MAX);
}

// A stretch of `count` numbers of a row, in one vector. Nothing is masked, and what is loaded is what was stored: else the
// processor waits for the stores.
template <int count>
struct Stretch {
    typedef float Floats __attribute__((vector_size(count * sizeof(float))));

    static Floats load(const float* p) {
        Floats v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }
    static Floats splat(float x) { return x - Floats{}; }
    static Floats at_least(Floats v, float bound) { return v < bound ? splat(bound) : v; }
    static Floats at_most(Floats v, float bound) { return v > bound ? splat(bound) : v; }
    static Floats root(Floats v) {
        float part[count];
        store(part, v);
        for (float& x : part) x = std::sqrt(x);
        return load(part);
    }
};

// body(Stretch, its place) for all of a row, the longest stretches first.
template <class Body>
void stretches(int dim, const Body& body) {
    int c = 0;
    if constexpr (LANES == 16)
        for (; c + 16 <= dim; c += 16) body(Stretch<16>(), c);
    if constexpr (LANES >= 8)
        for (; c + 8 <= dim; c += 8) body(Stretch<8>(), c);
    for (; c + 4 <= dim; c += 4) body(Stretch<4>(), c);
    if (c + 2 <= dim) body(Stretch<2>(), c), c += 2;
    if (c < dim) body(Stretch<1>(), c);
}

// Algorithm 1 of the paper on one row; ctr/optim/core.py has it with its reasons, and the same order of operations.
// Returns the norm that decides about the row where there is a penalty or it is counted, else 0.
template <int fixed, Rule rule>
float update(float* __restrict row, const float* __restrict g, int dim_, const RowOptions& o) {
    const int dim = fixed ? fixed : dim_;
    constexpr int room = fixed ? fixed : 512;
    float *w = row, *u = row + dim, *m = row + 2 * dim, *v = row + (rule == ADAM ? 3 : 2) * dim;
    float D[room], pull[room];
    stretches(dim, [&](auto s, int c) {
        const auto gradient = s.at_most(s.at_least(s.load(g + c), -BOUND), BOUND);
        auto moment = gradient, second = s.load(v + c);
        if constexpr (rule == ADAM) {
            auto mean = s.load(m + c);
            mean += o.one_minus_beta1 * (gradient - mean);
            s.store(m + c, mean);
            second = o.beta2 * second + o.one_minus_beta2 * (gradient * gradient);
            moment = mean / o.correction1;
        } else {
            second += gradient * gradient;
        }
        s.store(v + c, second);
        s.store(D + c, s.at_most(s.root(second + o.initial) * o.scale + o.shift, LARGEST));
        s.store(pull + c, s.load(u + c) + moment);
    });
    if (!o.penalised) {
        stretches(dim, [&](auto s, int c) {
            s.store(w + c, s.load(w + c) - s.load(pull + c) / s.load(D + c));
            s.store(u + c, s.splat(0));
        });
        return 0;
    }
    float z[room], kept[room], normed[room];
    stretches(dim, [&](auto s, int c) {
        const auto now = s.at_most(s.at_least(s.load(pull + c) - s.load(D + c) * s.load(w + c), -FLT_MAX), FLT_MAX);
        const auto soft = now > o.lambda1 ? now - o.lambda1 : now < -o.lambda1 ? now + o.lambda1 : s.splat(0);
        s.store(z + c, now);
        s.store(kept + c, soft);
        if (o.norm == NORM_S) return;
        const auto half = s.at_least((s.load(D + c) + o.two_lambda2) * 0.5F, FLT_MIN);
        s.store(normed + c, soft / (o.norm == NORM_S_TILDE ? s.root(half) : half));
    });
    const float length = norm_of<fixed>(o.norm == NORM_S ? kept : normed, dim);
    float keep = 1;
    if (o.limit > 0) keep = o.hard ? float(length > o.limit) : std::max(length - o.limit, 0.0F) / length;
    stretches(dim, [&](auto s, int c) {
        const auto soft = s.load(kept + c), before = s.load(D + c), whole = before + o.two_lambda2;
        auto x = s.splat(0) - keep * soft / whole;  // never -0
        auto share = s.splat(keep);
        if (o.two_lambda2 > 0) share = keep * (before / whole);
        const auto rest = (s.load(z + c) - soft) + (1.0F - share) * soft;
        // Where no penalty acts, or none beyond the rounding of z, as without one. With keep < 1 there is no such place.
        if (keep == 1) x = (rest == 0) & (x != 0) ? s.load(w + c) - s.load(pull + c) / before : x;
        s.store(w + c, x);
        s.store(u + c, rest);
    });
    return length;
}

// As bucket_of() in ctr/optim/histogram.py.
std::uint8_t bucket_of(float norm, float root_dim) {
    if (norm <= FLT_MIN) return 0;  // norm_of() has raised a norm of 0 to it
    const float strength = norm / root_dim;
    std::int32_t bits;
    std::memcpy(&bits, &strength, sizeof bits);
    return std::uint8_t(std::clamp((bits >> BUCKET_SHIFT) - BUCKET_FIRST, 1, BUCKETS - 1));
}

template <int fixed, Rule rule>
void update_all(const Table& table, const RowOptions& o, const std::vector<std::int32_t>& ids, const float* sum,
                float* norms) {
    const int dim = table.dim, second = (buffers(rule) - 1) * dim;
    const std::size_t n = ids.size();
    for (std::size_t k = 0; k < n; ++k) {
        if (k + AHEAD < n) prefetch(row_of(table, ids[k + AHEAD]), table.stride);
        float* row = row_of(table, ids[k]);
        // At the first touch, and hardly ever after: a write to `seen` at every touch would be a cache miss more.
        if (row[second] == 0) table.seen[ids[k]] = 1;
        norms[k] = update<fixed, rule>(row, sum + std::ptrdiff_t(k) * dim, dim, o);
    }
}

template <int fixed>
void gather_rows(const Table& table, const std::int32_t* ids, int n, int fields, float* out, std::ptrdiff_t ld,
                 bool unseen_zero) {
    const int dim = fixed ? fixed : table.dim;
    const std::size_t bytes = std::size_t(dim) * sizeof(float);
    for (int k = 0, field = 0; k < n; ++k) {
        if (k + AHEAD < n) {
            const auto* line = reinterpret_cast<const char*>(row_of(table, ids[k + AHEAD]));
            for (int i = 0; i < dim * 4; i += 64) __builtin_prefetch(line + i, 1);
            __builtin_prefetch(line + dim * 4 - 1, 1);
            if (unseen_zero) __builtin_prefetch(table.seen + ids[k + AHEAD]);
        }
        if (unseen_zero && !table.seen[ids[k]])
            std::memset(out + field * dim, 0, bytes);
        else
            std::memcpy(out + field * dim, row_of(table, ids[k]), bytes);
        if (++field == fields) field = 0, out += ld;
    }
}

}  // namespace

void gather(const Table& table, const std::int32_t* ids, int n, int fields, float* out, std::ptrdiff_t ld,
            bool unseen_zero) {
    with_dim(table.dim, [&](auto dim) { gather_rows<dim>(table, ids, n, fields, out, ld, unseen_zero); });
}

std::int64_t first_bad_id(const Table& table, const std::int32_t* ids, std::int64_t n) {
    for (std::int64_t k = 0; k < n; ++k)
        if (ids[k] < 0 || ids[k] >= table.rows) return k;
    return -1;
}

void Sorted::sort(const std::int32_t* ids, int first, int last, int threads) {
    positions_.resize(std::size_t(threads));
    for (auto& owned : positions_) owned.clear();
    for (int k = first; k < last; ++k) positions_[std::size_t(owner_of(hash_of(ids[k]), threads))].push_back(k);
}

void RowUpdate::find(const Table& table, const std::int32_t* ids, const std::vector<Sorted>& batch, int owner) {
    std::size_t n = 0;
    for (const Sorted& share : batch) n += share.of(owner).size();
    int bits = 4;
    while ((std::size_t(1) << bits) < 2 * n) ++bits;
    if (slots_.size() < std::size_t(1) << bits) slots_.assign(std::size_t(1) << bits, {0, -1});
    const std::uint32_t mask = (1U << bits) - 1;
    unique_.resize(n);
    used_.resize(n);
    place_.resize(n);
    std::int32_t count = 0;
    std::size_t i = 0;
    for (const Sorted& share : batch)
        for (const std::int32_t k : share.of(owner)) {
            const std::int32_t id = ids[k];
            std::uint32_t at = std::uint32_t(hash_of(id) >> 16) & mask;
            while (slots_[at].place >= 0 && slots_[at].id != id) at = (at + 1) & mask;
            if (slots_[at].place < 0) {
                slots_[at] = {id, count};
                used_[std::size_t(count)] = at;
                unique_[std::size_t(count++)] = id;
            }
            place_[i++] = slots_[at].place;
        }
    unique_.resize(std::size_t(count));
    used_.resize(std::size_t(count));
    for (const std::uint32_t at : used_) slots_[at].place = -1;
    for (std::size_t k = 0; k < unique_.size() && k < std::size_t(AHEAD); ++k)
        prefetch(row_of(table, unique_[k]), table.stride);
}

void RowUpdate::apply(const Table& table, const RowOptions& o) {
    norm_.resize(unique_.size());
    with_dim(table.dim, [&](auto dim) {
        if (o.rule == ADAM)
            update_all<dim, ADAM>(table, o, unique_, sum_.data(), norm_.data());
        else
            update_all<dim, ADAGRAD>(table, o, unique_, sum_.data(), norm_.data());
    });
    if (table.bucket) count(table);
}

// A loop of its own: a count that waits for the norm of its row would hold up the rows after it.
void RowUpdate::count(const Table& table) {
    const float root_dim = std::sqrt(float(table.dim));
    const std::size_t n = unique_.size();
    for (std::size_t k = 0; k < n; ++k) {
        if (k + AHEAD < n) __builtin_prefetch(table.bucket + unique_[k + AHEAD], 1);
        std::uint8_t& bucket = table.bucket[unique_[k]];
        const std::uint8_t now = bucket_of(norm_[k], root_dim);
        --moved_[bucket];
        ++moved_[now];
        bucket = now;
    }
}

void RowUpdate::settle(std::int64_t* counts) {
    for (std::size_t b = 0; b < moved_.size(); ++b) counts[b] += moved_[b];
    moved_.fill(0);
}

}  // namespace ctr
