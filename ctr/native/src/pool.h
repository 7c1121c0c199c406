// A team of threads that run one function together. The caller is thread 0; the others are parked between calls.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

namespace ctr {

class Pool {
  public:
    explicit Pool(int threads) : threads_(threads) {
        for (int t = 1; t < threads; ++t) team_.emplace_back([this, t] { serve(t); });
    }

    ~Pool() {
        stop_ = true;
        start();
        for (auto& thread : team_) thread.join();
    }

    int threads() const { return threads_; }

    // Runs work(thread) on every thread and returns when all are done.
    void run(const std::function<void(int)>& work) {
        work_ = &work;
        start();
        work(0);
        barrier();
    }

    // To be called by every thread of a run: none goes on before all have come.
    void barrier() {
        const unsigned round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            round_.notify_all();
        } else {
            wait(round_, round);
        }
    }

  private:
    void start() {
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();
    }

    void serve(int thread) {
        unsigned seen = 0;
        for (;;) {
            wait(calls_, seen);
            ++seen;
            if (stop_) return;
            (*work_)(thread);
            barrier();
        }
    }

    // Watches for a while, then sleeps: a wake-up costs 50 us and more in a virtual machine, and between two steps or at
    // a barrier it is rarely longer than that; a thread that went on spinning would take a core from others.
    static void wait(const std::atomic<unsigned>& value, unsigned old) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
        do {
            for (int i = 0; i < 32; ++i) {
                if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
            }
        } while (std::chrono::steady_clock::now() < end);
        value.wait(old, std::memory_order_acquire);
    }

    const int threads_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<bool> stop_ = false;
    std::atomic<unsigned> calls_ = 0, round_ = 0;
    std::atomic<int> arrived_ = 0;
    std::vector<std::thread> team_;
};

}  // namespace ctr
