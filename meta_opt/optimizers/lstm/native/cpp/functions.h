// Functions of vectors. Errors against the exact value are for float / double, largest over the range, in units of 1
// unless relative is said; tests/optimizers/lstm/native/test_functions.py measures them. Not-a-number goes through all
// of them.

#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "vectors.h"

namespace {

template <typename T>
INLINE Vector<T> clamp(Vector<T> x, Vector<T> low, Vector<T> high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

constexpr double kLog2E = 1.4426950408889634074;

// 2^y = scale · (1 + excess), with y held where scale is a normal number; the largest has a reciprocal that is flushed
// to zero, so that a gate can be exactly closed.
template <typename T>
struct Power {
  Vector<T> scale, excess;
};

template <typename T>
INLINE Power<T> exp2(Vector<T> y) {
  using N = Number<T>;
  y = clamp<T>(y, all<T>(double(1 - N::kBias)), all<T>(double(N::kBias)));
  // Adding 1.5·2^mantissa rounds to an integer, which then stands in the lowest bits; with the exponent's bias on top
  // of it those bits, shifted into place, are the number 2^integer.
  constexpr T kRound = T(3) * T(int64_t(1) << (N::kMantissa - 1)) + T(N::kBias);
  const Vector<T> rounded = y + kRound;
  const Vector<T> f = y - (rounded - kRound);
  constexpr int kDegree = sizeof(N::kExp) / sizeof(T) - 1;
  Vector<T> q = all<T>(N::kExp[kDegree]);
  for (int k = kDegree - 1; k >= 0; --k) q = q * f + N::kExp[k];
  return {reinterpret_cast<Vector<T>>(reinterpret_cast<Unsigned<T>>(rounded) << N::kMantissa), q * f};
}

// e^x. Relative error 1e-6 / 2e-15 for |x| ≤ 10, and held in the range of normal numbers.
template <typename T>
INLINE Vector<T> exp(Vector<T> x) {
  const Power<T> power = exp2<T>(x * T(kLog2E));
  return power.scale + power.scale * power.excess;
}

// 1 / (1 + e^-x). Error 1e-7 / 2.5e-16.
template <typename T>
INLINE Vector<T> sigmoid(Vector<T> x) {
  const Power<T> power = exp2<T>(x * T(-kLog2E));
  return T(1) / (power.scale * power.excess + (power.scale + T(1)));
}

// (e^2x - 1) / (e^2x + 1). Relative error 5e-7 / 1.5e-15, so that small x keep all their digits.
template <typename T>
INLINE Vector<T> tanh(Vector<T> x) {
  const Power<T> power = exp2<T>(x * T(2 * kLog2E));
  const Vector<T> minus_one = power.scale * power.excess + (power.scale - T(1));
  return minus_one / (minus_one + T(2));
}

// ln x of a positive normal number or infinity. Error 2e-7 / 4e-16, relative where |ln x| > 1.
template <typename T>
INLINE Vector<T> log(Vector<T> x) {
  using N = Number<T>;
  const Unsigned<T> bits = reinterpret_cast<Unsigned<T>>(x);
  const Bits<T> exponent = reinterpret_cast<Bits<T>>(bits - N::kRootHalf) >> N::kMantissa;
  // In [√½, √2).
  const Vector<T> m = reinterpret_cast<Vector<T>>(bits - (reinterpret_cast<Unsigned<T>>(exponent) << N::kMantissa));
  // ln m = 2 artanh s = 2 (s + s^3 / 3 + s^5 / 5 + ...)
  const Vector<T> s = (m - T(1)) / (m + T(1));
  const Vector<T> square = s * s;
  Vector<T> series = all<T>(1.0 / (2 * N::kLogTerms - 1));
  for (int k = N::kLogTerms - 2; k >= 0; --k) series = series * square + T(1.0 / (2 * k + 1));
  // ln 2 in two parts: the first has so few bits that its product with the exponent is exact.
  const Vector<T> e = __builtin_convertvector(exponent, Vector<T>);
  const Vector<T> result = e * T(0.693145751953125) + (T(2) * s * series + e * T(1.42860682030941723e-6));
  const Vector<T> largest = all<T>(std::numeric_limits<T>::max());
  return x <= largest ? result : x;
}

template <typename T>
INLINE Vector<T> sqrt(Vector<T> x) {
  Vector<T> root;
  for (int lane = 0; lane < kLanes<T>; ++lane) root[lane] = std::sqrt(x[lane]);
  return root;
}

template <typename T>
INLINE Vector<T> absolute(Vector<T> x) {
  return reinterpret_cast<Vector<T>>(reinterpret_cast<Bits<T>>(x) & std::numeric_limits<
      std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>::max());
}

}  // namespace
