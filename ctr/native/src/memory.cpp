// Memory for big tables: zeros, in huge pages where the system has them; and what this build is of and for.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#ifndef CTR_SOURCES
#error "compile with -DCTR_SOURCES: in quotes, what `python ctr/native/sources.py` prints"
#endif

extern "C" {

// Null if there is not enough. Pages are handed out at first touch.
void* ctr_allocate(std::size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice: a system that declines it is only slower
#endif
    return memory;
}

// Gives the whole pages within `bytes` from `memory` back to the system at once. What stood there is lost.
void ctr_forget(void* memory, std::size_t bytes) {
    const auto page = std::uintptr_t(sysconf(_SC_PAGESIZE));
    const std::uintptr_t first = (std::uintptr_t(memory) + page - 1) / page * page;
    const std::uintptr_t last = (std::uintptr_t(memory) + bytes) / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);  // advice
}

void ctr_release(void* memory, std::size_t bytes) { munmap(memory, bytes); }

// Which sources this is built from (ctr/native/sources.py).
const char* ctr_sources(void) { return CTR_SOURCES; }

int ctr_fits_processor(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#if defined(__AVX512F__)
    if (!__builtin_cpu_supports("avx512f")) return 0;
#endif
#if defined(__AVX2__)
    if (!__builtin_cpu_supports("avx2")) return 0;
#endif
#if defined(__FMA__)
    if (!__builtin_cpu_supports("fma")) return 0;
#endif
#endif
    return 1;
}
}
