// Labels of clustered tokens: the nearest centre among a token's neighbours, a warp per token.
//
// Every token has a centre within the cutoff, so its candidates are the bits of (adjacency row AND centres): few, most
// often one, which needs no distance. Dot products are of the raw keys, 16 bytes per lane; the token's own row comes
// from L1 after the first candidate.
#pragma once

#include "../gram/gram_distance.cuh"
#include "../rows/row_dot.cuh"

namespace pact {

constexpr int kLabelThreads = 256;

// The nearest of several candidates. They are visited in ascending token number, so a strict comparison
// leaves ties to the lower position.
template <typename T>
__device__ inline int nearest_candidate(const T* __restrict__ keys, int64_t stride, int width, GramNorms inv_norm,
                                        const uint32_t* __restrict__ row, const uint32_t* __restrict__ is_center,
                                        int words, int64_t token) {
  const int64_t own_row = inv_norm.row(token);
  int best = -1;
  float best_distance = 0;
  for (int base = 0; base < words; base += 32) {
    const int own = base + device::lane_id();
    const uint32_t word = own < words ? row[own] & is_center[own] : 0;
    for (uint32_t rest = __ballot_sync(device::kAllLanes, word != 0); rest; rest &= rest - 1) {
      const int source = __ffs(rest) - 1;
      for (uint32_t bits = __shfl_sync(device::kAllLanes, word, source); bits; bits &= bits - 1) {
        const int j = (base + source) * 32 + __ffs(bits) - 1;
        const float dot = dot_rows(keys + own_row * stride, keys + inv_norm.row(j) * stride, width);
        const float distance = cosine_distance(dot, split_norm(inv_norm[token]), split_norm(inv_norm[j]));
        if (best < 0 || distance < best_distance) {
          best = j;
          best_distance = distance;
        }
      }
    }
  }
  return best;
}

template <typename T>
__global__ void __launch_bounds__(kLabelThreads, 3)
    label_kernel(const T* __restrict__ keys, int64_t stride, int width, GramNorms inv_norm,
                 const uint32_t* __restrict__ adjacency, const uint32_t* __restrict__ is_center,
                 const int* __restrict__ position, int words, int n, const int* __restrict__ scatter,
                 int64_t* __restrict__ labels) {
  const int lane = device::lane_id();
  const int64_t token = int64_t(blockIdx.x) * (blockDim.x / 32) + device::warp_id();
  if (token >= n) return;
  int label = position[token];  // a centre labels itself
  if (label < 0) {
    const uint32_t* row = adjacency + size_t(token) * words;
    int candidates = 0, last = -1;
    for (int w = lane; w < words; w += 32) {
      const uint32_t bits = row[w] & is_center[w];
      candidates += __popc(bits);
      if (bits) last = w * 32 + __ffs(bits) - 1;
    }
    candidates = device::warp_sum(candidates);
    int nearest = device::warp_max(last);
    if (candidates > 1) nearest = nearest_candidate(keys, stride, width, inv_norm, row, is_center, words, token);
    if (nearest >= 0) label = position[nearest];  // no candidate: only NaN in the keys can bring that about
  }
  if (lane == 0) labels[scatter ? scatter[token] : token] = label;
}

__global__ void __launch_bounds__(kLabelThreads)
    centers_to_tokens_kernel(const int* __restrict__ centers, const int* __restrict__ index,
                             const int* __restrict__ count, int* __restrict__ out32, int64_t* __restrict__ out64) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= *count) return;
  const int token = index ? index[centers[p]] : centers[p];
  if (out32) out32[p] = token;
  if (out64) out64[p] = token;
}

}  // namespace pact
