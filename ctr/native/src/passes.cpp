// A net's passes over the shares of a batch, each in code that torch's AOTInductor has compiled, at once.
//
// The library is not linked to torch: what it needs of torch's C interface (torch/csrc/inductor/aoti_torch/c/shim.h) comes as
// pointers, as do the entries of compiled code (aoti_runtime/interface.h).
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <vector>

#include "team.h"

namespace ctr {

namespace {

using Handle = void*;  // of a tensor

// Mirrored by ctr/native/library.py, as the next two.
struct Torch {
    // aoti_torch_create_tensor_from_blob: data, dimensions, sizes, strides, offset, type, kind and number of the device
    int (*tensor)(void*, std::int64_t, const std::int64_t*, const std::int64_t*, std::int64_t, std::int32_t, std::int32_t,
                  std::int32_t, Handle*);
    int (*data)(Handle, void**);  // aoti_torch_get_data_ptr
    int (*drop)(Handle);          // aoti_torch_delete_tensor_object
    void (*use_threads)(int);     // omp_set_num_threads, of the thread that calls it; or null
};

// What a pass is given.
struct Input {
    const std::int64_t *sizes, *strides;
    std::int32_t dims, type;
};

struct Pass {
    void* model;
    int (*run)(void*, Handle*, std::size_t, Handle*, std::size_t, void*, void*);  // takes the inputs' handles over
    const Input* inputs;
    const std::int64_t* bytes;  // of each output
    std::int32_t num_inputs, num_outputs;
};

constexpr std::int64_t SMALL = 1 << 15;  // numbers; fewer are added by one thread

// Runs a pass; returns whether it succeeded.
bool run(const Pass& pass, const Torch& torch, void* const* inputs, Handle* found) {
    std::vector<Handle> given(std::size_t(pass.num_inputs), nullptr);
    for (std::size_t k = 0; k < given.size(); ++k) {
        const Input& input = pass.inputs[k];
        if (torch.tensor(inputs[k], input.dims, input.sizes, input.strides, 0, input.type, 0, 0, &given[k])) {
            for (std::size_t made = 0; made < k; ++made) torch.drop(given[made]);
            return false;
        }
    }
    return !pass.run(pass.model, given.data(), given.size(), found, std::size_t(pass.num_outputs), nullptr, nullptr);
}

}  // namespace

}  // namespace ctr

using namespace ctr;

// Runs passes[0 ... count), which have the same numbers of inputs and outputs, each on its own inputs [count][num_inputs].
// Of each the first `own` outputs are copied to outputs [count][own]; the others, float32, are summed over the passes, in
// their order, to sums [num_outputs - own]. Returns 0, or 1 if a pass failed (torch has then written why to stderr).
extern "C" int ctr_passes(const Pass* passes, int count, void* const* inputs, void* const* outputs, void* const* sums, int own,
                          const Torch* torch, int threads) try {
    threads = std::min(threads, count);
    const auto width = std::size_t(passes[0].num_inputs), made = std::size_t(passes[0].num_outputs), first = std::size_t(own);
    std::vector<Handle> found(std::size_t(count) * made, nullptr);
    std::vector<void*> data(found.size(), nullptr);
    std::atomic<bool> failed = false;
    call([&](int share) {
        if (torch->use_threads) torch->use_threads(1);
        const auto s = std::size_t(share);
        bool done = false;
        try {
            done = run(passes[s], *torch, inputs + s * width, &found[s * made]);
        } catch (const std::exception&) {  // no memory
        }
        if (!done) {
            failed = true;
            return;
        }
        for (std::size_t k = 0; k < made; ++k) {
            if (torch->data(found[s * made + k], &data[s * made + k])) failed = true;
            else if (k < first) std::memcpy(outputs[s * first + k], data[s * made + k], std::size_t(passes[s].bytes[k]));
        }
    }, count, threads);
    if (!failed) {
        std::int64_t all = 0;
        for (std::size_t k = first; k < made; ++k) all += passes[0].bytes[k] / std::int64_t(sizeof(float));
        const int parts = all < SMALL ? 1 : threads;
        const auto add = [&](int part) {
            for (std::size_t k = first; k < made; ++k) {
                const std::int64_t size = passes[0].bytes[k] / std::int64_t(sizeof(float));
                auto* sum = static_cast<float*>(sums[k - first]);
                const std::int64_t from = size * part / parts, to = size * (part + 1) / parts;
                const auto* one = static_cast<const float*>(data[k]);
                std::copy(one + from, one + to, sum + from);
                for (std::size_t s = 1; s < std::size_t(count); ++s) {
                    const auto* other = static_cast<const float*>(data[s * made + k]);
                    for (std::int64_t i = from; i < to; ++i) sum[i] += other[i];
                }
            }
        };
        if (parts == 1) add(0);
        else call(add, parts, threads);
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());  // outputs that are one tensor have one handle
    for (Handle handle : found)
        if (handle) torch->drop(handle);
    return failed;
} catch (const std::exception&) {
    return 1;
}
