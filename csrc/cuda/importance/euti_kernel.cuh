// What tokens receive from one query, the mean of EUTI or a single row: logits in one pass over the keys, with the
// softmax statistics of chunks of tokens, then scores.
//
// A block takes a key head, a chunk of tokens and kGroup of the query heads that share the key head. A slot of kLanes
// lanes holds the query in registers, 8 elements of each head to a lane, and takes kTokens tokens at a time: a key is
// loaded once for all the query heads. The lanes' partial products of all tokens and heads are added together, half
// as many values after each step (sum_over_lanes).
//
// Head sizes 64 and 128 are known to the compiler. The general kernel takes parts of 128 elements, the query anew for
// each. Which kernel runs cannot be seen: a lane adds the same elements in the same order, lanes are added as a
// butterfly adds them, and statistics are taken of the logits, lane by lane.
#pragma once

#include "../attention/attention_rows.cuh"
#include "euti_mean_kernel.cuh"

namespace pact {

constexpr int kEutiWarps = 8;
constexpr int kEutiChunkStep = 32, kEutiLargestChunk = 1024;  // tokens of a block
constexpr int kLaneElements = 8;
constexpr int kScoreWarps = 32;
constexpr int kScoreTokens = 2;   // of a warp
constexpr int kScoreHeads = 512;  // whose statistics lie in shared memory at a time
constexpr unsigned kScoreSharedBytes = kScoreHeads * sizeof(float2);

struct EutiShape {
  int n, head_size, key_heads, group;
  int chunk, chunks;  // tokens of a chunk, and how many there are
};

// The query: a mean [Hq * dh], or where that is null the one chosen row.
template <typename T>
struct EutiQuery {
  const float* mean;
  const T* queries;
  int64_t stride;
  AttentionRows rows;
};

// Of `n` tokens those that the query sees.
template <typename T>
__device__ inline int seen_tokens(const EutiQuery<T>& query, int n) {
  return query.mean ? n : visible_keys(query.rows, chosen_row(query.rows, 0), n);
}

// A lane's elements of a row.
template <typename T>
struct LanePiece {
  device::Vector<T> part[kLaneElements / device::kPerVector<T>];
  __device__ float operator[](int e) const {
    return device::to_float(part[e / device::kPerVector<T>].at[e % device::kPerVector<T>]);
  }
};

// Elements from `valid` on are zero and not read.
template <typename T, bool kAligned>
__device__ inline LanePiece<T> load_lane_piece(const T* from, int valid) {
  constexpr int kVector = device::kPerVector<T>;
  LanePiece<T> piece;
#pragma unroll
  for (int p = 0; p < kLaneElements / kVector; ++p) {
    if (valid > p * kVector) {
      piece.part[p] = load_piece<T, kAligned>(from + p * kVector, valid - p * kVector);
    } else {
#pragma unroll
      for (int e = 0; e < kVector; ++e) piece.part[p].at[e] = device::from_float<T>(0);
    }
  }
  return piece;
}

// Adds each of kCount values over kLanes lanes, in the order of a butterfly. Lane l gets the value l / (kLanes /
// kCount).
template <int kLanes, int kCount>
__device__ inline float sum_over_lanes(const float (&value)[kCount]) {
  if constexpr (kLanes == 1) {
    return value[0];
  } else {
    constexpr int kStep = kLanes / 2, kHalf = kCount > 1 ? kCount / 2 : 1;
    float sum[kHalf];
    if constexpr (kCount > 1) {
      const bool upper = device::lane_id() & kStep;
#pragma unroll
      for (int i = 0; i < kHalf; ++i)
        sum[i] = (upper ? value[i + kHalf] : value[i]) +
                 __shfl_xor_sync(device::kAllLanes, upper ? value[i] : value[i + kHalf], kStep);
    } else {
      sum[0] = value[0] + __shfl_xor_sync(device::kAllLanes, value[0], kStep);
    }
    return sum_over_lanes<kStep>(sum);
  }
}

// kHead: 64, 128, or 0 for any head size.
template <typename T, bool kAligned, int kHead, int kGroup>
struct EutiLogits {
  static constexpr int kLanes = kHead == 64 ? 8 : 16, kSlots = kEutiWarps * 32 / kLanes;
  static constexpr int kMostTokens = sizeof(T) == 4 ? 4 : 8;
  static constexpr int kTokens = kLanes / kGroup < kMostTokens ? kLanes / kGroup : kMostTokens;
  static constexpr int kValues = kTokens * kGroup, kCopies = kLanes / kValues;  // of a value, in neighbouring lanes
  static constexpr int kPart = kLanes * kLaneElements;

