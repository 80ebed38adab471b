// The scheduler: threads of a grid as fibres in an order drawn from a seed, barriers, warp collectives, launches.
#pragma once

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace emulator {

struct Block;

// A 16-byte copy into shared memory that has been issued and has not landed.
struct AsyncCopy {
  unsigned offset, bytes;  // `bytes` from the source, zeros up to 16
  const void* source;
  int group;
};

struct Thread {
  Context context;
  Block* block;
  uint3 index;
  int warp, lane;
  bool done = false;

  const char* waits_at = nullptr;  // name of the barrier or collective
  int line = 0;                    // of the barrier
  unsigned mask = 0;               // of the collective
  void* slot = nullptr;            // this lane's operands

  // Who this thread knows to be how far: the __syncwarps of a warp are numbered; `stamp` is the last one this thread
  // took part in, seen[u] the last one that lane u is known to have passed.
  unsigned stamp = 0;
  unsigned seen[32] = {};

  std::vector<AsyncCopy> copies;
  int committed = 0;  // async copy groups
};

struct Granule;  // shared_memory.h

struct Block {
  uint3 index;
  std::vector<Thread> threads;
  std::vector<unsigned> warp_time;  // __syncwarps so far, per warp
  int at_barrier = 0, barrier_line = 0, exited = 0;
  unsigned epoch = 1;  // barriers so far
  std::unique_ptr<unsigned char[]> storage;
  unsigned char* shared = nullptr;
  unsigned shared_bytes = 0;
  std::vector<Granule> granules;
  Block();
  ~Block();
};

class Engine {
 public:
  Thread* current = nullptr;

  // Ends the launch with an error that names what went wrong.
  [[noreturn]] __attribute__((format(printf, 3, 4))) void fail(const char* name, const char* format, ...) {
    char text[512], where[160];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const uint3 b = current->block->index, t = current->index;
    snprintf(where, sizeof where, " [block (%u, %u, %u), thread (%u, %u, %u)]", b.x, b.y, b.z, t.x, t.y, t.z);
    error_ = std::string(name) + ": " + text + where;
    current->context.switch_to(scheduler_, true);
    __builtin_unreachable();
  }

  // Gives way to the others; the thread stays runnable.
  void yield() {
    make_ready(current);
    spun_ = true;
    leave();
  }

  // Gives way now and then, so that threads interleave between memory operations that others may see.
  void maybe_yield() {
    if (random() % 8 == 0) yield();
  }

  void barrier(const char* name, int line, bool whole_grid) {
    Thread& self = *current;
    self.waits_at = name;
    self.line = line;
    Block& block = *self.block;
    if (block.at_barrier == 0) block.barrier_line = line;
    if (block.barrier_line != line)
      fail("divergent barrier", "%s at line %d while others wait at line %d", name, line, block.barrier_line);
    if (block.exited) fail("divergent barrier", "%s, and %d threads have exited", name, block.exited);
    ++block.at_barrier;
    bool complete = block.at_barrier == int(block.threads.size());
    if (whole_grid)
      for (const auto& other : blocks_) complete = complete && other->at_barrier == int(other->threads.size());
    if (!complete) return leave();
    for (const auto& other : blocks_)
      if (whole_grid || other.get() == &block) release(*other);
    leave();
  }

  // Meets the lanes of `mask` in one operation. The last to come runs combine(slots of the lanes, mask). Shuffles,
  // votes and the like order no memory accesses, __syncwarp does.
  template <typename Slot, typename Combine>
  void collective(const char* name, unsigned mask, Slot& slot, const Combine& combine, bool orders_memory = false) {
    Thread& self = *current;
    Thread* warp = self.block->threads.data() + self.warp * 32;
    const int lanes = std::min<int>(32, int(self.block->threads.size()) - self.warp * 32);
    if (lanes < 32) mask &= (1u << lanes) - 1;
    if (!(mask >> self.lane & 1))
      fail("divergent collective", "%s with mask %08x, which leaves out its own lane %d", name, mask, self.lane);
    self.waits_at = name;
    self.mask = mask;
    self.slot = &slot;
    bool complete = true;
    for (int l = 0; l < lanes; ++l) {
      if (!(mask >> l & 1)) continue;
      if (warp[l].done) fail("divergent collective", "%s wants lane %d, which has exited", name, l);
      if (!warp[l].slot)
        complete = false;
      else if (warp[l].mask != mask || strcmp(warp[l].waits_at, name) != 0)
        fail("divergent collective", "%s (mask %08x) while lane %d is in %s (mask %08x)", name, mask, l,
             warp[l].waits_at, warp[l].mask);
    }
    if (!complete) return leave();

    Slot* slots[32] = {};
    for (int l = 0; l < lanes; ++l)
      if (mask >> l & 1) slots[l] = static_cast<Slot*>(warp[l].slot);
    combine(slots, mask);
    if (orders_memory) meet(warp, mask);
    for (int l = 0; l < lanes; ++l) {
      if (!(mask >> l & 1)) continue;
      warp[l].waits_at = nullptr;
      warp[l].slot = nullptr;
      if (&warp[l] != &self) make_ready(&warp[l]);
    }
    if (random() % 2) {  // the last to come is not always the first to go on
      make_ready(&self);
      leave();
    }
  }

  void run(dim3 grid, dim3 block, unsigned shared_bytes, uint64_t seed, bool concurrent, std::function<void()> body);

 private:
  static constexpr uint64_t kStepLimit = 50'000'000;

  unsigned random() { return unsigned(generator_() >> 16); }
  void make_ready(Thread* thread) { ready_.push_back(thread); }
  void leave() { current->context.switch_to(scheduler_); }

  void release(Block& block) {
    ++block.epoch;
    block.at_barrier = 0;
    for (Thread& thread : block.threads) {
      thread.waits_at = nullptr;
      make_ready(&thread);
    }
  }

  static void meet(Thread* warp, unsigned mask) {
    const unsigned time = ++warp->block->warp_time[warp->warp];
    unsigned seen[32] = {};
    for (int l = 0; l < 32; ++l) {
      if (!(mask >> l & 1)) continue;
      if (mask != ~0u)
        for (int u = 0; u < 32; ++u) seen[u] = std::max(seen[u], warp[l].seen[u]);
      warp[l].stamp = time;
    }
    for (int l = 0; l < 32; ++l)
      if (mask >> l & 1) seen[l] = time;
    for (int l = 0; l < 32; ++l)
      if (mask >> l & 1) memcpy(warp[l].seen, seen, sizeof seen);
  }

  static void enter();
  void add_block(uint3 index, dim3 size, unsigned shared_bytes);
  void run_blocks();
  Thread* next();
  std::string stuck() const;

  Context scheduler_;
  std::mt19937_64 generator_;
  std::function<void()> body_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<Thread*> ready_;
  std::vector<std::unique_ptr<Stack>> stacks_;
  std::string error_;
  bool depth_first_ = false, spun_ = false;
};

inline Engine& engine() {
  static Engine engine;
  return engine;
}

inline void Engine::enter() {
  Engine& e = engine();
  Thread& self = *e.current;
  self.context.entered(e.scheduler_);
  e.body_();
  self.done = true;
  Block& block = *self.block;
  ++block.exited;
  if (block.at_barrier)
    e.fail("divergent barrier", "a thread exits while %d others wait in a barrier", block.at_barrier);
  self.context.switch_to(e.scheduler_, true);
}

// Random order on even seeds; on odd seeds whoever became runnable last goes on, so that some threads run far ahead.
inline Thread* Engine::next() {
  size_t pick = ready_.size() - 1;
  if (!depth_first_ || spun_ || random() % 8 == 0) pick = random() % ready_.size();
  spun_ = false;
  Thread* thread = ready_[pick];
  ready_[pick] = ready_.back();
  ready_.pop_back();
  return thread;
}

inline std::string Engine::stuck() const {
  for (const auto& block : blocks_) {
    for (const Thread& thread : block->threads) {
      if (!thread.waits_at) continue;
      char text[256];
      if (!thread.slot)
        snprintf(text, sizeof text, "deadlock, divergent barrier: %s at line %d has %d of %zu threads, %d have exited",
                 thread.waits_at, thread.line, block->at_barrier, block->threads.size(), block->exited);
      else {
        unsigned arrived = 0;
        for (const Thread& other : block->threads)
          if (other.warp == thread.warp && other.slot) arrived |= 1u << other.lane;
        snprintf(text, sizeof text, "deadlock, divergent collective: %s wants lanes %08x, only %08x came",
                 thread.waits_at, thread.mask, arrived);
      }
      return text;
    }
  }
  return "deadlock";
}

inline void Engine::run_blocks() {
  size_t count = 0, stack = 0, done = 0;
  for (const auto& block : blocks_) count += block->threads.size();
  while (stacks_.size() < count) stacks_.push_back(std::make_unique<Stack>());
  ready_.clear();
  for (const auto& block : blocks_) {
    for (Thread& thread : block->threads) {
      thread.context.start(*stacks_[stack++], &Engine::enter);
      make_ready(&thread);
    }
  }
  std::shuffle(ready_.begin(), ready_.end(), generator_);
  for (uint64_t step = 0; done < count && error_.empty(); ++step) {
    if (ready_.empty())
      error_ = stuck();
    else if (step == kStepLimit)
      error_ = "step limit: livelock, threads keep waiting for each other";
    else {
      current = next();
      threadIdx = current->index;
      blockIdx = current->block->index;
      scheduler_.switch_to(current->context);
      done += current->done;
    }
  }
  blocks_.clear();
  if (!error_.empty()) throw std::runtime_error(error_);
}

inline void Engine::run(dim3 grid, dim3 block, unsigned shared_bytes, uint64_t seed, bool concurrent,
                        std::function<void()> body) {
  generator_.seed(seed);
  depth_first_ = seed & 1;
  body_ = std::move(body);
  error_.clear();
  blocks_.clear();
  gridDim = grid;
  blockDim = block;
  std::vector<uint3> order;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) order.push_back({x, y, z});
  std::shuffle(order.begin(), order.end(), generator_);
  for (uint3 index : order) {
    add_block(index, block, shared_bytes);
    if (!concurrent) run_blocks();
  }
  if (concurrent) run_blocks();
}

// Runs kernel(args...) over the grid. `concurrent`: all blocks at once, for kernels whose blocks wait for each other;
// otherwise one after another, in a shuffled order. Throws std::runtime_error with the name of what went wrong.
template <typename Kernel, typename... Args>
void launch(Kernel* kernel, dim3 grid, dim3 block, unsigned shared_bytes, uint64_t seed, bool concurrent,
            Args... args) {
  engine().run(grid, block, shared_bytes, seed, concurrent, [=] { kernel(args...); });
}

}  // namespace emulator
