// The update of one row: Algorithm 1 of the paper for all six optimizers, in float or double.
//
// ctr/optim/core.py has it with its reasons, and the same order of operations. What an optimizer does of its own is in
// direction(); the shrinkage is the same for all.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "vec.h"

namespace ctr {

// Mirrored by ctr/optim/fused.py.
enum Rule : std::int32_t { ADAM, ADAGRAD, SGD, MOMENTUM, AMSGRAD, ADAHESSIAN };
enum Norm : std::int32_t { NORM_S, NORM_S_TILDE, NORM_S_TILDE_EQ10 };

// What one step does to a row; mirrored by ctr/native/library.py.
template <class T>
struct RuleOptions {
    std::int32_t rule, norm, hard;
    std::int32_t penalised;  // a lambda is not 0, or norms are counted
    std::int32_t flat;       // D + 2 lambda2 can be 0; then there is `update` of its own
    std::int32_t still;      // moments only: the learning rate is 0
    T beta1, one_minus_beta1, beta2, one_minus_beta2;  // the differences taken in double precision; MOMENTUM: beta1 alone
    T correction1;                                     // 1 - beta1^t
    T nesterov;                                        // 0 or the momentum
    T initial;                                         // added to the sum of squares
    T root_scale, power;                               // ADAHESSIAN: (sqrt(v) * root_scale)^power is what is scaled
    T lambda1, limit, two_lambda2;                     // limit: sqrt(d) lambda21
    T scale, shift;                                    // D = sqrt(V + initial) * scale + shift
};

constexpr bool has_first(Rule rule) { return rule != SGD && rule != ADAGRAD; }
constexpr bool has_second(Rule rule) { return rule != SGD && rule != MOMENTUM; }
constexpr int buffers(Rule rule) { return has_first(rule) + has_second(rule) + (rule == AMSGRAD); }

constexpr int MAX_DIM = 512;  // numbers in a row; mirrored by ctr/optim/fused.py
constexpr int AHEAD = 32;     // rows fetched before they are needed: memory answers many at a time

template <class T>
void prefetch(const T* row, std::ptrdiff_t numbers) {
    const std::uintptr_t first = std::uintptr_t(row) & ~std::uintptr_t(63), end = std::uintptr_t(row + numbers);
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

// Calls run with the rule as a constant.
template <class Run>
void with_rule(std::int32_t rule, const Run& run) {
    switch (rule) {
        case ADAM: return run(std::integral_constant<Rule, ADAM>());
        case ADAGRAD: return run(std::integral_constant<Rule, ADAGRAD>());
        case SGD: return run(std::integral_constant<Rule, SGD>());
        case MOMENTUM: return run(std::integral_constant<Rule, MOMENTUM>());
        case AMSGRAD: return run(std::integral_constant<Rule, AMSGRAD>());
        default: return run(std::integral_constant<Rule, ADAHESSIAN>());
    }
}

template <class T>
struct Limits {
    static constexpr T MOST = std::numeric_limits<T>::max(), LEAST = std::numeric_limits<T>::min();
    // As torch clamps a gradient: +-MOST^0.375, so that no square overflows.
    static constexpr T BOUND = sizeof(T) == 4 ? T(2.8147497e14) : T(3.940200619639448e+115);
    // D at most, as in torch: D w does not overflow then, nor does a gradient divided by D underflow.
    static constexpr T LARGEST = MOST * std::numeric_limits<T>::epsilon();
};

namespace {  // each source has its own: what is called from nowhere else is compiled into its caller

template <int fixed, class T>
T norm_of(const T* s, int dim) {
    T part[4] = {};
    for (int i = 0; i < dim; ++i) part[i % 4] += s[i] * s[i];
    return std::clamp(std::sqrt((part[0] + part[1]) + (part[2] + part[3])), Limits<T>::LEAST, Limits<T>::MOST);
}

// A stretch of `count` numbers of a row, in one vector. Nothing is masked, and what is loaded is what was stored: else the
// processor waits for the stores. A NaN passes through all of it.
template <class T, int count>
struct Stretch {
    typedef T Numbers __attribute__((vector_size(count * sizeof(T))));

    static Numbers load(const T* p) {
        Numbers v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store(T* p, Numbers v) { std::memcpy(p, &v, sizeof v); }
    static Numbers splat(T x) { return x - Numbers{}; }
    static Numbers at_least(Numbers v, T bound) { return v < bound ? splat(bound) : v; }
    static Numbers at_most(Numbers v, T bound) { return v > bound ? splat(bound) : v; }
    template <class Function>
    static Numbers each(Numbers v, const Function& function) {
        T part[count];
        store(part, v);
        for (T& x : part) x = function(x);
        return load(part);
    }
    static Numbers root(Numbers v) {
        return each(v, [](T x) { return std::sqrt(x); });
    }
};

// body(Stretch, its place) for all of a row, the longest stretches first.
template <class T, class Body>
void stretches(int dim, const Body& body) {
    constexpr int longest = LANES * int(sizeof(float)) / int(sizeof(T));
    int c = 0;
    if constexpr (longest == 16)
        for (; c + 16 <= dim; c += 16) body(Stretch<T, 16>(), c);
    if constexpr (longest >= 8)
        for (; c + 8 <= dim; c += 8) body(Stretch<T, 8>(), c);
    if constexpr (longest >= 4)
        for (; c + 4 <= dim; c += 4) body(Stretch<T, 4>(), c);
    if constexpr (longest == 2)
        for (; c + 2 <= dim; c += 2) body(Stretch<T, 2>(), c);
    else if (c + 2 <= dim)
        body(Stretch<T, 2>(), c), c += 2;
    if (c < dim) body(Stretch<T, 1>(), c);
}

// The first moment m of a stretch, and sqrt(V) of which D is made; updates what the rule keeps. The Hessian's diagonal is
// ADAHESSIAN's alone.
template <Rule rule, class T, class S>
auto direction(S s, T* first, T* second, T* largest, const T* g, const T* hessian, int c,
               const RuleOptions<T>& o) {
    using Numbers = typename S::Numbers;
    struct Direction {
        Numbers moment, root;
    };
    const auto clipped = [&](const T* p) { return s.at_most(s.at_least(s.load(p + c), -Limits<T>::BOUND), Limits<T>::BOUND); };
    const Numbers gradient = clipped(g);
    if constexpr (rule == SGD) return Direction{gradient, s.splat(1)};
    if constexpr (rule == MOMENTUM) {
        const Numbers mean = o.beta1 * s.load(first + c) + gradient;
        s.store(first + c, mean);
        return Direction{o.nesterov > 0 ? gradient + o.nesterov * mean : mean, s.splat(1)};
    }
    Numbers moment = gradient, square = {};
    if constexpr (has_second(rule)) square = s.load(second + c);
    if constexpr (has_first(rule) && has_second(rule)) {
        Numbers mean = s.load(first + c);
        // As torch's lerp: with beta1 = 0 the mean is the gradient itself.
        if (o.one_minus_beta1 < T(0.5))
            mean += o.one_minus_beta1 * (gradient - mean);
        else
            mean = gradient - o.beta1 * (gradient - mean);
        s.store(first + c, mean);
        const Numbers squared = rule == ADAHESSIAN ? clipped(hessian) : gradient;
        square = o.beta2 * square + o.one_minus_beta2 * (squared * squared);
        moment = mean / o.correction1;
    } else {
        square += gradient * gradient;
    }
    s.store(second + c, square);
    if constexpr (rule == AMSGRAD) {
        const Numbers before = s.load(largest + c);
        square = (before >= square) | (before != before) ? before : square;
        s.store(largest + c, square);
    }
    Numbers root = s.root(square + o.initial);
    if constexpr (rule == ADAHESSIAN)
        if (o.power != 1) root = s.each(root * o.root_scale, [&](T x) { return std::pow(x, o.power); });
    return Direction{moment, root};
}

// Algorithm 1 on one row, whose numbers overlap with nothing else that is read. Returns the norm that decides about the row
// where there is a penalty or it is counted, else 0.
//
// Which products and sums the compiler fuses depends on what is in a loop: where D cannot be 0 it is to be as if that case
// did not exist. It still may fuse the columns behind the last whole vector (d = 10) otherwise than those before.
template <int fixed, Rule rule, bool flat, class T>
T update(T* __restrict w, T* __restrict u, T* __restrict first, T* __restrict second, T* __restrict largest,
         const T* __restrict g, const T* __restrict hessian, int dim_, const RuleOptions<T>& o) {
    const int dim = fixed ? fixed : dim_;
    constexpr int room = fixed ? fixed : MAX_DIM;
    T D[room], pull[room];
    stretches<T>(dim, [&](auto s, int c) {
        const auto [moment, root] = direction<rule>(s, first, second, largest, g, hessian, c, o);
        s.store(D + c, s.at_most(root * o.scale + o.shift, Limits<T>::LARGEST));
        s.store(pull + c, s.load(u + c) + moment);
    });
    if (o.still) return 0;
    if (!o.penalised) {
        stretches<T>(dim, [&](auto s, int c) {
            const auto before = s.load(D + c), whole = s.load(pull + c), old = s.load(w + c);
            auto x = old - whole / before, rest = s.splat(0);
            if constexpr (flat) x = before == 0 ? old : x, rest = before == 0 ? whole : rest;
            s.store(w + c, x);
            s.store(u + c, rest);
        });
        return 0;
    }
    T z[room], kept[room], normed[room];
    stretches<T>(dim, [&](auto s, int c) {
        const auto now =
            s.at_most(s.at_least(s.load(pull + c) - s.load(D + c) * s.load(w + c), -Limits<T>::MOST), Limits<T>::MOST);
        const auto soft = now - s.at_most(s.at_least(now, -o.lambda1), o.lambda1);
        s.store(z + c, now);
        s.store(kept + c, soft);
        if (o.norm == NORM_S) return;
        const auto half = s.at_least((s.load(D + c) + o.two_lambda2) * T(0.5), Limits<T>::LEAST);
        s.store(normed + c, soft / (o.norm == NORM_S_TILDE ? s.root(half) : half));
    });
    const T length = norm_of<fixed>(o.norm == NORM_S ? kept : normed, dim);
    T keep = 1;
    if (o.limit > 0) keep = o.hard ? T(length > o.limit) : std::max(length - o.limit, T(0)) / length;
    stretches<T>(dim, [&](auto s, int c) {
        const auto soft = s.load(kept + c), before = s.load(D + c), whole = before + o.two_lambda2;
        auto x = s.splat(0) - keep * soft / whole;  // never -0
        auto share = s.splat(keep);
        if (o.two_lambda2 > 0) share = keep * (before / whole);
        auto rest = (s.load(z + c) - soft) + (T(1) - share) * soft;
        // Where no penalty acts, or none beyond the rounding of z, as without one. With keep < 1 there is no such place.
        if (keep == 1) x = (rest == 0) & (x != 0) ? s.load(w + c) - s.load(pull + c) / before : x;
        if constexpr (flat) {  // there the objective is: x stays, unless a penalty acts and s is 0
            const auto old = s.load(w + c);
            const bool acts = o.lambda1 > 0 || o.limit > 0;
            const auto stay = acts ? (keep * soft == 0 ? s.splat(0) : old) : old;
            x = whole == 0 ? stay : x, rest = whole == 0 ? s.load(z + c) : rest;
        }
        s.store(w + c, x);
        s.store(u + c, rest);
    });
    return length;
}

}  // namespace

// As ctr/optim/histogram.py.
constexpr int BUCKETS = 256, BUCKET_SHIFT = 21, BUCKET_FIRST = 4 * (127 - 40) - 1;

template <class T>
std::uint8_t bucket_of(T norm, T root_dim) {
    if (norm <= Limits<T>::LEAST) return 0;  // norm_of() has raised a norm of 0 to it
    const float strength = float(norm / root_dim);
    std::int32_t bits;
    std::memcpy(&bits, &strength, sizeof bits);
    return std::uint8_t(std::clamp((bits >> BUCKET_SHIFT) - BUCKET_FIRST, 1, BUCKETS - 1));
}

// A thread's share of the counts of all rows by bucket.
class Moved {
  public:
    // Moves rows to the buckets of their norms. A loop of its own: a count that waits for the norm of its row would hold up
    // the rows after it.
    template <class T, class Id>
    void count(std::uint8_t* buckets, const Id* ids, const T* norms, std::size_t n, int dim) {
        const T root_dim = std::sqrt(T(dim));
        for (std::size_t k = 0; k < n; ++k) {
            if (k + AHEAD < n) __builtin_prefetch(buckets + ids[k + AHEAD], 1);
            std::uint8_t& bucket = buckets[ids[k]];
            const std::uint8_t now = bucket_of(norms[k], root_dim);
            --by_[bucket];
            ++by_[now];
            bucket = now;
        }
    }

    // Adds to the counts of all rows by how many they have changed since the last call.
    void settle(std::int64_t* counts) {
        for (std::size_t b = 0; b < by_.size(); ++b) counts[b] += by_[b];
        by_.fill(0);
    }

  private:
    std::array<std::int32_t, BUCKETS> by_{};  // rows that came into a bucket, less those that left it
};

}  // namespace ctr
