// Memory of the CPU operators: what it cannot give is an error that says how much was wanted.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../describe.h"

namespace pact {

// A large block comes fresh from the system, which hands it out at the first touch, page by page: in small pages that
// takes longer than what the operators do with it. Asks for large ones, where they are to be had for the asking.
inline void want_large_pages(void* memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr size_t kPage = size_t{1} << 21, kLeast = 2 * kPage;
  if (bytes < kLeast) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // refused: then not
#else
  (void)memory, (void)bytes;
#endif
}

inline void* allocate(int64_t count, size_t element_bytes) {
  constexpr size_t kLine = 64;  // of the cache
  const size_t bytes = (size_t(count) * element_bytes + kLine - 1) / kLine * kLine;
  void* memory = std::aligned_alloc(kLine, std::max(bytes, kLine));
  if (!memory) throw OutOfMemory(std::to_string(bytes) + " bytes");
  want_large_pages(memory, bytes);
  return memory;
}

// Uninitialised memory on a cache-line boundary.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(static_cast<T*>(allocate(count, sizeof(T)))) {}
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

template <typename T>
struct Allocator {
  using value_type = T;
  Allocator() = default;
  template <typename U>
  Allocator(const Allocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(pact::allocate(int64_t(count), sizeof(T))); }
  void deallocate(T* p, size_t) { std::free(p); }
  template <typename U>
  bool operator==(const Allocator<U>&) const {
    return true;
  }
  template <typename U>
  bool operator!=(const Allocator<U>&) const {
    return false;
  }
};

// std::vector, for what grows with the input.
template <typename T>
using Vector = std::vector<T, Allocator<T>>;

// torch's C interface says of an allocation only that it failed.
inline Tensor empty_cpu(std::initializer_list<int64_t> shape, ScalarType dtype) {
  try {
    Tensor t = torch::stable::empty({shape.begin(), shape.size()}, dtype);
    want_large_pages(t.mutable_data_ptr(), size_t(t.numel()) * size_t(t.element_size()));
    return t;
  } catch (const std::exception&) {
    throw OutOfMemory(shape_name(shape) + " of " + dtype_name(dtype));
  }
}

inline Tensor contiguous_cpu(const Tensor& t) {
  try {
    return torch::stable::contiguous(t);
  } catch (const std::exception&) {
    throw OutOfMemory(shape_of(t) + " of " + dtype_name(scalar_type(t)));
  }
}

}  // namespace pact
