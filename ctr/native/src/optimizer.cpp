// A step of an optimizer on the rows of one tensor, for anybody's training loop: the rows' sums, then their update in place.
//
// Bits do not depend on the number of threads: a row belongs to one of them, and its gradients are summed in the order in
// which they come.
#include <sys/types.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <mutex>

#include "pool.h"
#include "rows.h"
#include "team.h"

namespace ctr {

// A tensor's rows and their state; mirrored by ctr/native/library.py.
struct Parts {
    void* data[5];           // w, u, first, second, largest, see update(); null where the rule has none
    std::int64_t stride[5];  // from row to row, in numbers: each may be a tensor of its own, or all of them columns of one
    std::int64_t rows;
    std::int32_t dim;
    std::int32_t marks;     // bytes of a row in `seen`: 1, or dim
    std::uint8_t* seen;     // set at a touch
    std::uint8_t* bucket;   // as in Table
    std::int64_t* counts;
};

// A tensor's gradient; mirrored by ctr/native/library.py.
struct Gradient {
    const std::int64_t* ids;  // [count] rows; null: all rows, in order
    const void* values;       // [count, dim]
    const void* hessian;      // [count, dim], the Hessian's diagonal; ADAHESSIAN alone
    std::int64_t count;
    std::int32_t distinct;  // no row comes twice
    std::int32_t lazy;      // a row whose values are all 0 is passed over
};

namespace {

// What one thread needs.
template <class T>
class Worker {
  public:
    // The rows ids[0 ... n), or if there are none `first` and the next n; g, h: their gradients, and Hessians.
    void update(const Parts& parts, const RuleOptions<T>& o, const std::int32_t* ids, std::int32_t first, std::size_t n,
                const T* g, const T* h, bool lazy) {
        norm_.clear(), touched_.clear();
        with_rule(o.rule, [&](auto rule) {
            const auto run = [&](auto dim, auto flat) {
                this->template loop<dim, rule, flat>(parts, o, ids, first, n, g, h, lazy);
            };
            const std::integral_constant<int, 0> any;
            if (o.flat) return run(any, std::true_type());
            if constexpr (sizeof(T) == sizeof(double)) return run(any, std::false_type());
            with_dim(parts.dim, [&](auto dim) { run(dim, std::false_type()); });
        });
        if (parts.bucket) moved_.count(parts.bucket, touched_.data(), norm_.data(), touched_.size(), parts.dim);
    }

    // Those of the batch's ids that thread `owner` owns, their gradients summed; `share`: how many ids each thread sorted.
    void update_sums(const Parts& parts, const RuleOptions<T>& o, const std::vector<Sorted>& batch, int owner,
                     std::int64_t share, const T* g, const T* h) {
        const auto present = std::size_t(5 - std::count(parts.data, parts.data + 5, nullptr));
        distinct_.find(batch, owner, present * std::size_t(parts.dim) * sizeof(T), [&](std::int32_t id) { fetch(parts, id); });
        const auto sum = [&](const T* values, std::vector<T>& sums) {
            const auto of = [&](int from, std::int32_t at) { return values + (from * share + at) * parts.dim; };
            distinct_.sum(batch, owner, parts.dim, of, sums);
            return static_cast<const T*>(sums.data());
        };
        const auto& rows = distinct_.ids();
        update(parts, o, rows.data(), 0, rows.size(), sum(g, sum_), h ? sum(h, hessian_) : nullptr, false);
    }

    void settle(std::int64_t* counts) { moved_.settle(counts); }

  private:
    static T* at(const Parts& parts, int part, std::ptrdiff_t id) {
        return static_cast<T*>(parts.data[part]) + id * parts.stride[part];
    }

    static void fetch(const Parts& parts, std::ptrdiff_t id) {
        for (int part = 0; part < 5; ++part)
            if (parts.data[part]) prefetch(at(parts, part, id), parts.dim);
        __builtin_prefetch(parts.seen + id * parts.marks, 1);
        if (parts.bucket) __builtin_prefetch(parts.bucket + id, 1);
    }

