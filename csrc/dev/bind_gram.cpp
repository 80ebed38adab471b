// The kernels around the Gram tiles: keys, density and adjacency, the largest distance, the nearest centre.
#include "../cuda/clustering/density_kernel.cuh"
#include "../cuda/gram/keys_kernel.cuh"
#include "../cuda/nearest/assign_kernel.cuh"
#include "../cuda/nearest/max_distance_kernel.cuh"
#include "bindings.h"

namespace pact::dev {
namespace {

using OptionalArray = std::optional<py::array>;

unsigned blocks_for(int n, int rows) { return unsigned((n + rows - 1) / rows); }

// Those that the index names, if there is one.
template <typename T>
GramRows<T> gram_rows(py::array keys, OptionalArray index = std::nullopt) {
  constexpr int kVector = device::kPerVector<T>;
  const auto* vectors = reinterpret_cast<const device::Vector<T>*>(data<const T>(keys));
  return {vectors, keys.shape(1) / kVector, int(keys.shape(1)) / kVector, int(index ? index->shape(0) : keys.shape(0)),
          data<const int>(index)};
}

GramNorms gram_norms(py::array inv_norm, OptionalArray index) {
  return {data<const double>(inv_norm), data<const int>(index)};
}

// Calls f(element, fold) as the launchers do.
template <typename F>
void with_gram_type(const std::string& dtype, py::array keys, const F& f) {
  with_type(dtype, [&](auto element) {
    using T = decltype(element);
    if (fold_sums<T>(int(keys.shape(1)), emulator::engine().tensor_cores.major))
      f(element, std::true_type());
    else if constexpr (sizeof(T) == 2)
      f(element, std::false_type());
  });
}

// Calls f(element, shape) as the launchers do.
template <typename F>
void with_gram_shape(const std::string& dtype, py::array keys, const F& f) {
  with_gram_type(dtype, keys, [&](auto element, auto fold) {
    constexpr bool kFold = decltype(fold)::value;
    if constexpr (sizeof(element) == 2)
      if (emulator::engine().tensor_cores.major == 9) return f(element, Groups<kFold>());
    f(element, WarpsFor<kFold>());
  });
}

// The rows as the Gram kernels want them, in `out`, or where they are when there is none.
void prepare_keys(const std::string& dtype, py::array rows, OptionalArray out, OptionalArray inv_norm,
                  OptionalArray bad, uint64_t seed) {
  const py::array padded = out ? *out : rows;
  with_gram_type(dtype, padded, [&](auto element, auto fold) {
    using T = decltype(element);
    const int n = int(padded.shape(0)), width = int(rows.shape(1)), out_width = int(padded.shape(1));
    emulator::launch(prepare_keys_kernel<T, decltype(fold)::value>, blocks_for(n, kKeyRows), kKeyThreads,
                     key_shared_bytes<T>(out_width), seed, false, data<const T>(rows), int64_t{width}, width, n,
                     data<T>(out), out_width, data<double>(inv_norm), data<int>(bad));
  });
}

void check_rows(const std::string& dtype, py::array rows, py::array bad, uint64_t seed) {
  with_type(dtype, [&](auto element) {
    using T = decltype(element);
    const int n = int(rows.shape(0)), width = int(rows.shape(1));
    emulator::launch(check_rows_kernel<T>, blocks_for(n, kRowThreads / 32), kRowThreads, 0, seed, false,
                     data<const T>(rows), int64_t{width}, width, n, data<int>(bad));
  });
}

void density(const std::string& dtype, py::array keys, py::array inv_norm, OptionalArray index, float exponent,
             bool gaussian, py::array density, float cutoff, OptionalArray adjacency, uint64_t seed) {
  const int n = int(density.shape(0));
  with_gram_shape(dtype, keys, [&](auto element, auto shape) {
    using T = decltype(element);
    using Shape = decltype(shape);
    const auto kernel = gaussian ? density_kernel<T, Shape, true> : density_kernel<T, Shape, false>;
    emulator::launch(kernel, unsigned(pair_tiles(n)), Shape::kThreads, kDensitySharedBytes<Shape>, seed, false,
                     gram_rows<T>(keys, index), gram_norms(inv_norm, index), term_factor(exponent, gaussian),
                     data<DensitySum>(density), cutoff / 2, data<uint32_t>(adjacency),
                     adjacency ? int(adjacency->shape(1)) : 0);
  });
}

void density_to_float(py::array density, py::array rho, uint64_t seed) {
  const int n = int(density.shape(0));
  emulator::launch(density_to_float_kernel, blocks_for(n, kGramTile), kGramTile, 0, seed, false,
                   data<const unsigned long long>(density), n, data<float>(rho));
}

void max_distance(const std::string& dtype, py::array keys, py::array inv_norm, py::array largest, uint64_t seed) {
  with_gram_shape(dtype, keys, [&](auto element, auto shape) {
    using T = decltype(element);
    emulator::launch(max_distance_kernel<T, decltype(shape)>, unsigned(pair_tiles(int(keys.shape(0)))),
                     decltype(shape)::kThreads, kMaxDistanceSharedBytes<unsigned, decltype(shape)>, seed, false,
                     gram_rows<T>(keys), data<const double>(inv_norm), data<unsigned>(largest));
  });
}

void nearest(const std::string& dtype, py::array tokens, py::array token_inv_norm, OptionalArray token_rows,
             OptionalArray token_index, py::array centers, py::array center_inv_norm, OptionalArray center_rows,
             py::array center_token, OptionalArray count, py::array nearest, uint64_t seed) {
  with_gram_shape(dtype, tokens, [&](auto element, auto shape) {
    using T = decltype(element);
    const GramRows<T> token_list = gram_rows<T>(tokens, token_rows), center_list = gram_rows<T>(centers, center_rows);
    const int tiles = gram_tiles(token_list.count);
    emulator::launch(nearest_kernel<T, decltype(shape)>, unsigned(tiles) * unsigned(gram_tiles(center_list.count)),
                     decltype(shape)::kThreads, kNearestSharedBytes<decltype(shape)>, seed, false, token_list,
                     gram_norms(token_inv_norm, token_rows), data<const int>(token_index),
                     static_cast<const int*>(nullptr), center_list, gram_norms(center_inv_norm, center_rows),
                     data<const int>(center_token), data<const int>(count), unsigned(tiles), data<NearestKey>(nearest));
  });
}

void nearest_to_labels(py::array nearest, float limit, OptionalArray scatter, py::array labels, OptionalArray distances,
                       uint64_t seed) {
  const int n = int(nearest.shape(0));
  emulator::launch(nearest_to_labels_kernel, blocks_for(n, kGramTile), kGramTile, 0, seed, false,
                   data<const NearestKey>(nearest), n, static_cast<const int*>(nullptr), limit,
                   data<const int>(scatter), data<int64_t>(labels), data<float>(distances));
}

}  // namespace
}  // namespace pact::dev

void bind_gram(py::module_& m) {
  using namespace pact::dev;
  m.attr("gram_tile") = pact::kGramTile;
  m.attr("fold_terms") = pact::kFoldTerms;
  m.def("prepare_keys", &prepare_keys);
  m.def("check_rows", &check_rows);
  m.def("density", &density);
  m.def("density_to_float", &density_to_float);
  m.def("max_distance", &max_distance);
  m.def("nearest", &nearest);
  m.def("nearest_to_labels", &nearest_to_labels);
}
