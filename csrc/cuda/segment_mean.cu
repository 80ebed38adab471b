#include <algorithm>

#include "segment_mean.h"
#include "segment_mean_kernel.cuh"

namespace pact {
namespace {

// The workspace: what starts at zero (rank, size) first, then offset and members.
struct Workspace {
  Workspace(void* memory, int n, int segments)
      : rank(static_cast<int*>(memory)), size(rank + n), offset(size + segments), members(offset + segments) {}
  int *rank, *size, *offset, *members;
};

bool vectors_fit(const SegmentMeanParams& p, size_t element_bytes) {
  const auto whole = [](size_t bytes) { return bytes % 16 == 0; };
  return whole(reinterpret_cast<size_t>(p.x.data)) && whole(reinterpret_cast<size_t>(p.means)) &&
         whole(size_t(p.x.stride) * element_bytes) && whole(size_t(p.x.width) * element_bytes);
}

template <typename T, int kVector>
cudaError_t launch_mean(const SegmentMeanParams& p, const Workspace& w) {
  const int columns = kMeanThreads * kVector;
  const dim3 grid(p.segments, (p.x.width - 1) / columns + 1);
  segment_mean_kernel<T, kVector><<<grid, kMeanThreads, 0, p.stream>>>(
      static_cast<const T*>(p.x.data), p.x.stride, p.x.width, w.offset, p.counts, w.members, static_cast<T*>(p.means));
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_mean(const SegmentMeanParams& p, const Workspace& w) {
  return vectors_fit(p, sizeof(T)) ? launch_mean<T, device::kPerVector<T>>(p, w) : launch_mean<T, 1>(p, w);
}

}  // namespace

size_t segment_mean_workspace_bytes(int n, int segments) { return 2 * (size_t(n) + size_t(segments)) * sizeof(int); }

cudaError_t run_segment_mean(const SegmentMeanParams& p) {
  const Workspace w(p.workspace, p.n, p.segments);
  const cudaError_t cleared = cudaMemsetAsync(w.rank, 0, (size_t(p.n) + size_t(p.segments)) * sizeof(int), p.stream);
  if (cleared != cudaSuccess) return cleared;
  const unsigned tiles = unsigned((int64_t(p.n) + kSortTile - 1) / kSortTile);
  segment_rank_kernel<<<dim3(tiles, std::min(tiles, 65535u)), kSortTile, kSortSharedBytes, p.stream>>>(
      p.labels, p.n, p.segments, w.rank, w.size);
  segment_offset_kernel<<<1, kOffsetThreads, kOffsetSharedBytes, p.stream>>>(w.size, p.segments, w.offset, p.counts);
  segment_place_kernel<<<tiles, kSortTile, 0, p.stream>>>(p.labels, p.n, p.segments, w.offset, w.rank, w.members);
  switch (p.x.dtype) {
    case Dtype::kFloat32:
      return launch_mean<float>(p, w);
    case Dtype::kFloat16:
      return launch_mean<device::float16>(p, w);
    case Dtype::kBFloat16:
      return launch_mean<device::bfloat16>(p, w);
  }
  return cudaErrorInvalidValue;
}

}  // namespace pact
