// Half types, async copies and tensor core instructions as csrc/cuda/device declares them, emulated.
// Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "ldmatrix".
#pragma once

#include "intrinsics.h"

namespace pact::device {

struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
inline float to_float(float16 x) {
  const unsigned sign = unsigned(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | magnitude << 13);
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
}

template <typename T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline bfloat16 from_float<bfloat16>(float x) {
  const unsigned bits = __float_as_uint(x);
  if (x != x) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
inline float16 from_float<float16>(float x) {
  return {emulator::bits_as<uint16_t>(_Float16(x))};
}

// --- Async copies ------------------------------------------------------------------------------------------------

template <typename T>
void async_copy16(Shared<T> to, const T* from, bool valid = true) {
  emulator::async_copy(to.vector_offset(), from, valid);
}
inline void async_commit() { emulator::async_commit(); }
template <int kPending>
void async_wait() {
  emulator::async_wait(kPending);
}

inline void whole_warp(const char* name, unsigned came) {
  if (came != ~0u) emulator::engine().fail("divergent collective", "%s in a warp of fewer than 32 threads", name);
}

// --- Tensor cores --------------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of 16-bit elements; lane l points at row l % 8 of matrix l / 8.
template <typename T>
void ldmatrix_x4(uint32_t (&out)[4], Shared<T> row) {
  struct Slot {
    const emulator::Thread* thread;
    unsigned row;
    uint32_t* out;
  } slot{emulator::engine().current, row.vector_offset(), out};
  emulator::engine().collective("ldmatrix_x4", ~0u, slot, [](Slot* const* slots, unsigned came) {
    whole_warp("ldmatrix_x4", came);
    for (int m = 0; m < 4; ++m) {
      uint32_t at[8][4];  // pairs of elements
      for (int r = 0; r < 8; ++r) {
        const Slot& source = *slots[m * 8 + r];
        memcpy(at[r], emulator::shared_access(*source.thread, source.row, 16, emulator::Access::kRead), 16);
      }
      for (int l = 0; l < 32; ++l) slots[l]->out[m] = at[l / 4][l % 4];
    }
  });
}

// The exponent of an element or an accumulator that is not zero.
inline int exponent_of(float x) { return int(__float_as_uint(x) >> 23 & 255) - 127; }
inline double power_of_two(int exponent) { return emulator::bits_as<double>(uint64_t(exponent + 1023) << 52); }

// A row of A or a column of B.
struct MmaRow {
  float at[16];
  int exponent[16];
  bool finite = true;
  void set(int k, float x) {
    at[k] = x;
    exponent[k] = x == 0 ? -1000 : exponent_of(x);
    finite = finite && x - x == 0;
  }
};

inline float truncated(double x) {
  const float nearest = float(x);
  return fabs(double(nearest)) > fabs(x) && nearest - nearest == 0 ? nextafterf(nearest, 0) : nearest;
}

// acc + x . y as the tensor cores do it.
inline float plus_products(float acc, const MmaRow& x, const MmaRow& y, const emulator::TensorCores& how) {
  if (!x.finite || !y.finite || acc - acc != 0) {
    for (int k = 0; k < 16; ++k) acc += x.at[k] * y.at[k];
    return acc;
  }
  for (int first = 0; first < 16; first += how.terms) {
    int top = acc == 0 ? -1000 : exponent_of(acc);
    for (int k = first; k < first + how.terms; ++k) top = std::max(top, x.exponent[k] + y.exponent[k]);
    if (top < -500) continue;  // nothing but zeros
    const int unit = top - 23 - how.extra_bits;
    const double scale = power_of_two(-unit);
    int64_t sum = int64_t(acc * scale);
    for (int k = first; k < first + how.terms; ++k) sum += int64_t(double(x.at[k]) * y.at[k] * scale);
    acc = truncated(double(sum) * power_of_two(unit));
  }
  return acc;
}

template <typename T>
float half_of(uint32_t pair, int which) {
  return to_float(T{uint16_t(pair >> 16 * which)});
}

// acc[16 x 8] += a[16 x 16] * b[16 x 8]
template <typename T>
void mma_m16n8k16(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Slot {
    float* acc;
    const uint32_t* a;
    uint32_t b[2];
  } slot{acc, a, {b0, b1}};
  emulator::engine().collective("mma_m16n8k16", ~0u, slot, [](Slot* const* slots, unsigned came) {
    whole_warp("mma_m16n8k16", came);
    MmaRow left[16], right[8];
    for (int l = 0; l < 32; ++l) {
      const int group = l / 4, in_group = l % 4;
      for (int i = 0; i < 8; ++i)
        left[group + 8 * (i / 2 % 2)].set(in_group * 2 + i % 2 + 8 * (i / 4), half_of<T>(slots[l]->a[i / 2], i % 2));
      for (int i = 0; i < 4; ++i)
        right[group].set(in_group * 2 + i % 2 + 8 * (i / 2), half_of<T>(slots[l]->b[i / 2], i % 2));
    }
    const emulator::TensorCores how = emulator::engine().tensor_cores;
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 4; ++i) {
        float& sum = slots[l]->acc[i];
        sum = plus_products(sum, left[l / 4 + 8 * (i / 2)], right[l % 4 * 2 + i % 2], how);
      }
    }
  });
}

}  // namespace pact::device
