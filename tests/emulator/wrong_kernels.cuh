// Kernels with one mistake each, which the emulator must name, and their right twins.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>

#include "../../csrc/cuda/device/async_copy.cuh"
#include "../../csrc/cuda/device/mma.cuh"
#include "../../csrc/cuda/device/warp.cuh"
#include "../../csrc/cuda/device/wgmma.cuh"

namespace emulator {

namespace device = pact::device;
constexpr int kThreads = 64;

enum class Mistake { kNone, kFirst, kSecond, kThird, kFourth };

// Reverses each block's 64 numbers, twice over. First: no barrier before the read; second: none before the next write.
template <Mistake kMistake>
void reverse_kernel(const int* in, int* out) {
  device::Shared<int> tile = device::shared<int>(0, kThreads);
  const int i = int(threadIdx.x);
  int value = in[i];
  for (int pass = 0; pass < 3; ++pass) {
    tile[i] = value;
    if (kMistake != Mistake::kFirst) __syncthreads();
    value = tile[kThreads - 1 - i];
    if (kMistake != Mistake::kSecond) __syncthreads();
  }
  out[i] = value;
}

// The same within a warp, where __syncwarp is enough; a vote is not, it orders no memory.
template <Mistake kMistake>
void reverse_warp_kernel(const int* in, int* out) {
  const int i = int(threadIdx.x), lane = device::lane_id();
  device::Shared<int> tile = device::shared<int>(0, kThreads) + i / 32 * 32;
  int value = in[i];
  tile[lane] = value;
  if (kMistake != Mistake::kFirst) __syncwarp();
  value = tile[31 - lane];
  if (kMistake != Mistake::kSecond)
    __syncwarp();
  else
    __any_sync(device::kAllLanes, value);
  tile[lane] = value;
  __syncthreads();
  out[i] = device::shared<int>(0, kThreads)[kThreads - 1 - (i ^ 31)];
}

// First: half of each warp stays away from the shuffle; second: the two halves call different collectives.
template <Mistake kMistake>
void sum_kernel(const int* in, int* out) {
  int value = in[threadIdx.x];
  const bool away = threadIdx.x % 32 >= 16;
  if (kMistake == Mistake::kFirst && away) return;
  if (kMistake == Mistake::kSecond && away) __syncwarp();
  value = device::warp_sum(value);
  out[threadIdx.x] = value;
}

// First: one warp leaves before the barrier; second: two different barriers.
template <Mistake kMistake>
void barrier_kernel(const int* in, int* out) {
  if (kMistake == Mistake::kFirst && threadIdx.x < 32) return;
  if (kMistake == Mistake::kSecond && threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

// First: past its view; second: element never written.
template <Mistake kMistake>
void neighbor_kernel(const int* in, int* out) {
  const int i = int(threadIdx.x), last = kThreads - 1;
  device::Shared<int> tile = device::shared<int>(0, kThreads);
  if (kMistake != Mistake::kSecond || i != 5) tile[i] = in[i];
  __syncthreads();
  out[i] = tile[kMistake == Mistake::kFirst ? i + 1 : (i < last ? i + 1 : 0)];
}

// Double-buffered async copies. First: read before the wait; second: waits for too few groups.
template <Mistake kMistake>
void pipeline_kernel(const int* in, int* out) {
  device::Shared<int> stages = device::shared<int>(0, 2 * kThreads * 4);
  const int i = int(threadIdx.x);
  const auto fetch = [&](int stage) {
    device::async_copy16(&stages[(stage % 2 * kThreads + i) * 4], in + i / 4 * 4, i % 4 == 0 || stage == 0);
    device::async_commit();
  };
  fetch(0);
  int sum = 0;
  for (int stage = 0; stage < 4; ++stage) {
    fetch(stage + 1);
    if (kMistake != Mistake::kFirst) device::async_wait<kMistake == Mistake::kSecond ? 2 : 1>();
    __syncthreads();
    sum += stages[(stage % 2 * kThreads + (i ^ 4)) * 4 + i % 4];
    __syncthreads();
  }
  out[i] = sum;
}

// Passes numbers on through global memory, which a barrier orders, too. First: no barrier before the read.
template <Mistake kMistake>
void scratch_kernel(const int* in, int* out) {
  const int i = int(threadIdx.x);
  out[i] = in[i];
  if (kMistake != Mistake::kFirst) __syncthreads();
  const int value = out[kThreads - 1 - i];
  __syncthreads();
  out[i] = value;
}

// Blocks in a chain: each waits for the sum of the one before. First: waits for one that never comes; second: looks at
// it by a plain read.
template <Mistake kMistake>
void chain_kernel(int* sums) {
  const int b = int(blockIdx.x);
  if (threadIdx.x > 0) return;
  int sum = 0;
  if (b > 0) {
    const int* before = sums + (kMistake == Mistake::kFirst && b == 1 ? 2 : b - 1);
    const auto look = [=] { return kMistake == Mistake::kSecond ? *before : device::load_relaxed(before); };
    while ((sum = look()) < 0) device::spin_pause();
  }
  device::store_relaxed(sums + b, sum + b);
}

// Counts by atomics on shared and global memory, blocks one after another. First: a plain addition.
template <Mistake kMistake>
void count_kernel(unsigned* total) {
  device::Shared<unsigned> count = device::shared<unsigned>(0, 1);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(&count[0], 1u);
  __syncthreads();
  if (threadIdx.x > 0) return;
  if (kMistake == Mistake::kFirst)
    *total += unsigned(count[0]);
  else
    atomicAdd(total, unsigned(count[0]));
}

// A plain read of what other blocks may still change.
template <Mistake kMistake>
void largest_kernel(unsigned* largest) {
  if (threadIdx.x == 0 && (kMistake != Mistake::kFirst || *largest < blockIdx.x)) atomicMax(largest, blockIdx.x);
}

// c[16][8] = a[16][16] * b[8][16]^T through ldmatrix and one mma.
template <typename T>
void mma_kernel(const T* a, const T* b, float* c) {
  const int lane = device::lane_id();
  device::Shared<T> left = device::shared<T>(0, 256), right = device::shared<T>(512, 128);
  device::async_copy16(&left[lane * 8], a + lane * 8);
  if (lane < 16) device::async_copy16(&right[lane * 8], b + lane * 8);
  device::async_commit();
  device::async_wait<0>();
  __syncwarp();
  uint32_t x[4], y[4];
  float acc[4] = {};
  device::ldmatrix_x4(x, &left[lane % 16 * 16 + lane / 16 * 8]);
  device::ldmatrix_x4(y, &right[lane % 8 * 16 + lane / 8 % 2 * 8]);  // its two matrices, twice
  device::mma_m16n8k16<T>(acc, x, y[0], y[1]);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

// c[64][128] = a[64][32] * b[128][32]^T by a warpgroup. First: nobody publishes what was copied; second: no
// wgmma_begin; third: no commit; fourth: a side is written again before the wait.
template <typename T, Mistake kMistake = Mistake::kNone>
void product_kernel(const T* a, const T* b, float* c) {
  using Chunk = device::Vector<T>;
  const int thread = int(threadIdx.x), lane = device::lane_id(), warp = device::warp_id();
  const device::Shared<Chunk> left = device::shared<Chunk>(0, 64 * 4), right = device::shared<Chunk>(64 * 64, 128 * 4);
  const auto copy = [&](device::Shared<Chunk> to, const T* from, int rows) {
    for (int i = thread; i < rows * 4; i += 128)
      device::async_copy16(&to[i / 4 * 4 + (i % 4 ^ (i / 8 & 3))], reinterpret_cast<const Chunk*>(from) + i);
  };
  copy(left, a, 64);
  copy(right, b, 128);
  device::async_commit();
  device::async_wait<0>();
  if (kMistake != Mistake::kFirst) device::wgmma_publish();
  __syncthreads();
  float acc[64];
  if (kMistake != Mistake::kSecond) device::wgmma_begin();
  for (int k = 0; k < 2; ++k) device::wgmma_m64n128k16<T>(acc, left, right, k, k > 0);
  if (kMistake != Mistake::kThird) device::wgmma_commit();
  if (kMistake == Mistake::kFourth) left[thread] = Chunk{};
  device::wgmma_wait(acc);
  for (int i = 0; i < 64; ++i)
    c[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = acc[i];
}
template <Mistake kMistake>
bool products(uint64_t seed) {
  static device::bfloat16 a[64 * 32], b[128 * 32];
  static float c[64 * 128];
  const auto small = [](int i) { return float(i * 7 % 5 - 2); };  // so that sums are exact
  for (int i = 0; i < 64 * 32; ++i) a[i] = device::from_float<device::bfloat16>(small(i));
  for (int i = 0; i < 128 * 32; ++i) b[i] = device::from_float<device::bfloat16>(small(i + i / 32));
  launch(product_kernel<device::bfloat16, kMistake>, 1, 128, 192 * 64, seed, false,
         static_cast<const device::bfloat16*>(a), static_cast<const device::bfloat16*>(b), static_cast<float*>(c));
  for (int i = 0; i < 64 * 128; ++i) {
    float sum = 0;
    for (int k = 0; k < 32; ++k) sum += small(i / 128 * 32 + k) * small(i % 128 * 32 + k + i % 128);
    if (c[i] != sum) return false;
  }
  return true;
}

// Name -> run(seed), true when the result is right.
inline const std::map<std::string, std::function<bool(uint64_t)>>& self_tests() {
  using Kernel = void (*)(const int*, int*);
  static const auto reversed = [](int i) { return kThreads - 1 - i; };
  static const auto block = [](Kernel kernel, int (*expected)(int)) {
    return [=](uint64_t seed) {
      int in[kThreads], out[kThreads];
      for (int i = 0; i < kThreads; ++i) in[i] = i, out[i] = -1;
      launch(kernel, 1, kThreads, 2 * kThreads * 16, seed, false, static_cast<const int*>(in), static_cast<int*>(out));
      for (int i = 0; i < kThreads; ++i)
        if (out[i] != expected(i)) return false;
      return true;
    };
  };
  static const auto chain = [](void (*kernel)(int*)) {
    return [=](uint64_t seed) {
      struct FewSteps {
        const uint64_t before = std::exchange(engine().step_limit, 100'000);
        ~FewSteps() { engine().step_limit = before; }
      } few_steps;
      int sums[] = {-1, -1, -1, -1, -1};
      launch(kernel, 5, 32, 0, seed, true, static_cast<int*>(sums));
      return sums[4] == 10;
    };
  };
  static const auto number = [](void (*kernel)(unsigned*), unsigned expected) {
    return [=](uint64_t seed) {
      unsigned result = 0;
      launch(kernel, 3, kThreads, 4, seed, false, &result);
      return result == expected;
    };
  };
  constexpr Mistake kNone = Mistake::kNone, kFirst = Mistake::kFirst, kSecond = Mistake::kSecond;
  static const auto same = [](int i) { return i; };
  static const auto next = [](int i) { return i < kThreads - 1 ? i + 1 : 0; };
  static const auto warp_total = [](int i) { return i / 32 * 1024 + 496; };
  // Stage 0 copies in[4 * (j / 4) + ...] everywhere; later stages only for j % 4 == 0, zeros elsewhere.
  static const auto piped = [](int i) {
    const int j = i ^ 4, value = j / 4 * 4 + i % 4;
    return value + 3 * (j % 4 == 0 ? value : 0);
  };
  static const std::map<std::string, std::function<bool(uint64_t)>> tests = {
      {"reverse", block(reverse_kernel<kNone>, reversed)},
      {"reverse: no barrier before the read", block(reverse_kernel<kFirst>, reversed)},
      {"reverse: no barrier before the write", block(reverse_kernel<kSecond>, reversed)},
      {"reverse_warp", block(reverse_warp_kernel<kNone>, reversed)},
      {"reverse_warp: no syncwarp before the read", block(reverse_warp_kernel<kFirst>, reversed)},
      {"reverse_warp: a vote for a syncwarp before the write", block(reverse_warp_kernel<kSecond>, reversed)},
      {"sum", block(sum_kernel<kNone>, warp_total)},
      {"sum: half a warp exits", block(sum_kernel<kFirst>, warp_total)},
      {"sum: half a warp elsewhere", block(sum_kernel<kSecond>, warp_total)},
      {"barrier", block(barrier_kernel<kNone>, same)},
      {"barrier: a warp exits", block(barrier_kernel<kFirst>, same)},
      {"barrier: two barriers", block(barrier_kernel<kSecond>, same)},
      {"neighbor", block(neighbor_kernel<kNone>, next)},
      {"neighbor: out of bounds", block(neighbor_kernel<kFirst>, next)},
      {"neighbor: unwritten", block(neighbor_kernel<kSecond>, next)},
      {"pipeline", block(pipeline_kernel<kNone>, piped)},
      {"pipeline: no wait", block(pipeline_kernel<kFirst>, piped)},
      {"pipeline: wait too short", block(pipeline_kernel<kSecond>, piped)},
      {"scratch", block(scratch_kernel<kNone>, reversed)},
      {"scratch: no barrier before the read", block(scratch_kernel<kFirst>, reversed)},
      {"chain", chain(chain_kernel<kNone>)},
      {"chain: waits in a circle", chain(chain_kernel<kFirst>)},
      {"chain: a plain look", chain(chain_kernel<kSecond>)},
      {"count", number(count_kernel<kNone>, 3 * kThreads)},
      {"count: a plain addition", number(count_kernel<kFirst>, 3 * kThreads)},
      {"products", products<kNone>},
      {"products: unpublished", products<kFirst>},
      {"products: not begun", products<kSecond>},
      {"products: not committed", products<Mistake::kThird>},
      {"products: a side is written before the wait", products<Mistake::kFourth>},
      {"largest", number(largest_kernel<kNone>, 2)},
      {"largest: a plain read before", number(largest_kernel<kFirst>, 2)},
  };
  return tests;
}

}  // namespace emulator
