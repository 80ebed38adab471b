// Dot products of 128 x 128 tokens: the main loop of density, max_distance, assign and attention.
#pragma once

#include "gram_groups.cuh"
#include "gram_warps.cuh"

namespace pact {

// Dot products of left rows [left_first, +128) with right rows [right_first, +128), of equal width. Uses the first
// kStagesBytes<Shape> of shared memory; what the block wrote elsewhere in shared memory before is visible after. Every
// sum takes its terms in the same order, whatever its place in a tile: equal rows have equal products.
template <typename T, typename Shape>
__device__ __forceinline__ void gram(const GramRows<T>& left, int left_first, const GramRows<T>& right, int right_first,
                                     typename Shape::Panel (&tile)[Shape::kPanels]) {
  if constexpr (Shape::kGroups)
    gram_of_groups<T, Shape>(left, left_first, right, right_first, tile);
  else
    gram_of_warps<T, Shape>(left, left_first, right, right_first, tile);
}

}  // namespace pact