  using Query = float[kGroup][kLaneElements];
  struct Keys {
    LanePiece<T> token[kTokens];
  };

  const EutiShape& shape;
  int key_head, first_head, heads_here;  // heads_here <= kGroup of the query heads, from first_head
  int sub;                               // this lane of its slot

  __device__ int valid(int part) const { return (kHead ? kHead : shape.head_size) - part - sub * kLaneElements; }

  __device__ void load_query(const EutiQuery<T>& source, int part, Query& query) const {
    const int64_t row = source.mean ? 0 : chosen_row(source.rows, 0);
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      const int64_t at = int64_t(first_head + g) * shape.head_size + part + sub * kLaneElements;
      const int here = g < heads_here && row >= 0 ? valid(part) : 0;
      if (source.mean) {
        const LanePiece<float> piece = load_lane_piece<float, kAligned>(source.mean + at, here);
#pragma unroll
        for (int e = 0; e < kLaneElements; ++e) query[g][e] = piece[e];
      } else {
        const LanePiece<T> piece = load_lane_piece<T, kAligned>(source.queries + row * source.stride + at, here);
#pragma unroll
        for (int e = 0; e < kLaneElements; ++e) query[g][e] = piece[e];
      }
    }
  }

  // Tokens from `end` on are read as the last one.
  __device__ Keys load_keys(const EutiRows<T>& keys, int64_t token, int64_t end, int part) const {
    const T* from = keys.data + int64_t(key_head) * shape.head_size + part + sub * kLaneElements;
    Keys loaded;
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
      loaded.token[t] = load_lane_piece<T, kAligned>(from + min(token + t, end - 1) * keys.stride, valid(part));
    return loaded;
  }

  __device__ static void accumulate(const Query& query, const Keys& keys, float (&dot)[kValues]) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
#pragma unroll
      for (int e = 0; e < kLaneElements; ++e) {
        const float key = keys.token[t][e];
#pragma unroll
        for (int g = 0; g < kGroup; ++g) dot[t * kGroup + g] = fmaf(key, query[g][e], dot[t * kGroup + g]);
      }
  }

  // Whether one of the slot's keys holds what is not finite, this lane's share.
  __device__ bool finds_bad(const EutiRows<T>& keys, int64_t token, int64_t end) const {
    bool bad = false;
    for (int64_t i = token; i < min(token + kTokens, end); ++i)
      for (int k = sub; k < shape.head_size; k += kLanes)
        bad = bad || !is_finite(device::to_float(keys.data[i * keys.stride + key_head * shape.head_size + k]));
    return bad;
  }
};

// Logits of a chunk lie in shared memory for its statistics, a row of them per head; rows begin in different banks.
__host__ __device__ constexpr int logits_row(int chunk) { return chunk + 1; }
__host__ __device__ constexpr unsigned logits_shared_bytes(int group, int chunk) {
  return unsigned(group * logits_row(chunk)) * unsigned(sizeof(float));
}

