// Vectors of one instruction set, chosen by the compiler flags of this translation unit.
//
// Everything under csrc/cpu/simd lives in the namespace PACT_ISA and uses no standard-library template: a function
// shared with other translation units could be kept by the linker in the version compiled for AVX-512.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "kernels.h"

namespace pact::PACT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 8;  // 8 x 3 accumulators of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTileRows = 4;  // 4 x 3 accumulators of 16 registers
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
#endif
constexpr int kHalf = kLanes / 2;

typedef float vfloat __attribute__((vector_size(kLanes * 4)));
typedef int32_t vint __attribute__((vector_size(kLanes * 4)));
typedef float vfloat_half __attribute__((vector_size(kHalf * 4)));
typedef double vdouble __attribute__((vector_size(kHalf * 8)));

template <typename V, typename T>
inline V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <typename V, typename T>
inline void store(T* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

inline vfloat splat(float x) { return x - vfloat{}; }
inline vdouble splat(double x) { return x - vdouble{}; }

// a * b + c, rounded once where the hardware can.
inline vfloat fma(vfloat a, vfloat b, vfloat c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

inline float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// Bit l is set when a[l] <= b[l].
inline uint32_t mask_le(vfloat a, vfloat b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LE_OQ));
#elif defined(__SSE2__)
  return _mm_movemask_ps(_mm_cmple_ps(a, b));
#else
  uint32_t mask = 0;
  for (int l = 0; l < kLanes; ++l) mask |= uint32_t{a[l] <= b[l]} << l;
  return mask;
#endif
}

inline vfloat min(vfloat a, vfloat b) { return a < b ? a : b; }
inline vfloat max(vfloat a, vfloat b) { return a > b ? a : b; }

inline double sum(vdouble v) {
  double total = 0;
  for (int l = 0; l < kHalf; ++l) total += v[l];
  return total;
}

// The halves onto each other until one lane is left.
inline float sum(vfloat v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
  const __m256 eight = v;
#endif
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  for (int step = kLanes / 2; step > 0; step /= 2)
    for (int l = 0; l < step; ++l) v[l] += v[l + step];
  return v[0];
#endif
}

// One instruction each, where GCC would make two of half the width.
#if defined(__AVX512F__)
inline vdouble widen(vfloat_half v) { return _mm512_cvtps_pd(v); }
inline vfloat_half narrow(vdouble v) { return _mm512_cvtpd_ps(v); }
#elif defined(__AVX2__)
inline vdouble widen(vfloat_half v) { return _mm256_cvtps_pd(v); }
inline vfloat_half narrow(vdouble v) { return _mm256_cvtpd_ps(v); }
#else
inline vdouble widen(vfloat_half v) { return __builtin_convertvector(v, vdouble); }
inline vfloat_half narrow(vdouble v) { return __builtin_convertvector(v, vfloat_half); }
#endif

// exp(x) for x <= 0, within 2 ulp; 0 below -87 up to 1e-38. Range reduction by ln 2 in two parts, then a polynomial
// of degree 6 (the minimax coefficients of Cephes' expf).
inline vfloat exp_nonpositive(vfloat x) {
  x = max(x, splat(-87.0f));
  const vfloat round = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const vfloat shifted = fma(x, splat(1.44269504f), round);
  const vfloat k = shifted - round;
  vfloat r = fma(k, splat(-0.693359375f), x);
  r = fma(k, splat(2.12194440e-4f), r);
  vfloat p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  const vint exponent = __builtin_convertvector(k, vint) + 127;
  return p * (vfloat)(exponent << 23);
}

// --- Element types: float32, float16 and bfloat16, all computed in float32 -------------------------------------

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float from_bits(uint32_t bits) { return load<float>(&bits); }
inline uint32_t to_bits(float x) { return load<uint32_t>(&x); }

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) { return from_bits(uint32_t{x.bits} << 16); }
inline float to_float(Half x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Shifted into place, the exponent is 112 too small; the product also turns subnormals into normal numbers.
  return from_bits(sign | to_bits(from_bits(magnitude << 13) * 0x1p112f));
#endif
}

inline vfloat load_lanes(const float* p) { return load<vfloat>(p); }
inline vfloat load_lanes(const BFloat16* p) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(p)), 16);
#elif defined(__AVX2__)
  return (vfloat)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(p)), 16);
#else
  vfloat v;
  for (int l = 0; l < kLanes; ++l) v[l] = to_float(p[l]);
  return v;
#endif
}
inline vfloat load_lanes(const Half* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(load<__m256i>(p));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(load<__m128i>(p));
#else
  vfloat v;
  for (int l = 0; l < kLanes; ++l) v[l] = to_float(p[l]);
  return v;
#endif
}

// Half as many, of which doubles are made: from memory, as taking a vector apart goes through it anyway.
inline vfloat_half load_half(const float* p) { return load<vfloat_half>(p); }
inline vfloat_half load_half(const BFloat16* p) {
#if defined(__AVX512F__)
  return (vfloat_half)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(p)), 16);
#elif defined(__AVX2__)
  return (vfloat_half)_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_set1_epi64x(load<int64_t>(p))), 16);
#else
  vfloat_half v;
  for (int l = 0; l < kHalf; ++l) v[l] = to_float(p[l]);
  return v;
#endif
}
inline vfloat_half load_half(const Half* p) {
#if defined(__AVX512F__)
  return _mm256_cvtph_ps(load<__m128i>(p));
#elif defined(__AVX2__)
  return _mm_cvtph_ps(_mm_set1_epi64x(load<int64_t>(p)));
#else
  vfloat_half v;
  for (int l = 0; l < kHalf; ++l) v[l] = to_float(p[l]);
  return v;
#endif
}
template <typename T>
inline vdouble load_doubles(const T* p) {
  return widen(load_half(p));
}

// The first `count` < kLanes lanes; zero in the others.
template <typename T>
inline vfloat load_lanes(const T* p, int64_t count) {
  vfloat v{};
  for (int l = 0; l < kLanes; ++l)
    if (l < count) v[l] = to_float(p[l]);
  return v;
}

// Rounded to nearest, ties to even.
inline void round_to(float x, float* out) { *out = x; }
inline void round_to(float x, BFloat16* out) {
  const uint32_t bits = to_bits(x);
  out->bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void round_to(float x, Half* out) {
#if defined(__F16C__)
  out->bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
  const uint32_t sign = to_bits(x) >> 16 & 0x8000u;
  float magnitude = from_bits(to_bits(x) & 0x7fffffffu);
  if (!(magnitude < 65520.0f)) {
    out->bits = uint16_t(sign | (x != x ? 0x7e00u : 0x7c00u));
  } else if (magnitude < 0x1p-14f) {  // subnormal: adding 0.5 leaves the multiple of 2^-24 in the low bits
    out->bits = uint16_t(sign | (to_bits(magnitude + 0.5f) - to_bits(0.5f)));
  } else {
    const uint32_t bits = to_bits(magnitude);
    out->bits = uint16_t(sign | ((bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13));
  }
#endif
}

// Calls f(As<T>{}) with T the element type.
template <typename T>
struct As {
  using type = T;
};

template <typename F>
inline void with_type(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::kFloat32:
      return f(As<float>{});
    case Dtype::kFloat16:
      return f(As<Half>{});
    case Dtype::kBFloat16:
      return f(As<BFloat16>{});
  }
}

}  // namespace
}  // namespace pact::PACT_ISA
