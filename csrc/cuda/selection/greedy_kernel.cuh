// Greedy selections, a launch per token chosen: the end of a launch is the barrier of the grid, and what was chosen is
// read from the slot that the launch before filled.
//
// Launches, one after the other: one that prepares norms (and farthest_points without `first`: the norms and the tiles
// of the farthest pair), one per choice after the first (dpp_select: per choice), one that writes the result. A step is
// a warp per token and reads every key row once, n * dk elements, the chosen row from cache; dpp_select reads 4 n t
// bytes of entries beside it.
//
// NaN and Inf: comparisons with NaN leave a value as it was. Such tokens are chosen first as if far from all
// (farthest_points), or never for their gain (dpp_select); tokens stay in [0, n), and each is chosen once.
#pragma once

#include "../gram/gram_distance.cuh"
#include "../rows/magnitude.cuh"
#include "../rows/row_dot.cuh"
#include "greedy_key.cuh"

namespace pact {

constexpr float kChosen = -1.0f;          // in place of a chosen token's distance or gain; those are never below 0
constexpr float kLeastGainShare = 1e-6f;  // of the first gain

// What the whole warp wants of its token's state, which lane 0 writes.
__device__ __forceinline__ float broadcast(const float* pointer) {
  return __shfl_sync(device::kAllLanes, device::lane_id() == 0 ? *pointer : 0.0f, 0);
}

template <typename T>
__global__ void __launch_bounds__(kGreedyThreads)
    greedy_start_kernel(const T* __restrict__ keys, int64_t stride, int width, int n, double* __restrict__ inv_norm,
                        int first, GreedyKey* __restrict__ first_slot, const float* __restrict__ relevance,
                        int64_t relevance_stride, unsigned* __restrict__ largest_relevance) {
  const int64_t token = greedy_token();
  if (token == 0 && first >= 0 && device::lane_id() == 0) *first_slot = greedy_key(0, first);
  if (token >= n) return;  // the whole warp
  const T* row = keys + token * stride;
  const float square = dot_rows(row, row, width);
  if (device::lane_id() != 0) return;
  inv_norm[token] = inverse_norm(square);
  if (relevance) atomicMax(largest_relevance, magnitude_bits(relevance[token * relevance_stride]));
}

// nearest: [n] huge before the first step.
template <typename T>
__global__ void __launch_bounds__(kGreedyThreads)
    farthest_step_kernel(const T* __restrict__ keys, int64_t stride, int width, const double* __restrict__ inv_norm,
                         int n, const GreedyKey* __restrict__ last, GreedyKey* __restrict__ next,
                         float* __restrict__ nearest) {
  const int64_t token = greedy_token();
  const int chosen = token_of(*last);
  GreedyKey key = 0;
  if (token < n) {
    float now = token == chosen ? kChosen : broadcast(nearest + token);
    if (now >= 0) {
      const float dot = dot_rows(keys + token * stride, keys + chosen * stride, width);
      const float distance = cosine_distance(dot, split_norm(inv_norm[token]), split_norm(inv_norm[chosen]));
      if (distance < now) now = distance;
      key = greedy_key(__float_as_uint(now), static_cast<int>(token));
    }
    if (device::lane_id() == 0) nearest[token] = now;
  }
  offer(key, next, 0);
}

__global__ void __launch_bounds__(kGreedyThreads)
    farthest_result_kernel(const GreedyKey* __restrict__ slots, int count, int64_t* __restrict__ chosen) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kGreedyThreads + threadIdx.x;
  if (t < count) chosen[t] = token_of(slots[t]);
}

// --- dpp_select ----------------------------------------------------------------------------------------------------

// A choice is known when both its slots are full: by gain when enough of it is left, else by relevance. Once one is by
// relevance all that follow are, since gains only shrink.
struct DppChoice {
  int token;
  float gain;  // 0: by relevance
};

__device__ __forceinline__ DppChoice dpp_choice(const GreedyKey* gain_slots, const GreedyKey* relevance_slots, int t) {
  const float first = __uint_as_float(bits_of(gain_slots[0])), gain = __uint_as_float(bits_of(gain_slots[t]));
  if (gain > kLeastGainShare * first) return {token_of(gain_slots[t]), gain};
  return {token_of(relevance_slots[t]), 0.0f};
}

// Unsigned integers in the order of the floats, -0 equal to 0.
__device__ __forceinline__ unsigned ordered_bits(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// The state of one token after the choice of another with that gain: its entry of the Cholesky factor, and its gain.
// Relevance is scaled by a power of two, which no choice can see, so that squares stay in range.
template <typename T>
__device__ __forceinline__ float gain_after(const DppSelectParams& p, DppChoice choice, int t, int64_t token,
                                            float relevance, float scale, float gain) {
  const T* keys = static_cast<const T*>(p.keys.data);
  const float dot = dot_rows(keys + token * p.keys.stride, keys + choice.token * p.keys.stride, p.keys.width);
  const float cosine = static_cast<float>(dot * p.inv_norm[token] * p.inv_norm[choice.token]);
  const float* own = p.entries + token * p.count;
  const float* other = p.entries + static_cast<int64_t>(choice.token) * p.count;
  float known = 0;
  for (int s = device::lane_id(); s < t - 1; s += 32) known = fmaf(own[s], other[s], known);
  const float of_choice = p.relevance[choice.token * p.relevance_stride] * scale;
  const float entry = (relevance * of_choice * cosine - device::warp_sum(known)) / __fsqrt_rn(choice.gain);
  if (device::lane_id() == 0) p.entries[token * p.count + t - 1] = entry;
  const float left = fmaf(-entry, entry, gain);
  return left > 0 ? left : 0.0f;  // NaN, too, is no gain
}

// Fills the slots of choice t.
template <typename T>
__global__ void __launch_bounds__(kGreedyThreads) dpp_step_kernel(DppSelectParams p, int t) {
  const int64_t token = greedy_token();
  GreedyKey gain_key = 0, relevance_key = 0;
  if (token < p.n) {
    const float scale = power_of_two_scale(*p.largest_relevance);
    const float relevance = p.relevance[token * p.relevance_stride];
    const float scaled = relevance * scale, square = scaled * scaled;
    float gain = t > 0 ? broadcast(p.gain + token) : (square > 0 ? square : 0.0f);
    if (t > 0 && gain >= 0) {
      const DppChoice choice = dpp_choice(p.gain_slots, p.relevance_slots, t - 1);
      if (token == choice.token)
        gain = kChosen;
      else if (choice.gain > 0)
        gain = gain_after<T>(p, choice, t, token, scaled, scale, gain);
    }
    if (device::lane_id() == 0) p.gain[token] = gain;
    if (gain >= 0) {
      gain_key = greedy_key(__float_as_uint(gain), static_cast<int>(token));
      relevance_key = greedy_key(ordered_bits(relevance), static_cast<int>(token));
    }
  }
  offer(gain_key, p.gain_slots + t, 0);
  offer(relevance_key, p.relevance_slots + t, kGreedySharedBytes);
}

__global__ void __launch_bounds__(kGreedyThreads) dpp_result_kernel(DppSelectParams p) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kGreedyThreads + threadIdx.x;
  if (t < p.count) p.chosen[t] = dpp_choice(p.gain_slots, p.relevance_slots, static_cast<int>(t)).token;
}

}  // namespace pact
