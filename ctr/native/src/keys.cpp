// An exact map from 64-bit keys to 0, 1, 2, ... in order of first appearance: ctr.datasets.encode.KeyIndex, compiled.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>

extern "C" {
void* ctr_allocate(std::size_t bytes);
void ctr_release(void* memory, std::size_t bytes);
}

namespace {

constexpr std::int64_t AHEAD = 16;  // keys whose slot is fetched before it is needed

struct Slot {
    std::uint64_t key;
    std::int64_t place;  // id + 1; 0: the slot is free
};

// splitmix64, as in ctr/datasets/hashing.py: neighbouring keys must not share a neighbourhood.
std::uint64_t mix(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31);
}

class KeyIndex {
  public:
    ~KeyIndex() {
        if (slots_) ctr_release(slots_, bytes(bits_));
    }

    // False if there is no memory.
    bool allocate(int bits) {
        auto* slots = static_cast<Slot*>(ctr_allocate(bytes(bits)));
        if (!slots) return false;
        Slot* old = slots_;
        const std::uint64_t count = old ? std::uint64_t(1) << bits_ : 0;
        const int old_bits = bits_;
        slots_ = slots, bits_ = bits;
        for (std::uint64_t i = 0; i < count; ++i)
            if (old[i].place) *find(old[i].key) = old[i];
        if (old) ctr_release(old, bytes(old_bits));
        return true;
    }

    // The number of new keys; -1: more ids than int32 has; -2: no memory.
    std::int64_t ids(const std::uint64_t* keys, std::int64_t n, std::int32_t* ids, std::uint64_t* fresh) {
        const std::int64_t before = count_;
        for (std::int64_t i = 0; i < n; ++i) {
            if (i + AHEAD < n) __builtin_prefetch(home(keys[i + AHEAD]), 1);
            Slot* slot = find(keys[i]);
            if (!slot->place) {
                if (count_ == std::numeric_limits<std::int32_t>::max()) return -1;
                if (std::uint64_t(count_) >= std::uint64_t(1) << (bits_ - 1)) {
                    if (!allocate(bits_ + 1)) return -2;
                    slot = find(keys[i]);
                }
                fresh[count_ - before] = keys[i];
                *slot = {keys[i], ++count_};
            }
            ids[i] = std::int32_t(slot->place - 1);
        }
        return count_ - before;
    }

    // The ids of keys, -1 for a key that is not there; adds nothing.
    void look_up(const std::uint64_t* keys, std::int64_t n, std::int32_t* ids) const {
        for (std::int64_t i = 0; i < n; ++i) {
            if (i + AHEAD < n) __builtin_prefetch(home(keys[i + AHEAD]));
            ids[i] = std::int32_t(find(keys[i])->place - 1);
        }
    }

  private:
    static std::size_t bytes(int bits) { return sizeof(Slot) << bits; }

    Slot* home(std::uint64_t key) const { return slots_ + (mix(key) >> (64 - bits_)); }

    // The slot of the key, or the free one that ends its probe. At most half of the slots are in use.
    Slot* find(std::uint64_t key) const {
        Slot* slot = home(key);
        Slot* const end = slots_ + (std::uint64_t(1) << bits_);
        while (slot->place && slot->key != key)
            if (++slot == end) slot = slots_;
        return slot;
    }

    Slot* slots_ = nullptr;
    int bits_ = 0;
    std::int64_t count_ = 0;
};

}  // namespace

extern "C" {

void* ctr_index_new(int bits) {
    auto* index = new (std::nothrow) KeyIndex;
    if (index && !index->allocate(bits)) {
        delete index;
        index = nullptr;
    }
    return index;
}

void ctr_index_free(void* index) { delete static_cast<KeyIndex*>(index); }

std::int64_t ctr_index_ids(void* index, const std::uint64_t* keys, std::int64_t n, std::int32_t* ids,
                           std::uint64_t* fresh) {
    return static_cast<KeyIndex*>(index)->ids(keys, n, ids, fresh);
}

// Adds to totals[place of the id] for every id.
void ctr_count(const std::int32_t* ids, std::int64_t n, const std::int32_t* places, std::int64_t* totals) {
    for (std::int64_t i = 0; i < n; ++i) {
        if (i + AHEAD < n) __builtin_prefetch(places + ids[i + AHEAD]);
        ++totals[places[ids[i]]];
    }
}

// Sets marked[id] for every id.
void ctr_mark(const std::int32_t* ids, std::int64_t n, std::uint8_t* marked) {
    for (std::int64_t i = 0; i < n; ++i) {
        if (i + AHEAD < n) __builtin_prefetch(marked + ids[i + AHEAD], 1);
        if (!marked[ids[i]]) marked[ids[i]] = 1;
    }
}

void ctr_index_find(const void* index, const std::uint64_t* keys, std::int64_t n, std::int32_t* ids) {
    static_cast<const KeyIndex*>(index)->look_up(keys, n, ids);
}
}
