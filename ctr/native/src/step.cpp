// One training step: rows -> net -> loss -> gradients -> net and rows, on all threads together. C ABI at the end.
#include <cmath>
#include <memory>

#include "layers.h"
#include "pool.h"
#include "rows.h"

namespace ctr {

// What one step does to the net; mirrored by ctr/training/compiled/step.py.
struct NetOptions {
    std::int32_t rule;
    float beta1, one_minus_beta1, beta2, one_minus_beta2, rate, inverse_root, eps;
};

// A batch; mirrored by ctr/training/compiled/step.py.
struct Batch {
    const std::int32_t* ids;    // [rows, fields]
    const float* dense;         // [rows, dense columns] or null
    const float* label;         // [rows]
    const float* weight;        // [rows] or null: 1 each
    const std::int64_t* bits;   // [rows, words] or null
    float* logit;               // [rows]
    std::int32_t rows, words;
};

struct Params {
    float *value, *m, *v;
    std::int32_t count;
};

class Step {
  public:
    Step(const Layer* layers, int count, int fields, int dense, int dense_at, int width, int params, int threads)
        : layers_(layers, layers + count), packed_(std::size_t(count)), shares_(std::size_t(threads)),
          sorted_(std::size_t(threads)), updates_(std::size_t(threads)), fields_(fields), dense_(dense), dense_at_(dense_at),
          ld_(round_up(width, LANES) + LANES), pool_(threads) {
        for (std::size_t i = 0; i < layers_.size(); ++i) {
            const Layer& l = layers_[i];
            if (l.kind == LINEAR) {
                packed_[i].forward.resize(packed_size(l.in_width, l.out_width));
                packed_[i].backward.resize(packed_size(l.out_width, l.in_width));
            }
        }
        for (Share& s : shares_) {
            s.ld = ld_;
            s.dparams.resize(std::size_t(params) + PANEL);
        }
    }

    // Position of the first id that is out of range, or -1. If there is one, or the loss is not finite, nothing is written.
    std::int64_t train(const Batch& batch, const Table& table, const RowOptions& rows,
                       const NetOptions& net, const Params& params, double* loss) {
        const std::int64_t bad = first_bad_id(table, batch.ids, std::int64_t(batch.rows) * fields_);
        if (bad >= 0) return bad;
        divide(batch, true);
        const int share = share_size(batch.rows), width = fields_ * table.dim;
        const bool cut = share > BLOCK;
        const std::ptrdiff_t ld = cut ? width : ld_;
        pool_.run([&](int t) {
            Share& s = shares_[std::size_t(t)];
            const Range mine = range(batch.rows, t);
            sorted_[std::size_t(t)].sort(batch.ids + std::ptrdiff_t(mine.first) * fields_, mine.last - mine.first, fields_, ld,
                                         table.dim, pool_.threads());
            if (mine.first == mine.last) std::fill(s.dparams.begin(), s.dparams.end(), 0.0F);
            pass(batch, table, params.value, t, true, false, [&](int from) {
                for (std::size_t i = layers_.size(); i-- > 0;) backward(layers_[i], params.value, packed_[i], s);
                if (cut) save(s, from, width);
                s.more = true;
            });
            pool_.barrier();
            double total = 0;
            for (const Share& one : shares_) total += one.loss;
            if (t == 0) *loss = total / batch.rows;
            if (!std::isfinite(total)) return;
            updates_[std::size_t(t)].run(table, rows, sorted_, t, [&](int from, std::int32_t at) {
                const Share& its = shares_[std::size_t(from)];
                return (cut ? its.drows : its.dx).data() + at;
            });
            update_net(params, net, t);
        });
        if (table.counts)
            for (RowUpdate& one : updates_) one.settle(table.counts);
        return -1;
    }

    std::int64_t predict(const Batch& batch, const Table& table, const Params& params, bool unseen_zero) {
        const std::int64_t bad = first_bad_id(table, batch.ids, std::int64_t(batch.rows) * fields_);
        if (bad >= 0) return bad;
        divide(batch, false);
        pool_.run([&](int t) { pass(batch, table, params.value, t, false, unseen_zero, [](int) {}); });
        return -1;
    }

  private:
    // Rows that a thread takes through all layers at a time: activations and gradients of the paper's DCN and MLP then fit
    // into a second cache of 1 MB.
    static constexpr int BLOCK = 128;

    struct Range {
        int first, last;
    };

    int share_size(int rows) const { return (rows + pool_.threads() - 1) / pool_.threads(); }

    Range range(int rows, int t) const {
        const int share = share_size(rows);
        return {std::min(t * share, rows), std::min((t + 1) * share, rows)};
    }

    void divide(const Batch& batch, bool train) {
        const int share = share_size(batch.rows), block = std::min(share, BLOCK);
        const std::size_t room = std::size_t(round_up(block, TILE_ROWS) + TILE_ROWS) * std::size_t(ld_);
        const std::size_t widest = std::size_t(ld_ + PANEL);
        for (Share& s : shares_) {
            if (s.x.size() < room) s.x.resize(room);
            if (train && s.dx.size() < room) s.dx.resize(room);
            if (s.packed.size() < widest * std::size_t(block)) s.packed.resize(widest * std::size_t(block));
            s.room.resize(std::max(s.room.size(), widest * 2 * LANES));
            s.scale = 1.0F / float(batch.rows);
            s.loss = 0;
            s.more = false;
        }
    }

