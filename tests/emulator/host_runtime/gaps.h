// The slots of one allocation, kept apart by what is out of bounds to AddressSanitizer.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {

class Gaps {
 public:
  // Where the next slot begins, for one that ends at `end`.
  size_t after(size_t end, size_t alignment) {
    const size_t next = (end / alignment + 2) * alignment;
    gaps_.emplace_back(end, next);
    return next;
  }
  void guard([[maybe_unused]] char* base) const {
#if defined(__SANITIZE_ADDRESS__)
    for (const auto& [end, next] : gaps_) ASAN_POISON_MEMORY_REGION(base + end, next - end);
#endif
  }

 private:
  std::vector<std::pair<size_t, size_t>> gaps_;
};

}  // namespace emulator