// Grid: chunks * key_heads * (parts of kGroup of the group). logits [n][heads], statistics [heads][chunks]: the largest
// logit, and the sum of exp(logit - largest).
template <typename T, bool kAligned, int kHead, int kGroup>
__global__ void __launch_bounds__(kEutiWarps * 32, 2)
    euti_logits_kernel(EutiRows<T> keys, EutiQuery<T> query, EutiShape shape, float scale, float* __restrict__ logits,
                       float2* __restrict__ statistics, int* bad) {
  using Logits = EutiLogits<T, kAligned, kHead, kGroup>;
  constexpr int kTokens = Logits::kTokens, kStride = Logits::kSlots * kTokens;
  const device::Shared<float> stash = device::shared<float>(0, kGroup * logits_row(shape.chunk));
  const int chunk = int(blockIdx.x) % shape.chunks, heads = shape.key_heads * shape.group;
  const int parts = (shape.group + kGroup - 1) / kGroup, of_heads = int(blockIdx.x) / shape.chunks;
  const int key_head = of_heads / parts, first_in_group = of_heads % parts * kGroup;
  const Logits own{shape, key_head, key_head * shape.group + first_in_group, min(kGroup, shape.group - first_in_group),
                   int(threadIdx.x) % Logits::kLanes};

  const int64_t begin = int64_t(chunk) * shape.chunk;
  const int64_t end = min(begin + shape.chunk, int64_t(seen_tokens(query, shape.n)));
  const int64_t slot = begin + int64_t(threadIdx.x) / Logits::kLanes * kTokens;
  const int value = own.sub / Logits::kCopies, t = value / kGroup, g = value % kGroup;

  typename Logits::Query held;
  typename Logits::Keys ahead;
  if (kHead && begin < end) {
    ahead = own.load_keys(keys, slot, end, 0);
    own.load_query(query, 0, held);
  }
  for (int64_t base = begin; base < end; base += kStride) {  // the whole block
    const int64_t first = slot + (base - begin);
    float dot[Logits::kValues] = {};
    if constexpr (kHead) {
      const typename Logits::Keys now = ahead;
      if (base + kStride < end) ahead = own.load_keys(keys, first + kStride, end, 0);
      Logits::accumulate(held, now, dot);
    } else {
      for (int part = 0; part < shape.head_size; part += Logits::kPart) {
        own.load_query(query, part, held);
        Logits::accumulate(held, own.load_keys(keys, first, end, part), dot);
      }
    }
    const float sum = sum_over_lanes<Logits::kLanes>(dot);
    if (bad && __any_sync(device::kAllLanes, !is_finite(sum)) && own.finds_bad(keys, first, end))
      device::store_relaxed(bad, 1);
    const int64_t token = first + t;
    if (own.sub % Logits::kCopies == 0 && g < own.heads_here && token < end) {
      const float logit = bounded_logit(sum * scale);
      logits[token * heads + own.first_head + g] = logit;
      stash[g * logits_row(shape.chunk) + int(token - begin)] = logit;
    }
  }
  __syncthreads();

  if (device::warp_id() >= own.heads_here) return;
  const device::Shared<float> row = stash + device::warp_id() * logits_row(shape.chunk);
  const int count = int(end - begin);  // below 0 when the chunk is not seen
  float largest = -kLargestLogit, sum = 0;
  for (int i = device::lane_id(); i < count; i += 32) largest = fmaxf(largest, row[i]);
  largest = device::warp_max(largest);
  for (int i = device::lane_id(); i < count; i += 32) sum += expf(row[i] - largest);
  sum = device::warp_sum(sum);
  if (device::lane_id() == 0)
    statistics[int64_t(own.first_head + device::warp_id()) * shape.chunks + chunk] = make_float2(largest, sum);
}

// The largest logit of a head, and what turns exp(logit - largest) into its share of the mean over heads. By a warp.
__device__ inline float2 head_statistics(const float2* __restrict__ of_chunks, int chunks, int heads) {
  float largest = -kLargestLogit, sum = 0;
#pragma unroll 4
  for (int c = device::lane_id(); c < chunks; c += 32) largest = fmaxf(largest, of_chunks[c].x);
  largest = device::warp_max(largest);
#pragma unroll 4
  for (int c = device::lane_id(); c < chunks; c += 32) sum += of_chunks[c].y * expf(of_chunks[c].x - largest);
  return make_float2(largest, 1 / (device::warp_sum(sum) * float(heads)));
}

// Each block brings the statistics together for itself, a warp per head; then a warp takes kScoreTokens tokens. `norm`
// may be null.
template <typename T>
__global__ void __launch_bounds__(kScoreWarps * 32)
    euti_score_kernel(const float* __restrict__ logits, const double* __restrict__ norm,
                      const float2* __restrict__ statistics, EutiQuery<T> query, EutiShape shape,
                      float* __restrict__ scores) {
  const device::Shared<float2> of_head = device::shared<float2>(0, kScoreHeads);
  const int lane = device::lane_id(), warp = device::warp_id(), heads = shape.key_heads * shape.group;
  const int64_t first = int64_t(blockIdx.x) * (kScoreWarps * kScoreTokens) + warp;
  const int64_t seen = seen_tokens(query, shape.n);

  float weight[kScoreTokens] = {};
  for (int base = 0; base < heads; base += kScoreHeads) {
    const int count = min(kScoreHeads, heads - base);
    if (base > 0) __syncthreads();  // all are done with the heads before
    for (int h = warp; h < count; h += kScoreWarps) {
      const float2 own = head_statistics(statistics + int64_t(base + h) * shape.chunks, shape.chunks, heads);
      if (lane == 0) of_head[h] = own;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kScoreTokens; ++k) {
      const int64_t token = first + k * kScoreWarps;
      for (int h = lane; h < (token < seen ? count : 0); h += 32) {
        const float2 own = of_head[h];
        weight[k] += expf(logits[token * heads + base + h] - own.x) * own.y;
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kScoreTokens; ++k) {
    const int64_t token = first + k * kScoreWarps;
    const float sum = device::warp_sum(weight[k]);
    if (lane == 0 && token < shape.n) scores[token] = norm ? float(sum * norm[token]) : sum;
  }
}

}  // namespace pact
