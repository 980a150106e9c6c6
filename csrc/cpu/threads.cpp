#include "threads.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace fastsample {
namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Job {
  void (*work)(void*, int64_t);
  void* context;
  int64_t parts;
  int helpers;  // threads beside the caller that may join
};

class Pool {
 public:
  std::mutex callers;  // held for the length of a call
  const pid_t owner = getpid();

  void run(int threads, const Job& job) {
    start(threads - 1);
    next_.store(0, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      joined_ = 0;
      is_open_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_parts(job);
    // Helpers that have joined must leave before the job goes; later ones find it closed.
    std::unique_lock<std::mutex> lock(mutex_);
    is_open_ = false;
    if (joined_ == 0) return;
    lock.unlock();
    for (int i = 0; i < kSpins; ++i) {
      if (active_.load(std::memory_order_acquire) == 0) return;
      pause();
    }
    lock.lock();
    done_.wait(lock, [this] { return active_.load(std::memory_order_acquire) == 0; });
  }

 private:
  // As many helpers as can be had: a limit on threads or memory makes a call slower, and nothing else.
  void start(int helpers) {
    try {
      for (; started_ < helpers; ++started_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
  }

  static constexpr int kSpins =
      2000;  // about 50 us: the calls of a decoding loop are further apart, those of a row are not

  void take_parts(const Job& job) {
    for (int64_t part; (part = next_.fetch_add(1, std::memory_order_relaxed)) < job.parts;) job.work(job.context, part);
  }

  void serve() {
    uint64_t seen = 0;
    while (true) {
      for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) pause();
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      seen = generation_.load(std::memory_order_acquire);
      if (!is_open_ || joined_ >= job_.helpers) continue;
      ++joined_;
      active_.fetch_add(1, std::memory_order_relaxed);
      const Job job = job_;
      lock.unlock();
      take_parts(job);
      lock.lock();
      active_.fetch_sub(1, std::memory_order_release);
      done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job job_ = {};
  bool is_open_ = false;
  int joined_ = 0, started_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> active_{0};
  std::atomic<uint64_t> generation_{0};
};

// Never destroyed: threads may still wait in it when the program ends. A forked child has no threads: it gets its own.
std::atomic<Pool*> pool_of_process{nullptr};

Pool* pool() {
  Pool* current = pool_of_process.load();
  if (current && current->owner == getpid()) return current;
  Pool* fresh = new Pool;
  if (pool_of_process.compare_exchange_strong(current, fresh)) return fresh;
  delete fresh;
  return pool_of_process.load();
}

}  // namespace

void run_parts(int threads, int64_t parts, void (*work)(void*, int64_t), void* context) {
  if (threads > parts) threads = static_cast<int>(parts);
  if (threads > 1) {
    Pool* shared = pool();
    std::unique_lock<std::mutex> is_mine(shared->callers, std::try_to_lock);
    if (is_mine.owns_lock()) {
      shared->run(threads, {work, context, parts, threads - 1});
      return;
    }
  }
  for (int64_t part = 0; part < parts; ++part) work(context, part);
}

}  // namespace fastsample
