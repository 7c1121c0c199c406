// Memory for big tables: zeros, in huge pages where the system has them; and what this build is of and for.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "vec.h"

#ifndef CTR_SOURCES
#error "compile with -DCTR_SOURCES: in quotes, what `python ctr/native/sources.py` prints"
#endif
#ifndef CTR_FLAGS
#define CTR_FLAGS "flags unknown"
#endif
#if defined(__clang__)
#define CTR_COMPILER "Clang"
#else
#define CTR_COMPILER "GCC"
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

// By which compiler, and how.
const char* ctr_build(void) { return CTR_COMPILER " " __VERSION__ " " CTR_FLAGS; }

// Floats in a vector.
int ctr_lanes(void) { return ctr::LANES; }

// Whether the processor has the instructions that the compiler could use.
int ctr_fits_processor(void) {
    int fits = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
#define CTR_NEEDS(name) fits = fits && __builtin_cpu_supports(name)
#if defined(__SSE4_2__)
    CTR_NEEDS("sse4.2");
#endif
#if defined(__POPCNT__)
    CTR_NEEDS("popcnt");
#endif
#if defined(__AVX2__)
    CTR_NEEDS("avx2");
#endif
#if defined(__FMA__)
    CTR_NEEDS("fma");
#endif
#if defined(__BMI__)
    CTR_NEEDS("bmi");
#endif
#if defined(__BMI2__)
    CTR_NEEDS("bmi2");
#endif
#if defined(__AVX512F__)
    CTR_NEEDS("avx512f");
#endif
#if defined(__AVX512BW__)
    CTR_NEEDS("avx512bw");
#endif
#if defined(__AVX512CD__)
    CTR_NEEDS("avx512cd");
#endif
#if defined(__AVX512DQ__)
    CTR_NEEDS("avx512dq");
#endif
#if defined(__AVX512VL__)
    CTR_NEEDS("avx512vl");
#endif
#if defined(__AVX512VNNI__)
    CTR_NEEDS("avx512vnni");
#endif
#if defined(__AVX512VBMI__)
    CTR_NEEDS("avx512vbmi");
#endif
#if defined(__AVX512IFMA__)
    CTR_NEEDS("avx512ifma");
#endif
#undef CTR_NEEDS
#endif
    return fits;
}
}
