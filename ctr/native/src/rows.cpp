#include "rows.h"

#include <cstring>

namespace ctr {

namespace {

template <int fixed, Rule rule>
void update_all(const Table& table, const RowOptions& o, const std::vector<std::int32_t>& ids, const float* sum,
                float* norms) {
    const int dim = fixed ? fixed : table.dim;
    const std::size_t n = ids.size();
    for (std::size_t k = 0; k < n; ++k) {
        if (k + AHEAD < n) {
            prefetch(row_of(table, ids[k + AHEAD]), table.stride);
            if (table.bucket) __builtin_prefetch(table.bucket + ids[k + AHEAD], 1);
        }
        float* row = row_of(table, ids[k]);
        float *first = row + 2 * dim, *second = row + (rule == ADAM ? 3 : 2) * dim;
        // At the first touch, and hardly ever after: a write to `seen` at every touch would be a cache miss more.
        if (*second == 0) table.seen[ids[k]] = 1;
        norms[k] = update<fixed, rule, false, float>(row, row + dim, first, second, nullptr, sum + std::ptrdiff_t(k) * dim,
                                                     nullptr, dim, o);
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
            // For reading only: another thread may update the row later.
            for (int i = 0; i < dim * 4; i += 64) __builtin_prefetch(line + i);
            __builtin_prefetch(line + dim * 4 - 1);
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

void Sorted::sort(const std::int32_t* ids, int rows, int fields, std::ptrdiff_t ld, int step, int threads) {
    entries_.resize(std::size_t(threads));
    for (auto& owned : entries_) owned.clear();
    for (int r = 0; r < rows; ++r)
        for (int f = 0; f < fields; ++f, ++ids)
            entries_[std::size_t(owner_of(hash_of(*ids), threads))].push_back({*ids, std::int32_t(r * ld + f * step)});
}

std::size_t Distinct::begin(const std::vector<Sorted>& batch, int owner) {
    std::size_t n = 0;
    for (const Sorted& share : batch) n += share.of(owner).size();
    int bits = 4;
    while ((std::size_t(1) << bits) < 2 * n) ++bits;
    if (slots_.size() < std::size_t(1) << bits) slots_.assign(std::size_t(1) << bits, {0, -1});
    mask_ = (1U << bits) - 1;
    unique_.resize(n);
    used_.resize(n);
    place_.resize(n);
    return n;
}

void Distinct::end(std::size_t count) {
    unique_.resize(count);
    used_.resize(count);
    for (const std::uint32_t at : used_) slots_[at].place = -1;
}

void RowUpdate::apply(const Table& table, const RowOptions& o) {
    const auto& ids = distinct_.ids();
    norm_.resize(ids.size());
    with_dim(table.dim, [&](auto dim) {
        if (o.rule == ADAM)
            update_all<dim, ADAM>(table, o, ids, sum_.data(), norm_.data());
        else
            update_all<dim, ADAGRAD>(table, o, ids, sum_.data(), norm_.data());
    });
    if (table.bucket) moved_.count(table.bucket, ids.data(), norm_.data(), ids.size(), table.dim);
}

}  // namespace ctr
