// Shared memory that checks every access: bounds, alignment, bytes nobody has written, async copies that have not
// landed, and races (two threads, one of them writing, with neither a barrier nor, in one warp, a __syncwarp in
// between).
#pragma once

#include <type_traits>

#include "engine.h"

namespace emulator {

constexpr unsigned kGranule = 4;  // bytes that are checked as one

enum class Access { kRead, kWrite, kAtomic };

// Checks and records one access by `self`; returns where the bytes are.
unsigned char* shared_access(const Thread& self, unsigned offset, unsigned bytes, Access access);
void shared_read(unsigned offset, void* value, unsigned bytes);
void shared_write(unsigned offset, const void* value, unsigned bytes);
void* shared_atomic(unsigned offset, unsigned bytes);
void check_view(unsigned begin, unsigned bytes, unsigned alignment);

void async_copy(unsigned offset, const void* from, bool valid);
void async_commit();
void async_wait(int pending);

// What this thread has copied, for tensor cores that read on their own; and whether they may read those bytes.
void publish();
void check_published(const Thread& reader, unsigned offset, unsigned bytes);

// What &shared[i] and shared + i give: a pointer that stays within its view.
template <typename T>
class SharedView;

// One element; reading and writing it are checked.
template <typename T>
class SharedElement {
 public:
  SharedElement(unsigned offset, unsigned begin, unsigned end) : offset_(offset), begin_(begin), end_(end) {}
  SharedElement(const SharedElement&) = default;
  operator T() const {
    static_assert(sizeof(T) % kGranule == 0);
    T value;
    shared_read(offset_, &value, sizeof(T));
    return value;
  }
  const SharedElement& operator=(const T& value) const {
    static_assert(sizeof(T) % kGranule == 0);
    shared_write(offset_, &value, sizeof(T));
    return *this;
  }
  const SharedElement& operator=(const SharedElement& other) const { return *this = T(other); }
  const SharedElement& operator+=(const T& value) const { return *this = T(T(*this) + value); }
  const SharedElement& operator-=(const T& value) const { return *this = T(T(*this) - value); }
  const SharedElement& operator*=(const T& value) const { return *this = T(T(*this) * value); }
  const SharedElement& operator|=(const T& value) const { return *this = T(T(*this) | value); }
  const SharedElement& operator&=(const T& value) const { return *this = T(T(*this) & value); }
  T operator++() const { return *this = T(T(*this) + 1), T(*this); }
  SharedView<T> operator&() const { return SharedView<T>(offset_, begin_, end_); }
  T& atomic_access() const { return *static_cast<T*>(shared_atomic(offset_, sizeof(T))); }

 private:
  unsigned offset_, begin_, end_;
};

template <typename T>
class SharedView {
 public:
  static_assert(std::is_trivially_copyable_v<T>);
  SharedView() = default;
  SharedView(unsigned offset, unsigned begin, unsigned end) : offset_(offset), begin_(begin), end_(end) {}
  template <typename I>
  SharedElement<T> operator[](I i) const {
    const int64_t at = int64_t(offset_) + int64_t(i) * int64_t(sizeof(T));
    if (at < int64_t(begin_) || at + int64_t(sizeof(T)) > int64_t(end_))
      engine().fail("shared memory out of bounds", "element %lld of a view of %u", static_cast<long long>(i),
                    unsigned((end_ - begin_) / sizeof(T)));
    return SharedElement<T>(unsigned(at), begin_, end_);
  }
  SharedElement<T> operator*() const { return (*this)[0]; }
  // The pointer may leave its view, as long as nothing is accessed there.
  SharedView operator+(int64_t i) const { return SharedView(unsigned(offset_ + i * int64_t(sizeof(T))), begin_, end_); }
  SharedView operator-(int64_t i) const { return *this + -i; }
  SharedView& operator+=(int64_t i) { return *this = *this + i; }
  // Where 16-byte vector instructions (async copies, ldmatrix) find the address they want.
  unsigned vector_offset() const {
    if (offset_ % 16) engine().fail("misaligned", "shared memory offset %u is not a multiple of 16", offset_);
    if (offset_ < begin_ || offset_ + 16 > end_)
      engine().fail("shared memory out of bounds", "16 bytes at %u of a view of [%u, %u)", offset_, begin_, end_);
    return offset_;
  }

 private:
  unsigned offset_ = 0, begin_ = 0, end_ = 0;
};

}  // namespace emulator

namespace pact::device {

template <typename T>
using Shared = emulator::SharedView<T>;

template <typename T>
Shared<T> shared(unsigned byte_offset, unsigned count) {
  const unsigned bytes = count * unsigned(sizeof(T));
  emulator::check_view(byte_offset, bytes, alignof(T));
  return Shared<T>(byte_offset, byte_offset, byte_offset + bytes);
}

}  // namespace pact::device
