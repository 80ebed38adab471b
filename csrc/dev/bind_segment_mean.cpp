// segment_mean in the emulator.
#include <vector>

#include "../cuda/segment_mean_kernel.cuh"
#include "bindings.h"

namespace {

using namespace pact;

template <typename T, int kVector>
void segment_mean(const T* x, int64_t stride, int width, const int64_t* labels, int n, int segments, T* means,
                  int64_t* counts, unsigned slices, unsigned offset_threads, uint64_t seed) {
  const unsigned tiles = (n + kSortTile - 1) / kSortTile, columns = kMeanThreads * kVector;
  std::vector<int> rank(n, 0), size(segments, 0), offset(segments, -1), members(n, -1);
  emulator::launch(segment_rank_kernel, dim3(tiles, slices), kSortTile, kSortSharedBytes, seed, false, labels, n,
                   segments, rank.data(), size.data());
  emulator::launch(segment_offset_kernel, 1, offset_threads, kOffsetSharedBytes, seed, false, size.data(), segments,
                   offset.data(), counts);
  emulator::launch(segment_place_kernel, tiles, kSortTile, 0, seed, false, labels, n, segments, offset.data(),
                   rank.data(), members.data());
  emulator::launch(segment_mean_kernel<T, kVector>, dim3(segments, (width + columns - 1) / columns), kMeanThreads, 0,
                   seed, false, x, stride, width, offset.data(), counts, members.data(), means);
}

}  // namespace

void bind_segment_mean(py::module_& m) {
  m.def(
      "segment_mean",
      [](const std::string& dtype, py::array x, int64_t offset, int64_t stride, int width, py::array labels,
         int segments, bool aligned, py::array means, py::array counts, unsigned slices, unsigned offset_threads,
         uint64_t seed) {
        pact::dev::with_type(dtype, [&](auto element) {
          using T = decltype(element);
          const auto run = aligned ? segment_mean<T, pact::device::kPerVector<T>> : segment_mean<T, 1>;
          run(pact::dev::data<const T>(x) + offset, stride, width, pact::dev::data<const int64_t>(labels),
              int(labels.size()), segments, pact::dev::data<T>(means), pact::dev::data<int64_t>(counts), slices,
              offset_threads, seed);
        });
      },
      py::arg("dtype"), py::arg("x"), py::arg("offset"), py::arg("stride"), py::arg("width"), py::arg("labels"),
      py::arg("segments"), py::arg("aligned"), py::arg("means"), py::arg("counts"), py::arg("slices"),
      py::arg("offset_threads"), py::arg("seed"), "Rows of `stride` elements that begin at `offset`.");
}
