// Selection of centres and labels in the emulator.
#include <pybind11/stl.h>

#include <vector>

#include "../cuda/clustering/label_kernel.cuh"
#include "../cuda/clustering/select_kernel.cuh"
#include "../cuda/order/rank_kernel.cuh"
#include "bindings.h"

namespace {

using namespace pact;

template <typename Priority, typename Store>
void rank_by(Priority priority, int n, Store store, uint64_t seed) {
  emulator::launch(rank_kernel<Priority, Store>, (n + 31) / 32, kRankWarps * 32, kRankSharedBytes<Priority>, seed,
                   false, priority, n, store);
}

// Returns the number of centres. `kept_words`: of a lane in select_kernel.
int select_centers(py::array density, py::array adjacency, py::array centers, py::array position, py::array is_center,
                   unsigned blocks, unsigned warps, unsigned compact_threads, int kept_words, uint64_t seed) {
  const int n = int(density.size()), words = int(is_center.size());
  std::vector<int> rank(n, -1), order(n, -1);
  std::vector<SelectState> state((n + 31) / 32, ~0ull);
  int next = -1, count = -1;
  rank_by(DensityPriority{dev::data<const unsigned long long>(density)}, n,
          StartSelect{{rank.data(), order.data()}, &next, state.data()}, seed);
  emulator::launch(kept_words == 1   ? select_kernel<1>
                   : kept_words == 8 ? select_kernel<8>
                                     : select_kernel<16>,
                   blocks, warps * 32, 0, seed, true, dev::data<const uint32_t>(adjacency), words, n, rank.data(),
                   order.data(), &next, state.data());
  emulator::launch(select_compact_kernel, 1, compact_threads, kCompactSharedBytes, seed, false, state.data(), n, words,
                   &count, dev::data<int>(centers), dev::data<int>(position), dev::data<uint32_t>(is_center));
  return count;
}

}  // namespace

void bind_select(py::module_& m) {
  using pact::dev::data;
  m.def(
      "rank",
      [](const std::string& by, py::array density, py::array rank, uint64_t seed) {
        const int n = int(density.size());
        const auto ranked = [&](auto priority) { rank_by(priority, n, StoreRank{data<int>(rank)}, seed); };
        if (by == "density")
          ranked(DensityPriority{data<const unsigned long long>(density)});
        else if (by == "float")
          ranked(FloatPriority{data<const float>(density)});
        else
          ranked(NumberPriority{data<const unsigned long long>(density)});
      },
      py::arg("by"), py::arg("density"), py::arg("rank"), py::arg("seed"));
  m.def("select", select_centers, py::arg("density"), py::arg("adjacency"), py::arg("centers"), py::arg("position"),
        py::arg("is_center"), py::arg("blocks"), py::arg("warps"), py::arg("compact_threads"), py::arg("kept_words"),
        py::arg("seed"), "Greedy selection; adjacency [n, words]. Returns the number of centres.");
  m.def(
      "label",
      [](const std::string& dtype, py::array keys, py::array inv_norm, py::array adjacency, py::array is_center,
         py::array position, std::optional<py::array> scatter, py::array labels, uint64_t seed) {
        pact::dev::with_type(dtype, [&](auto element) {
          using T = decltype(element);
          const int n = int(keys.shape(0)), width = int(keys.shape(1)), words = int(is_center.size()), warps = 2;
          emulator::launch(pact::label_kernel<T>, (n + warps - 1) / warps, warps * 32, 0, seed, false,
                           data<const T>(keys), int64_t(width), width, data<const double>(inv_norm),
                           data<const uint32_t>(adjacency), data<const uint32_t>(is_center), data<const int>(position),
                           words, n, data<const int>(scatter), data<int64_t>(labels));
        });
      },
      py::arg("dtype"), py::arg("keys"), py::arg("inv_norm"), py::arg("adjacency"), py::arg("is_center"),
      py::arg("position"), py::arg("scatter"), py::arg("labels"), py::arg("seed"));
  m.def(
      "centers_to_tokens",
      [](py::array centers, std::optional<py::array> index, int count, std::optional<py::array> out32,
         std::optional<py::array> out64, uint64_t seed) {
        emulator::launch(pact::centers_to_tokens_kernel, unsigned(centers.size() + 31) / 32, 32, 0, seed, false,
                         data<const int>(centers), data<const int>(index), &count, data<int>(out32),
                         data<int64_t>(out64));
      },
      py::arg("centers"), py::arg("index"), py::arg("count"), py::arg("out32"), py::arg("out64"), py::arg("seed"));
}