    template <int fixed, Rule rule, bool flat>
    void loop(const Parts& parts, const RuleOptions<T>& o, const std::int32_t* ids, std::int32_t first, std::size_t n,
              const T* g, const T* h, bool lazy) {
        const int dim = fixed ? fixed : parts.dim;
        for (std::size_t k = 0; k < n; ++k, g += dim) {
            if (ids && k + AHEAD < n) fetch(parts, ids[k + AHEAD]);
            if (lazy && std::all_of(g, g + dim, [](T x) { return x == 0; })) continue;
            const std::int32_t id = ids ? ids[k] : first + std::int32_t(k);
            const T norm = ctr::update<fixed, rule, flat>(
                at(parts, 0, id), at(parts, 1, id), has_first(rule) ? at(parts, 2, id) : nullptr,
                has_second(rule) ? at(parts, 3, id) : nullptr, rule == AMSGRAD ? at(parts, 4, id) : nullptr, g,
                h ? h + std::ptrdiff_t(k) * dim : nullptr, dim, o);
            if (o.still) continue;
            std::uint8_t* seen = parts.seen + std::ptrdiff_t(id) * parts.marks;
            for (int i = 0; i < parts.marks; ++i)
                if (!seen[i]) seen[i] = 1;
            if (parts.bucket) touched_.push_back(id), norm_.push_back(norm);
        }
    }

    Distinct distinct_;
    std::vector<T> sum_, hessian_, norm_;
    std::vector<std::int32_t> touched_;
    Moved moved_;
};

// The threads that torch computes with. Threads of our own would wait for a core on which torch's spin after their last work.
struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel
    int (*thread)();                                               // omp_get_thread_num
    int (*threads)();                                              // omp_get_num_threads
    pid_t process;                                                 // its threads are not in a fork of that
};

OpenMP openmp{};

// The threads of a process and what they keep between two steps. Never destroyed: a fork has it without its threads.
class Team {
  public:
    const pid_t process = getpid();

    // Position of the first id that is out of range, or -1. If there is one nothing is written.
    template <class T>
    std::int64_t run(const Parts& parts, const Gradient& gradient, const RuleOptions<T>& o, int threads) {
        const std::lock_guard<std::mutex> one(lock_);
        if (gradient.count * parts.dim < SMALL) threads = 1;  // it does not pay to wake anybody
        auto& mine = workers(T());
        if (mine.size() < std::size_t(threads)) mine.resize(std::size_t(threads));
        sorted_.resize(std::size_t(threads));
        const std::int64_t share = (gradient.count + threads - 1) / threads;
        if (gradient.ids) ids_.resize(std::size_t(gradient.count));
        std::atomic<std::int64_t> bad = gradient.count;
        const auto* g = static_cast<const T*>(gradient.values);
        const auto* h = static_cast<const T*>(gradient.hessian);
        const auto first_of = [&](int t) { return std::min(t * share, gradient.count); };
        if (gradient.ids) {
            each(pool_, threads, [&](int t) {
                const std::int64_t first = first_of(t), last = first_of(t + 1);
                const std::int64_t wrong = read(gradient.ids, first, last, parts.rows);
                if (wrong < last) lower(bad, wrong);
                if (!gradient.distinct) sorted_[std::size_t(t)].sort(ids_.data() + first, 1, int(wrong - first), 0, 1, threads);
            });
            if (bad < gradient.count) return bad;
        }
        each(pool_, threads, [&](int t) {
            Worker<T>& worker = mine[std::size_t(t)];
            if (gradient.ids && !gradient.distinct) return worker.update_sums(parts, o, sorted_, t, share, g, h);
            const std::int64_t first = first_of(t);
            const std::int32_t* ids = gradient.ids ? ids_.data() + first : nullptr;
            worker.update(parts, o, ids, std::int32_t(first), std::size_t(first_of(t + 1) - first), g + first * parts.dim,
                          h ? h + first * parts.dim : nullptr, gradient.lazy != 0);
        });
        if (parts.counts)
            for (Worker<T>& worker : mine) worker.settle(parts.counts);
        return -1;
    }

    // Copies rows of `bytes` each, which are `stride` bytes apart, to `out`, side by side; returns as run() does.
    std::int64_t gather(const char* data, std::int64_t rows, std::int64_t stride, std::int64_t bytes,
                        const std::int64_t* ids, std::int64_t count, char* out, int threads) {
        const std::lock_guard<std::mutex> one(lock_);
        if (count * bytes < SMALL * std::int64_t(sizeof(float))) threads = 1;
        const std::int64_t share = (count + threads - 1) / threads;
        std::atomic<std::int64_t> bad = count;
        each(pool_, threads, [&](int t) {
            const std::int64_t first = std::min(t * share, count), last = std::min(first + share, count);
            for (std::int64_t k = first; k < last; ++k) {
                if (k + AHEAD < last && ids[k + AHEAD] >= 0 && ids[k + AHEAD] < rows)
                    for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + ids[k + AHEAD] * stride + i);
                if (ids[k] < 0 || ids[k] >= rows) return lower(bad, k);
                std::memcpy(out + k * bytes, data + ids[k] * stride, std::size_t(bytes));
            }
        });
        return bad < count ? bad.load() : -1;
    }

