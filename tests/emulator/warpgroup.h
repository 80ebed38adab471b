// Products of warpgroups as csrc/cuda/device/wgmma.cuh declares them, emulated: as late as may be, at the wait for
// them, and until then the accumulators hold NaN. A warp makes its own 16 rows of them. Layouts: PTX ISA, "Asynchronous
// Warpgroup Level Matrix Instructions": accumulators of m64nNk16, 64-byte swizzle.
#pragma once

#include "products.h"
#include "tensor.h"

namespace pact::device {

// 16 elements from 16 k on of a row of a side.
template <typename T>
MmaRow side_row(const emulator::Thread& reader, unsigned side, int row, int k) {
  MmaRow out;
  for (int half = 0; half < 2; ++half) {
    const unsigned at = side + unsigned(row) * 64 + unsigned((2 * k + half) ^ (row >> 1 & 3)) * 16;
    emulator::check_published(reader, at, 16);
    T elements[8];
    memcpy(elements, emulator::shared_access(reader, at, 16, emulator::Access::kRead), 16);
    for (int i = 0; i < 8; ++i) out.set(half * 8 + i, to_float(elements[i]));
  }
  return out;
}

// One product of a warp, by all its lanes.
template <typename T>
void make_product(emulator::Thread* const* lanes, const emulator::GroupProduct& product) {
  MmaRow left[16], right[128];
  for (int r = 0; r < 16; ++r) left[r] = side_row<T>(*lanes[r], product.left, lanes[0]->warp % 4 * 16 + r, product.k);
  for (int c = 0; c < 128; ++c) right[c] = side_row<T>(*lanes[c % 32], product.right, c, product.k);
  const emulator::TensorCores how = emulator::engine().tensor_cores;
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 64; ++i) {
      float& sum = lanes[l]->products.sums[i];
      const MmaRow &row = left[l / 4 + i % 4 / 2 * 8], &column = right[i / 4 * 8 + l % 4 * 2 + i % 2];
      sum = plus_products(product.accumulate ? sum : 0, row, column, how);
    }
}

template <typename T, typename V>
void wgmma_m64n128k16(float (&acc)[64], Shared<V> a, Shared<V> b, int k, bool accumulate) {
  emulator::order_product(acc, a.vector_offset(), b.vector_offset(), k, accumulate, &make_product<T>);
}

inline void wgmma_only() {}
inline void wgmma_publish() { emulator::publish(); }
inline void wgmma_begin() { emulator::begin_products(); }
inline void wgmma_commit() { emulator::commit_products(); }
inline void wgmma_wait_but_one() { emulator::finish_products(1); }
inline void wgmma_wait(float (&acc)[64]) {
  emulator::finish_products(0);
  emulator::take_sums(acc);
}

}  // namespace pact::device
