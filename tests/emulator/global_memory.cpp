#include "global_memory.h"

#include <array>
#include <memory>
#include <unordered_map>

#include "engine.h"

namespace emulator {
namespace {

enum Touch { kRead, kWrite, kAtomicRead, kAtomicWrite, kTouches };
constexpr const char* kNames[] = {"read", "write", "atomic read", "atomic write"};

constexpr bool writes(int touch) { return touch == kWrite || touch == kAtomicWrite; }
constexpr bool is_atomic(int touch) { return touch >= kAtomicRead; }
constexpr bool conflict(int a, int b) { return (writes(a) || writes(b)) && !(is_atomic(a) && is_atomic(b)); }

// Who touched last in one way. A block of an earlier launch says nothing any more.
struct Record {
  unsigned block = 0;
  uint16_t epoch = 0;
  int16_t warp = 0;
};
constexpr int16_t kManyWarps = -1, kManyBlocks = -2;

// Two bytes, the smallest element.
constexpr unsigned kCellBytes = 2, kPageBytes = 4096;
struct Cell {
  Record last[kTouches];
};
using Page = std::array<Cell, kPageBytes / kCellBytes>;

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t latest_number = 0;
Page* latest = nullptr;

Cell& cell_at(uintptr_t address) {
  const uintptr_t number = address / kPageBytes;
  if (!latest || number != latest_number) {
    std::unique_ptr<Page>& page = pages[number];
    if (!page) page = std::make_unique<Page>();
    latest = page.get();
    latest_number = number;
  }
  return (*latest)[address % kPageBytes / kCellBytes];
}

void check(Engine& e, const Thread& self, const Cell& cell, Touch touch, uintptr_t address) {
  const Block& block = *self.block;
  for (int other = 0; other < kTouches; ++other) {
    const Record& r = cell.last[other];
    if (!conflict(touch, other) || r.block < e.first_block) continue;
    if (r.warp == kManyBlocks || r.block != block.number)
      e.fail("global memory race", "%s at %#zx, %s by %s%u of the same launch", kNames[touch], size_t(address),
             kNames[other], r.warp == kManyBlocks ? "several blocks, the first " : "block ", r.block - e.first_block);
    if (r.epoch == uint16_t(block.epoch) && r.warp != self.warp)
      e.fail("global memory race", "%s at %#zx, %s by another warp since the last barrier", kNames[touch],
             size_t(address), kNames[other]);
  }
}

void note(const Engine& e, const Thread& self, Record& r) {
  const Record mine{self.block->number, uint16_t(self.block->epoch), int16_t(self.warp)};
  if (r.block < e.first_block)
    r = mine;
  else if (r.warp == kManyBlocks)
    return;
  else if (r.block != mine.block)
    r.warp = kManyBlocks;
  else if (r.epoch != mine.epoch)
    r = mine;
  else if (r.warp != mine.warp)
    r.warp = kManyWarps;
}

void touched_global(uintptr_t begin, size_t bytes, Touch touch) {
  Engine& e = engine();
  const Thread& self = *e.current;
  for (uintptr_t at = begin / kCellBytes * kCellBytes; at < begin + bytes; at += kCellBytes) {
    Cell& cell = cell_at(at);
    check(e, self, cell, touch, at);
    note(e, self, cell.last[touch]);
  }
}

// A kernel's locals and its shared memory, which is checked elsewhere, are passed over.
inline void touched(const void* pointer, size_t bytes, Touch touch) {
  const Engine& e = engine();
  if (!e.watching || e.current->context.on_stack(pointer)) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(pointer);
  if (begin - reinterpret_cast<uintptr_t>(&place) < sizeof place) return;
  const Block& block = *e.current->block;
  if (begin - reinterpret_cast<uintptr_t>(block.shared) >= block.shared_bytes) touched_global(begin, bytes, touch);
}

}  // namespace

const void* read_global(const void* from, size_t bytes) {
  touched(from, bytes, kRead);
  return from;
}

}  // namespace emulator

// --- What the compiler calls -----------------------------------------------------------------------------------

#define PACT_PLAIN(bytes)                                                                      \
  void __tsan_read##bytes(void* p) { emulator::touched(p, bytes, emulator::kRead); }           \
  void __tsan_write##bytes(void* p) { emulator::touched(p, bytes, emulator::kWrite); }         \
  void __tsan_unaligned_read##bytes(void* p) { emulator::touched(p, bytes, emulator::kRead); } \
  void __tsan_unaligned_write##bytes(void* p) { emulator::touched(p, bytes, emulator::kWrite); }

#define PACT_RMW(bits, name, builtin)                                                                  \
  uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t* p, uint##bits##_t value, int) { \
    emulator::touched(const_cast<uint##bits##_t*>(p), bits / 8, emulator::kAtomicWrite);               \
    return builtin(p, value, __ATOMIC_SEQ_CST);                                                        \
  }

#define PACT_ATOMICS(bits)                                                                                \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int) {                      \
    emulator::touched(const_cast<uint##bits##_t*>(p), bits / 8, emulator::kAtomicRead);                   \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                          \
  }                                                                                                       \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t value, int) {               \
    emulator::touched(const_cast<uint##bits##_t*>(p), bits / 8, emulator::kAtomicWrite);                  \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                         \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* p, uint##bits##_t* expected, \
                                                    uint##bits##_t value, int, int) {                     \
    emulator::touched(const_cast<uint##bits##_t*>(p), bits / 8, emulator::kAtomicWrite);                  \
    return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);    \
  }                                                                                                       \
  PACT_RMW(bits, exchange, __atomic_exchange_n)                                                           \
  PACT_RMW(bits, fetch_add, __atomic_fetch_add)                                                           \
  PACT_RMW(bits, fetch_sub, __atomic_fetch_sub)                                                           \
  PACT_RMW(bits, fetch_and, __atomic_fetch_and)                                                           \
  PACT_RMW(bits, fetch_or, __atomic_fetch_or)                                                             \
  PACT_RMW(bits, fetch_xor, __atomic_fetch_xor)

extern "C" {
PACT_PLAIN(1)
PACT_PLAIN(2)
PACT_PLAIN(4)
PACT_PLAIN(8)
PACT_PLAIN(16)
void __tsan_read_range(void* p, size_t bytes) { emulator::touched(p, bytes, emulator::kRead); }
void __tsan_write_range(void* p, size_t bytes) { emulator::touched(p, bytes, emulator::kWrite); }
PACT_ATOMICS(8)
PACT_ATOMICS(16)
PACT_ATOMICS(32)
PACT_ATOMICS(64)
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
}
