// A thread pool that sleeps between jobs (an OpenMP team spins, which on a shared machine costs more than it gains).
// Work is handed out in pieces whose boundaries do not depend on the number of threads, so a kernel that writes each
// output from exactly one piece gives the same bits for any number of threads.
#pragma once
#include <cstdint>
#include <type_traits>

namespace splat::cpu {

using RangeFn = void (*)(void* context, int64_t begin, int64_t end);

// Calls fn on [0, n) split into pieces of `grain`; pieces run in any order on any thread. Nested calls run inline.
void parallel_ranges(int64_t n, int64_t grain, RangeFn fn, void* context);

int num_threads();
void set_num_threads(int n);  // n >= 1

// body(begin, end). Lambdas have internal linkage, so this template never leaks between instruction-set builds.
template <class F>
inline __attribute__((always_inline)) void parallel_for(int64_t n, int64_t grain, F&& body) {
  using Body = std::remove_reference_t<F>;
  parallel_ranges(n, grain, [](void* c, int64_t b, int64_t e) { (*static_cast<Body*>(c))(b, e); }, &body);
}

}  // namespace splat::cpu
