#include "engine.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace emulator {

Engine the_engine;
int lane() { return engine().current->lane; }

void Engine::fail(const char* name, const char* format, ...) {
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

void Engine::yield() {
  make_ready(current);
  spun_ = true;
  leave();
}

void Engine::maybe_yield() {
  if (random() % 8 == 0) yield();
}

// --- Barriers and collectives ------------------------------------------------------------------------------------

void Engine::barrier(const char* name, int line) {
  Thread& self = *current;
  self.waits_at = name;
  self.line = line;
  Block& block = *self.block;
  if (block.at_barrier == 0) block.barrier_line = line;
  if (block.barrier_line != line)
    fail("divergent barrier", "%s at line %d while others wait at line %d", name, line, block.barrier_line);
  if (block.exited) fail("divergent barrier", "%s, and %d threads have exited", name, block.exited);
  if (++block.at_barrier < int(block.threads.size())) return leave();
  ++block.epoch;
  block.at_barrier = 0;
  for (Thread& thread : block.threads) {
    thread.waits_at = nullptr;
    make_ready(&thread);
  }
  leave();
}

void Engine::meet(const char* name, unsigned mask, void* slot, Combine combine, const void* combine_with,
                  bool orders_memory) {
  Thread& self = *current;
  Thread* lanes = self.block->threads.data() + self.warp * 32;
  Warp& warp = self.block->warps[self.warp];
  const int present = std::min<int>(32, int(self.block->threads.size()) - self.warp * 32);
  if (present < 32) mask &= (1u << present) - 1;
  if (!(mask >> self.lane & 1))
    fail("divergent collective", "%s with mask %08x, which leaves out its own lane %d", name, mask, self.lane);
  if (warp.exited & mask)
    fail("divergent collective", "%s wants lane %d, which has exited", name, __builtin_ctz(warp.exited & mask));
  const bool complete = ((warp.waiting | 1u << self.lane) & mask) == mask;
  for (unsigned rest = warp.waiting & mask; rest; rest &= complete ? rest - 1 : 0) {
    const Thread& other = lanes[__builtin_ctz(rest)];
    if (other.mask != mask || strcmp(other.waits_at, name) != 0)
      fail("divergent collective", "%s (mask %08x) while lane %d is in %s (mask %08x)", name, mask, other.lane,
           other.waits_at, other.mask);
  }
  self.waits_at = name;
  self.mask = mask;
  self.slot = slot;
  warp.waiting |= 1u << self.lane;
  if (!complete) return leave();

  void* slots[32] = {};
  for (unsigned rest = mask; rest; rest &= rest - 1) slots[__builtin_ctz(rest)] = lanes[__builtin_ctz(rest)].slot;
  watching = false;
  combine(slots, mask, combine_with);
  watching = true;
  if (orders_memory) order_memory(warp, lanes, mask);
  warp.waiting &= ~mask;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    Thread& thread = lanes[__builtin_ctz(rest)];
    thread.waits_at = nullptr;
    thread.slot = nullptr;
    if (&thread != &self) make_ready(&thread);
  }
  if (random() % 2) {  // the last to come is not always the first to go on
    make_ready(&self);
    leave();
  }
}

void Engine::order_memory(Warp& warp, Thread* lanes, unsigned mask) {
  const unsigned time = ++warp.time;
  unsigned seen[32] = {};
  for (int l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    if (mask != ~0u)
      for (int u = 0; u < 32; ++u) seen[u] = std::max(seen[u], lanes[l].seen[u]);
    lanes[l].stamp = time;
  }
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) seen[l] = time;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) memcpy(lanes[l].seen, seen, sizeof seen);
}

// --- Launches ------------------------------------------------------------------------------------------------------

void Engine::enter() {
  Engine& e = engine();
  Thread& self = *e.current;
  self.context.entered(e.scheduler_);
  e.body_();
  self.done = true;
  Block& block = *self.block;
  block.warps[self.warp].exited |= 1u << self.lane;
  ++block.exited;
  if (block.at_barrier)
    e.fail("divergent barrier", "a thread exits while %d others wait in a barrier", block.at_barrier);
  self.context.switch_to(e.scheduler_, true);
}

// Random order on even seeds; on odd seeds whoever became runnable last goes on, so that some threads run far ahead.
Thread* Engine::next() {
  size_t pick = ready_.size() - 1;
  if (!depth_first_ || spun_ || random() % 8 == 0) pick = random() % ready_.size();
  spun_ = false;
  Thread* thread = ready_[pick];
  ready_[pick] = ready_.back();
  ready_.pop_back();
  return thread;
}

std::string Engine::stuck() const {
  for (const auto& block : blocks_) {
    for (const Thread& thread : block->threads) {
      if (!thread.waits_at) continue;
      char text[256];
      if (!thread.slot)
        snprintf(text, sizeof text, "deadlock, divergent barrier: %s at line %d has %d of %zu threads, %d have exited",
                 thread.waits_at, thread.line, block->at_barrier, block->threads.size(), block->exited);
      else
        snprintf(text, sizeof text, "deadlock, divergent collective: %s wants lanes %08x, only %08x came",
                 thread.waits_at, thread.mask, block->warps[thread.warp].waiting);
      return text;
    }
  }
  return "deadlock";
}

void Engine::run_blocks() {
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
    else if (step == step_limit)
      error_ = "step limit: livelock, threads keep waiting for each other";
    else {
      current = next();
      place.thread = current->index;
      place.block = current->block->index;
      watching = true;
      scheduler_.switch_to(current->context);
      watching = false;
      done += current->done;
    }
  }
  blocks_.clear();
  if (!error_.empty()) throw std::runtime_error(error_);
}

void Engine::run(dim3 grid, dim3 block, unsigned shared_bytes, uint64_t seed, bool concurrent,
                 std::function<void()> body) {
  static unsigned launched = 1;
  generator_.seed(seed);
  depth_first_ = seed & 1;
  body_ = std::move(body);
  error_.clear();
  blocks_.clear();
  place.grid = grid;
  place.block_size = block;
  std::vector<uint3> order;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) order.push_back({x, y, z});
  first_block = launched;
  launched += unsigned(order.size());
  std::shuffle(order.begin(), order.end(), generator_);
  for (uint3 index : order) {
    const unsigned number = first_block + (index.z * grid.y + index.y) * grid.x + index.x;
    blocks_.push_back(std::make_unique<Block>(number, index, block, shared_bytes));
    if (!concurrent) run_blocks();
  }
  if (concurrent) run_blocks();
}

}  // namespace emulator
