// segment_mean in the emulator.
#include <vector>

#include "../cuda/merging/segment_mean_kernel.cuh"
#include "bindings.h"

namespace {

using namespace pact;

// As the launcher does, with `at_once` segments sorted at a time, and `slots` for segments of many rows.
template <typename T, int kVector>
void segment_mean(const T* x, int64_t stride, int width, const int64_t* labels, int n, int segments, T* means,
                  int64_t* counts, int at_once, unsigned sort_threads, unsigned threads, int slots, uint64_t seed) {
  const int pieces = (width + kVector - 1) / kVector;
  const MeanGrid grid{segments, int((pieces + threads - 1) / threads), (pieces + kSliceVectors - 1) / kSliceVectors,
                      kVector > 1 ? slots : 0};
  std::vector<int> offset(segments, -1), unordered(n, -1), members(n, -1), many(n / (kFewRows + 1) + 1, -1);
  int many_count = -1;
  const SegmentLists lists{offset.data(), counts, unordered.data(), members.data(), many.data(), &many_count};
  emulator::launch(segment_sort_kernel, 1, sort_threads, sort_shared_bytes(at_once), seed, false, labels, n, segments,
                   nullptr, nullptr, at_once, lists);
  const unsigned per_block = kOrderThreads / 32;
  emulator::launch(segment_order_kernel, (n + per_block - 1) / per_block, kOrderThreads, 0, seed, false, labels, n,
                   segments, offset.data(), counts, unordered.data(), members.data());
  emulator::launch(segment_mean_kernel<T, kVector>, unsigned(grid.blocks()), threads, mean_shared_bytes(threads), seed,
                   false, MeanRows<T>{x, stride, width}, grid, offset.data(), counts, members.data(), many.data(),
                   &many_count, means);
}

}  // namespace

void bind_segment_mean(py::module_& m) {
  m.def(
      "segment_mean",
      [](const std::string& dtype, py::array x, int64_t offset, int64_t stride, int width, py::array labels,
         int segments, bool aligned, py::array means, py::array counts, int at_once, unsigned sort_threads,
         unsigned threads, int slots, uint64_t seed) {
        pact::dev::with_type(dtype, [&](auto element) {
          using T = decltype(element);
          const auto run = aligned ? segment_mean<T, pact::device::kPerVector<T>> : segment_mean<T, 1>;
          run(pact::dev::data<const T>(x) + offset, stride, width, pact::dev::data<const int64_t>(labels),
              int(labels.size()), segments, pact::dev::data<T>(means), pact::dev::data<int64_t>(counts), at_once,
              sort_threads, threads, slots, seed);
        });
      },
      py::arg("dtype"), py::arg("x"), py::arg("offset"), py::arg("stride"), py::arg("width"), py::arg("labels"),
      py::arg("segments"), py::arg("aligned"), py::arg("means"), py::arg("counts"), py::arg("at_once"),
      py::arg("sort_threads"), py::arg("threads"), py::arg("slots"), py::arg("seed"),
      "Rows of `stride` elements that begin at `offset`.");
}
