// Softmax attention of one query row: dot products along the head, which read every key once, then the softmax along
// the keys of each head.
//
// A sum of terms runs in kPairs lanes, whatever the width of the vectors, and these come together in a fixed order.
#pragma once

#include "attention.h"

namespace pact::PACT_ISA {
namespace {

constexpr int kRowVectors = kPairs / kLanes;

// The kPairs lanes of a sum come together.
inline float sum_of_terms(vfloat (&terms)[kRowVectors]) {
  for (int step = kRowVectors / 2; step > 0; step /= 2)
    for (int v = 0; v < step; ++v) terms[v] += terms[v + step];
  return sum(terms[0]);
}

// Dot products of kKeys keys with kQueries queries: enough sums at once to hide the latency of the fma.
template <int kKeys, int kQueries, typename T>
inline void row_dots(const T* const* keys, const float* queries, int64_t query_stride, int64_t size,
                     float (*out)[kQueries]) {
  vfloat acc[kKeys][kQueries][kRowVectors];
  for (auto& of_key : acc)  // one by one, into registers: all at once goes through memory
    for (auto& of_query : of_key)
      for (vfloat& sum : of_query) sum = vfloat{};
  const auto add_terms = [&](int64_t k, const auto& load_key) {
    for (int v = 0; v < kRowVectors; ++v) {
      vfloat key[kKeys];
      for (int r = 0; r < kKeys; ++r) key[r] = load_key(keys[r], k + v * kLanes);
      for (int q = 0; q < kQueries; ++q) {
        const vfloat query = load<vfloat>(queries + q * query_stride + k + v * kLanes);
        for (int r = 0; r < kKeys; ++r) acc[r][q][v] = fma(key[r], query, acc[r][q][v]);
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
  for (int r = 0; r < kKeys; ++r)
    for (int q = 0; q < kQueries; ++q) out[r][q] = sum_of_terms(acc[r][q]);
}

template <typename T>
bool logits_of_keys(const QueryRow& row, Rows keys, int64_t begin, int64_t end, float* logits) {
  constexpr int kTile = 4;
  constexpr int64_t kLine = 64;  // bytes, of the cache
  const int64_t key_heads = row.heads / row.group;
  for (int64_t j = begin; j < end; j += kTile) {
    const int count = int(end - j < kTile ? end - j : kTile);
    for (int64_t h = 0; h < row.heads;) {
      const T* key[kTile];
      for (int r = 0; r < kTile; ++r)
        key[r] = row_of<T>(keys, (j + (r < count ? r : count - 1)) * key_heads + h / row.group);
      if (h % row.group == 0 && j + 2 * kTile <= end)  // heads take turns: no stream that the processor would foresee
        for (int r = 0; r < kTile; ++r)
          for (int64_t k = 0; k < keys.width; k += kLine / int64_t{sizeof(T)})
            __builtin_prefetch(key[r] + kTile * key_heads * keys.width + k);
      const float* query = row.queries + h * row.query_stride;
      const int several = row.group - h % row.group >= kTile ? kTile : 1;  // queries
      float dots[kTile][kTile];
      if (several > 1) {
        for (int r = 0; r < count; ++r) row_dots<1, kTile>(key + r, query, row.query_stride, keys.width, dots + r);
      } else {
        float one[kTile][1];
        row_dots<kTile, 1>(key, query, row.query_stride, keys.width, one);
        for (int r = 0; r < kTile; ++r) dots[r][0] = one[r][0];
      }
      for (int q = 0; q < several; ++q) {
        for (int r = 0; r < count; ++r) {
          float logit = dots[r][q] * row.scale;
          if (!(__builtin_fabsf(logit) <= kLargestLogit)) {
            logit = exact_logit(key[r], query + q * row.query_stride, 1, keys.width, row.scale);
            if (__builtin_isnan(logit)) return false;
          }
          logits[(h + q) * row.logit_stride + j + r] = logit;
        }
      }
      h += several;
    }
  }
  return true;
}

bool attention_row_logits(const QueryRow& row, Rows keys, int64_t begin, int64_t end, float* logits) {
  bool finite = false;
  with_type(keys.dtype,
            [&](auto as) { finite = logits_of_keys<typename decltype(as)::type>(row, keys, begin, end, logits); });
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
