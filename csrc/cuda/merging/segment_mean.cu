#include <algorithm>

#include "segment_mean.h"
#include "segment_mean_kernel.cuh"

namespace pact {
namespace {

constexpr int kMostSlots = 16;  // for segments of many rows: blocks that share a slice of the columns

int most_of_many(int n) { return n / (kFewRows + 1); }

SegmentLists lists_in(const SegmentMeanParams& p) {
  int* offset = static_cast<int*>(p.workspace);
  int *unordered = offset + p.segments, *members = unordered + p.n, *many_count = members + p.n;
  return {offset, p.counts, unordered, members, many_count + 1, many_count};
}

bool vectors_fit(const SegmentMeanParams& p, size_t element_bytes) {
  const auto whole = [](size_t bytes) { return bytes % 16 == 0; };
  return whole(reinterpret_cast<size_t>(p.x.data)) && whole(reinterpret_cast<size_t>(p.means)) &&
         whole(size_t(p.x.stride) * element_bytes) && whole(size_t(p.x.width) * element_bytes);
}

template <typename T, int kVector>
cudaError_t launch_mean(const SegmentMeanParams& p, const SegmentLists& lists) {
  const auto parts = [](int all, int of) { return (all - 1) / of + 1; };
  const int pieces = parts(p.x.width, kVector);
  MeanGrid grid{p.segments, parts(pieces, kMostMeanThreads), 0, 0};
  if (kVector > 1) {
    grid.slices = parts(pieces, kSliceVectors);
    grid.slots = std::min(most_of_many(p.n), kMostSlots);
  }
  const MeanRows<T> rows{static_cast<const T*>(p.x.data), p.x.stride, p.x.width};
  // As many threads as share the columns evenly.
  const int threads = std::max(parts(parts(pieces, grid.column_blocks), 32) * 32, kLeastMeanThreads);
  segment_mean_kernel<T, kVector><<<grid.blocks(), threads, grid.slots ? mean_shared_bytes(threads) : 0, p.stream>>>(
      rows, grid, lists.offset, p.counts, lists.members, lists.many, lists.many_count, static_cast<T*>(p.means));
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_mean(const SegmentMeanParams& p, const SegmentLists& lists) {
  return vectors_fit(p, sizeof(T)) ? launch_mean<T, device::kPerVector<T>>(p, lists) : launch_mean<T, 1>(p, lists);
}

}  // namespace

size_t segment_mean_workspace_bytes(int n, int segments) {
  return (size_t(segments) + 2 * size_t(n) + 1 + size_t(most_of_many(n))) * sizeof(int);
}

cudaError_t run_segment_mean(const SegmentMeanParams& p) {
  const SegmentLists lists = lists_in(p);
  const bool packed = p.sequences.count > 0;
  if (packed) {
    const cudaError_t error = cudaMemsetAsync(lists.many_count, 0, sizeof(int), p.stream);
    if (error != cudaSuccess) return error;
  }
  const int at_once = std::min(packed ? p.sequences.most_segments : p.segments, kSortSegments);
  const int per_block = kOrderThreads / 32;
  segment_sort_kernel<<<packed ? p.sequences.count : 1, kSortThreads, sort_shared_bytes(at_once), p.stream>>>(
      p.labels, p.n, p.segments, p.sequences.cu_rows, p.sequences.cu_segments, at_once, lists);
  segment_order_kernel<<<(p.n - 1) / per_block + 1, kOrderThreads, 0, p.stream>>>(
      p.labels, p.n, p.segments, lists.offset, p.counts, lists.unordered, lists.members);
  switch (p.x.dtype) {
    case Dtype::kFloat32:
      return launch_mean<float>(p, lists);
    case Dtype::kFloat16:
      return launch_mean<device::float16>(p, lists);
    case Dtype::kBFloat16:
      return launch_mean<device::bfloat16>(p, lists);
  }
  return cudaErrorInvalidValue;
}

}  // namespace pact
