// Shared memory that checks every access: bounds, alignment, bytes nobody has written, async copies that have not
// landed, and races (two threads, one of them writing, with neither a barrier nor, in one warp, a __syncwarp in
// between).
#pragma once

#include <new>
#include <type_traits>

#include "engine.h"

namespace emulator {

// State of two bytes. Accesses are compared within one barrier epoch; older ones are ordered by the barrier.
struct Granule {
  enum State : uint8_t { kUnwritten, kWritten, kInFlight } state = kUnwritten;
  bool atomic = false;      // the last write
  int16_t reader_warp = 0;  // kManyWarps: several
  int writer = 0;           // thread
  unsigned write_stamp = 0, write_epoch = 0;
  unsigned read_lanes = 0, read_stamp = 0, read_epoch = 0;
  static constexpr int16_t kManyWarps = -1;
};
constexpr unsigned kGranule = 2;

inline Block::Block() = default;
inline Block::~Block() = default;

inline void Engine::add_block(uint3 index, dim3 size, unsigned shared_bytes) {
  constexpr unsigned kAlign = 128;
  auto block = std::make_unique<Block>();
  block->index = index;
  block->threads = std::vector<Thread>(size_t(size.x) * size.y * size.z);
  block->warp_time.resize((block->threads.size() + 31) / 32);
  for (size_t t = 0; t < block->threads.size(); ++t) {
    Thread& thread = block->threads[t];
    thread.block = block.get();
    thread.index = {unsigned(t % size.x), unsigned(t / size.x % size.y), unsigned(t / size.x / size.y)};
    thread.warp = int(t / 32);
    thread.lane = int(t % 32);
  }
  block->storage = std::make_unique<unsigned char[]>(shared_bytes + kAlign);
  block->shared = block->storage.get() + (-reinterpret_cast<uintptr_t>(block->storage.get()) & (kAlign - 1));
  block->shared_bytes = shared_bytes;
  memset(block->shared, 0xa5, shared_bytes);
  block->granules.resize((shared_bytes + kGranule - 1) / kGranule);
  blocks_.push_back(std::move(block));
}

enum class Access { kRead, kWrite, kAtomic };

inline bool knows(const Thread& self, int lane, unsigned stamp) { return self.seen[lane] > stamp; }

inline void check_against_writer(const Thread& self, const Granule& g, unsigned offset, const char* what) {
  const int self_number = self.warp * 32 + self.lane;
  if (g.state == Granule::kUnwritten || g.write_epoch != self.block->epoch || g.writer == self_number) return;
  if (g.writer / 32 != self.warp || !knows(self, g.writer % 32, g.write_stamp))
    engine().fail("shared memory race", "%s of byte %u, written by thread %d since the last barrier", what, offset,
                  g.writer);
}

// One stamp stands for all of a warp's readers: with partial masks this may see a race too many, never one too few.
inline void check_against_readers(const Thread& self, const Granule& g, unsigned offset) {
  if (g.read_epoch != self.block->epoch) return;
  bool ordered = g.reader_warp == self.warp;
  for (int l = 0; ordered && l < 32; ++l)
    if ((g.read_lanes >> l & 1) && l != self.lane) ordered = knows(self, l, g.read_stamp);
  if (!ordered)
    engine().fail("shared memory race", "write of byte %u, read by %s%d since the last barrier", offset,
                  g.reader_warp < 0 ? "several warps, " : "warp ", int(g.reader_warp));
}

inline void note_read(const Thread& self, Granule& g) {
  if (g.read_epoch != self.block->epoch) {
    g.read_epoch = self.block->epoch;
    g.reader_warp = int16_t(self.warp);
    g.read_lanes = g.read_stamp = 0;
  }
  if (g.reader_warp != self.warp) g.reader_warp = Granule::kManyWarps;
  g.read_lanes |= 1u << self.lane;
  g.read_stamp = std::max(g.read_stamp, self.stamp);
}

inline void note_write(const Thread& self, Granule& g, Granule::State state, bool atomic) {
  g.state = state;
  g.atomic = atomic;
  g.writer = self.warp * 32 + self.lane;
  g.write_stamp = self.stamp;
  g.write_epoch = self.block->epoch;
}

// Checks and records one access by `self`; returns where the bytes are.
inline unsigned char* shared_access(const Thread& self, unsigned offset, unsigned bytes, Access access,
                                    Granule::State written = Granule::kWritten) {
  Block& block = *self.block;
  if (offset > block.shared_bytes || bytes > block.shared_bytes - offset)
    engine().fail("shared memory out of bounds", "bytes [%u, %u) of %u", offset, offset + bytes, block.shared_bytes);
  for (unsigned b = offset / kGranule; b < (offset + bytes + kGranule - 1) / kGranule; ++b) {
    Granule& g = block.granules[b];
    if (g.state == Granule::kInFlight)
      engine().fail("async copy in flight", "%s of byte %u before the wait for the copy that thread %d issued",
                    access == Access::kRead ? "read" : "write", b * kGranule, g.writer);
    if (access != Access::kWrite && g.state == Granule::kUnwritten)
      engine().fail("unwritten shared memory", "read of byte %u", b * kGranule);
    if (!(access == Access::kAtomic && g.atomic))
      check_against_writer(self, g, b * kGranule, access == Access::kRead ? "read" : "write");
    if (access == Access::kRead) {
      note_read(self, g);
    } else {
      check_against_readers(self, g, b * kGranule);
      note_write(self, g, written, access == Access::kAtomic);
    }
  }
  return block.shared + offset;
}

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
    T value;
    memcpy(&value, shared_access(*engine().current, offset_, sizeof(T), Access::kRead), sizeof(T));
    return value;
  }
  const SharedElement& operator=(const T& value) const {
    memcpy(shared_access(*engine().current, offset_, sizeof(T), Access::kWrite), &value, sizeof(T));
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
  T& atomic_access() const {
    return *reinterpret_cast<T*>(shared_access(*engine().current, offset_, sizeof(T), Access::kAtomic));
  }

 private:
  unsigned offset_, begin_, end_;
};

template <typename T>
class SharedView {
 public:
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) >= kGranule);
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
  emulator::Engine& e = emulator::engine();
  const unsigned end = byte_offset + count * unsigned(sizeof(T)), size = e.current->block->shared_bytes;
  if (byte_offset % alignof(T))
    e.fail("misaligned", "a view at %u of elements aligned to %zu", byte_offset, alignof(T));
  if (end > size) e.fail("shared memory out of bounds", "a view of bytes [%u, %u) of %u", byte_offset, end, size);
  return Shared<T>(byte_offset, byte_offset, end);
}

}  // namespace pact::device
