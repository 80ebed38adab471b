#include "gram_launch.h"
#include "keys.h"
#include "keys_kernel.cuh"

namespace pact {
namespace {

unsigned blocks_for(int n, int rows_per_block) {
  return static_cast<unsigned>(n / rows_per_block + (n % rows_per_block != 0));
}

}  // namespace

cudaError_t run_prepare_keys(const PrepareKeysParams& p) {
  static_assert(kKeyThreads == kGramThreads);
  DeviceRows padded = p.rows;
  padded.width = p.out_width;  // what the Gram kernels will see
  return with_gram_type(padded, [&](auto element, auto fold) {
    using T = decltype(element);
    return launch_gram(prepare_keys_kernel<T, decltype(fold)::value>, blocks_for(p.n, kKeyRows),
                       key_shared_bytes<T>(p.out_width), p.stream, static_cast<const T*>(p.rows.data), p.rows.stride,
                       p.rows.width, p.n, static_cast<T*>(p.out), p.out_width, p.inv_norm, p.bad);
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
