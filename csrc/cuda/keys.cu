#include "gram_launch.h"
#include "keys.h"
#include "keys_kernel.cuh"

namespace pact {
namespace {

unsigned blocks_for(int n, int rows_per_block) {
  return static_cast<unsigned>(n / rows_per_block + (n % rows_per_block != 0));
}

}  // namespace

cudaError_t run_pack_rows(const PackRowsParams& p) {
  return with_type(p.rows.dtype, [&](auto element) {
    using T = decltype(element);
    pack_rows_kernel<<<blocks_for(p.n, kRowThreads / 32), kRowThreads, 0, p.stream>>>(
        static_cast<const T*>(p.rows.data), p.rows.stride, p.rows.width, p.index, p.n, static_cast<T*>(p.out),
        p.out_width);
  });
}

cudaError_t run_norms(const NormsParams& p) {
  return with_gram_type(p.rows, [&](auto element, auto fold) {
    using T = decltype(element);
    const T* rows = static_cast<const T*>(p.rows.data);
    if constexpr (std::is_same_v<T, float>) {
      float_norms_kernel<<<blocks_for(p.n, kNormThreads), kNormThreads, 0, p.stream>>>(
          rows, p.rows.stride, p.rows.width, p.n, p.inv_norm, p.bad);
    } else {
      constexpr int kRowsPerBlock = kNormThreads / 32 * kNormRowsPerWarp;
      norms_kernel<T, decltype(fold)::value><<<blocks_for(p.n, kRowsPerBlock), kNormThreads, 0, p.stream>>>(
          rows, p.rows.stride, p.rows.width, p.n, p.inv_norm, p.bad);
    }
    return cudaGetLastError();
  });
}

cudaError_t run_check_rows(const CheckRowsParams& p) {
  return with_type(p.rows.dtype, [&](auto element) {
    using T = decltype(element);
    check_rows_kernel<<<blocks_for(p.n, kRowThreads / 32), kRowThreads, 0, p.stream>>>(
        static_cast<const T*>(p.rows.data), p.rows.stride, p.rows.width, p.n, p.bad);
  });
}

}  // namespace pact
