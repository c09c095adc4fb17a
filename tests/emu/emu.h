// Runs CUDA kernels on the host: the same .cu file, compiled by g++. Each CUDA thread is a fiber; a block runs on one OS
// thread, its fibers one after the other, each until it waits at a barrier or for its warp. Forward or reversed order
// (emu::reversed): a missing barrier shows as a wrong result in one of the two. Waiting for a thread that never comes
// aborts with a message.
#pragma once
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static thread_local

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using cudaStream_t = void*;

namespace emu {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;
constexpr size_t kStack = 128 << 10;
inline bool reversed = false;

// A meeting point of all living threads of a block or warp.
struct Barrier {
  unsigned arrived = 0, generation = 0;
};

struct Thread {
  std::unique_ptr<char[]> stack;
  ucontext_t start;
  jmp_buf at;
  uint3 index;
  bool started, done;
};

struct Block {
  std::vector<Thread> threads;
  jmp_buf scheduler;
  unsigned current = 0, count = 0, alive = 0;
  uint64_t progress = 0;  // barriers passed and threads ended
  Barrier barrier, warp_barriers[kMaxThreads / kWarp];
  unsigned warp_alive[kMaxThreads / kWarp];
  uint64_t slots[kMaxThreads];
  uint3 index;
  dim3 size, grid;
  const std::function<void()>* body = nullptr;
};
inline thread_local Block block;

// Switches by setjmp and longjmp: swapcontext makes two system calls.
__attribute__((noinline)) inline void to_scheduler() {
  if (_setjmp(block.threads[block.current].at) == 0) _longjmp(block.scheduler, 1);
}

inline void wait(Barrier& barrier, unsigned expected) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived >= expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    ++block.progress;
    return;
  }
  while (barrier.generation == generation) to_scheduler();
}
inline unsigned warp() { return block.current / kWarp; }
inline unsigned lane() { return block.current % kWarp; }
inline void wait_block() { wait(block.barrier, block.alive); }
inline void wait_warp() { wait(block.warp_barriers[warp()], block.warp_alive[warp()]); }

// A thread that ends no longer counts; those that wait for it alone go on.
inline void leave(Barrier& barrier, unsigned alive) {
  if (alive > 0 && barrier.arrived >= alive) {
    barrier.arrived = 0;
    ++barrier.generation;
  }
}

inline void trampoline() {
  (*block.body)();
  Thread& t = block.threads[block.current];
  t.done = true;
  ++block.progress;
  leave(block.barrier, --block.alive);
  leave(block.warp_barriers[warp()], --block.warp_alive[warp()]);
  _longjmp(block.scheduler, 1);
}

__attribute__((noinline)) inline void resume(unsigned i) {
  block.current = i;
  Thread& t = block.threads[i];
  if (_setjmp(block.scheduler) != 0) return;
  if (t.started) _longjmp(t.at, 1);
  t.started = true;
  setcontext(&t.start);
}

inline void run_block(const std::function<void()>& body, uint3 index, dim3 grid, dim3 size) {
  block.count = block.alive = size.x * size.y * size.z;
  if (block.count > kMaxThreads) fprintf(stderr, "emu: %u threads in a block, at most 1024\n", block.count), abort();
  block.index = index;
  block.grid = grid;
  block.size = size;
  block.body = &body;
  block.barrier = {};
  if (block.threads.size() < block.count) block.threads.resize(block.count);
  for (unsigned w = 0; w < kMaxThreads / kWarp; ++w) {
    block.warp_barriers[w] = {};
    block.warp_alive[w] = block.count > w * kWarp ? std::min(kWarp, block.count - w * kWarp) : 0;
  }
  for (unsigned i = 0; i < block.count; ++i) {
    Thread& t = block.threads[i];
    if (!t.stack) t.stack.reset(new char[kStack]);
    t.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    t.started = t.done = false;
    getcontext(&t.start);
    t.start.uc_stack.ss_sp = t.stack.get();
    t.start.uc_stack.ss_size = kStack;
    t.start.uc_link = nullptr;
    makecontext(&t.start, trampoline, 0);
  }
  while (block.alive > 0) {
    const uint64_t before = block.progress;
    for (unsigned k = 0; k < block.count; ++k) {
      const unsigned i = reversed ? block.count - 1 - k : k;
      if (!block.threads[i].done) resume(i);
    }
    if (block.alive > 0 && block.progress == before)
      fprintf(stderr, "emu: %u threads wait for others that never come\n", block.alive), abort();
  }
}

template <class F>
void launch(dim3 grid, dim3 size, F&& kernel) {
  const std::function<void()> body = kernel;
  const uint64_t total = uint64_t(grid.x) * grid.y * grid.z;
  std::atomic<uint64_t> next{0};
  const auto work = [&] {
    for (uint64_t b; (b = next++) < total;)
      run_block(body, {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (uint64_t(grid.x) * grid.y))},
                grid, size);
  };
  std::vector<std::thread> pool;
  const uint64_t helpers = std::min<uint64_t>(total, std::max(1u, std::thread::hardware_concurrency()));
  for (uint64_t i = 1; i < helpers; ++i) pool.emplace_back(work);
  work();
  for (std::thread& t : pool) t.join();
}

// value of the lane `from` of the same warp.
template <class T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= 8);
  uint64_t raw = 0;
  memcpy(&raw, &value, sizeof value);
  block.slots[block.current] = raw;
  wait_warp();
  T result;
  memcpy(&result, &block.slots[warp() * kWarp + from % kWarp], sizeof result);
  wait_warp();
  return result;
}
inline void full_mask(unsigned mask) {
  if (mask != 0xffffffffu) fprintf(stderr, "emu: only full masks\n"), abort();
}
inline unsigned ballot(bool predicate) {
  block.slots[block.current] = predicate;
  wait_warp();
  unsigned bits = 0;
  for (unsigned i = 0; i < kWarp; ++i)
    if (warp() * kWarp + i < block.count && !block.threads[warp() * kWarp + i].done)
      bits |= unsigned(block.slots[warp() * kWarp + i] & 1) << i;
  wait_warp();
  return bits;
}

}  // namespace emu

#define threadIdx (emu::block.threads[emu::block.current].index)
#define blockIdx (emu::block.index)
#define blockDim (emu::block.size)
#define gridDim (emu::block.grid)

inline void __syncthreads() { emu::wait_block(); }
inline int __syncthreads_and(int predicate) {
  emu::block.slots[emu::block.current] = predicate != 0;
  emu::wait_block();
  bool all = true;
  for (unsigned i = 0; i < emu::block.count; ++i) all &= emu::block.threads[i].done || emu::block.slots[i] != 0;
  emu::wait_block();
  return all;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { emu::full_mask(mask), emu::wait_warp(); }
inline unsigned __ballot_sync(unsigned mask, int predicate) { return emu::full_mask(mask), emu::ballot(predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other) {
  return emu::full_mask(mask), emu::exchange(value, emu::lane() ^ unsigned(other));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  return emu::full_mask(mask), emu::exchange(value, unsigned(from));
}
inline float atomicAdd(float* to, float value) { return std::atomic_ref<float>(*to).fetch_add(value); }
inline float __int_as_float(int32_t x) {
  float r;
  return memcpy(&r, &x, sizeof r), r;
}
inline int32_t __float_as_int(float x) {
  int32_t r;
  return memcpy(&r, &x, sizeof r), r;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

enum cudaMemcpyKind { cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
inline int cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { return memset(to, value, bytes), 0; }
inline int cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return memcpy(to, from, bytes), 0;
}
enum cudaError_t { cudaSuccess };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
