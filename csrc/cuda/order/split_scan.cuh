// Prefix sums over a sequence that one block walks tile by tile, blockDim.x elements at a time: what a stable
// compaction needs. One barrier per tile: a tile's sums lie where the last one's do not.
#pragma once

#include "../device/warp.cuh"

namespace pact {

// Sum over this lane and those before it.
template <typename T>
__device__ inline T sum_up_to_lane(T value) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(device::kAllLanes, value, step);
    if (device::lane_id() >= step) value += other;
  }
  return value;
}

// T is int or unsigned.
template <typename T>
class TileScan {
 public:
  static constexpr unsigned kSharedBytes = 2 * 32 * sizeof(T);

  __device__ explicit TileScan(device::Shared<T> warp_sums) : warp_sums_(warp_sums) {}

  // The sum of `value` over all threads before this one and all tiles before this one. Every thread of the block calls.
  __device__ T exclusive(T value) {
    const int lane = device::lane_id(), warp = device::warp_id(), warps = blockDim.x / 32;
    const T inclusive = sum_up_to_lane(value);
    if (lane == 31) warp_sums_[half_ + warp] = inclusive;
    __syncthreads();
    const T of_warp = lane < warps ? T(warp_sums_[half_ + lane]) : T(0);
    const T result = total_ + __reduce_add_sync(device::kAllLanes, lane < warp ? of_warp : T(0)) + inclusive - value;
    total_ += __reduce_add_sync(device::kAllLanes, of_warp);
    half_ ^= 32;
    return result;
  }

  // The sum of all tiles so far.
  __device__ T total() const { return total_; }

 private:
  device::Shared<T> warp_sums_;
  T total_ = 0;
  int half_ = 0;
};

}  // namespace pact
