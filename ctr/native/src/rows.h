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

inline float* row_of(const Table& table, std::int32_t id) { return table.data + std::ptrdiff_t(id) * table.stride; }

// Copies w of ids [n] to out, `fields` rows of it side by side and then the next `ld` floats further on.
// With unseen_zero a row that no step has touched reads as zeros.
void gather(const Table& table, const std::int32_t* ids, int n, int fields, float* out, std::ptrdiff_t ld,
            bool unseen_zero);

// Position of the first id that is out of range, or -1.
std::int64_t first_bad_id(const Table& table, const std::int32_t* ids, std::int64_t n);

// The owner of a row: the thread that updates it.
inline std::uint64_t hash_of(std::int32_t id) { return std::uint64_t(std::uint32_t(id)) * 0x9E3779B97F4A7C15U; }
inline int owner_of(std::uint64_t hash, int threads) { return int(((hash >> 40) & 0xFF) * std::uint64_t(threads) >> 8); }

// One thread's share of a batch's ids, by owner, in the order of the batch.
class Sorted {
  public:
    struct Entry {
        std::int32_t id;
        std::int32_t at;  // where its gradient is within the share
    };

    // ids [rows, fields]. The gradient of an id is `step` behind that of the field before it, `ld` behind that of the row
    // before.
    void sort(const std::int32_t* ids, int rows, int fields, std::ptrdiff_t ld, int step, int threads);
    const std::vector<Entry>& of(int owner) const { return entries_[std::size_t(owner)]; }

  private:
    std::vector<std::vector<Entry>> entries_;
};

// The different rows among a batch's ids that one thread owns, in order of first appearance, and sums over them.
class Distinct {
  public:
    // `batch`: all shares of the ids, in order. fetch(id) is called for every id, so that the rows, of `bytes` each, are in
    // the cache when they are updated; where they would not all fit into it, for the first AHEAD different ids.
    template <class Fetch>
    void find(const std::vector<Sorted>& batch, int owner, std::size_t bytes, const Fetch& fetch) {
        const bool fit = begin(batch, owner) * bytes <= CACHE;
        std::int32_t count = 0;
        std::size_t i = 0;
        for (const Sorted& share : batch)
            for (const Sorted::Entry& entry : share.of(owner)) {
                if (fit) fetch(entry.id);
                std::uint32_t at = std::uint32_t(hash_of(entry.id) >> 16) & mask_;
                while ((slots_[at].place >= 0) & (slots_[at].id != entry.id)) at = (at + 1) & mask_;
                // No branch on whether it is new, which cannot be predicted. If it is not, the next one that is overwrites
                // what is written behind the last.
                const std::int32_t fresh = slots_[at].place < 0;
                const std::int32_t place = fresh * count + (1 - fresh) * slots_[at].place;
                slots_[at] = {entry.id, place};
                used_[std::size_t(count)] = at;
                unique_[std::size_t(count)] = entry.id;
                count += fresh;
                place_[i++] = place;
            }
        end(std::size_t(count));
        if (fit) return;
        for (std::size_t k = 0; k < unique_.size() && k < std::size_t(AHEAD); ++k) fetch(unique_[k]);
    }

    const std::vector<std::int32_t>& ids() const { return unique_; }

    // sums [ids, dim] of what gradient(share, at) points to, each in the order of the batch.
    template <class T, class Gradient>
    void sum(const std::vector<Sorted>& batch, int owner, int dim_, const Gradient& gradient, std::vector<T>& sums) const {
        sums.assign(unique_.size() * std::size_t(dim_), T(0));
        with_dim(dim_, [&](auto fixed) {
            const int dim = fixed ? fixed : dim_;
            const std::int32_t* place = place_.data();
            for (std::size_t share = 0; share < batch.size(); ++share)
                for (const Sorted::Entry& entry : batch[share].of(owner)) {
                    const T* __restrict g = gradient(int(share), entry.at);
                    T* __restrict to = sums.data() + std::ptrdiff_t(*place++) * dim;
                    for (int i = 0; i < dim; ++i) to[i] += g[i];
                }
        });
    }

  private:
    struct Slot {
        std::int32_t id, place;  // the place in unique_, or -1
    };

    static constexpr std::size_t CACHE = 1 << 20;  // bytes of a core's second cache that rows may take

    std::size_t begin(const std::vector<Sorted>& batch, int owner);  // returns how many ids there are
    void end(std::size_t count);

    std::vector<Slot> slots_;           // a hash table; all empty between the runs
    std::uint32_t mask_ = 0;            // of the slots that a run uses
    std::vector<std::uint32_t> used_;   // the slots in use
    std::vector<std::int32_t> unique_;  // ids in order of first appearance
    std::vector<std::int32_t> place_;   // the next id of the batch belongs to unique_[place]
};

// The update of the rows that one thread owns.
class RowUpdate {
  public:
    // `batch`: all shares of the ids, in order. gradient(share, at) points to the gradient of an entry; those of a row are
    // summed in the order of the batch.
    template <class Gradient>
    void run(const Table& table, const RowOptions& options, const std::vector<Sorted>& batch, int owner,
             const Gradient& gradient) {
        distinct_.find(batch, owner, std::size_t(table.stride) * sizeof(float),
                       [&](std::int32_t id) { prefetch(row_of(table, id), table.stride); });
        distinct_.sum(batch, owner, table.dim, gradient, sum_);
        apply(table, options);
    }

    // Adds to the counts of all rows by how many they have changed since the last call.
    void settle(std::int64_t* counts) { moved_.settle(counts); }

  private:
    void apply(const Table& table, const RowOptions& options);

    Distinct distinct_;
    std::vector<float> sum_;   // gradients [unique, dim]
    std::vector<float> norm_;  // [unique], as update() returns them
    Moved moved_;
};

}  // namespace ctr
