// Density and adjacency of all pairs, and their largest distance: the upper triangle of Gram tiles.
#pragma once

#include "../launch.h"

namespace pact {

struct DensityParams {
  KeyRows keys;  // [n, dk]
  int n;
  float exponent;  // density term: exp(exponent * dist), or exp(-(exponent * dist)^2)
  bool gaussian;
  unsigned long long* density;  // [n], in kDensityUnit, the token itself included; overwritten
  float cutoff;                 // adjacency bit: dist <= cutoff
  uint32_t* adjacency;          // [n][words], overwritten; or null
  int words;                    // 32-bit words per row, >= adjacency_words(n), a multiple of 4
  cudaStream_t stream;
};
cudaError_t run_density(const DensityParams& params);

// Words per adjacency row that run_density wants for n tokens, and rows of the buffer (both padded to whole tiles).
int adjacency_words(int n);
int adjacency_rows(int n);

// rho[i] = density[i] * kDensityUnit, rounded once to float32; NaN for a token with NaN or Inf in its key.
struct DensityToFloatParams {
  const unsigned long long* density;
  int n;
  float* rho;
  cudaStream_t stream;
};
cudaError_t run_density_to_float(const DensityToFloatParams& params);

struct MaxDistanceParams {
  DeviceRows keys;         // [n, dk], aligned
  const double* inv_norm;  // [n]
  int n;
  float* largest;  // [1], overwritten
  cudaStream_t stream;
};
cudaError_t run_max_distance(const MaxDistanceParams& params);

}  // namespace pact
