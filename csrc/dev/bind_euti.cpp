// EUTI and the split in the emulator.
#include <vector>

#include "../cuda/euti_kernel.cuh"
#include "../cuda/split_kernel.cuh"
#include "bindings.h"

namespace {

using namespace pact;

// Rows begin `offset` elements into their array. `chunk_rows`: of the query sums. Returns whether *bad was set.
template <typename T, bool kAligned>
bool euti(const T* hidden, const T* keys, const T* queries, int64_t offset, EutiShape shape, int64_t stride,
          float scale, int chunk_rows, float* scores, uint64_t seed) {
  const int heads = shape.key_heads * shape.group, columns = heads * shape.head_size;
  const unsigned query_chunks = (shape.n + chunk_rows - 1) / chunk_rows;
  const unsigned token_chunks = (shape.n + kEutiTokens - 1) / kEutiTokens;
  const int per_block = kQuerySumThreads * device::kPerVector<T>;
  std::vector<float> partial(size_t(query_chunks) * columns, NAN), logits(size_t(shape.n) * heads, NAN);
  std::vector<float> chunk_max(token_chunks * heads, NAN), chunk_sum(chunk_max), head_max(heads, NAN), factor(head_max);
  std::vector<device::Vector<float>> mean((columns + 3) / 4);  // 16-byte aligned
  std::vector<double> norm(shape.n, NAN);
  float* query_mean = mean[0].at;
  int bad = 0;
  emulator::launch(euti_query_sum_kernel<T, kAligned>, dim3((columns + per_block - 1) / per_block, query_chunks),
                   kQuerySumThreads, 0, seed, false, queries + offset, stride, columns, shape.n, chunk_rows,
                   partial.data(), &bad);
  emulator::launch(euti_query_mean_kernel, (columns + 31) / 32, kQueryMeanWarps * 32, kQueryMeanSharedBytes, seed,
                   false, partial.data(), int(query_chunks), columns, shape.n, query_mean);
  emulator::launch(euti_logits_kernel<T, kAligned>, token_chunks, kEutiWarps * 32, 0, seed, false, hidden + offset,
                   stride, keys + offset, stride, query_mean, shape, nullptr, scale, logits.data(), norm.data(),
                   chunk_max.data(), chunk_sum.data(), &bad);
  emulator::launch(euti_softmax_kernel, heads, 32, 0, seed, false, chunk_max.data(), chunk_sum.data(),
                   int(token_chunks), head_max.data(), factor.data());
  emulator::launch(euti_score_kernel, (shape.n + kEutiWarps - 1) / kEutiWarps, kEutiWarps * 32, 0, seed, false,
                   logits.data(), norm.data(), head_max.data(), factor.data(), shape.n, heads, nullptr, scores);
  return bad;
}

template <int kKeys>
bool split(py::array scores, int m, py::array kept, py::array dropped, unsigned threads, uint64_t seed) {
  int bad = 0;
  emulator::launch(split_kernel<kKeys>, 1, threads, kSplitSharedBytes, seed, false, dev::data<const float>(scores),
                   int(scores.size()), m, dev::data<int>(kept), dev::data<int>(dropped), &bad);
  return bad;
}

}  // namespace

void bind_euti(py::module_& m) {
  m.def(
      "euti",
      [](const std::string& dtype, py::array hidden, py::array keys, py::array queries, int64_t offset, int64_t stride,
         int n, int width, int head_size, int key_heads, int group, float scale, int chunk_rows, bool aligned,
         py::array scores, uint64_t seed) {
        bool bad = false;
        pact::dev::with_type(dtype, [&](auto element) {
          using T = decltype(element);
          int lanes = 1;
          while (lanes < 32 && lanes * pact::device::kPerVector<T> < head_size) lanes *= 2;
          const auto run = aligned ? euti<T, true> : euti<T, false>;
          bad = run(pact::dev::data<const T>(hidden), pact::dev::data<const T>(keys), pact::dev::data<const T>(queries),
                    offset, {n, width, head_size, key_heads, group, lanes}, stride, scale, chunk_rows,
                    pact::dev::data<float>(scores), seed);
        });
        return bad;
      },
      py::arg("dtype"), py::arg("hidden"), py::arg("keys"), py::arg("queries"), py::arg("offset"), py::arg("stride"),
      py::arg("n"), py::arg("width"), py::arg("head_size"), py::arg("key_heads"), py::arg("group"), py::arg("scale"),
      py::arg("chunk_rows"), py::arg("aligned"), py::arg("scores"), py::arg("seed"),
      "EUTI scores; the three arrays are rows of `stride` elements that begin at `offset`. True: bad input.");
  m.def(
      "split",
      [](py::array scores, int kept_count, py::array kept, py::array dropped, int keys, unsigned threads,
         uint64_t seed) {
        switch (keys) {
          case 1:
            return split<1>(scores, kept_count, kept, dropped, threads, seed);
          case 4:
            return split<4>(scores, kept_count, kept, dropped, threads, seed);
          default:
            throw std::invalid_argument("keys per thread: 1 or 4");
        }
      },
      py::arg("scores"), py::arg("m"), py::arg("kept"), py::arg("dropped"), py::arg("keys"), py::arg("threads"),
      py::arg("seed"), "The m largest scores and the others; `keys` per thread stay in registers. True: bad input.");
}
