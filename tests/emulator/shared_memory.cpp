#include "shared_memory.h"

#include <algorithm>
#include <cstring>

#include "global_memory.h"

namespace emulator {

// State of kGranule bytes. Accesses are compared within one barrier epoch; older ones are ordered by the barrier.
struct Granule {
  enum State : uint8_t { kUnwritten, kWritten, kInFlight } state = kUnwritten;
  bool atomic = false;      // the last write
  bool published = true;    // or a copy that tensor cores need not see yet
  int16_t reader_warp = 0;  // kManyWarps: several
  int writer = 0;           // thread
  unsigned write_stamp = 0, write_epoch = 0;
  unsigned read_lanes = 0, read_stamp = 0, read_epoch = 0;
  static constexpr int16_t kManyWarps = -1;
};

Block::Block(unsigned number, uint3 index, dim3 size, unsigned shared_bytes)
    : number(number), index(index), threads(size_t(size.x) * size.y * size.z), shared_bytes(shared_bytes) {
  constexpr unsigned kAlign = 128;
  warps.resize((threads.size() + 31) / 32);
  for (size_t t = 0; t < threads.size(); ++t) {
    threads[t].block = this;
    threads[t].index = {unsigned(t % size.x), unsigned(t / size.x % size.y), unsigned(t / size.x / size.y)};
    threads[t].warp = int(t / 32);
    threads[t].lane = int(t % 32);
  }
  storage = std::make_unique<unsigned char[]>(shared_bytes + kAlign);
  shared = storage.get() + (-reinterpret_cast<uintptr_t>(storage.get()) & (kAlign - 1));
  memset(shared, 0xa5, shared_bytes);
  granules.resize((shared_bytes + kGranule - 1) / kGranule);
}
Block::~Block() = default;

namespace {

bool knows(const Thread& self, int lane, unsigned stamp) { return self.seen[lane] > stamp; }

void check_against_writer(const Thread& self, const Granule& g, unsigned offset, const char* what) {
  const int self_number = self.warp * 32 + self.lane;
  if (g.state == Granule::kUnwritten || g.write_epoch != self.block->epoch || g.writer == self_number) return;
  if (g.writer / 32 != self.warp || !knows(self, g.writer % 32, g.write_stamp))
    engine().fail("shared memory race", "%s of byte %u, written by thread %d since the last barrier", what, offset,
                  g.writer);
}

// One stamp stands for all of a warp's readers: with partial masks this may see a race too many, never one too few.
void check_against_readers(const Thread& self, const Granule& g, unsigned offset) {
  if (g.read_epoch != self.block->epoch) return;
  bool ordered = g.reader_warp == self.warp;
  for (int l = 0; ordered && l < 32; ++l)
    if ((g.read_lanes >> l & 1) && l != self.lane) ordered = knows(self, l, g.read_stamp);
  if (!ordered)
    engine().fail("shared memory race", "write of byte %u, read by %s%d since the last barrier", offset,
                  g.reader_warp < 0 ? "several warps, " : "warp ", int(g.reader_warp));
}

void note_read(const Thread& self, Granule& g) {
  if (g.read_epoch != self.block->epoch) {
    g.read_epoch = self.block->epoch;
    g.reader_warp = int16_t(self.warp);
    g.read_lanes = g.read_stamp = 0;
  }
  if (g.reader_warp != self.warp) g.reader_warp = Granule::kManyWarps;
  g.read_lanes |= 1u << self.lane;
  g.read_stamp = std::max(g.read_stamp, self.stamp);
}

void note_write(const Thread& self, Granule& g, Granule::State state, bool atomic) {
  g.state = state;
  g.atomic = atomic;
  g.writer = self.warp * 32 + self.lane;
  g.write_stamp = self.stamp;
  g.write_epoch = self.block->epoch;
}

unsigned char* checked(const Thread& self, unsigned offset, unsigned bytes, Access access, Granule::State written) {
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

}  // namespace

unsigned char* shared_access(const Thread& self, unsigned offset, unsigned bytes, Access access) {
  return checked(self, offset, bytes, access, Granule::kWritten);
}

void shared_read(unsigned offset, void* value, unsigned bytes) {
  memcpy(value, shared_access(*engine().current, offset, bytes, Access::kRead), bytes);
}
void shared_write(unsigned offset, const void* value, unsigned bytes) {
  memcpy(shared_access(*engine().current, offset, bytes, Access::kWrite), value, bytes);
}
void* shared_atomic(unsigned offset, unsigned bytes) {
  return shared_access(*engine().current, offset, bytes, Access::kAtomic);
}

void check_view(unsigned begin, unsigned bytes, unsigned alignment) {
  Engine& e = engine();
  const unsigned size = e.current->block->shared_bytes;
  if (begin % alignment) e.fail("misaligned", "a view at %u of elements aligned to %u", begin, alignment);
  if (begin > size || bytes > size - begin)
    e.fail("shared memory out of bounds", "a view of bytes [%u, %u) of %u", begin, begin + bytes, size);
}

// --- Async copies --------------------------------------------------------------------------------------------------

void async_copy(unsigned offset, const void* from, bool valid) {
  Engine& e = engine();
  Thread& self = *e.current;
  if (valid && reinterpret_cast<uintptr_t>(from) % 16)
    e.fail("misaligned", "async copy from an address that is not a multiple of 16");
  checked(self, offset, 16, Access::kWrite, Granule::kInFlight);
  self.copies.push_back({offset, valid ? 16u : 0u, from, self.committed});
}

void async_commit() { ++engine().current->committed; }

void async_wait(int pending) {
  Thread& self = *engine().current;
  size_t kept = 0;
  for (const AsyncCopy& copy : self.copies) {
    if (copy.group >= self.committed - pending) {
      self.copies[kept++] = copy;
      continue;
    }
    unsigned char* to = self.block->shared + copy.offset;
    memset(to, 0, 16);
    if (copy.bytes) memcpy(to, read_global(copy.source, copy.bytes), copy.bytes);
    for (unsigned b = copy.offset / kGranule; b < (copy.offset + 16) / kGranule; ++b) {
      note_write(self, self.block->granules[b], Granule::kWritten, false);
      self.block->granules[b].published = false;
    }
    self.landed.push_back(copy.offset);
  }
  self.copies.resize(kept);
}

void publish() {
  Thread& self = *engine().current;
  for (const unsigned offset : self.landed)
    for (unsigned b = offset / kGranule; b < (offset + 16) / kGranule; ++b) self.block->granules[b].published = true;
  self.landed.clear();
}

void check_published(const Thread& reader, unsigned offset, unsigned bytes) {
  for (unsigned b = offset / kGranule; b < (offset + bytes) / kGranule; ++b)
    if (!reader.block->granules[b].published)
      engine().fail("unpublished shared memory", "tensor cores read byte %u, which nobody published after its copy",
                    b * kGranule);
}

}  // namespace emulator
