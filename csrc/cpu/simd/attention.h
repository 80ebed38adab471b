// Softmax attention of pairs of a query row and a head, side by side in the lanes, over the keys of their key head.
//
//           pairs: one vector, or kPairs
//          +--------+    each cell one accumulator, one fma per term in ascending k, folded into the total every
//   a tile |        |    kSumBlock terms. A pair's logit, the order of its sums, and the order in which the kPairs of a
//   of keys|  accs  |    key come together do not depend on how wide the vectors are.
//          +--------+
#pragma once

#include "rows.h"

namespace pact::PACT_ISA {
namespace {

constexpr int kAccumulators = kLanes == 16 ? 24 : 12;  // of 32 or 16 registers
constexpr int64_t kKeyStride = kSumBlock + 16;         // loaded keys begin in different sets of the cache, rows may not
constexpr int64_t kAhead = 24;  // keys between those that are loaded and those that are asked for
static_assert(kPairs % kLanes == 0 && kAccumulators % (kPairs / kLanes) == 0);

template <int kVectors>
struct LogitTile {
  static constexpr int kKeys = kAccumulators / kVectors;
  alignas(64) float at[kKeys][kVectors * kLanes];
};

// Elements as float32, loaded into `to`, while those `ahead` of them are asked for: rows of one head lie too far apart
// for the processor to guess.
template <typename T>
inline void load_floats(const T* from, int64_t count, int64_t ahead, float* to) {
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    __builtin_prefetch(from + k + ahead);
    store(to + k, load_lanes(from + k));
  }
  for (; k < count; ++k) to[k] = to_float(from[k]);
}

// Dot products of the tile of keys from j on with the queries. The cells of keys from `end` on are those of the last.
template <typename T, int kVectors>
inline void dot_products(const HeadKeys& keys, const QueryPairs& pairs, int64_t j, int64_t end,
                         LogitTile<kVectors>& tile) {
  constexpr int kKeys = LogitTile<kVectors>::kKeys, kWidth = kVectors * kLanes;
  alignas(64) float loaded[kKeys][kKeyStride];
  const int64_t size = keys.rows.width;
  const int64_t ahead = j + kKeys + kAhead <= end ? kAhead * keys.heads * size : 0;
  for (int64_t k0 = 0; k0 < size; k0 += kSumBlock) {
    const int64_t terms = size - k0 < kSumBlock ? size - k0 : kSumBlock;
    for (int r = 0; r < kKeys; ++r) {
      const T* row = row_of<T>(keys.rows, (j + r < end ? j + r : end - 1) * keys.heads + keys.head);
      load_floats(row + k0, terms, ahead, loaded[r]);
    }
    const float* queries = pairs.queries + k0 * kWidth;
    vfloat acc[kKeys][kVectors] = {};
    for (int64_t k = 0; k < terms; ++k, queries += kWidth) {
      vfloat query[kVectors];
      for (int v = 0; v < kVectors; ++v) query[v] = load<vfloat>(queries + v * kLanes);
#pragma GCC unroll 24  // or else the sums stay in memory
      for (int r = 0; r < kKeys; ++r) {
        const vfloat x = splat(loaded[r][k]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[r][v] = fma(x, query[v], acc[r][v]);
      }
    }
#pragma GCC unroll 24
    for (int r = 0; r < kKeys; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        float* cell = tile.at[r] + v * kLanes;
        store(cell, k0 ? load<vfloat>(cell) + acc[r][v] : acc[r][v]);
      }
    }
  }
}

// A logit whose float32 sum overflowed: in double, which finite inputs cannot, and within float32 again. NaN exactly
// when an element is NaN or Inf. Terms of the query lie `stride` apart.
template <typename T>
float exact_logit(const T* key, const float* query, int64_t stride, int64_t size, float scale) {
  double dot = 0;
  for (int64_t k = 0; k < size; ++k) dot += double{to_float(key[k])} * double{query[k * stride]};
  const double logit = dot * double{scale};
  if (!__builtin_isfinite(logit)) return __builtin_nanf("");
  return float(logit > kLargestLogit ? kLargestLogit : (logit < -kLargestLogit ? -kLargestLogit : logit));
}

// Halves of the lanes onto each other until one is left.
template <int kCount>
inline double sum_of_halves(vdouble (&parts)[kCount]) {
  for (int step = kCount / 2; step > 0; step /= 2)
    for (int h = 0; h < step; ++h) parts[h] += parts[h + step];
  for (int step = kHalf / 2; step > 0; step /= 2)
    for (int l = 0; l < step; ++l) parts[0][l] += parts[0][l + step];
  return parts[0][0];
}

// Lanes of the pairs that see key j, all ones each.
inline vint sees(const QueryPairs& pairs, int64_t j, int v) {
  return int32_t(j) < load<vint>(pairs.visible + v * kLanes);
}

template <typename T, int kVectors>
bool tiles_of_logits(const HeadKeys& keys, const QueryPairs& pairs, int64_t begin, int64_t end, float* logits,
                     float* largest) {
  constexpr int kKeys = LogitTile<kVectors>::kKeys, kWidth = kVectors * kLanes;
  vfloat highest[kVectors];
  for (vfloat& h : highest) h = splat(-kLargestLogit);
  LogitTile<kVectors> tile;
  for (int64_t j = begin; j < end; j += kKeys) {
    const int count = int(end - j < kKeys ? end - j : kKeys);
    dot_products<T>(keys, pairs, j, end, tile);
    float* out = logits + (j - begin) * kWidth;
    vfloat check{};
    for (int r = 0; r < count; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        const vfloat logit = load<vfloat>(tile.at[r] + v * kLanes) * pairs.scale;
        check += logit * 0.0f;  // NaN from NaN or Inf
        store(out + r * kWidth + v * kLanes, logit);
      }
    }
    if (mask_le(check, check) != ~0u >> (32 - kLanes)) {
      for (int c = 0; c < count * kWidth; ++c) {
        const T* key = row_of<T>(keys.rows, (j + c / kWidth) * keys.heads + keys.head);
        if (!__builtin_isfinite(out[c]))
          out[c] = exact_logit(key, pairs.queries + c % kWidth, kWidth, keys.rows.width, pairs.scale);
        if (__builtin_isnan(out[c])) return false;
      }
    }
    for (int r = 0; r < count; ++r)
      for (int v = 0; v < kVectors; ++v)
        highest[v] = sees(pairs, j + r, v) ? max(highest[v], load<vfloat>(out + r * kWidth + v * kLanes)) : highest[v];
  }
  for (int v = 0; v < kVectors; ++v) store(largest + v * kLanes, highest[v]);
  return true;
}

