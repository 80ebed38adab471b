// Tasks over torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#include "../floating_point.h"

namespace pact {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t worker_count(int64_t tasks) { return std::min<int64_t>(tasks, torch::stable::get_num_threads()); }

// Calls f(task, worker) for every task in [0, tasks). A worker takes the next task when it has finished one, so which
// worker runs a task is open: results must depend on the task alone. `worker` < worker_count(tasks) indexes scratch.
// Of the tasks that throw, what the first throws is thrown here once all workers have stopped: torch's C interface
// would put words of its own instead. Within a task, the tasks of another call are a plain loop.
template <typename F>
void for_each_task(int64_t tasks, const F& f) {
  std::atomic<int64_t> next{0};
  int64_t first = tasks;  // that threw; any before it has been taken, and says so itself
  std::exception_ptr thrown;
  std::mutex mutex;
  torch::stable::parallel_for(0, worker_count(tasks), 1, [&](int64_t worker, int64_t) {
    const DefaultFloatingPoint floating_point;
    int64_t task = tasks;
    try {
      while ((task = next.fetch_add(1, std::memory_order_relaxed)) < tasks) f(task, worker);
    } catch (...) {
      next = tasks;
      const std::lock_guard<std::mutex> lock(mutex);
      if (task < first) {
        first = task;
        thrown = std::current_exception();
      }
    }
  });
  if (thrown) std::rethrow_exception(thrown);
}

// Calls f(begin, end) for consecutive ranges of at most `chunk` indices.
template <typename F>
void for_each_chunk(int64_t count, int64_t chunk, const F& f) {
  for_each_task(ceil_div(count, chunk),
                [&](int64_t task, int64_t) { f(task * chunk, std::min(count, (task + 1) * chunk)); });
}

}  // namespace pact
