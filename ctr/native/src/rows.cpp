#include "rows.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

namespace ctr {

namespace {

constexpr int AHEAD = 32;  // rows fetched before they are needed: memory answers many at a time

float* row_of(const Table& table, std::int32_t id) { return table.data + std::ptrdiff_t(id) * table.stride; }

void prefetch(const float* row, int floats) {
    const auto* line = reinterpret_cast<const char*>(row);
    for (int i = 0; i < floats * 4; i += 64) __builtin_prefetch(line + i, 1);
    __builtin_prefetch(line + floats * 4 - 1, 1);
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

template <int fixed>
float norm_of(const float* s, int dim) {
    float part[4] = {};
    for (int i = 0; i < dim; ++i) part[i % 4] += s[i] * s[i];
    return std::clamp(std::sqrt((part[0] + part[1]) + (part[2] + part[3])), FLT_MIN, FLT_MAX);
}

// Algorithm 1 of the paper on one row; ctr/optim/core.py has it with its reasons.
template <int fixed, Rule rule>
void update(float* __restrict row, const float* __restrict g, int dim_, const RowOptions& o, const Root now,
            const Root before, bool first) {
    const int dim = fixed ? fixed : dim_;
    float s[fixed ? fixed : 512], D[fixed ? fixed : 512];
    float *w = row, *z = row + dim, *m = row + 2 * dim, *v = row + (rule == ADAM ? 3 : 2) * dim;
    for (int i = 0; i < dim; ++i) {
        const float gradient = g[i] < -BOUND ? -BOUND : g[i] > BOUND ? BOUND : g[i];
        const float old = first ? 0.0F : __builtin_fmaf(std::sqrt(v[i] + o.initial), before.scale, before.shift);
        float moment = gradient;
        if constexpr (rule == ADAM) {
            m[i] += o.one_minus_beta1 * (gradient - m[i]);
            v[i] = o.beta2 * v[i] + o.one_minus_beta2 * (gradient * gradient);
            moment = m[i] / o.correction1;
        } else {
            v[i] += gradient * gradient;
        }
        D[i] = __builtin_fmaf(std::sqrt(v[i] + o.initial), now.scale, now.shift);
        z[i] += moment + (old - D[i]) * w[i];
        const float size = std::fabs(z[i]) - o.lambda1;
        s[i] = size > 0 ? std::copysign(size, z[i]) : 0.0F;
        D[i] += o.two_lambda2;
    }
    float keep = 1;
    if (o.limit > 0) {
        float scaled[fixed ? fixed : 512];
        const float* normed = s;
        if (o.norm != NORM_S) {
            for (int i = 0; i < dim; ++i) {
                const float half = std::max(D[i] * 0.5F, FLT_MIN);
                scaled[i] = s[i] / (o.norm == NORM_S_TILDE ? std::sqrt(half) : half);
            }
            normed = scaled;
        }
        const float length = norm_of<fixed>(normed, dim);
        keep = o.hard ? float(length > o.limit) : std::max(length - o.limit, 0.0F) / length;
    }
    for (int i = 0; i < dim; ++i) w[i] = 0.0F - keep * s[i] / D[i];  // never -0
}

template <int fixed, Rule rule>
void update_all(const Table& table, const RowOptions& o, const Root* history, const std::vector<std::int32_t>& ids,
                const float* sum) {
    const int dim = table.dim, last = buffers(rule) * dim;
    const Root now = history[o.step];
    const std::size_t n = ids.size();
    for (std::size_t k = 0; k < n; ++k) {
        if (k + AHEAD < n) prefetch(row_of(table, ids[k + AHEAD]), last + 1);
        float* row = row_of(table, ids[k]);
        std::int32_t step;
        std::memcpy(&step, row + last, sizeof step);
        if (step == 0) table.seen[ids[k]] = 1;
        update<fixed, rule>(row, sum + std::ptrdiff_t(k) * dim, dim, o, now, history[step], step == 0);
        std::memcpy(row + last, &o.step, sizeof step);
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

void RowUpdate::apply(const Table& table, const RowOptions& o, const Root* history) {
    with_dim(table.dim, [&](auto dim) {
        if (o.rule == ADAM)
            update_all<dim, ADAM>(table, o, history, unique_, sum_.data());
        else
            update_all<dim, ADAGRAD>(table, o, history, unique_, sum_.data());
    });
}

}  // namespace ctr
