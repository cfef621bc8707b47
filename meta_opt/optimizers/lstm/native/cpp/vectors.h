// Vectors of neighbouring coordinates: their width, what they hold, how they are loaded, stored and summed.

#pragma once

#include <cstdint>
#include <utility>

#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))  // hot loops that GCC compiles better on their own than inlined

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
// Rows of a product whose sums stay in registers, of which there are 32 or 16: two vectors for each.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRowsAtOnce = 8;
#else
constexpr int kRowsAtOnce = 4;
#endif
constexpr int kVectors = 2;  // vectors of coordinates in a block: two, so that a weight is fetched for two products
constexpr int kTile = 4;     // rows and columns of a tile of the weight gradient
constexpr int kCacheLine = 64;
// Activations between a backward sweep and the weight gradients that read them again. Half of a small L2.
constexpr int64_t kChunkBytes = 512 * 1024;

template <typename T>
struct Number;

template <>
struct Number<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int32_t Bits __attribute__((vector_size(kVectorBytes), may_alias));
  typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes), may_alias));
  static constexpr int kMantissa = 23;
  static constexpr int32_t kBias = 127;
  static constexpr uint32_t kRootHalf = 0x3f3504f3;  // bits of √½
  // (2^f - 1) / f on [-½, ½]: minimax, relative error 1.1e-8.
  static constexpr float kExp[] = {0.6931471879f,   0.2402264979f,    0.05550357434f,
                                   0.009618237495f, 0.001339073548f, 0.0001540351237f};
  static constexpr int kLogTerms = 5;  // artanh series in s ≤ 0.172: the first term left out is s^10 / 11 = 2e-9
};

template <>
struct Number<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int64_t Bits __attribute__((vector_size(kVectorBytes), may_alias));
  typedef uint64_t Unsigned __attribute__((vector_size(kVectorBytes), may_alias));
  static constexpr int kMantissa = 52;
  static constexpr int64_t kBias = 1023;
  static constexpr uint64_t kRootHalf = 0x3fe6a09e667f3bcd;
  // Taylor, ln2^k / k!: the first term left out is below 2e-17.
  static constexpr double kExp[] = {0.69314718055994530942,  0.24022650695910071233,  0.055504108664821579953,
                                    0.009618129107628477162, 0.0013333558146428443423, 0.00015403530393381609954,
                                    1.525273380405984028e-5, 1.3215486790144309488e-6, 1.0178086009239699727e-7,
                                    7.0549116208011233299e-9, 4.4455382718708114976e-10, 2.5678435993488205142e-11,
                                    1.3691488853904128881e-12};
  static constexpr int kLogTerms = 11;  // the first term left out is s^22 / 23 = 7e-19
};

template <typename T>
using Vector = typename Number<T>::Vector;
template <typename T>
using Bits = typename Number<T>::Bits;
template <typename T>
using Unsigned = typename Number<T>::Unsigned;  // bits that may overflow, as those of negative numbers do
template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));
template <typename T>
constexpr int kBlock = kVectors * kLanes<T>;  // coordinates in a block

template <typename T>
INLINE Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}

template <typename T>
INLINE void store(T* to, Vector<T> value) {
  *reinterpret_cast<Vector<T>*>(to) = value;
}

template <typename T>
INLINE Vector<T> all(double value) {
  return Vector<T>{} + T(value);
}

// The same value, which GCC then does not read from memory again for every product it stands in: there are fewer loads
// than products in a cycle. Without registers to spare it may.
template <typename T>
INLINE Vector<T> in_register(Vector<T> value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

// Lanes 0, 2, 4, ... (kFirst = 0) or 1, 3, 5, ... (kFirst = 1) of a followed by b.
template <typename T, int kFirst, int... kIndex>
INLINE Vector<T> every_second(Vector<T> a, Vector<T> b, std::integer_sequence<int, kIndex...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, (2 * kIndex + kFirst)...);
#else
  return __builtin_shuffle(a, b, Bits<T>{(2 * kIndex + kFirst)...});
#endif
}

// The sums over the lanes of 16 vectors, added to 16 numbers: halves two vectors into one until each lane is a sum.
template <typename T, int kCount = kTile * kTile, int kWidth = 1>
INLINE void add_lane_sums(Vector<T>* vectors, T* sums) {
  if constexpr (kWidth < kLanes<T>) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes<T>>();
    for (int i = 0; i < kCount / 2; ++i) {
      const Vector<T> a = vectors[2 * i], b = vectors[2 * i + 1];
      vectors[i] = every_second<T, 0>(a, b, lanes) + every_second<T, 1>(a, b, lanes);
    }
    add_lane_sums<T, kCount / 2, kWidth * 2>(vectors, sums);
  } else {
    for (int i = 0; i < kCount; ++i) store<T>(sums + i * kLanes<T>, load(sums + i * kLanes<T>) + vectors[i]);
  }
}

}  // namespace
