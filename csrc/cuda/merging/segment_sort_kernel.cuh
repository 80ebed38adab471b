// The rows of each label, ascending: a counting sort, then the order within each label.
//
// One block, of packed sequences one for each, counts the labels, turns the counts into places and puts each row at one
// of its label's places, in any order, all with counters in shared memory. Then a warp per row counts the rows of its
// label that come before it. Clusters are small as a rule, and a warp looks at 32 rows at a time.
#pragma once

#include "../order/split_scan.cuh"

namespace pact {

constexpr int kSortThreads = 1024;
constexpr int kSortSegments = 12 * 1024 - 64;  // whose counters lie in shared memory at a time; with the sums, 48 KiB
constexpr int kOrderThreads = 256;
constexpr int kFewRows = 64;  // of a segment that is none of `many`

__host__ __device__ constexpr unsigned sort_shared_bytes(int at_once) {
  return unsigned(at_once) * unsigned(sizeof(int)) + TileScan<int>::kSharedBytes;
}

// Labels of no segment become -1.
__device__ inline int segment_of(int64_t label, int segments) {
  return label >= 0 && label < segments ? int(label) : -1;
}

struct SegmentLists {
  int* offset;      // [segments] first place of a segment among the members
  int64_t* counts;  // [segments]
  int* unordered;   // [n] rows of segment 0, then those of segment 1, and so on
  int* members;     // [n] the same, ascending within each segment
  int* many;        // [n / (kFewRows + 1)] the segments of more than kFewRows rows, in any order
  int* many_count;  // [1]
};

// A block for each of the packed sequences, whose rows and segments begin where cu_rows and cu_segments say (then
// *many_count is 0 before); or one for all, where those are null. It takes `at_once` segments at a time.
__global__ void __launch_bounds__(kSortThreads)
    segment_sort_kernel(const int64_t* __restrict__ labels, int n, int segments, const int* __restrict__ cu_rows,
                        const int* __restrict__ cu_segments, int at_once, SegmentLists lists) {
  const device::Shared<int> places = device::shared<int>(0, at_once);
  TileScan<int> rows(device::shared<int>(unsigned(at_once) * unsigned(sizeof(int)), 64));
  const unsigned threads = blockDim.x;
  unsigned first_row = 0, rows_end = unsigned(n), base = 0,
           segments_end = unsigned(segments);  // below 2^31, so sums fit
  if (cu_rows) {
    first_row = cu_rows[blockIdx.x];
    rows_end = cu_rows[blockIdx.x + 1];
    base = cu_segments[blockIdx.x];
    segments_end = cu_segments[blockIdx.x + 1];
  } else if (threadIdx.x == 0) {
    *lists.many_count = 0;
  }
  for (; base < segments_end; base += at_once) {
    const unsigned here = min(unsigned(at_once), segments_end - base);
    const auto each_row = [&](const auto& f) {
#pragma unroll 8
      for (unsigned i = first_row + threadIdx.x; i < rows_end; i += threads) {
        const int segment = segment_of(labels[i], segments);
        const unsigned place = unsigned(segment) - base;
        if (segment >= 0 && place < here) f(int(place), int(i));
      }
    };
    for (unsigned s = threadIdx.x; s < here; s += threads) places[s] = 0;
    __syncthreads();
    each_row([&](int place, int) { atomicAdd(&places[place], 1); });
    __syncthreads();
    for (unsigned first = 0; first < here; first += threads) {
      const unsigned s = first + threadIdx.x;
      const int own = s < here ? int(places[s]) : 0;
      const int before = int(first_row) + rows.exclusive(own);
      if (s < here) {
        lists.offset[base + s] = before;
        lists.counts[base + s] = own;
        places[s] = before;
        if (own > kFewRows) lists.many[atomicAdd(lists.many_count, 1)] = int(base + s);
      }
    }
    __syncthreads();
    each_row([&](int place, int i) { lists.unordered[atomicAdd(&places[place], 1)] = i; });
    __syncthreads();
  }
}

// A warp per row.
__global__ void __launch_bounds__(kOrderThreads)
    segment_order_kernel(const int64_t* __restrict__ labels, int n, int segments, const int* __restrict__ offset,
                         const int64_t* __restrict__ counts, const int* __restrict__ unordered,
                         int* __restrict__ members) {
  const int64_t i = int64_t(blockIdx.x) * (blockDim.x / 32) + device::warp_id();
  const int segment = i < n ? segment_of(labels[i], segments) : -1;
  if (segment < 0) return;  // the whole warp
  const int first = offset[segment], count = int(counts[segment]);
  int before = 0;
#pragma unroll 4
  for (int base = 0; base < count; base += 32) {
    const int k = base + device::lane_id();
    before += __popc(__ballot_sync(device::kAllLanes, k < count && unordered[first + k] < i));
  }
  if (device::lane_id() == 0) members[first + before] = int(i);
}

}  // namespace pact