// Calls f(integral constant) with the vectors of the pairs.
template <int kCount>
struct Vectors {
  static constexpr int value = kCount;
};
template <typename F>
inline auto with_vectors(int64_t width, const F& f) {
  return width == kLanes ? f(Vectors<1>{}) : f(Vectors<kPairs / kLanes>{});
}

bool attention_logits(const HeadKeys& keys, const QueryPairs& pairs, int64_t begin, int64_t end, float* logits,
                      float* largest) {
  bool finite = false;
  with_type(keys.rows.dtype, [&](auto as) {
    finite = with_vectors(pairs.width, [&](auto vectors) {
      return tiles_of_logits<typename decltype(as)::type, decltype(vectors)::value>(keys, pairs, begin, end, logits,
                                                                                    largest);
    });
  });
  return finite;
}

void attention_exponentials(const QueryPairs& pairs, int64_t begin, int64_t end, const float* largest, float* logits,
                            double* sums) {
  with_vectors(pairs.width, [&](auto vectors) {
    constexpr int kVectors = decltype(vectors)::value, kWidth = kVectors * kLanes;
    vdouble total[2 * kVectors] = {};
    for (int64_t j = begin; j < end; ++j) {
      float* row = logits + (j - begin) * kWidth;
      for (int v = 0; v < kVectors; ++v) {
        const vfloat e = exp_nonpositive(load<vfloat>(row + v * kLanes) - load<vfloat>(largest + v * kLanes));
        store(row + v * kLanes, sees(pairs, j, v) ? e : vfloat{});
      }
      for (int h = 0; h < 2 * kVectors; ++h) total[h] += widen(load<vfloat_half>(row + h * kHalf));
    }
    for (int h = 0; h < 2 * kVectors; ++h) store(sums + h * kHalf, total[h]);
  });
}

void attention_columns(const QueryPairs& pairs, int64_t count, const float* exponentials, const double* factors,
                       int64_t* columns) {
  with_vectors(pairs.width, [&](auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    for (int64_t j = 0; j < count; ++j) {
      const float* row = exponentials + j * kVectors * kLanes;
      vdouble weight[2 * kVectors];
      for (int h = 0; h < 2 * kVectors; ++h)
        weight[h] = widen(load<vfloat_half>(row + h * kHalf)) * load<vdouble>(factors + h * kHalf);
      columns[j] += int64_t(sum_of_halves(weight));  // missing pairs would add zeros
    }
  });
}

}  // namespace
}  // namespace pact::PACT_ISA
