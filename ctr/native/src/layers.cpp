#include "layers.h"

#include <algorithm>
#include <cmath>

namespace ctr {

namespace {

float dot(const float* a, const float* b, int n) {
    Vec s = {};
    each(n, [&](int c, int count) { s += load(a + c, count) * load(b + c, count); });
    return sum(s);
}

// y += a * x
void axpy(float a, const float* x, float* y, int n) {
    for (int i = 0; i < n; ++i) y[i] += a * x[i];
}

// Sets gradients of parameters, or adds to those of earlier blocks.
void put(const Share& s, float* to, Vec v, int count) { store(to, s.more ? load(to, count) + v : v, count); }

// ---- linear, ReLU, dropout ----------------------------------------------------------------------------------------

// A function, which folds away: a global would be set when the library is loaded, on a processor that may lack the
// instructions, before anyone can ask (ctr_fits_processor).
inline IntVec lane_bits() {
    IntVec bits = {};
    for (int i = 0; i < LANES; ++i) bits[i] = 1 << i;
    return bits;
}

// C = A B with A [m, k], or its transpose, among the share's activations or their gradients.
template <bool transposed, class Finish>
void product(int m, int n, int k, const float* a, Share& s, bool sparse, const float* packed, const Finish& finish) {
    if (!sparse) return gemm<transposed>(m, n, k, a, s.ld, packed, finish);
    s.lists.fill<transposed>(a, s.ld, m, k);
    gemm(s.lists, n, packed, finish);
}

void linear_forward(const Layer& l, const float* params, const Packed& packed, Share& s) {
    const float* bias = params + l.bias;
    const float* x = s.x.data() + l.in;
    float* out = s.x.data() + l.out;
    const auto finish = [&](int r, int c, Vec v, int count) {
        v += load(bias + c);  // the parameters end with room for one more load
        v = v <= 0 ? Vec{} : v;  // NaN stays: the loss must show it
        if (l.bits >= 0 && s.bits) {
            const std::int64_t word = s.bits[r * s.words + l.bits + c / 64] >> (c % 64);
            v = ((IntVec{} + std::int32_t(word)) & lane_bits()) != 0 ? v + v : Vec{};
        }
        store(out + r * s.ld + c, v, count);
    };
    const bool sparse = mostly_zero(x, s.ld, s.rows, l.in_width, l.out_width);
    product<false>(s.rows, l.out_width, l.in_width, x, s, sparse, packed.forward.data(), finish);
}

void linear_backward(const Layer& l, const Packed& packed, Share& s) {
    // Through dropout and ReLU: what left the layer positive was passed on, doubled if there is dropout.
    const float factor = l.bits >= 0 ? 2.0F : 1.0F;
    float* __restrict dbias = s.dparams.data() + l.bias;
    if (!s.more) std::fill(dbias, dbias + l.out_width, 0.0F);
    for (int r = 0; r < s.rows; ++r) {
        const float* __restrict out = s.x.data() + r * s.ld + l.out;
        float* __restrict dout = s.dx.data() + r * s.ld + l.out;
        for (int i = 0; i < l.out_width; ++i) {
            const float d = out[i] > 0 ? dout[i] * factor : 0.0F;
            dout[i] = d;
            dbias[i] += d;
        }
    }
    const float* x = s.x.data() + l.in;
    const float* dy = s.dx.data() + l.out;
    float* dw = s.dparams.data() + l.weight;
    for (int j = 0; j * PANEL < l.in_width; ++j) pack_rows(x, s.ld, s.rows, l.in_width, j, s.packed.data());
    const bool sparse = mostly_zero(dy, s.ld, s.rows, l.out_width, l.in_width);
    product<true>(l.out_width, l.in_width, s.rows, dy, s, sparse, s.packed.data(),
                  [&](int r, int c, Vec v, int count) { put(s, dw + std::ptrdiff_t(r) * l.in_width + c, v, count); });
    float* dx = s.dx.data() + l.in;
    const auto through = [&](auto keep) {
        product<false>(s.rows, l.in_width, l.out_width, dy, s, sparse, packed.backward.data(),
                       [&](int r, int c, Vec v, int count) { keep(dx + r * s.ld + c, v, count); });
    };
    if (l.add)
        through([](float* c, Vec v, int count) { store(c, load(c, count) + v, count); });
    else
        through([](float* c, Vec v, int count) { store(c, v, count); });
}

// ---- cross layers: x_{l+1} = x_l + b_l + x_0 (x_l . w_l) ---------------------------------------------------------
//
// Every x_l is alpha_l x_0 + beta_l, where alpha_l is a number per sample and beta_l = b_0 + ... + b_{l-1} is the same for
// all: x_l . w_l = alpha_l a_l + e_l with a_l = x_0 . w_l and e_l = beta_l . w_l. So a layer costs one dot product, and
// the vectors between need not exist. Of each sample the scratch columns keep all a_l and then all alpha_l.

// Puts beta_0 ... beta_depth [depth + 1, n] and then e_0 ... e_{depth-1} in the room.
void cross_shifts(const Layer& l, const float* params, Share& s) {
    const int n = l.in_width, depth = l.extra;
    s.room.resize(std::max(s.room.size(), std::size_t(depth + 1) * std::size_t(n + 1)));
    float *beta = s.room.data(), *e = beta + (depth + 1) * n;
    const float *w = params + l.weight, *b = params + l.bias;
    std::fill(beta, beta + n, 0.0F);
    for (int i = 0; i < depth; ++i, beta += n, w += n, b += n) {
        e[i] = dot(beta, w, n);
        for (int c = 0; c < n; ++c) beta[n + c] = beta[c] + b[c];
    }
}

void cross_forward(const Layer& l, const float* params, Share& s) {
    cross_shifts(l, params, s);
    const int n = l.in_width, depth = l.extra;
    const float *w = params + l.weight, *beta = s.room.data() + depth * n, *e = beta + n;
    for (int r = 0; r < s.rows; ++r) {
        float* row = s.x.data() + r * s.ld;
        const float* x0 = row + l.in;
        float *a = row + l.scratch, *alpha = a + depth;
        alpha[0] = 1;
        for (int i = 0; i < depth; ++i) {
            a[i] = dot(x0, w + i * n, n);
            alpha[i + 1] = alpha[i] + alpha[i] * a[i] + e[i];
        }
        each(n, [&](int c, int count) {
            store(row + l.out + c, alpha[depth] * load(x0 + c, count) + load(beta + c, count), count);
        });
    }
}

// For `layers` layers from `first` on, by columns of x_0: what goes through a_l to the weights and to x_0. With the first
// ones also what goes straight to x_0, and dbeta_depth, which is left in `total`.
template <int layers>
void cross_columns(const Layer& l, const float* params, Share& s, int first, float* total) {
    const int n = l.in_width;
    const float* weight = params + l.weight + first * n;
    float* dweight = s.dparams.data() + l.weight + first * n;
    const bool keep = l.add || first > 0;
    each(n, [&](int c, int count) {
        Vec w[layers], dw[layers] = {}, sum = {};
        for (int i = 0; i < layers; ++i) w[i] = load(weight + i * n + c, count);
        for (int r = 0; r < s.rows; ++r) {
            const float* row = s.x.data() + r * s.ld;
            float* drow = s.dx.data() + r * s.ld;
            const float* da = drow + l.scratch + first;
            const Vec x0 = load(row + l.in + c, count);
            Vec dx = keep ? load(drow + l.in + c, count) : Vec{};
            if (first == 0) {
                const Vec g = load(drow + l.out + c, count);
                sum += g;
                dx += row[l.scratch + 2 * l.extra] * g;
            }
            for (int i = 0; i < layers; ++i) {
                dw[i] += da[i] * x0;
                dx += da[i] * w[i];
            }
            store(drow + l.in + c, dx, count);
        }
        for (int i = 0; i < layers; ++i) put(s, dweight + i * n + c, dw[i], count);
        if (first == 0) store(total + c, sum, count);
    });
}

void cross_backward(const Layer& l, const float* params, Share& s) {
    cross_shifts(l, params, s);
    const int n = l.in_width, depth = l.extra;
    float* de = s.room.data() + (depth + 1) * n;
    std::fill(de, de + depth, 0.0F);
    for (int r = 0; r < s.rows; ++r) {
        const float *row = s.x.data() + r * s.ld, *a = row + l.scratch, *alpha = a + depth;
        float *drow = s.dx.data() + r * s.ld, *da = drow + l.scratch;
        float dalpha = dot(drow + l.out, row + l.in, n);
        for (int i = depth; i-- > 0;) {
            de[i] += dalpha;
            da[i] = dalpha * alpha[i];
            dalpha += dalpha * a[i];
        }
    }
    float* dbeta = s.room.data() + depth * n;  // beta_depth itself is not needed here
    for (int first = 0; first < depth; first += 4) {
        switch (depth - first) {
            case 1: cross_columns<1>(l, params, s, first, dbeta); break;
            case 2: cross_columns<2>(l, params, s, first, dbeta); break;
            case 3: cross_columns<3>(l, params, s, first, dbeta); break;
            default: cross_columns<4>(l, params, s, first, dbeta);
        }
    }
    for (int i = depth; i-- > 0;) {
        const float *w = params + l.weight + i * n, *beta = s.room.data() + i * n;
        float *dw = s.dparams.data() + l.weight + i * n, *db = s.dparams.data() + l.bias + i * n;
        for (int c = 0; c < n; ++c) {
            db[c] = (s.more ? db[c] : 0.0F) + dbeta[c];
            dw[c] += de[i] * beta[c];
            dbeta[c] += de[i] * w[c];
        }
    }
}

// ---- products of pairs of fields: p_ij = f_i^T W_ij f_j -----------------------------------------------------------
//
// LANES samples at a time, one in each lane: the fields are transposed to [column][LANES]. W is [dim, pairs, dim].

template <int fixed>  // the dim if known, else 0
void pairs_block(const Layer& l, const float* params, Share& s, int first, bool back) {
    const int dim = fixed ? fixed : l.extra;
    const int fields = l.in_width / dim, pairs = l.out_width;
    const float* weight = params + l.weight;
    const std::ptrdiff_t step = std::ptrdiff_t(pairs) * dim;  // from W[a, p, m] to W[a + 1, p, m]
    const int count = s.rows - first < LANES ? s.rows - first : LANES;
    Vec* f = reinterpret_cast<Vec*>(s.room.data());
    Vec* df = f + l.in_width;
    for (int c = 0; c < l.in_width; ++c) {
        for (int r = 0; r < count; ++r) f[c][r] = s.x[std::size_t((first + r) * s.ld + l.in + c)];
        if (back) df[c] = Vec{};
    }
    int p = 0;
    for (int i = 0; i < fields; ++i)
        for (int j = i + 1; j < fields; ++j, ++p) {
            const Vec *fi = f + i * dim, *fj = f + j * dim;
            Vec *dfi = df + i * dim, *dfj = df + j * dim;
            const float* w = weight + std::ptrdiff_t(p) * dim;
            if (!back) {
                Vec product = {};
                for (int m = 0; m < dim; ++m) {
                    Vec t = {};
                    for (int a = 0; a < dim; ++a) t += w[a * step + m] * fi[a];
                    product += t * fj[m];
                }
                for (int r = 0; r < count; ++r) s.x[std::size_t((first + r) * s.ld + l.out + p)] = product[r];
            } else {
                Vec g = {};
                for (int r = 0; r < count; ++r) g[r] = s.dx[std::size_t((first + r) * s.ld + l.out + p)];
                Vec u[fixed ? fixed : 1];
                for (int m = 0; m < dim; ++m) {
                    const Vec gfj = g * fj[m];
                    Vec t = {};
                    for (int a = 0; a < dim; ++a) {
                        t += w[a * step + m] * fi[a];
                        if constexpr (fixed)
                            u[a] = (m ? u[a] : Vec{}) + w[a * step + m] * gfj;
                        else
                            dfi[a] += w[a * step + m] * gfj;
                    }
                    dfj[m] += g * t;
                }
                if constexpr (fixed)
                    for (int a = 0; a < dim; ++a) dfi[a] += u[a];
            }
        }
    if (!back) return;
    for (int r = 0; r < count; ++r) {
        float* dx = s.dx.data() + (first + r) * s.ld + l.in;
        for (int c = 0; c < l.in_width; ++c) dx[c] = (l.add ? dx[c] : 0.0F) + df[c][r];
    }
}

void pairs_run(const Layer& l, const float* params, Share& s, bool back) {
    for (int first = 0; first < s.rows; first += LANES) {
        if (l.extra == 10)
            pairs_block<10>(l, params, s, first, back);
        else
            pairs_block<0>(l, params, s, first, back);
    }
}

// dW[a, (j, m)] = sum over samples of f_i[a] * g_ij f_j[m]: one matrix product for all pairs of one i.
void pairs_weights(const Layer& l, Share& s) {
    const int dim = l.extra, fields = l.in_width / dim;
    const std::ptrdiff_t step = std::ptrdiff_t(l.out_width) * dim;
    int p = 0;
    for (int i = 0; i + 1 < fields; ++i) {
        const int others = fields - 1 - i, width = others * dim;
        float* __restrict row = s.room.data();
        for (int r = 0; r < s.rows; ++r) {
            const float* __restrict f = s.x.data() + r * s.ld + l.in + (i + 1) * dim;
            const float* __restrict g = s.dx.data() + r * s.ld + l.out + p;
            // Whole vectors: what one writes too much, the next overwrites.
            for (int j = 0; j < others; ++j)
                for (int m = 0; m < dim; m += LANES) store(row + j * dim + m, g[j] * load(f + j * dim + m));
            std::memset(row + width, 0, PANEL * sizeof(float));
            for (int c = 0; c < width; c += PANEL)
                std::memcpy(s.packed.data() + std::ptrdiff_t(c) * s.rows + r * PANEL, row + c, PANEL * sizeof(float));
        }
        float* dw = s.dparams.data() + l.weight + std::ptrdiff_t(p) * dim;
        gemm<true>(dim, width, s.rows, s.x.data() + l.in + i * dim, s.ld, s.packed.data(),
                   [&](int r, int c, Vec v, int count) { put(s, dw + r * step + c, v, count); });
        p += others;
    }
}

// ---- superposition: (sum_i f_i) (sum_i f_i)^T ---------------------------------------------------------------------

void superposition_run(const Layer& l, Share& s, bool back) {
    const int dim = l.extra;
    std::vector<float> total(l.extra), dtotal(l.extra);
    for (int r = 0; r < s.rows; ++r) {
        const float* f = s.x.data() + r * s.ld + l.in;
        std::fill(total.begin(), total.end(), 0.0F);
        for (int i = 0; i < l.in_width; i += dim) axpy(1.0F, f + i, total.data(), dim);
        if (!back) {
            float* out = s.x.data() + r * s.ld + l.out;
            for (int a = 0; a < dim; ++a)
                for (int b = 0; b < dim; ++b) out[a * dim + b] = total[std::size_t(a)] * total[std::size_t(b)];
            continue;
        }
        const float* g = s.dx.data() + r * s.ld + l.out;
        std::fill(dtotal.begin(), dtotal.end(), 0.0F);
        for (int a = 0; a < dim; ++a)
            for (int b = 0; b < dim; ++b)
                dtotal[std::size_t(a)] += (g[a * dim + b] + g[b * dim + a]) * total[std::size_t(b)];
        float* dx = s.dx.data() + r * s.ld + l.in;
        for (int i = 0; i < l.in_width; ++i) dx[i] = (l.add ? dx[i] : 0.0F) + dtotal[std::size_t(i % dim)];
    }
}

// ---- the last linear unit and the loss ----------------------------------------------------------------------------

void head_forward(const Layer& l, const float* params, Share& s) {
    for (int r = 0; r < s.rows; ++r) {
        s.logit[r] = dot(s.x.data() + r * s.ld + l.in, params + l.weight, l.in_width) + params[l.bias];
        if (s.label) {
            const double z = s.logit[r];
            const double loss = std::fmax(z, 0.0) - z * s.label[r] + std::log1p(std::exp(-std::fabs(z)));
            s.loss += s.weight ? s.weight[r] * loss : loss;
        }
    }
}

// `rows` rows, from `first` on, of which g has the derivative of the loss by the logit.
template <int rows, bool add>
void head_rows(const Layer& l, const float* params, Share& s, int first, const float* g) {
    const float *w = params + l.weight, *x = s.x.data() + first * s.ld + l.in;
    float *dw = s.dparams.data() + l.weight, *dx = s.dx.data() + first * s.ld + l.in;
    each(l.in_width, [&](int c, int count) {
        const Vec by = load(w + c, count);
        Vec sum = load(dw + c, count);
        for (int r = 0; r < rows; ++r) {
            sum = add_product(sum, splat(g[r]), load(x + r * s.ld + c, count));
            float* to = dx + r * s.ld + c;
            store(to, add_product(add ? load(to, count) : Vec{}, splat(g[r]), by), count);
        }
        store(dw + c, sum, count);
    });
}

void head_backward(const Layer& l, const float* params, Share& s) {
    constexpr int ROWS = 4;  // at a time, so that dw is read and written a fourth as often
    float *dw = s.dparams.data() + l.weight, dbias = s.more ? s.dparams[std::size_t(l.bias)] : 0.0F;
    if (!s.more) std::fill(dw, dw + l.in_width, 0.0F);
    for (int first = 0; first < s.rows; first += ROWS) {
        const int rows = std::min(ROWS, s.rows - first);
        float g[ROWS];
        for (int i = 0, r = first; i < rows; ++i, ++r) {
            const float scale = s.weight ? s.weight[r] * s.scale : s.scale;
            g[i] = (1.0F / (1.0F + std::exp(-s.logit[r])) - s.label[r]) * scale;
            dbias += g[i];
        }
        const auto back = [&](auto add) {
            if (rows == ROWS) return head_rows<ROWS, add>(l, params, s, first, g);
            for (int i = 0; i < rows; ++i) head_rows<1, add>(l, params, s, first + i, g + i);
        };
        if (l.add)
            back(std::true_type());
        else
            back(std::false_type());
    }
    s.dparams[std::size_t(l.bias)] = dbias;
}

}  // namespace

void pack(const Layer& l, const float* params, Packed& packed, int thread, int threads) {
    if (l.kind != LINEAR) return;
    const float* w = params + l.weight;
    for (int j = thread; j * PANEL < l.out_width; j += threads)
        pack_columns(w, l.in_width, l.in_width, l.out_width, j, packed.forward.data());
    for (int j = thread; j * PANEL < l.in_width; j += threads)
        pack_rows(w, l.in_width, l.out_width, l.in_width, j, packed.backward.data());
}

void forward(const Layer& l, const float* params, const Packed& packed, Share& s) {
    switch (l.kind) {
        case LINEAR: return linear_forward(l, params, packed, s);
        case CROSS: return cross_forward(l, params, s);
        case PAIRS: return pairs_run(l, params, s, false);
        case SUPERPOSITION: return superposition_run(l, s, false);
        case HEAD: return head_forward(l, params, s);
    }
}

void backward(const Layer& l, const float* params, const Packed& packed, Share& s) {
    switch (l.kind) {
        case LINEAR: return linear_backward(l, packed, s);
        case CROSS: return cross_backward(l, params, s);
        case PAIRS: pairs_weights(l, s); return pairs_run(l, params, s, true);
        case SUPERPOSITION: return superposition_run(l, s, true);
        case HEAD: return head_backward(l, params, s);
    }
}

}  // namespace ctr
