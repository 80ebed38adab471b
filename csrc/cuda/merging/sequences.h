// Several sequences packed one behind the other, on the device.
#pragma once

#include "../launch.h"

namespace pact {

// Numbers of the host, written to `out` [count]. They travel as arguments of kernels: nothing has to stay alive, nobody
// waits, and a graph holds them.
cudaError_t run_store(const int* numbers, int count, int* out, cudaStream_t stream);

// Labels and centers that each sequence has in its own numbering, numbered through the batch.
struct NumberThroughParams {
  int sequences, n;
  const int* cu_rows;       // [sequences + 1] where the rows of each begin, and where the last ends, at n
  const int* cu_centers;    // [sequences + 1] the same of its centers
  const int* center_token;  // [n] its centers, from where its rows begin
  const int* counts;        // [sequences] how many of the places in `centers` each has centers for; null: all
  int64_t* labels;          // [n] in place: -1 stays
  int64_t* centers;         // [cu_centers[sequences]]
  cudaStream_t stream;
};
cudaError_t run_number_through(const NumberThroughParams& params);

}  // namespace pact