    // work(0) ... work(tasks - 1), which may make calls of the other kinds.
    void call(const std::function<void(int)>& work, int tasks, int threads) {
        const std::lock_guard<std::mutex> one(calling_);
        each(callers_, threads, [&](int t) {
            for (int task = t; task < tasks; task += threads) work(task);
        });
    }

  private:
    static constexpr std::int64_t SMALL = 1 << 13;  // numbers of a gradient

    // work(0) ... work(threads - 1), at once as far as there are threads.
    void each(std::unique_ptr<Pool>& pool, int threads, const std::function<void(int)>& work) {
        if (threads == 1) return work(0);
        if (openmp.parallel && openmp.process == process) {
            struct Call {
                const std::function<void(int)>& work;
                const int threads;
            } call{work, threads};
            // OpenMP may give fewer threads than it is asked for.
            const auto run = [](void* data) {
                const Call& asked = *static_cast<const Call*>(data);
                for (int t = openmp.thread(); t < asked.threads; t += openmp.threads()) asked.work(t);
            };
            return openmp.parallel(run, &call, unsigned(threads), 0);
        }
        if (!pool || pool->threads() != threads) {
            pool.reset();
            pool = std::make_unique<Pool>(threads);
        }
        pool->run(work);
    }

    // Makes `least` the smaller of itself and `value`.
    static void lower(std::atomic<std::int64_t>& least, std::int64_t value) {
        for (std::int64_t known = least; value < known && !least.compare_exchange_weak(known, value);) {}
    }

    // Copies ids to ids_; returns the position of the first that is out of range, `last` if none is.
    std::int64_t read(const std::int64_t* ids, std::int64_t first, std::int64_t last, std::int64_t rows) {
        for (std::int64_t k = first; k < last; ++k) {
            if (ids[k] < 0 || ids[k] >= rows) return k;
            ids_[std::size_t(k)] = std::int32_t(ids[k]);
        }
        return last;
    }

    std::vector<Worker<float>>& workers(float) { return floats_; }
    std::vector<Worker<double>>& workers(double) { return doubles_; }

    std::mutex lock_, calling_;
    std::unique_ptr<Pool> pool_, callers_;
    std::vector<Sorted> sorted_;
    std::vector<std::int32_t> ids_;
    std::vector<Worker<float>> floats_;
    std::vector<Worker<double>> doubles_;
};

Team& team() {
    static std::atomic<Team*> present;
    Team* found = present;
    while (!found || found->process != getpid()) {
        Team* made = new Team;
        if (present.compare_exchange_strong(found, made)) return *made;
        delete made;  // another thread was first
    }
    return *found;
}

}  // namespace

void call(const std::function<void(int)>& work, int tasks, int threads) { team().call(work, tasks, threads); }

}  // namespace ctr

using namespace ctr;

extern "C" {

void ctr_share_threads(decltype(OpenMP::parallel) parallel, decltype(OpenMP::thread) thread,
                       decltype(OpenMP::threads) threads) {
    openmp = {parallel, thread, threads, getpid()};
}

std::int64_t ctr_update_f32(const Parts* parts, const Gradient* gradient, const RuleOptions<float>* options, int threads) {
    return team().run(*parts, *gradient, *options, threads);
}

std::int64_t ctr_update_f64(const Parts* parts, const Gradient* gradient, const RuleOptions<double>* options, int threads) {
    return team().run(*parts, *gradient, *options, threads);
}

void ctr_each(void (*work)(int), int tasks, int threads) { call(work, tasks, threads); }

std::int64_t ctr_gather(const char* data, std::int64_t rows, std::int64_t stride, std::int64_t bytes,
                        const std::int64_t* ids, std::int64_t count, char* out, int threads) {
    return team().gather(data, rows, stride, bytes, ids, count, out, threads);
}
}
