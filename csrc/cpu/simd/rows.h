// Loops over rows of tokens in the caller's memory: packing keys, importance, merging, the check for NaN and Inf.
#pragma once

#include "gram.h"

namespace pact::PACT_ISA {
namespace {

template <typename T>
inline const T* row_of(Rows rows, int64_t i) {
  return static_cast<const T*>(rows.data) + i * rows.width;
}

// Calls f(k, lanes) for the row's elements, kLanes at a time, the last lanes zero-padded.
template <typename T, typename F>
inline void for_each_lanes(const T* row, int64_t width, const F& f) {
  int64_t k = 0;
  for (; k + kLanes <= width; k += kLanes) f(k, load_lanes(row + k));
  if (k < width) f(k, load_lanes(row + k, width - k));
}

// 2^-e for the largest magnitude m * 2^e of a finite row, m in [0.5, 1); 1 for a zero row. Kept within float's normal
// range, which leaves the largest element between 2^-23 and 4: far from overflow and from vanishing.
template <typename T>
float power_of_two_scale(const T* row, int64_t width) {
  vfloat largest{};
  for_each_lanes(row, width, [&](int64_t, vfloat x) { largest = max(largest, max(x, -x)); });
  float magnitude = 0;
  for (int l = 0; l < kLanes; ++l) magnitude = largest[l] > magnitude ? largest[l] : magnitude;
  if (magnitude == 0) return 1;
  const int exponent = -(__builtin_ilogbf(magnitude) + 1);
  return __builtin_ldexpf(1.0f, exponent < -126 ? -126 : (exponent > 126 ? 126 : exponent));
}

void pack_panel(Rows rows, const int64_t* index, int64_t n, int64_t p, float* panel, float* scale, double* inv_norm) {
  with_type(rows.dtype, [&](auto as) {
    using T = typename decltype(as)::type;
    const int64_t first = p * kPanel;
    const int count = int(n - first < kPanel ? n - first : kPanel);
    const T* row[kPanel];
    for (int t = 0; t < count; ++t) {
      row[t] = row_of<T>(rows, index ? index[first + t] : first + t);
      scale[t] = power_of_two_scale(row[t], rows.width);
    }
    alignas(64) float block[kPanel][kLanes] = {};  // kLanes elements of every token, to be written token-minor
    for (int64_t k0 = 0; k0 < rows.width; k0 += kLanes) {
      const int64_t left = rows.width - k0 < kLanes ? rows.width - k0 : kLanes;
      for (int t = 0; t < count; ++t) {
        const vfloat x = left == kLanes ? load_lanes(row[t] + k0) : load_lanes(row[t] + k0, left);
        store(block[t], x * scale[t]);
      }
      for (int64_t k = 0; k < left; ++k)
        for (int t = 0; t < kPanel; ++t) panel[(k0 + k) * kPanel + t] = block[t][k];
    }
    // The squared norm has the bits of the Gram micro-kernel's dot product of the row with itself.
    vfloat square[kPanelVectors] = {};
    for (int64_t k0 = 0; k0 < rows.width; k0 += kSumBlock) {
      const int64_t k1 = k0 + kSumBlock < rows.width ? k0 + kSumBlock : rows.width;
      vfloat sum[kPanelVectors] = {};
      for (int64_t k = k0; k < k1; ++k) {
        for (int v = 0; v < kPanelVectors; ++v) {
          const vfloat x = load<vfloat>(panel + k * kPanel + v * kLanes);
          sum[v] = fma(x, x, sum[v]);
        }
      }
      for (int v = 0; v < kPanelVectors; ++v) square[v] += sum[v];
    }
    for (int t = 0; t < kPanel; ++t) {
      const float s = square[t / kLanes][t % kLanes];
      inv_norm[t] = s > 0 ? 1.0 / __builtin_sqrt(double{s}) : 0.0;
    }
  });
}

void load_row(Rows rows, int64_t i, float scale, float* out) {
  with_type(rows.dtype, [&](auto as) {
    using T = typename decltype(as)::type;
    alignas(64) float lanes[kLanes];
    for_each_lanes(row_of<T>(rows, i), rows.width, [&](int64_t k, vfloat x) {
      store(lanes, x * scale);
      const int64_t count = rows.width - k < kLanes ? rows.width - k : kLanes;
      for (int64_t l = 0; l < count; ++l) out[k + l] = lanes[l];
    });
  });
}

// Some rows at a time, so that the sums are read and written once for all of them; each sum in the order of the rows.
void add_rows(Rows rows, int64_t first, int64_t last, double* out) {
  constexpr int64_t kAtOnce = 8;
  with_type(rows.dtype, [&](auto as) {
    using T = typename decltype(as)::type;
    for (int64_t i = first; i < last; i += kAtOnce) {
      const T* from = row_of<T>(rows, i);
      const int64_t count = last - i < kAtOnce ? last - i : kAtOnce;
      int64_t k = 0;
      for (; k + kHalf <= rows.width; k += kHalf) {
        vdouble sum = load<vdouble>(out + k);
        for (int64_t r = 0; r < count; ++r) sum += load_doubles(from + r * rows.width + k);
        store(out + k, sum);
      }
      for (; k < rows.width; ++k)
        for (int64_t r = 0; r < count; ++r) out[k] += double{to_float(from[r * rows.width + k])};
    }
  });
}

// The sum in doubles of f(k, x) over a row's elements, kHalf of them at a time: two sums for the two halves of kLanes
// elements, which come together at the end. g(element) for the last ones, zero in lanes without any.
template <typename T, typename F>
inline double sum_in_doubles(const T* row, int64_t width, const F& f) {
  vdouble total[2] = {};
  int64_t k = 0;
  for (; k + kLanes <= width; k += kLanes)
    for (int s = 0; s < 2; ++s) total[s] += f(k + s * kHalf, load_doubles(row + k + s * kHalf), kHalf);
  for (int s = 0; s < 2 && k < width; ++s, k += kHalf) {
    const int64_t count = width - k < kHalf ? width - k : kHalf;
    vdouble last{};
    for (int64_t l = 0; l < count; ++l) last[l] = double{to_float(row[k + l])};
    total[s] += f(k, last, count);
  }
  return sum(total[0] + total[1]);
}

void head_logits(Rows keys, int64_t i, const double* query_mean, int64_t heads, int64_t group, int64_t head_size,
                 double* logits) {
  with_type(keys.dtype, [&](auto as) {
    using T = typename decltype(as)::type;
    for (int64_t h = 0; h < heads; ++h) {
      const double* query = query_mean + h * head_size;
      logits[h] = sum_in_doubles(row_of<T>(keys, i) + h / group * head_size, head_size,
                                 [&](int64_t k, vdouble key, int64_t count) {
                                   if (count == kHalf) return key * load<vdouble>(query + k);
                                   vdouble last{};
                                   for (int64_t l = 0; l < count; ++l) last[l] = query[k + l];
                                   return key * last;
                                 });
    }
  });
}

double row_norm(Rows rows, int64_t i) {
  double square = 0;
  with_type(rows.dtype, [&](auto as) {
    using T = typename decltype(as)::type;
    square = sum_in_doubles(row_of<T>(rows, i), rows.width, [](int64_t, vdouble x, int64_t) { return x * x; });
  });
  return __builtin_sqrt(square);
}

// Some rows at a time, so that the sums are read and written once for all of them; each sum in the order of the rows.
void mean_of_rows(Rows rows, const int64_t* members, int64_t count, float* sum, void* out) {
  constexpr int64_t kAtOnce = 16;
  with_type(rows.dtype, [&](auto as) {
    using T = typename decltype(as)::type;
    for (int64_t k = 0; k < rows.width; ++k) sum[k] = 0;
    for (int64_t first = 0; first < count; first += kAtOnce) {
      const T* row[kAtOnce];
      const int64_t here = count - first < kAtOnce ? count - first : kAtOnce;
      for (int64_t m = 0; m < here; ++m) row[m] = row_of<T>(rows, members[first + m]);
      int64_t k = 0;
      for (; k + kLanes <= rows.width; k += kLanes) {
        vfloat of_lanes = load<vfloat>(sum + k);
        for (int64_t m = 0; m < here; ++m) of_lanes += load_lanes(row[m] + k);
        store(sum + k, of_lanes);
      }
      for (; k < rows.width; ++k)
        for (int64_t m = 0; m < here; ++m) sum[k] += to_float(row[m][k]);
    }
    const float divisor = count ? float(count) : 1.0f;
    for (int64_t k = 0; k < rows.width; ++k) round_to(sum[k] / divisor, static_cast<T*>(out) + k);
  });
}

// A value is NaN or Inf exactly when its exponent is all ones.
template <typename Word, Word kExponent>
bool exponents_in_range(const Word* words, int64_t count) {
  constexpr int64_t kBlock = 4096;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Word found = 0;
    for (int64_t i = begin; i < end; ++i) found |= Word((words[i] & kExponent) == kExponent);
    if (found) return false;
  }
  return true;
}

bool all_finite(const void* data, Dtype dtype, int64_t count) {
  switch (dtype) {
    case Dtype::kFloat32:
      return exponents_in_range<uint32_t, 0x7f800000>(static_cast<const uint32_t*>(data), count);
    case Dtype::kFloat16:
      return exponents_in_range<uint16_t, 0x7c00>(static_cast<const uint16_t*>(data), count);
    case Dtype::kBFloat16:
      return exponents_in_range<uint16_t, 0x7f80>(static_cast<const uint16_t*>(data), count);
  }
  return false;
}

}  // namespace
}  // namespace pact::PACT_ISA
