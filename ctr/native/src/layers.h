// The layers that the models are made of, forward and backward, over a share of a batch.
//
// Every sample has one row of activations in which each layer finds its input and leaves its output side by side, so
// that concatenating costs nothing; its gradients lie in a row of the same layout. Which columns a layer reads and writes
// is decided where the torch model is translated (ctr/training/compiled/program.py).
#pragma once

#include <cstdint>
#include <vector>

#include "sparse.h"

namespace ctr {

enum Kind : std::int32_t { LINEAR, CROSS, PAIRS, SUPERPOSITION, HEAD };

// Mirrored by ctr/training/compiled/program.py.
struct Layer {
    std::int32_t kind;
    std::int32_t in, in_width;    // columns read
    std::int32_t out, out_width;  // columns written
    std::int32_t weight, bias;    // offsets into the flat parameters
    std::int32_t extra;           // CROSS: layers; PAIRS, SUPERPOSITION: dim
    std::int32_t scratch;         // CROSS: 2 * layers + 1 columns of its own
    std::int32_t bits;            // LINEAR: first dropout word of a row, -1 for no dropout
    std::int32_t add;             // backward: the input's gradient is added to what a later layer left there
};

// A thread's share of the batch, or the block of it that is at work.
struct Share {
    int rows = 0;
    std::ptrdiff_t ld = 0;              // columns of a row
    Floats x, dx;                       // activations and their gradients
    std::vector<float> dparams;         // gradients of the flat parameters; backward() sets its layer's
    bool more = false;                  // it adds to those of earlier blocks of the share instead
    Floats drows;                       // gradients of the embedding rows, where there are several blocks
    Floats packed;                      // room for one packed operand
    Lists lists;                        // and for one that is mostly 0
    Floats room;                        // for what a layer keeps between two of its loops
    const std::int64_t* bits = nullptr; // dropout words of the first row
    std::ptrdiff_t words = 0;           // words of a row
    const float* label = nullptr;
    const float* weight = nullptr;      // of each row's loss; null: 1 each
    float* logit = nullptr;
    float scale = 0;                    // 1 / rows of the whole batch
    double loss = 0;                    // sum over the share
};

// A layer's weights, packed for the forward and for the backward product; shared by all threads.
struct Packed {
    Floats forward, backward;
};

void pack(const Layer& layer, const float* params, Packed& packed, int thread, int threads);
void forward(const Layer& layer, const float* params, const Packed& packed, Share& share);
void backward(const Layer& layer, const float* params, const Packed& packed, Share& share);

}  // namespace ctr
