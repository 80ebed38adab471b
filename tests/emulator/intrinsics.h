// CUDA's device vocabulary over the engine: qualifiers, vector types, barriers, warp collectives, atomics, bit tricks.
#pragma once

#include <cuda_runtime_api.h>  // ours, in this folder

#include <cmath>
#include <cstring>
#include <limits>

#include "shared_memory.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __restrict__
#define __align__(bytes) alignas(bytes)

#define PACT_VECTOR(type, scalar, bytes)                                          \
  struct alignas(bytes) type##2 { scalar x, y; };                                 \
  struct alignas(2 * bytes > 16 ? 16 : 2 * bytes) type##4 { scalar x, y, z, w; }; \
  inline type##2 make_##type##2(scalar x, scalar y) { return {x, y}; }            \
  inline type##4 make_##type##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }
PACT_VECTOR(float, float, 8)
PACT_VECTOR(int, int, 8)
PACT_VECTOR(uint, unsigned, 8)
PACT_VECTOR(ulonglong, unsigned long long, 16)
#undef PACT_VECTOR

constexpr int warpSize = 32;
using std::isfinite, std::isinf, std::isnan;

// --- Barriers and fences ---------------------------------------------------------------------------------------

#define __syncthreads() ::emulator::engine().barrier("__syncthreads", __LINE__)
inline void __threadfence() { emulator::engine().maybe_yield(); }
inline void __threadfence_block() { emulator::engine().maybe_yield(); }

namespace emulator {
struct NoOperand {};
}  // namespace emulator

inline void __syncwarp(unsigned mask = ~0u) {
  emulator::NoOperand slot;
  emulator::engine().collective("__syncwarp", mask, slot, [](auto, unsigned) {}, true);
}
inline unsigned __activemask() {
  emulator::engine().fail("__activemask", "says nothing a kernel may rely on; pass masks explicitly");
}

// --- Warp collectives ------------------------------------------------------------------------------------------

