// The scheduler: threads of a grid as fibres in an order drawn from a seed, barriers, warp collectives, launches.
//
// What the sources beside this header do is no part of a kernel: they are compiled once, and without the
// instrumentation that shows a kernel's own accesses (global_memory.cpp).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
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

namespace emulator {

// Where the thread that runs stands: in one place, so that a look at it is easily told from one at global memory.
struct Place {
  uint3 thread, block;
  dim3 block_size, grid;
};
inline Place place;

struct Block;
struct Thread;

// A 16-byte copy into shared memory that has been issued and has not landed.
struct AsyncCopy {
  unsigned offset, bytes;  // `bytes` from the source, zeros up to 16
  const void* source;
  int group;
};

// A product that a warpgroup has ordered, as one of its warps sees it (warpgroup.h).
struct GroupProduct {
  unsigned left, right;  // where its sides begin, in bytes
  int k;
  bool accumulate;
  int group;
  void (*make)(Thread* const* lanes, const GroupProduct&);
};

// Those of a thread that are not made.
struct GroupProducts {
  std::vector<GroupProduct> pending;
  int committed = 0;  // groups
  bool begun = false;
  float* acc = nullptr;  // who gets the sums
  float sums[64];
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
  int committed = 0;             // async copy groups
  std::vector<unsigned> landed;  // copies that tensor cores need not see yet: their offsets

  GroupProducts products;
};

struct Warp {
  unsigned waiting = 0, exited = 0;  // lanes
  unsigned time = 0;                 // __syncwarps so far
};

struct Granule;  // shared_memory.cpp

struct Block {
  Block(unsigned number, uint3 index, dim3 size, unsigned shared_bytes);
  ~Block();

  unsigned number;  // of all blocks ever launched
  uint3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  int at_barrier = 0, barrier_line = 0, exited = 0;
  unsigned epoch = 1;  // barriers so far
  std::unique_ptr<unsigned char[]> storage;
  unsigned char* shared = nullptr;
  unsigned shared_bytes;
  std::vector<Granule> granules;
};

// How tensor cores add: exact products of so many terms and the accumulator, truncated in magnitude to so many bits
// below a float's last one at the largest exponent among them; then their exact sum, truncated to a float. So measured
// by bit-accurate studies of A100 and Ada, and of H100; an H200's largest errors come out as they were measured there.
struct TensorCores {
  int major;  // compute capability
  int terms, extra_bits;
};
constexpr TensorCores kAmpere{8, 8, 1}, kHopper{9, 16, 2};

class Engine {
 public:
  TensorCores tensor_cores = kHopper;
  Thread* current = nullptr;
  bool watching = false;             // whether what runs is a kernel's own code
  uint64_t step_limit = 50'000'000;  // of a launch whose threads wait for each other in a circle
  unsigned first_block = 1;          // number of the launch's block (0, 0, 0)

  // Ends the launch with an error that names what went wrong.
  [[noreturn]] __attribute__((format(printf, 3, 4))) void fail(const char* name, const char* format, ...);

  // Gives way to the others; the thread stays runnable.
  void yield();

  // Gives way now and then, so that threads interleave between memory operations that others may see.
  void maybe_yield();

  void barrier(const char* name, int line);

  // Meets the lanes of `mask` in one operation. The last to come runs combine(slots of the lanes, mask). Shuffles,
  // votes and the like order no memory accesses, __syncwarp does.
  template <typename Slot, typename Combine>
  void collective(const char* name, unsigned mask, Slot& slot, const Combine& combine, bool orders_memory = false) {
    const auto typed = [](void* const* slots, unsigned came, const void* combine) {
      Slot* of_lane[32];
      for (int l = 0; l < 32; ++l) of_lane[l] = static_cast<Slot*>(slots[l]);
      (*static_cast<const Combine*>(combine))(of_lane, came);
    };
    meet(name, mask, &slot, typed, &combine, orders_memory);
  }

  void run(dim3 grid, dim3 block, unsigned shared_bytes, uint64_t seed, bool concurrent, std::function<void()> body);

 private:
  unsigned random() { return unsigned(generator_() >> 16); }
  void make_ready(Thread* thread) { ready_.push_back(thread); }
  void leave() { current->context.switch_to(scheduler_); }

  using Combine = void (*)(void* const* slots, unsigned mask, const void* combine);
  void meet(const char* name, unsigned mask, void* slot, Combine combine, const void* combine_with, bool orders_memory);
  static void order_memory(Warp& warp, Thread* lanes, unsigned mask);

  static void enter();
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

extern Engine the_engine;
inline Engine& engine() { return the_engine; }
int lane();  // of the thread that runs

// Runs kernel(args...) over the grid. `concurrent`: all blocks at once, for kernels whose blocks wait for each other;
// otherwise one after another, in a shuffled order. Throws std::runtime_error with the name of what went wrong.
template <typename Kernel, typename... Args>
void launch(Kernel* kernel, dim3 grid, dim3 block, unsigned shared_bytes, uint64_t seed, bool concurrent,
            Args... args) {
  engine().run(grid, block, shared_bytes, seed, concurrent, [=] { kernel(args...); });
}

}  // namespace emulator

inline constexpr const uint3 &threadIdx = emulator::place.thread, &blockIdx = emulator::place.block;
inline constexpr const dim3 &blockDim = emulator::place.block_size, &gridDim = emulator::place.grid;
