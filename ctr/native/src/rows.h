// The embedding rows with their optimizer state, one beside the other: [w | u | m | v] for Adam, [w | u | sum] for Adagrad.
//
// A touched row is one stretch of memory instead of four far apart: two cache lines for d = 8, as the table begins with one.
#pragma once

#include <cstdint>
#include <vector>

#include "update.h"

namespace ctr {

using RowOptions = RuleOptions<float>;

struct Table {
    float* data;
    std::int64_t rows;
    std::int32_t dim, stride;  // stride in floats
    std::uint8_t* seen;        // one per row, set at the first touch
    std::uint8_t* bucket;      // one per row, of its norm over sqrt(d) at its last touch; null if nobody counts them
    std::int64_t* counts;      // [BUCKETS], rows by bucket
};

// Copies w of ids [n] to out, `fields` rows of it side by side and then the next `ld` floats further on.
// With unseen_zero a row that no step has touched reads as zeros.
void gather(const Table& table, const std::int32_t* ids, int n, int fields, float* out, std::ptrdiff_t ld,
            bool unseen_zero);

// Position of the first id that is out of range, or -1.
std::int64_t first_bad_id(const Table& table, const std::int32_t* ids, std::int64_t n);

// The owner of a row: the thread that updates it.
inline std::uint64_t hash_of(std::int32_t id) { return std::uint64_t(std::uint32_t(id)) * 0x9E3779B97F4A7C15U; }
inline int owner_of(std::uint64_t hash, int threads) { return int(((hash >> 40) & 0xFF) * std::uint64_t(threads) >> 8); }

// One thread's share of a batch's ids, by owner: positions in the batch, ascending.
class Sorted {
  public:
    void sort(const std::int32_t* ids, int first, int last, int threads);
    const std::vector<std::int32_t>& of(int owner) const { return positions_[std::size_t(owner)]; }

  private:
    std::vector<std::vector<std::int32_t>> positions_;
};

// The different rows among a batch's ids that one thread owns, in order of first appearance, and sums over them.
class Distinct {
  public:
    // `batch`: all shares of the ids, in order.
    void find(const std::int32_t* ids, const std::vector<Sorted>& batch, int owner);

    const std::vector<std::int32_t>& ids() const { return unique_; }

    // sums [ids, dim] of what gradient(k) points to for ids[k], each in the order of the batch.
    template <class T, class Gradient>
    void sum(const std::vector<Sorted>& batch, int owner, int dim, const Gradient& gradient, std::vector<T>& sums) const {
        sums.assign(unique_.size() * std::size_t(dim), T(0));
        const std::int32_t* place = place_.data();
        for (const Sorted& share : batch)
            for (const std::int32_t k : share.of(owner)) {
                const T* g = gradient(k);
                T* to = sums.data() + std::ptrdiff_t(*place++) * dim;
                for (int i = 0; i < dim; ++i) to[i] += g[i];
            }
    }

  private:
    struct Slot {
        std::int32_t id, place;  // the place in unique_, or -1
    };
    std::vector<Slot> slots_;           // a hash table; all empty between the runs
    std::vector<std::uint32_t> used_;   // the slots in use
    std::vector<std::int32_t> unique_;  // ids in order of first appearance
    std::vector<std::int32_t> place_;   // the next id of the batch belongs to unique_[place]
};

// The update of the rows that one thread owns.
class RowUpdate {
  public:
    // `batch`: all shares of the ids, in order. gradient(k) points to the gradient of ids[k]; those of a row are summed in
    // the order of the batch.
    template <class Gradient>
    void run(const Table& table, const RowOptions& options, const std::int32_t* ids,
             const std::vector<Sorted>& batch, int owner, const Gradient& gradient) {
        distinct_.find(ids, batch, owner);
        fetch(table);
        distinct_.sum(batch, owner, table.dim, gradient, sum_);
        apply(table, options);
    }

    // Adds to the counts of all rows by how many they have changed since the last call.
    void settle(std::int64_t* counts) { moved_.settle(counts); }

  private:
    void fetch(const Table& table) const;
    void apply(const Table& table, const RowOptions& options);

    Distinct distinct_;
    std::vector<float> sum_;   // gradients [unique, dim]
    std::vector<float> norm_;  // [unique], as update() returns them
    Moved moved_;
};

}  // namespace ctr
