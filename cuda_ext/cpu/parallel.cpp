#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace splat::cpu {
namespace {

struct Job {
  RangeFn fn;
  void* context;
  int64_t n, grain;
  std::atomic<int64_t> next{0};

  void work() {
    for (int64_t begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < n;)
      fn(context, begin, std::min(begin + grain, n));
  }
};

class Pool {
 public:
  // Two jobs at once (two Python threads) take turns: the second runs its job on its own thread alone.
  bool try_run(Job& job, int helpers) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(threads_.size()) < helpers) {
        const int index = static_cast<int>(threads_.size());
        threads_.emplace_back([this, index, seen = generation_] { loop(index, seen); });
        avoided_cpu_ = -1;
      }
      keep_off_this_cpu();
      job_ = &job;
      wanted_ = helpers;
      running_ = helpers;
      ++generation_;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
    job_ = nullptr;
    return true;
  }

 private:
  // A woken thread tends to be put on the processor of the thread that wakes it, and then waits until that one has done
  // all the work (measured: no speed-up at all in two runs of three). So the pool's threads keep off the caller's
  // processor; where it runs is up to the system, and asked anew for each job.
  void keep_off_this_cpu() {
#if defined(__linux__)
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu == avoided_cpu_) return;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    if (CPU_COUNT(&allowed) > 1) CPU_CLR(cpu, &allowed);
    for (std::thread& t : threads_) pthread_setaffinity_np(t.native_handle(), sizeof allowed, &allowed);
    avoided_cpu_ = cpu;
#endif
  }

  void loop(int index, uint64_t seen) {
    in_pool_thread() = true;
    for (;;) {
      Job* job = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
        if (index >= wanted_) continue;
        job = job_;
      }
      job->work();
      std::lock_guard<std::mutex> lock(mutex_);
      if (--running_ == 0) done_.notify_one();
    }
  }

 public:
  static bool& in_pool_thread() {
    static thread_local bool inside = false;
    return inside;
  }

 private:
  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  int wanted_ = 0, running_ = 0, avoided_cpu_ = -1;
  uint64_t generation_ = 0;
};

// Never destroyed: joining threads at interpreter exit can hang. After a fork the child has no threads, so it starts
// with a new pool.
Pool* g_pool = nullptr;
std::mutex g_pool_mutex;
std::atomic<int> g_threads{0};

Pool& pool() {
  std::lock_guard<std::mutex> lock(g_pool_mutex);
  if (g_pool == nullptr) {
    static const bool registered = [] {
      pthread_atfork(nullptr, nullptr, [] { g_pool = nullptr; });
      return true;
    }();
    (void)registered;
    g_pool = new Pool();
  }
  return *g_pool;
}

int default_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

int num_threads() {
  int n = g_threads.load(std::memory_order_relaxed);
  if (n == 0) g_threads.store(n = default_threads(), std::memory_order_relaxed);
  return n;
}

void set_num_threads(int n) { g_threads.store(std::max(1, n), std::memory_order_relaxed); }

void parallel_ranges(int64_t n, int64_t grain, RangeFn fn, void* context) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  Job job{fn, context, n, grain};
  const int64_t pieces = (n + grain - 1) / grain;
  const int helpers = static_cast<int>(std::min<int64_t>(num_threads(), pieces)) - 1;
  if (helpers <= 0 || Pool::in_pool_thread()) return job.work();
  bool& inside = Pool::in_pool_thread();
  inside = true;  // a nested parallel_for on this thread runs inline
  if (!pool().try_run(job, helpers)) job.work();
  inside = false;
}

}  // namespace splat::cpu