namespace emulator {

template <typename T>
struct Shuffle {
  T value, result;
  int lane, source;  // source < 0: keeps its own
};

template <typename T>
T shuffle(const char* name, unsigned mask, T value, int source) {
  Shuffle<T> slot{value, value, lane(), source};
  engine().collective(name, mask, slot, [name](Shuffle<T>* const* slots, unsigned came) {
    for (int l = 0; l < 32; ++l) {
      if (!(came >> l & 1) || slots[l]->source < 0) continue;
      if (!(came >> slots[l]->source & 1))
        engine().fail("divergent collective", "%s: lane %d reads lane %d, outside mask %08x", name, l, slots[l]->source,
                      came);
      slots[l]->result = slots[slots[l]->source]->value;
    }
  });
  return slot.result;
}

// Every lane gets reduce(values of all lanes of the mask).
template <typename R, typename T, typename Reduce>
R vote(const char* name, unsigned mask, T value, const Reduce& reduce) {
  struct Slot {
    T value;
    R result;
  } slot{value, R()};
  engine().collective(name, mask, slot, [&](Slot* const* slots, unsigned came) {
    R result = reduce.first();
    for (int l = 0; l < 32; ++l)
      if (came >> l & 1) result = reduce(result, slots[l]->value, l);
    for (int l = 0; l < 32; ++l)
      if (came >> l & 1) slots[l]->result = result;
  });
  return slot.result;
}

template <typename R, typename F>
struct Fold {
  R start;
  F f;
  R first() const { return start; }
  template <typename T>
  R operator()(R so_far, T value, int lane) const {
    return f(so_far, value, lane);
  }
};
template <typename R, typename F>
Fold(R, F) -> Fold<R, F>;

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = emulator::lane();
  return emulator::shuffle("__shfl_sync", mask, value, (lane & -width) + (source & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = emulator::lane(), source = lane - int(delta);
  return emulator::shuffle("__shfl_up_sync", mask, value, source < (lane & -width) ? -1 : source);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = emulator::lane(), source = lane + int(delta);
  return emulator::shuffle("__shfl_down_sync", mask, value, source >= (lane & -width) + width ? -1 : source);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const int lane = emulator::lane(), source = lane ^ lane_mask;
  return emulator::shuffle("__shfl_xor_sync", mask, value, source >= (lane & -width) + width ? -1 : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulator::vote<unsigned>(
      "__ballot_sync", mask, predicate,
      emulator::Fold{0u, [](unsigned bits, int p, int l) { return bits | unsigned(p != 0) << l; }});
}
inline int __any_sync(unsigned mask, int predicate) {
  return emulator::vote<int>("__any_sync", mask, predicate,
                             emulator::Fold{0, [](int any, int p, int) { return int(any || p); }});
}
inline int __all_sync(unsigned mask, int predicate) {
  return emulator::vote<int>("__all_sync", mask, predicate,
                             emulator::Fold{1, [](int all, int p, int) { return int(all && p); }});
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  struct Slot {
    T value;
    unsigned same;
  } slot{value, 0};
  emulator::engine().collective("__match_any_sync", mask, slot, [](Slot* const* slots, unsigned came) {
    for (int l = 0; l < 32; ++l)
      for (int u = 0; u < 32; ++u)
        if ((came >> l & 1) && (came >> u & 1) && slots[l]->value == slots[u]->value) slots[l]->same |= 1u << u;
  });
  return slot.same;
}
#define PACT_REDUCE(name, start, expression)                                                         \
  template <typename T>                                                                              \
  T name(unsigned mask, T value) {                                                                   \
    static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);                            \
    return emulator::vote<T>(#name, mask, value,                                                     \
                             emulator::Fold{T(start), [](T a, T b, int) { return T(expression); }}); \
  }
PACT_REDUCE(__reduce_add_sync, 0, unsigned(a) + unsigned(b))
PACT_REDUCE(__reduce_min_sync, std::numeric_limits<T>::max(), a < b ? a : b)
PACT_REDUCE(__reduce_max_sync, std::numeric_limits<T>::min(), a > b ? a : b)
PACT_REDUCE(__reduce_or_sync, 0, unsigned(a) | unsigned(b))
PACT_REDUCE(__reduce_and_sync, ~0u, unsigned(a) & unsigned(b))
PACT_REDUCE(__reduce_xor_sync, 0, unsigned(a) ^ unsigned(b))
#undef PACT_REDUCE

// --- Atomics: on global memory (T*) and on shared memory (&shared[i]) ----------------------------------------------
// Atomic to the host compiler too, so that global_memory.cpp can tell them from plain accesses. No other thread runs
// between the two halves of one.

namespace emulator {
template <typename T>
T& atomic_target(T* pointer) {
  engine().maybe_yield();
  return *pointer;
}
template <typename T>
T& atomic_target(SharedView<T> view) {
  engine().maybe_yield();
  return (*view).atomic_access();
}
template <typename P>
using Target = std::remove_reference_t<decltype(atomic_target(std::declval<P>()))>;
}  // namespace emulator

#define PACT_ATOMIC(name, expression)                                                                              \
  template <typename P>                                                                                            \
  emulator::Target<P> name(P pointer, emulator::Target<P> value) {                                                 \
    using T = emulator::Target<P>;                                                                                 \
    static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>); \
    T& target = emulator::atomic_target(pointer);                                                                  \
    const T old = __atomic_load_n(&target, __ATOMIC_RELAXED);                                                      \
    __atomic_store_n(&target, T(expression), __ATOMIC_RELAXED);                                                    \
    return old;                                                                                                    \
  }
PACT_ATOMIC(atomicAdd, std::make_unsigned_t<T>(old) + std::make_unsigned_t<T>(value))
PACT_ATOMIC(atomicSub, std::make_unsigned_t<T>(old) - std::make_unsigned_t<T>(value))
PACT_ATOMIC(atomicMin, old < value ? old : value)
PACT_ATOMIC(atomicMax, old > value ? old : value)
PACT_ATOMIC(atomicOr, old | value)
PACT_ATOMIC(atomicAnd, old& value)
PACT_ATOMIC(atomicXor, old ^ value)
PACT_ATOMIC(atomicExch, value)
#undef PACT_ATOMIC
template <typename P>
emulator::Target<P> atomicCAS(P pointer, emulator::Target<P> compare, emulator::Target<P> value) {
  auto& target = emulator::atomic_target(pointer);
  const auto old = __atomic_load_n(&target, __ATOMIC_RELAXED);
  if (old == compare) __atomic_store_n(&target, value, __ATOMIC_RELAXED);
  return old;
}

// --- Bits and arithmetic -----------------------------------------------------------------------------------------

namespace emulator {
template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace emulator

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int b = 0; b < 32; ++b) r |= (x >> b & 1) << (31 - b);
  return r;
}
inline unsigned __float_as_uint(float x) { return emulator::bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return emulator::bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits_as<float>(x); }
inline float __int_as_float(int x) { return emulator::bits_as<float>(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
// NaN becomes 0, what is out of range the nearest value in it.
inline unsigned __float2uint_rn(float x) { return x > 0 ? (x < 0x1p32f ? unsigned(std::nearbyint(x)) : ~0u) : 0u; }
// The high word of high:low << shift.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
// Four of the eight bytes of y:x, each by a nibble of the selector.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  unsigned bytes = 0;
  for (int i = 0; i < 4; ++i) bytes |= unsigned((uint64_t(y) << 32 | x) >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return bytes;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned(uint64_t(x) * y >> 32); }
template <typename T>
T __ldg(const T* pointer) {
  return *pointer;
}
template <typename T>
T __ldcg(const T* pointer) {
  return *pointer;
}
template <typename T>
T __ldcs(const T* pointer) {
  return *pointer;
}
template <typename T>
void __stcg(T* pointer, T value) {
  *pointer = value;
}
template <typename T>
void __stcs(T* pointer, T value) {
  *pointer = value;
}
template <typename T, typename U>
constexpr std::common_type_t<T, U> min(T a, U b) {
  using C = std::common_type_t<T, U>;
  return C(a) < C(b) ? C(a) : C(b);
}
template <typename T, typename U>
constexpr std::common_type_t<T, U> max(T a, U b) {
  using C = std::common_type_t<T, U>;
  return C(a) < C(b) ? C(b) : C(a);
}

namespace pact::device {

inline float exp2_approx(float x) { return std::exp2(x); }

// Waiting for another thread: lets others run before the next look.
inline void spin_pause() { emulator::engine().yield(); }

template <typename T>
T load_relaxed(const T* pointer) {
  emulator::engine().maybe_yield();
  return __atomic_load_n(pointer, __ATOMIC_RELAXED);
}
template <typename T>
void store_relaxed(T* pointer, T value) {
  emulator::engine().maybe_yield();
  __atomic_store_n(pointer, value, __ATOMIC_RELAXED);
}

}  // namespace pact::device
