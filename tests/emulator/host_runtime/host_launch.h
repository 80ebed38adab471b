// kernel<<<grid, block, shared_bytes, stream>>>(args...), as tests/emulator/operators.py rewrites it.
#pragma once

#include "cuda_runtime_api.h"
#include "emulator.h"

namespace emulator {

inline uint64_t& launch_seed() {
  static uint64_t seed = 1;
  return seed;
}

// `kernel` is a lambda that calls it: the template arguments of a kernel may come from the arguments of the launch.
// `of` is the kernel where that is a pointer, as it is for those that are allowed more shared memory.
template <typename Kernel>
auto configured(Kernel kernel, const void* of, bool concurrent, dim3 grid, dim3 block, unsigned shared_bytes,
                cudaStream_t) {
  check_launch(of, grid, block, shared_bytes);
  return [=](auto... args) {
    engine().run(grid, block, shared_bytes, launch_seed()++, concurrent, [=] { kernel(args...); });
  };
}

}  // namespace emulator
