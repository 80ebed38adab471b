// Softmax attention of one query row: dot products along the head, which read every key once, then the softmax along
// the keys of each head.
//
//          heads of a key head: the cells of a tile of logits, each one sum of kPairs lanes. With as many heads as
//         +-------+             kCells a tile has one key, and keys are read in the order in which they lie; with
//    keys | cells |             fewer it has several. A cell's lanes come together in a fixed order, whatever the
//         +-------+             width of the vectors and the cells beside it.
#pragma once

#include "attention.h"

namespace pact::PACT_ISA {
namespace {

constexpr int kRowVectors = kPairs / kLanes;
constexpr int kCells = kLanes == 16 ? 16 : kLanes - 1;  // their sums fit a vector, their lanes the registers
constexpr int kMostQueries = kCells < 8 ? kCells : 8, kMostKeys = 4;
constexpr int keys_beside(int queries) { return kCells / queries < kMostKeys ? kCells / queries : kMostKeys; }

// Of each run of 2 * kStep lanes, its second half onto its first: that of a, then that of b.
template <int kStep, int kCount = kLanes, int... kLane>
struct Fold : Fold<kStep, kCount - 1, kCount - 1, kLane...> {};
template <int kStep, int... kLane>
struct Fold<kStep, 0, kLane...> {
  static constexpr int from(int lane) {
    return lane / (2 * kStep) * (2 * kStep) + lane % kStep + (lane % (2 * kStep) < kStep ? 0 : kLanes);
  }
  static vfloat of(vfloat a, vfloat b) {
    return __builtin_shufflevector(a, b, from(kLane)...) + __builtin_shufflevector(a, b, (from(kLane) + kStep)...);
  }
};

// The sums of the lanes of each of kCount vectors, in one: that of vector i in lane sum_lane(i). The additions are
// those of sum(vfloat).
template <int kStep, int kCount>
inline vfloat sums_of(const vfloat* v) {
  if constexpr (kStep == 0) {
    return v[0];
  } else {
    vfloat folded[(kCount + 1) / 2];
    for (int i = 0; i < (kCount + 1) / 2; ++i)
      folded[i] = Fold<kStep>::of(v[2 * i], v[2 * i + 1 < kCount ? 2 * i + 1 : 2 * i]);
    return sums_of<kStep / 2, (kCount + 1) / 2>(folded);
  }
}
constexpr int sum_lane(int i) {
  int lane = 0;
  for (int step = kLanes / 2; step > 0; step /= 2, i /= 2) lane += i % 2 * step;
  return lane;
}

// Of kRowVectors vectors, halves onto each other until one is left.
template <int kCount, int kApart = 1>
inline vfloat sum_of_vectors(const vfloat* v) {
  if constexpr (kCount == kApart)
    return v[0];
  else
    return sum_of_vectors<kCount, 2 * kApart>(v) + sum_of_vectors<kCount, 2 * kApart>(v + kApart);
}

// Dot products of kKeys keys with kQueries queries; that of key r and query q in lane sum_lane(r * kQueries + q).
template <int kKeys, int kQueries, typename T>
inline vfloat row_dots(const T* const* keys, const float* queries, int64_t query_stride, int64_t size) {
  constexpr int kSums = kKeys * kQueries;
  vfloat acc[kSums][kRowVectors];
  for (auto& of_cell : acc)  // one by one, into registers: all at once goes through memory
    for (vfloat& sum : of_cell) sum = vfloat{};
  const auto add_terms = [&](int64_t k, const auto& load_key) {
#pragma GCC unroll 4  // or else the sums stay in memory
    for (int v = 0; v < kRowVectors; ++v) {
      vfloat key[kKeys];
      for (int r = 0; r < kKeys; ++r) key[r] = load_key(keys[r], k + v * kLanes);
      for (int q = 0; q < kQueries; ++q) {
        const vfloat query = load<vfloat>(queries + q * query_stride + k + v * kLanes);
        for (int r = 0; r < kKeys; ++r) acc[r * kQueries + q][v] = fma(key[r], query, acc[r * kQueries + q][v]);
      }
    }
  };
  const int64_t whole = size / kPairs * kPairs;
  for (int64_t k = 0; k < whole; k += kPairs)
    add_terms(k, [](const T* key, int64_t at) { return load_lanes(key + at); });
  if (whole < size) {
    add_terms(whole, [&](const T* key, int64_t at) {
      return at + kLanes <= size ? load_lanes(key + at) : (at < size ? load_lanes(key + at, size - at) : vfloat{});
    });
  }
  vfloat sums[kSums];
  for (int c = 0; c < kSums; ++c) sums[c] = sum_of_vectors<kRowVectors>(acc[c]);
  return sums_of<kLanes / 2, kSums>(sums);
}

// The heads of a key head in blocks of kQueries, the last of which may begin within the one before.
template <int kQueries, typename T>
bool logits_of_keys(const QueryRow& row, Rows keys, int64_t begin, int64_t end, float* logits) {
  constexpr int kKeys = keys_beside(kQueries);
  constexpr int64_t kLine = 64;  // bytes, of the cache
  const int64_t key_heads = row.heads / row.group;
  for (int64_t j = begin; j < end; j += kKeys) {
    const int count = int(end - j < kKeys ? end - j : kKeys);
    for (int64_t h = 0; h < key_heads; ++h) {
      const T* key[kKeys];
      for (int r = 0; r < kKeys; ++r) key[r] = row_of<T>(keys, (j + (r < count ? r : count - 1)) * key_heads + h);
      if (kKeys > 1 && j + 2 * kKeys <= end)  // heads take turns: no stream that the processor would foresee
        for (int r = 0; r < kKeys; ++r)
          for (int64_t k = 0; k < keys.width; k += kLine / int64_t{sizeof(T)})
            __builtin_prefetch(key[r] + kKeys * key_heads * keys.width + k);
      for (int64_t block = 0; block < row.group; block += kQueries) {
        const int64_t head = h * row.group + (block + kQueries <= row.group ? block : row.group - kQueries);
        const float* query = row.queries + head * row.query_stride;
        const vfloat dot = row_dots<kKeys, kQueries>(key, query, row.query_stride, keys.width) * row.scale;
        alignas(64) float cells[kLanes];
        store(cells, dot);
        if (mask_le(max(dot, -dot), splat(kLargestLogit)) != ~0u >> (32 - kLanes)) {
          for (int c = 0; c < kKeys * kQueries; ++c) {
            float& cell = cells[sum_lane(c)];
            if (!(__builtin_fabsf(cell) <= kLargestLogit))
              cell = exact_logit(key[c / kQueries], query + c % kQueries * row.query_stride, 1, keys.width, row.scale);
            if (__builtin_isnan(cell)) return false;
          }
        }
        float* out = logits + head * row.logit_stride + j;
        for (int c = 0; c < kKeys * kQueries; ++c)
          if (c / kQueries < count) out[c % kQueries * row.logit_stride + c / kQueries] = cells[sum_lane(c)];
      }
    }
  }
  return true;
}

// As few blocks of heads as there can be, and these alike.
template <typename T, int kQueries = 1>
bool logits_by_group(const QueryRow& row, Rows keys, int64_t begin, int64_t end, float* logits) {
  if constexpr (kQueries < kMostQueries) {
    const int64_t blocks = (row.group + kMostQueries - 1) / kMostQueries;
    if (kQueries * blocks < row.group) return logits_by_group<T, kQueries + 1>(row, keys, begin, end, logits);
  }
  return logits_of_keys<kQueries, T>(row, keys, begin, end, logits);
}

bool attention_row_logits(const QueryRow& row, Rows keys, int64_t begin, int64_t end, float* logits) {
  bool finite = false;
  with_type(keys.dtype,
            [&](auto as) { finite = logits_by_group<typename decltype(as)::type>(row, keys, begin, end, logits); });
  return finite;
}

double attention_row_exponentials(float* logits, int64_t count) {
  vfloat highest[kRowVectors];
  for (vfloat& h : highest) h = splat(-kLargestLogit);
  for (int64_t j = 0; j < count; j += kPairs)
    for (int v = 0; v < kRowVectors; ++v) highest[v] = max(highest[v], load<vfloat>(logits + j + v * kLanes));
  float largest = -kLargestLogit;
  for (int v = 0; v < kRowVectors; ++v)
    for (int l = 0; l < kLanes; ++l) largest = highest[v][l] > largest ? highest[v][l] : largest;

  vdouble total[2 * kRowVectors] = {};
  for (int64_t j = 0; j < count; j += kPairs) {
    for (int v = 0; v < kRowVectors; ++v) {
      const vfloat x = load<vfloat>(logits + j + v * kLanes) - largest;
      store(logits + j + v * kLanes, x < -87.0f ? vfloat{} : exp_nonpositive(x));  // and padding, at -Inf
    }
    for (int h = 0; h < 2 * kRowVectors; ++h) total[h] += widen(load<vfloat_half>(logits + j + h * kHalf));
  }
  return sum_of_halves(total);
}

void attention_row_columns(const float* exponentials, int64_t stride, const double* factors, int64_t heads,
                           int64_t count, float* received) {
  for (int64_t j = 0; j < count; j += kHalf) {
    vdouble sum{};
    for (int64_t h = 0; h < heads; ++h)
      sum += widen(load<vfloat_half>(exponentials + h * stride + j)) * splat(factors[h]);
    for (int l = 0; l < kHalf && j + l < count; ++l) received[j + l] = float(sum[l]);
  }
}

}  // namespace
}  // namespace pact::PACT_ISA
