// EUTI and the split in the emulator.
#include <vector>

#include "../cuda/importance/euti_kernel.cuh"
#include "../cuda/importance/split_kernel.cuh"
#include "bindings.h"

namespace {

using namespace pact;

// Calls f(aligned, head, group), constants: the kernels that the launcher chooses from.
template <typename F>
void with_logits_kernel(bool aligned, int head, int group, const F& f) {
  const auto with_head = [&](auto known_head) {
    if (group == 1) f(std::true_type(), known_head, std::integral_constant<int, 1>());
    if (group == 4) f(std::true_type(), known_head, std::integral_constant<int, 4>());
    if (group == 8) f(std::true_type(), known_head, std::integral_constant<int, 8>());
  };
  if (aligned && head == 64)
    with_head(std::integral_constant<int, 64>());
  else if (aligned && head == 128)
    with_head(std::integral_constant<int, 128>());
  else if (aligned)
    f(std::true_type(), std::integral_constant<int, 0>(), std::integral_constant<int, 8>());
  else
    f(std::false_type(), std::integral_constant<int, 0>(), std::integral_constant<int, 8>());
}

struct EutiCase {
  int64_t offset, stride;  // rows begin `offset` elements into their array
  int width;
  float scale;
  int chunk_rows;  // of the query sums
  uint64_t seed;
};

// Returns whether *bad was set.
template <typename T, bool kAligned, int kHead, int kGroup>
bool euti(const T* hidden, const T* keys, const T* queries, EutiShape shape, const EutiCase& c, float* scores) {
  const int heads = shape.key_heads * shape.group, columns = heads * shape.head_size;
  const int query_chunks = (shape.n + c.chunk_rows - 1) / c.chunk_rows;
  const int per_block = kEutiReadThreads * device::kPerVector<T>, column_blocks = (columns + per_block - 1) / per_block;
  const int sum_blocks = column_blocks * query_chunks, warps = kEutiReadThreads / 32;
  const unsigned logits_blocks = shape.chunks * shape.key_heads * ((shape.group + kGroup - 1) / kGroup);
  const int per_score_block = kScoreWarps * kScoreTokens;
  std::vector<float> partial(size_t(query_chunks) * columns, NAN), logits(size_t(shape.n) * heads, NAN);
  std::vector<float2> statistics(shape.chunks * heads, {NAN, NAN});
  std::vector<device::Vector<float>> mean((columns + 3) / 4);  // 16-byte aligned
  std::vector<double> norm(shape.n, NAN);
  float* query_mean = mean[0].at;
  int bad = 0;
  emulator::launch(euti_read_kernel<T, kAligned>, sum_blocks + (shape.n + warps - 1) / warps, kEutiReadThreads, 0,
                   c.seed, false, EutiRows<T>{queries + c.offset, c.stride, columns},
                   EutiRows<T>{hidden + c.offset, c.stride, c.width}, shape.n, c.chunk_rows, column_blocks, sum_blocks,
                   partial.data(), norm.data(), &bad);
  emulator::launch(euti_query_mean_kernel, (columns + 31) / 32, kQueryMeanWarps * 32, kQueryMeanSharedBytes, c.seed,
                   false, partial.data(), query_chunks, columns, shape.n, query_mean);
  const EutiQuery<T> query{query_mean, nullptr, 0, {}};
  emulator::launch(euti_logits_kernel<T, kAligned, kHead, kGroup>, logits_blocks, kEutiWarps * 32,
                   logits_shared_bytes(kGroup, shape.chunk), c.seed, false,
                   EutiRows<T>{keys + c.offset, c.stride, shape.key_heads * shape.head_size}, query, shape, c.scale,
                   logits.data(), statistics.data(), &bad);
  emulator::launch(euti_score_kernel<T>, (shape.n + per_score_block - 1) / per_score_block, kScoreWarps * 32,
                   kScoreSharedBytes, c.seed, false, logits.data(), norm.data(), statistics.data(), query, shape,
                   scores);
  return bad;
}

template <int kKeys>
bool split(py::array scores, int m, py::array kept, py::array dropped, unsigned threads, uint64_t seed) {
  int bad = 0;
  emulator::launch(split_kernel<kKeys>, 1, threads, kSplitSharedBytes, seed, false, dev::data<const float>(scores),
                   unsigned(scores.size()), m, dev::data<int>(kept), dev::data<int>(dropped), &bad);
  return bad;
}

}  // namespace

void bind_euti(py::module_& m) {
  m.def(
      "euti",
      [](const std::string& dtype, py::array hidden, py::array keys, py::array queries, int64_t offset, int64_t stride,
         int n, int width, int head_size, int key_heads, int group, float scale, int chunk_rows, int chunk,
         bool aligned, int by_head, int by_group, py::array scores, uint64_t seed) {
        bool bad = false;
        pact::dev::with_type(dtype, [&](auto element) {
          using T = decltype(element);
          const EutiShape shape{n, head_size, key_heads, group, chunk, (n + chunk - 1) / chunk};
          const EutiCase how{offset, stride, width, scale, chunk_rows, seed};
          with_logits_kernel(aligned, by_head, by_group, [&](auto is_aligned, auto head, auto heads) {
            bad = euti<T, is_aligned, head, heads>(pact::dev::data<const T>(hidden), pact::dev::data<const T>(keys),
                                                   pact::dev::data<const T>(queries), shape, how,
                                                   pact::dev::data<float>(scores));
          });
        });
        return bad;
      },
      py::arg("dtype"), py::arg("hidden"), py::arg("keys"), py::arg("queries"), py::arg("offset"), py::arg("stride"),
      py::arg("n"), py::arg("width"), py::arg("head_size"), py::arg("key_heads"), py::arg("group"), py::arg("scale"),
      py::arg("chunk_rows"), py::arg("chunk"), py::arg("aligned"), py::arg("by_head"), py::arg("by_group"),
      py::arg("scores"), py::arg("seed"),
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