    // Takes a thread's share through the net, block by block; then(first row within the share) follows on each.
    template <class Then>
    void pass(const Batch& batch, const Table& table, const float* params, int t, bool train, bool unseen_zero,
              const Then& then) {
        Share& s = shares_[std::size_t(t)];
        for (std::size_t i = 0; i < layers_.size(); ++i) pack(layers_[i], params, packed_[i], t, pool_.threads());
        pool_.barrier();  // the packed weights are complete
        const Range mine = range(batch.rows, t);
        for (int first = mine.first; first < mine.last; first += BLOCK) {
            s.rows = std::min(BLOCK, mine.last - first);
            s.bits = batch.bits ? batch.bits + std::ptrdiff_t(first) * batch.words : nullptr;
            s.words = batch.words;
            s.label = train ? batch.label + first : nullptr;
            s.weight = train && batch.weight ? batch.weight + first : nullptr;
            s.logit = batch.logit + first;
            gather(table, batch.ids + std::ptrdiff_t(first) * fields_, s.rows * fields_, fields_, s.x.data(), ld_,
                   unseen_zero);
            for (int r = 0; dense_ && r < s.rows; ++r)
                std::memcpy(s.x.data() + r * ld_ + dense_at_, batch.dense + std::ptrdiff_t(first + r) * dense_,
                            std::size_t(dense_) * sizeof(float));
            for (std::size_t i = 0; i < layers_.size(); ++i) forward(layers_[i], params, packed_[i], s);
            then(first - mine.first);
        }
    }

    // Saves the gradients of the embedding rows, which the next block overwrites.
    static void save(Share& s, int from, int width) {
        s.drows.resize(std::max(s.drows.size(), std::size_t(from + s.rows) * std::size_t(width)));
        for (int r = 0; r < s.rows; ++r)
            std::memcpy(s.drows.data() + std::ptrdiff_t(from + r) * width, s.dx.data() + r * s.ld,
                        std::size_t(width) * sizeof(float));
    }

    // Every thread a stretch of the flat parameters; gradients are summed in the order of the threads.
    void update_net(const Params& p, const NetOptions& o, int t) {
        const int block = share_size(p.count), first = std::min(t * block, p.count);
        const int n = std::min(block, p.count - first);
        float* __restrict g = shares_[0].dparams.data() + first;
        for (std::size_t other = 1; other < shares_.size(); ++other) {
            const float* __restrict more = shares_[other].dparams.data() + first;
            for (int i = 0; i < n; ++i) g[i] += more[i];
        }
        float *__restrict value = p.value + first, *__restrict m = p.m + first, *__restrict v = p.v + first;
        if (o.rule == ADAM) {
            for (int i = 0; i < n; ++i) {
                m[i] += o.one_minus_beta1 * (g[i] - m[i]);
                v[i] = o.beta2 * v[i] + o.one_minus_beta2 * (g[i] * g[i]);
                value[i] -= o.rate * m[i] / (std::sqrt(v[i]) * o.inverse_root + o.eps);
            }
        } else {
            for (int i = 0; i < n; ++i) {
                v[i] += g[i] * g[i];
                value[i] -= o.rate * g[i] / (std::sqrt(v[i]) + o.eps);
            }
        }
    }

    std::vector<Layer> layers_;
    std::vector<Packed> packed_;
    std::vector<Share> shares_;
    std::vector<Sorted> sorted_;
    std::vector<RowUpdate> updates_;
    const int fields_, dense_, dense_at_;
    const std::ptrdiff_t ld_;
    Pool pool_;
};

}  // namespace ctr

using namespace ctr;

extern "C" {

Step* ctr_step_new(const Layer* layers, int count, int fields, int dense, int dense_at, int width, int params,
                   int threads) {
    return new Step(layers, count, fields, dense, dense_at, width, params, threads);
}

void ctr_step_free(Step* step) { delete step; }

std::int64_t ctr_step_train(Step* step, const Batch* batch, const Table* table, const RowOptions* rows,
                            const NetOptions* net, const Params* params, double* loss) {
    return step->train(*batch, *table, *rows, *net, *params, loss);
}

// C [m, n] = A B with A [m, k] (or [k, m], transposed) and B [k, n]: what the layers multiply with, for the tests.
void ctr_product(int m, int n, int k, const float* a, int transposed, const float* b, int lists, float* c) {
    // Room for what a tile reads beyond the end.
    const int height = transposed ? k : m, width = transposed ? m : k;
    const std::ptrdiff_t ld = width + TILE_ROWS;
    Floats left(std::size_t(height + TILE_ROWS) * std::size_t(ld)), packed(packed_size(k, n));
    for (int i = 0; i < height; ++i) std::memcpy(&left[std::size_t(i * ld)], a + i * width, std::size_t(width) * sizeof(float));
    for (int j = 0; j * PANEL < n; ++j) pack_rows(b, n, k, n, j, packed.data());
    const auto finish = [&](int r, int at, Vec v, int count) { store(c + std::ptrdiff_t(r) * n + at, v, count); };
    const auto run = [&](auto flip) {
        if (!lists) return gemm<flip>(m, n, k, left.data(), ld, packed.data(), finish);
        Lists of;
        of.fill<flip>(left.data(), ld, m, k);
        gemm(of, n, packed.data(), finish);
    };
    if (transposed)
        run(std::true_type());
    else
        run(std::false_type());
}

std::int64_t ctr_step_predict(Step* step, const Batch* batch, const Table* table, const Params* params,
                              int unseen_zero) {
    return step->predict(*batch, *table, *params, unseen_zero != 0);
}
}
