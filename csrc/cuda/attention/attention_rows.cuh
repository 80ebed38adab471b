#pragma once

#include "../device/platform.cuh"
#include "attention_rows.h"

namespace pact {

constexpr float kLargestLogit = 3.402823466e38f;

// A logit beyond float32 is its largest number; NaN passes.
__device__ __forceinline__ float bounded_logit(float x) {
  if (x > kLargestLogit) return kLargestLogit;
  return x < -kLargestLogit ? -kLargestLogit : x;
}

// The i-th chosen query, or -1 when there is none.
__device__ __forceinline__ int64_t chosen_row(const AttentionRows& rows, int64_t i) {
  if (i >= rows.count) return -1;
  if (!rows.index) return i;
  const int64_t row = rows.index[i];
  return row >= 0 && row < rows.queries ? row : -1;
}

// How many of n keys that query sees.
__device__ __forceinline__ int visible_keys(const AttentionRows& rows, int64_t row, int n) {
  if (row < 0) return 0;
  return rows.causal ? static_cast<int>(min(rows.first + row + 1, int64_t{n})) : n;
}

}  // namespace pact
