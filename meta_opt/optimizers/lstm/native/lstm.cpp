// The coordinatewise LSTM of meta_opt/optimizers/coordinatewise_lstm.py for the CPU: one step of the learned optimizer,
// and the replay that gives its meta-gradient Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩ from recorded gradients.
//
// Coordinates are independent of each other, so everything runs in blocks of coordinates whose activations stay in the
// cache, from the first step to the last and back, and a vector register holds one unit of neighbouring coordinates.
// Within a block every array is [rows][kBlock]; the matrix products below are register-tiled over those rows.
//
// Plain C++17 with the vector types of GCC and Clang, no intrinsics: the compiler's target decides the register width.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))  // hot loops that GCC compiles better on their own than inlined

// What Python hands over; mirrored field by field in kernels/lstm.py. All coordinates of B problems lie in
// contiguous [B, N] tensors, of which a network works on the columns start..stop, n of them: a segment. An array of
// these is one for each segment, which differ in their columns, weights and states, but not in sizes and numbers.
struct Call {
  int64_t is_double, num_layers, hidden_size, num_inputs;
  int64_t reads_log_sign, reads_moments, reads_scales, reads_directions, is_matrix;
  int64_t bounds_output, has_magnitude, segment;
  double output_scale, base_step;
  int64_t num_problems, num_coordinates, start, stop;
  int64_t num_steps, num_threads;
  // Weights φ: per layer [4H, width + H] and [4H], then [R, width] and [R].
  const void* const* weights;
  const void* const* biases;
  const void* output_weight;
  const void* output_bias;
  // State before the first step, per layer [H, B·n], and moments, m, v and β^t []: a step overwrites them with those
  // after it. Gradients of the optimizee, what is read of the scales, [S, B, 3], and the orthogonalized directions of
  // matrices, [B, N], all one per step.
  void* const* hidden;
  void* const* cell;
  void* mean;
  void* square;
  void* decay;
  const void* const* grads;
  const void* const* scales;
  const void* const* directions;
  // Out of a step: the update [B, N].
  void* update;
  // Into the replay, c_τ per step, and out of it, gradients shaped as the weights.
  const void* const* coefficients;
  void* const* weight_grads;
  void* const* bias_grads;
  void* output_weight_grad;
  void* output_bias_grad;
};

// What scales are read from; see Scales of meta_opt/optimizers/lstm/preprocessing.py. Mirrored in kernels/scales.py.
struct ScalesCall {
  int64_t is_double, num_problems, num_tensors, num_steps;
  const int64_t* sizes;  // of the tensors, which lie one after the other in [B, N]
  const void* const* grads;  // one per step
  // Before the first step, and then after the last: s [B, S]. Before the first: t [].
  void* square;
  const void* steps;
  // Out, one per step: what is read, [S, B, 3].
  void* const* read;
};

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Vectors
// ---------------------------------------------------------------------------------------------------------------------

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
  static constexpr int kMantissa = 23;
  static constexpr int32_t kBias = 127;
  static constexpr int32_t kRootHalf = 0x3f3504f3;  // bits of √½
  // (2^f - 1) / f on [-½, ½]: minimax, relative error 1.1e-8.
  static constexpr float kExp[] = {0.6931471879f,   0.2402264979f,    0.05550357434f,
                                   0.009618237495f, 0.001339073548f, 0.0001540351237f};
  static constexpr int kLogTerms = 5;  // artanh series in s ≤ 0.172: the first term left out is s^10 / 11 = 2e-9
};

template <>
struct Number<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int64_t Bits __attribute__((vector_size(kVectorBytes), may_alias));
  static constexpr int kMantissa = 52;
  static constexpr int64_t kBias = 1023;
  static constexpr int64_t kRootHalf = 0x3fe6a09e667f3bcd;
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

// ---------------------------------------------------------------------------------------------------------------------
// Functions. Errors against the exact value are for float / double, largest over the range, in units of 1 unless
// relative is said; tests/kernels/test_functions.py measures them. Not-a-number goes through all of them.
// ---------------------------------------------------------------------------------------------------------------------

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
  return {reinterpret_cast<Vector<T>>(reinterpret_cast<Bits<T>>(rounded) << N::kMantissa), q * f};
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
  const Bits<T> bits = reinterpret_cast<Bits<T>>(x);
  const Bits<T> exponent = (bits - N::kRootHalf) >> N::kMantissa;
  const Vector<T> m = reinterpret_cast<Vector<T>>(bits - (exponent << N::kMantissa));  // in [√½, √2)
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

// Squares of tiny gradients are denormal numbers, which are slow: they are zero here while a thread is in the kernel.
class FlushDenormals {
#if defined(__SSE2__)
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // flush to zero, denormals are zero
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
 public:
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | (uint64_t(1) << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_;
#else
 public:
  FlushDenormals() {}
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

// ---------------------------------------------------------------------------------------------------------------------
// The network
// ---------------------------------------------------------------------------------------------------------------------

// As in meta_opt/optimizers/lstm/preprocessing.py.
constexpr double kP = 10.0, kBeta = 0.95, kLastStep = 1000.0, kLargestGradient = 1e15, kLargestExponent = 10.0;
constexpr double kLargestJump = 1e3, kLeastSquare = 1e-20;
constexpr int64_t kScales = 3;

enum Gate { kInput, kForget, kOutput, kCandidate, kGates };

template <typename T>
struct Layer {
  int64_t width;    // rows below: inputs, or units of the layer below
  const T* weight;  // [4H, width + H]
  const T* bias;    // [4H]
};

template <typename T>
struct Network {
  explicit Network(const Call& call)
      : size(call.hidden_size),
        num_inputs(call.num_inputs),
        log_sign(call.reads_log_sign),
        moments(call.reads_moments),
        scales(call.reads_scales),
        directions(call.reads_directions),
        has_direction(call.reads_directions && call.is_matrix),
        bounded(call.bounds_output),
        magnitude(call.has_magnitude),
        output_scale(T(call.output_scale)),
        base_step(T(call.base_step)),
        output_weight(static_cast<const T*>(call.output_weight)),
        output_bias(static_cast<const T*>(call.output_bias)) {
    top_width = num_inputs;
    for (int64_t index = 0; index < call.num_layers; ++index) {
      layers.push_back(
          {top_width, static_cast<const T*>(call.weights[index]), static_cast<const T*>(call.biases[index])});
      top_width = size;
    }
  }

  bool tracks_moments() const { return moments || base_step != T(0); }

  int64_t num_outputs() const { return magnitude ? 2 : 1; }

  int64_t size, num_inputs, top_width;
  bool log_sign, moments, scales, directions, has_direction, bounded, magnitude;
  T output_scale, base_step;
  const T *output_weight, *output_bias;
  std::vector<Layer<T>> layers;
};

// ---------------------------------------------------------------------------------------------------------------------
// Blocks of coordinates, in and out of tensors
// ---------------------------------------------------------------------------------------------------------------------

// Coordinates first .. first + count of the B·n that a network works on; a block's last lanes may be empty.
struct Range {
  int64_t first, count;
};

// Where those coordinates lie in a [B, N] tensor.
class Columns {
 public:
  explicit Columns(const Call& call)
      : stride_(call.num_coordinates), start_(call.start), width_(call.stop - call.start) {}

  int64_t total(const Call& call) const { return call.num_problems * width_; }

  template <typename T>
  void gather(const void* tensor, Range range, T* block) const {
    const T* from = static_cast<const T*>(tensor);
    pieces(range, [&](int64_t, int64_t at, int64_t lane, int64_t count) {
      std::copy_n(from + at, count, block + lane);
    });
    std::fill(block + range.count, block + kBlock<T>, T(0));
  }

  template <typename T>
  void scatter(const T* block, Range range, void* tensor) const {
    T* to = static_cast<T*>(tensor);
    pieces(range, [&](int64_t, int64_t at, int64_t lane, int64_t count) { std::copy_n(block + lane, count, to + at); });
  }

  // One number for each problem, `stride` apart, to all of its coordinates.
  template <typename T>
  void spread(const T* numbers, int64_t stride, Range range, T* block) const {
    pieces(range, [&](int64_t problem, int64_t, int64_t lane, int64_t count) {
      std::fill_n(block + lane, count, numbers[problem * stride]);
    });
    std::fill(block + range.count, block + kBlock<T>, T(0));
  }

 private:
  template <typename Function>
  INLINE void pieces(Range range, Function function) const {
    int64_t problem = range.first / width_, column = range.first % width_;
    for (int64_t lane = 0; lane < range.count; ++problem, column = 0) {
      const int64_t count = std::min(width_ - column, range.count - lane);
      function(problem, problem * stride_ + start_ + column, lane, count);
      lane += count;
    }
  }

  int64_t stride_, start_, width_;
};

// Rows of a state [rows, total] into a block and back.
template <typename T>
void load_rows(const void* tensor, int64_t rows, int64_t total, Range range, T* block) {
  const T* from = static_cast<const T*>(tensor) + range.first;
  if (range.count == kBlock<T>) {
    for (int64_t row = 0; row < rows; ++row, from += total, block += kBlock<T>) {
      std::memcpy(block, from, kBlock<T> * sizeof(T));
    }
    return;
  }
  for (int64_t row = 0; row < rows; ++row, from += total, block += kBlock<T>) {
    std::copy_n(from, range.count, block);
    std::fill(block + range.count, block + kBlock<T>, T(0));
  }
}

template <typename T>
void store_rows(const T* block, int64_t rows, int64_t total, Range range, void* tensor) {
  T* to = static_cast<T*>(tensor) + range.first;
  if (range.count == kBlock<T>) {
    for (int64_t row = 0; row < rows; ++row, to += total, block += kBlock<T>) {
      std::memcpy(to, block, kBlock<T> * sizeof(T));
    }
    return;
  }
  for (int64_t row = 0; row < rows; ++row, to += total, block += kBlock<T>) std::copy_n(block, range.count, to);
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward
// ---------------------------------------------------------------------------------------------------------------------

// What one layer makes of one step, each [rows][kBlock].
template <typename T>
struct Activations {
  T* gates;      // [4H]: after their sigmoid or tanh
  T* cell;       // [H]: c
  T* cell_tanh;  // [H]: tanh c
  T* hidden;     // [H]: h
};

// The rows of the next block in the state of a layer: too many streams for the hardware to follow. They are asked for a
// few at a time between products, which is all that the memory takes at once.
template <typename T>
struct Ahead {
  const T *hidden, *cell;
  int64_t stride;  // 0: there is no next block

  INLINE void fetch(int64_t unit) const {
    if (stride == 0) return;
    for (int64_t at = unit * stride; at < unit * stride + kBlock<T>; at += kLanes<T>) {
      __builtin_prefetch(hidden + at, 1, 2);
      __builtin_prefetch(cell + at, 1, 2);
    }
  }
};

// Adds weight × rows to kRows sums, where weight is [kRows, stride] and there are `count` rows.
template <typename T, int kRows>
INLINE void add_product(const T* weight, int64_t stride, const T* rows, int64_t count,
                        Vector<T> (&sums)[kRows][kVectors]) {
  for (int64_t k = 0; k < count; ++k) {
    Vector<T> x[kVectors];
    for (int vector = 0; vector < kVectors; ++vector) x[vector] = load(rows + k * kBlock<T> + vector * kLanes<T>);
    for (int row = 0; row < kRows; ++row) {
      const T w = weight[row * stride + k];
      for (int vector = 0; vector < kVectors; ++vector) sums[row][vector] += w * x[vector];
    }
  }
}

template <typename T, int kRows>
INLINE void forward_rows(const Layer<T>& layer, int64_t size, int64_t first, const T* below, const T* hidden_before,
                         T* gates) {
  const int64_t stride = layer.width + size;
  const T* weight = layer.weight + first * stride;
  Vector<T> sums[kRows][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int vector = 0; vector < kVectors; ++vector) sums[row][vector] = Vector<T>{} + layer.bias[first + row];
  }
  add_product<T, kRows>(weight, stride, below, layer.width, sums);
  add_product<T, kRows>(weight + layer.width, stride, hidden_before, size, sums);
  for (int row = 0; row < kRows; ++row) {
    for (int vector = 0; vector < kVectors; ++vector) {
      store<T>(gates + (first + row) * kBlock<T> + vector * kLanes<T>, sums[row][vector]);
    }
  }
}

template <typename T>
void forward_layer(const Layer<T>& layer, int64_t size, const T* below, const T* hidden_before, const T* cell_before,
                   const Activations<T>& out, const Ahead<T>& ahead) {
  int64_t row = 0;
  for (; row + kRowsAtOnce <= kGates * size; row += kRowsAtOnce) {
    forward_rows<T, kRowsAtOnce>(layer, size, row, below, hidden_before, out.gates);
    for (int64_t unit = row / kGates; unit < (row + kRowsAtOnce) / kGates; ++unit) ahead.fetch(unit);
  }
  for (; row < kGates * size; row += kGates) {
    forward_rows<T, kGates>(layer, size, row, below, hidden_before, out.gates);
  }
  // Functions in loops of their own: the processor then works on many of these long chains at once.
  T* const gates = out.gates;
  const int64_t rows = size * kBlock<T>;
  for (int64_t i = 0; i < kCandidate * rows; i += kLanes<T>) store<T>(gates + i, sigmoid<T>(load(gates + i)));
  for (int64_t i = kCandidate * rows; i < kGates * rows; i += kLanes<T>) store<T>(gates + i, tanh<T>(load(gates + i)));
  for (int64_t i = 0; i < rows; i += kLanes<T>) {
    const Vector<T> remembered = load(gates + kForget * rows + i) * load(cell_before + i);
    const Vector<T> cell = remembered + load(gates + kInput * rows + i) * load(gates + kCandidate * rows + i);
    const Vector<T> cell_tanh = tanh<T>(cell);
    store<T>(out.cell + i, cell);
    store<T>(out.cell_tanh + i, cell_tanh);
    store<T>(out.hidden + i, load(gates + kOutput * rows + i) * cell_tanh);
  }
}

// The output layer, [R][kBlock], bounded if asked for.
template <typename T>
void forward_output(const Network<T>& network, const T* top, T* out) {
  for (int64_t row = 0; row < network.num_outputs(); ++row) {
    const T* const weight = network.output_weight + row * network.top_width;
    for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
      Vector<T> sum = Vector<T>{} + network.output_bias[row];
      for (int64_t k = 0; k < network.top_width; ++k) sum += weight[k] * load(top + k * kBlock<T> + lane);
      store<T>(out + row * kBlock<T> + lane, network.bounded ? tanh<T>(sum) : sum);
    }
  }
}

// The update without its magnitude, from the output and m̂/√v̂.
template <typename T>
INLINE Vector<T> plain_update(const Network<T>& network, Vector<T> output, Vector<T> base) {
  const Vector<T> update = network.output_scale * output;
  return network.base_step == T(0) ? update : update - network.base_step * base;
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward
// ---------------------------------------------------------------------------------------------------------------------

// Through the cell of one layer at one step: the activations' gates become gradients of what went into them, and
// cell_grad that of the cell before.
template <typename T>
NOINLINE void backward_cell(int64_t size, const Activations<T>& at, const T* cell_before, const T* hidden_grad,
                            T* cell_grad) {
  const int64_t rows = size * kBlock<T>;
  T* const gates = at.gates;
  for (int64_t i = 0; i < rows; i += kLanes<T>) {
    const Vector<T> input = load(gates + kInput * rows + i), forget = load(gates + kForget * rows + i);
    const Vector<T> output = load(gates + kOutput * rows + i), candidate = load(gates + kCandidate * rows + i);
    const Vector<T> cell_tanh = load(at.cell_tanh + i), dh = load(hidden_grad + i);
    const Vector<T> through = dh * output;
    const Vector<T> dc = load(cell_grad + i) + (through - through * cell_tanh * cell_tanh);
    const Vector<T> di = dc * input, df = dc * forget;
    store<T>(gates + kInput * rows + i, di * candidate * (T(1) - input));
    store<T>(gates + kForget * rows + i, df * load(cell_before + i) * (T(1) - forget));
    store<T>(gates + kOutput * rows + i, through * cell_tanh * (T(1) - output));
    store<T>(gates + kCandidate * rows + i, di - di * candidate * candidate);
    store<T>(cell_grad + i, df);
  }
}

// kColumns rows of out (+)= weightᵀ × rows, where weight is [count, stride].
template <typename T, int kColumns, bool kAdd>
INLINE void transposed_columns(const T* weight, int64_t stride, const T* rows, int64_t count, T* out) {
  Vector<T> sums[kColumns][kVectors] = {};
  for (int64_t row = 0; row < count; ++row) {
    Vector<T> d[kVectors];
    for (int vector = 0; vector < kVectors; ++vector) d[vector] = load(rows + row * kBlock<T> + vector * kLanes<T>);
    for (int column = 0; column < kColumns; ++column) {
      const T w = weight[row * stride + column];
      for (int vector = 0; vector < kVectors; ++vector) sums[column][vector] += w * d[vector];
    }
  }
  for (int column = 0; column < kColumns; ++column) {
    for (int vector = 0; vector < kVectors; ++vector) {
      T* to = out + column * kBlock<T> + vector * kLanes<T>;
      store<T>(to, kAdd ? load(to) + sums[column][vector] : sums[column][vector]);
    }
  }
}

template <typename T, bool kAdd>
void transposed_product(const T* weight, int64_t stride, int64_t columns, const T* rows, int64_t count, T* out) {
  int64_t column = 0;
  for (; column + kRowsAtOnce <= columns; column += kRowsAtOnce) {
    transposed_columns<T, kRowsAtOnce, kAdd>(weight + column, stride, rows, count, out + column * kBlock<T>);
  }
  if (kRowsAtOnce > 4 && column + 4 <= columns) {
    transposed_columns<T, 4, kAdd>(weight + column, stride, rows, count, out + column * kBlock<T>);
    column += 4;
  }
  for (; column < columns; ++column) {
    transposed_columns<T, 1, kAdd>(weight + column, stride, rows, count, out + column * kBlock<T>);
  }
}

// Rows of a block at each step, [steps][rows][kBlock] with some distance between steps.
template <typename T>
struct Recorded {
  T* data;
  int64_t step_stride;

  T* at(int64_t step) const { return data + step * step_stride; }
};

// Σ over steps and coordinates of left row × right row, for all pairs of rows, in tiles. A tile's 16 sums stay in
// registers over all steps; they are kept tile by tile.
class PairSums {
 public:
  PairSums(int64_t left_rows, int64_t right_rows)
      : left_rows_(left_rows), right_rows_(right_rows), tiles_across_((right_rows + kTile - 1) / kTile) {}

  int64_t num_sums() const { return (left_rows_ + kTile - 1) / kTile * tiles_across_ * kTile * kTile; }

  // Adds `steps` steps to the sums. There are 4H left rows, or one or two.
  template <typename T>
  void add(Recorded<T> left, Recorded<T> right, int64_t steps, T* sums) const {
    for (int64_t row = 0; row < left_rows_; row += kTile) {
      switch (left_rows_) {
        case 1: add_rows<T, 1>(left, right, steps, sums); break;
        case 2: add_rows<T, 2>(left, right, steps, sums); break;
        default: add_rows<T, kTile>(left, right, steps, sums);
      }
      left.data += kTile * kBlock<T>;
      sums += tiles_across_ * kTile * kTile;
    }
  }

  int64_t left_rows() const { return left_rows_; }
  int64_t right_rows() const { return right_rows_; }

  double sum(const double* sums, int64_t left_row, int64_t right_row) const {
    const int64_t tile = left_row / kTile * tiles_across_ + right_row / kTile;
    return sums[(tile * kTile + left_row % kTile) * kTile + right_row % kTile];
  }

 private:
  template <typename T, int kLeft>
  INLINE void add_rows(Recorded<T> left, Recorded<T> right, int64_t steps, T* sums) const {
    for (int64_t done = 0; done < right_rows_; done += kTile) {
      switch (right_rows_ - done) {
        case 1: add_tile<T, kLeft, 1>(left, right, steps, sums); break;
        case 2: add_tile<T, kLeft, 2>(left, right, steps, sums); break;
        case 3: add_tile<T, kLeft, 3>(left, right, steps, sums); break;
        default: add_tile<T, kLeft, kTile>(left, right, steps, sums);
      }
      right.data += kTile * kBlock<T>;
      sums += kTile * kTile;
    }
  }

  template <typename T, int kLeft, int kRight>
  static NOINLINE void add_tile(Recorded<T> left, Recorded<T> right, int64_t steps, T* sums) {
    Vector<T> tile[kTile * kTile] = {};
    for (int64_t step = 0; step < steps; ++step) {
      const T *a = left.at(step), *b = right.at(step);
      for (int vector = 0; vector < kVectors; ++vector, a += kLanes<T>, b += kLanes<T>) {
        Vector<T> x[kLeft], y[kRight];
        for (int i = 0; i < kLeft; ++i) x[i] = in_register<T>(load(a + i * kBlock<T>));
        for (int j = 0; j < kRight; ++j) y[j] = in_register<T>(load(b + j * kBlock<T>));
        for (int i = 0; i < kLeft; ++i) {
          for (int j = 0; j < kRight; ++j) tile[i * kTile + j] += x[i] * y[j];
        }
      }
    }
    add_lane_sums<T>(tile, sums);
  }

  int64_t left_rows_, right_rows_, tiles_across_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Memory of one thread
// ---------------------------------------------------------------------------------------------------------------------

// Hands out aligned pieces of one allocation; made with no memory, it counts how much that has to be.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (count * int64_t(sizeof(T)) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return piece;
  }

  // [steps][rows][kBlock]. An odd number of cache lines from step to step spreads a row over all sets of the cache.
  template <typename T>
  Recorded<T> take_recorded(int64_t steps, int64_t rows) {
    constexpr int64_t kLine = kCacheLine / int64_t(sizeof(T));
    const int64_t lines = (rows * kBlock<T> + kLine - 1) / kLine;
    const int64_t stride = (lines | 1) * kLine;
    return {take<T>(steps * stride), stride};
  }

  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// Everything a thread keeps of a block: T steps of it for the replay, one for a step.
template <typename T>
struct Scratch {
  struct LayerScratch {
    Recorded<T> gates, cell_tanh;  // steps 0 .. T-1
    Recorded<T> cell, hidden;      // before step 0 .. before step T
    T *hidden_grad, *cell_grad;

    Activations<T> at(int64_t step) const {
      return {gates.at(step), cell.at(step + 1), cell_tanh.at(step), hidden.at(step + 1)};
    }
  };

  Scratch(Arena& arena, const Network<T>& network, int64_t steps, int64_t num_sums) {
    const int64_t size = network.size;
    sums = arena.take<T>(num_sums);
    grad = arena.take<T>(kBlock<T>);
    base = arena.take<T>(kBlock<T>);
    mean = arena.take<T>(kBlock<T>);
    square = arena.take<T>(kBlock<T>);
    factor = arena.take<T>(kBlock<T>);
    moves = arena.take<T>(kBlock<T>);
    out = arena.take<T>(network.num_outputs() * kBlock<T>);
    inputs = arena.take_recorded<T>(steps, network.num_inputs);
    out_grad = arena.take_recorded<T>(steps, network.num_outputs());
    for (size_t index = 0; index < network.layers.size(); ++index) {
      LayerScratch scratch;
      scratch.gates = arena.take_recorded<T>(steps, kGates * size);
      scratch.cell_tanh = arena.take_recorded<T>(steps, size);
      scratch.cell = arena.take_recorded<T>(steps + 1, size);
      scratch.hidden = arena.take_recorded<T>(steps + 1, size);
      scratch.hidden_grad = arena.take<T>(size * kBlock<T>);
      scratch.cell_grad = arena.take<T>(size * kBlock<T>);
      layers.push_back(scratch);
    }
  }

  // What a layer reads at a step from below it.
  Recorded<T> below(size_t layer) const {
    if (layer == 0) return inputs;
    const Recorded<T>& hidden = layers[layer - 1].hidden;
    return {hidden.at(1), hidden.step_stride};
  }

  void load_state(const Call& call, const Columns& columns, Range range, bool moments) {
    const int64_t total = columns.total(call);
    for (size_t index = 0; index < layers.size(); ++index) {
      load_rows<T>(call.hidden[index], call.hidden_size, total, range, layers[index].hidden.at(0));
      load_rows<T>(call.cell[index], call.hidden_size, total, range, layers[index].cell.at(0));
    }
    if (moments) {
      columns.gather<T>(call.mean, range, mean);
      columns.gather<T>(call.square, range, square);
    }
  }

  T* sums;                                  // of WeightGradients
  T *grad, *base, *mean, *square, *factor;  // of one step, each [kBlock]
  T* moves;  // [kBlock], of one step: 0 where gradient and moments are zero, and so the update
  T* out;                                   // [R][kBlock]
  Recorded<T> inputs, out_grad;
  std::vector<LayerScratch> layers;
};

template <typename T, typename Function>
void forward_layers(const Network<T>& network, const Scratch<T>& scratch, int64_t step, Function ahead) {
  for (size_t index = 0; index < network.layers.size(); ++index) {
    const auto& layer = scratch.layers[index];
    forward_layer<T>(network.layers[index], network.size, scratch.below(index).at(step), layer.hidden.at(step),
                     layer.cell.at(step), layer.at(step), ahead(index));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Weight gradients
// ---------------------------------------------------------------------------------------------------------------------

// Which sums over pairs of rows make up the gradient of φ, and where each stands among the sums of a block. Blocks are
// added up in double, so that their number costs no digits.
template <typename T>
class WeightGradients {
 public:
  explicit WeightGradients(const Network<T>& network)
      : size_(network.size), output_(network.num_outputs(), network.top_width), output_bias_(network.num_outputs(), 1) {
    for (const Layer<T>& layer : network.layers) {
      const LayerSums sums{{kGates * size_, layer.width}, {kGates * size_, size_}, {kGates * size_, 1}, num_sums_};
      num_sums_ += sums.below.num_sums() + sums.hidden.num_sums() + sums.bias.num_sums();
      layers_.push_back(sums);
    }
    output_offset_ = num_sums_;
    num_sums_ += output_.num_sums() + output_bias_.num_sums();
  }

  int64_t num_sums() const { return num_sums_; }

  // Adds the steps first .. first + steps of a block, whose gates hold their gradients.
  void add(const Scratch<T>& scratch, int64_t first, int64_t steps) const {
    T* const sums = scratch.sums;
    const auto from = [first](Recorded<T> recorded) { return Recorded<T>{recorded.at(first), recorded.step_stride}; };
    alignas(kCacheLine) T one[kBlock<T>];
    std::fill_n(one, kBlock<T>, T(1));
    const Recorded<T> ones{one, 0};
    for (size_t index = 0; index < layers_.size(); ++index) {
      const LayerSums& layer = layers_[index];
      const Recorded<T> gates = from(scratch.layers[index].gates);
      T* to = sums + layer.offset;
      layer.below.add(gates, from(scratch.below(index)), steps, to);
      layer.hidden.add(gates, from(scratch.layers[index].hidden), steps, to += layer.below.num_sums());
      layer.bias.add(gates, ones, steps, to + layer.hidden.num_sums());
    }
    const Recorded<T> out_grad = from(scratch.out_grad);
    output_.add(out_grad, from(scratch.below(layers_.size())), steps, sums + output_offset_);
    output_bias_.add(out_grad, ones, steps, sums + output_offset_ + output_.num_sums());
  }

  void write(const double* sums, const Call& call) const {
    for (size_t index = 0; index < layers_.size(); ++index) {
      const LayerSums& layer = layers_[index];
      const double* below = sums + layer.offset;
      const double* hidden = below + layer.below.num_sums();
      const double* bias = hidden + layer.hidden.num_sums();
      const int64_t width = layer.below.right_rows();
      T* weight_grad = static_cast<T*>(call.weight_grads[index]);
      T* bias_grad = static_cast<T*>(call.bias_grads[index]);
      for (int64_t row = 0; row < kGates * size_; ++row) {
        for (int64_t column = 0; column < width; ++column) *weight_grad++ = T(layer.below.sum(below, row, column));
        for (int64_t column = 0; column < size_; ++column) *weight_grad++ = T(layer.hidden.sum(hidden, row, column));
        bias_grad[row] = T(layer.bias.sum(bias, row, 0));
      }
    }
    const double* output = sums + output_offset_;
    T* weight_grad = static_cast<T*>(call.output_weight_grad);
    T* bias_grad = static_cast<T*>(call.output_bias_grad);
    for (int64_t row = 0; row < output_.left_rows(); ++row) {
      for (int64_t k = 0; k < output_.right_rows(); ++k) *weight_grad++ = T(output_.sum(output, row, k));
      *bias_grad++ = T(output_bias_.sum(output + output_.num_sums(), row, 0));
    }
  }

 private:
  struct LayerSums {
    PairSums below, hidden, bias;
    int64_t offset;
  };

  int64_t size_;
  std::vector<LayerSums> layers_;
  PairSums output_, output_bias_;
  int64_t output_offset_ = 0, num_sums_ = 0;
};

// ---------------------------------------------------------------------------------------------------------------------
// One block: a step, and the replay of T steps
// ---------------------------------------------------------------------------------------------------------------------

// Running moments m, v of a block and β^t, all of which preprocess() advances by one gradient.
template <typename T>
struct Moments {
  T *mean, *square;
  T decay;
};

// sgn(x) ln(1 + |x|)
template <typename T>
INLINE Vector<T> signed_log(Vector<T> x) {
  const Vector<T> size = log<T>(absolute<T>(x) + T(1));
  return x < T(0) ? -size : size;
}

// The gradient of a block to the network's inputs [F][kBlock], and to the direction of the base step in base; see meta_opt/optimizers/lstm/preprocessing.py.
template <typename T>
void preprocess(const Call& call, const Network<T>& network, const Columns& columns, int64_t step, Range range,
                Moments<T>& moments, Scratch<T>& scratch) {
  columns.gather<T>(call.grads[step], range, scratch.grad);
  const T* const grad = scratch.grad;
  T *const inputs = scratch.inputs.at(step), *const base = scratch.base;
  T* const last = inputs + (network.num_inputs - 1) * kBlock<T>;
  T* const relative = last - (network.directions ? 2 : 1) * kBlock<T>;
  if (network.has_direction) columns.gather<T>(call.directions[step], range, last);
  if (network.scales) {  // rows of their own, but for the last, which is the factor of two more
    const T* const scales = static_cast<const T*>(call.scales[step]) + call.segment * call.num_problems * kScales;
    for (int64_t number = 0; number < kScales; ++number)
      columns.spread<T>(scales + number, kScales, range,
                        number == kScales - 1 ? scratch.factor : relative + (number + 1 - kScales) * kBlock<T>);
  }
  const Vector<T> smallest = all<T>(std::exp(-kP)), one = all<T>(1.0), largest = all<T>(kLargestGradient);
  moments.decay *= T(kBeta);
  const T correction = T(1) - moments.decay;
  for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
    const Vector<T> g = clamp<T>(load(grad + lane), -largest, largest);
    T* to = inputs + lane;
    if (network.log_sign) {
      const Vector<T> size = absolute<T>(g);
      store<T>(to, log<T>(size < smallest ? smallest : size) / T(kP));
      store<T>(to + kBlock<T>, clamp<T>(g / smallest, -one, one));
      to += 2 * kBlock<T>;
    }
    if (network.tracks_moments()) {
      Vector<T> m = load(moments.mean + lane), v = load(moments.square + lane);
      m += T(1.0 - kBeta) * (g - m);
      v += T(1.0 - kBeta) * (g * g - v);
      store<T>(moments.mean + lane, m);
      store<T>(moments.square + lane, v);
      store<T>(scratch.moves + lane, (g == T(0)) & (m == T(0)) & (v == T(0)) ? Vector<T>{} : one);
      const Vector<T> scale = T(1) / (sqrt<T>((v + T(1e-30)) / correction) + T(1e-8));
      const Vector<T> normalized = m * (scale / correction);
      const Vector<T> direction = network.has_direction ? load(last + lane) : normalized;
      store<T>(base + lane, direction);
      if (network.directions) store<T>(last + lane, direction);
      if (network.moments) {
        store<T>(to, normalized);
        store<T>(to + kBlock<T>, g * scale);
      }
      if (network.scales) {
        const Vector<T> factor = load(scratch.factor + lane);
        store<T>(relative + lane, signed_log<T>(m / correction * factor));
        store<T>(relative + kBlock<T> + lane, signed_log<T>(g * factor));
      }
    }
    if (!network.log_sign && !network.moments) store<T>(to, g);
  }
}

template <typename T>
Moments<T> moments_before(const Call& call, const Network<T>& network, const Scratch<T>& scratch) {
  return {scratch.mean, scratch.square, network.tracks_moments() ? *static_cast<const T*>(call.decay) : T(1)};
}

// The exponent of the magnitude that a second output stands for.
template <typename T>
INLINE Vector<T> bounded_exponent(Vector<T> output) {
  return clamp<T>(output, all<T>(-kLargestExponent), all<T>(kLargestExponent));
}

// An update, or the coefficient of one, but zero where gradient and moments are.
template <typename T>
INLINE Vector<T> where_moving(const Network<T>& network, const Scratch<T>& scratch, int lane, Vector<T> value) {
  if (!network.tracks_moments()) return value;
  return load(scratch.moves + lane) == T(0) ? Vector<T>{} : value;
}

template <typename T>
void step_block(const Call& call, const Network<T>& network, const Columns& columns, Range range, Scratch<T>& scratch) {
  scratch.load_state(call, columns, range, network.tracks_moments());
  Moments<T> moments = moments_before(call, network, scratch);
  preprocess(call, network, columns, 0, range, moments, scratch);
  const int64_t total = columns.total(call), next = range.first + kBlock<T>;
  forward_layers(network, scratch, 0, [&](size_t index) {
    if (next + kBlock<T> > total) return Ahead<T>{};
    const auto at_next = [next](const void* tensor) { return static_cast<const T*>(tensor) + next; };
    return Ahead<T>{at_next(call.hidden[index]), at_next(call.cell[index]), total};
  });
  forward_output(network, scratch.below(network.layers.size()).at(0), scratch.out);
  for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
    Vector<T> update = plain_update(network, load(scratch.out + lane), load(scratch.base + lane));
    if (network.magnitude) update *= exp<T>(bounded_exponent<T>(load(scratch.out + kBlock<T> + lane)));
    store<T>(scratch.out + lane, where_moving(network, scratch, lane, update));
  }
  columns.scatter<T>(scratch.out, range, call.update);
  for (size_t index = 0; index < scratch.layers.size(); ++index) {
    store_rows<T>(scratch.layers[index].hidden.at(1), network.size, total, range, call.hidden[index]);
    store_rows<T>(scratch.layers[index].cell.at(1), network.size, total, range, call.cell[index]);
  }
  if (network.tracks_moments()) {
    columns.scatter<T>(scratch.mean, range, call.mean);
    columns.scatter<T>(scratch.square, range, call.square);
  }
}

template <typename T>
void backward_step(const Network<T>& network, Scratch<T>& scratch, int64_t step) {
  if (network.layers.empty()) return;
  const int64_t size = network.size;
  T* const top_grad = scratch.layers.back().hidden_grad;
  for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
    for (int64_t row = 0; row < network.num_outputs(); ++row) {
      const Vector<T> out_grad = load(scratch.out_grad.at(step) + row * kBlock<T> + lane);
      for (int64_t unit = 0; unit < size; ++unit) {
        T* to = top_grad + unit * kBlock<T> + lane;
        store<T>(to, load(to) + network.output_weight[row * size + unit] * out_grad);
      }
    }
  }
  for (size_t index = network.layers.size(); index-- > 0;) {
    const Layer<T>& layer = network.layers[index];
    auto& at = scratch.layers[index];
    const int64_t stride = layer.width + size;
    const T* gate_grads = at.gates.at(step);
    backward_cell<T>(size, at.at(step), at.cell.at(step), at.hidden_grad, at.cell_grad);
    if (index > 0) {
      transposed_product<T, true>(layer.weight, stride, size, gate_grads, kGates * size,
                                  scratch.layers[index - 1].hidden_grad);
    }
    // Before the first step there is a state that does not depend on φ.
    if (step > 0) {
      transposed_product<T, false>(layer.weight + layer.width, stride, size, gate_grads, kGates * size, at.hidden_grad);
    }
  }
}

template <typename T>
void replay_block(const Call& call, const Network<T>& network, const Columns& columns, Range range,
                  const WeightGradients<T>& gradients, Scratch<T>& scratch) {
  scratch.load_state(call, columns, range, network.tracks_moments());
  Moments<T> moments = moments_before(call, network, scratch);
  for (int64_t step = 0; step < call.num_steps; ++step) {
    preprocess(call, network, columns, step, range, moments, scratch);
    forward_layers(network, scratch, step, [](size_t) { return Ahead<T>{}; });
    T* const out_grad = scratch.out_grad.at(step);
    columns.gather<T>(call.coefficients[step], range, out_grad);
    if (network.bounded || network.magnitude) {
      forward_output(network, scratch.below(network.layers.size()).at(step), scratch.out);
    }
    for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
      Vector<T> slope = where_moving(network, scratch, lane, load(out_grad + lane));
      if (network.magnitude) {
        const Vector<T> output = load(scratch.out + kBlock<T> + lane), exponent = bounded_exponent<T>(output);
        slope *= exp<T>(exponent);
        const Vector<T> plain = plain_update(network, load(scratch.out + lane), load(scratch.base + lane));
        store<T>(out_grad + kBlock<T> + lane, output == exponent ? slope * plain : Vector<T>{});
      }
      if (network.bounded) slope -= slope * load(scratch.out + lane) * load(scratch.out + lane);
      store<T>(out_grad + lane, network.output_scale * slope);
    }
  }
  const int64_t units = network.size * kBlock<T>;
  for (auto& layer : scratch.layers) {
    std::fill_n(layer.hidden_grad, units, T(0));
    std::fill_n(layer.cell_grad, units, T(0));
  }
  const int64_t step_bytes = 8 * units * int64_t(sizeof(T)) * call.num_layers;
  const int64_t chunk = step_bytes == 0 ? call.num_steps : std::max<int64_t>(kChunkBytes / step_bytes, 1);
  for (int64_t end = call.num_steps; end > 0;) {
    const int64_t begin = std::max<int64_t>(end - chunk, 0);
    for (int64_t step = end - 1; step >= begin; --step) backward_step(network, scratch, step);
    gradients.add(scratch, begin, end - begin);
    end = begin;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// All blocks, on all threads
// ---------------------------------------------------------------------------------------------------------------------

// What one network works on.
template <typename T>
struct Segment {
  explicit Segment(const Call& call)
      : call(call), network(call), columns(call), num_blocks((columns.total(call) + kBlock<T> - 1) / kBlock<T>) {}

  const Call& call;
  Network<T> network;
  Columns columns;
  int64_t num_blocks;
};

struct Freed {
  void operator()(char* memory) const { std::free(memory); }
};

// The blocks of all segments cut into parts, and threads that take one part after another: a thread on a slow or busy
// core takes fewer. What comes out of a part does not depend on who worked on it, so that results depend on the number
// of threads asked for and on nothing else.
template <typename T>
class Parts {
 public:
  explicit Parts(const std::vector<Segment<T>>& segments) : segments_(segments), first_block_{0} {
    for (const Segment<T>& segment : segments) first_block_.push_back(first_block_.back() + segment.num_blocks);
    // A thread is worth its start from about four blocks on.
    constexpr int64_t kLeastWork = 4, kPartsPerThread = 4;
    const Call& call = segments[0].call;
    const int64_t useful = std::min(num_blocks(), num_blocks() * call.num_steps / kLeastWork);
    num_threads_ = std::max<int64_t>(std::min(useful, call.num_threads), 1);
    num_ = num_threads_ == 1 ? 1 : std::min(num_blocks(), kPartsPerThread * num_threads_);
  }

  int64_t num() const { return num_; }
  int64_t num_threads() const { return num_threads_; }

  // Calls function(part, thread) for every part.
  template <typename Function>
  void run(Function function) const {
    std::atomic<int64_t> next{0};
    const auto work = [&](int64_t thread) {
      const FlushDenormals flush;
      for (int64_t part; (part = next++) < num_;) function(part, thread);
    };
    if (num_threads_ == 1) return work(0);
#ifdef _OPENMP
    // No num_threads clause: it makes GOMP rebuild the pool that it shares with torch (pytorch/pytorch#32008).
#pragma omp parallel
    {
      if (omp_get_thread_num() < num_threads_) work(omp_get_thread_num());
    }
#else
    work(0);
#endif
  }

  // Calls function(segment, begin, end) for every segment that has blocks in a part, with which of its blocks those are.
  template <typename Function>
  void pieces(int64_t part, Function function) const {
    const int64_t begin = part * num_blocks() / num_, end = (part + 1) * num_blocks() / num_;
    for (size_t index = 0; index < segments_.size(); ++index) {
      const int64_t first = first_block_[index];
      const int64_t from = std::max(begin, first), to = std::min(end, first_block_[index + 1]);
      if (from < to) function(index, from - first, to - first);
    }
  }

 private:
  int64_t num_blocks() const { return first_block_.back(); }

  const std::vector<Segment<T>>& segments_;
  std::vector<int64_t> first_block_;  // of each segment, and the number of all
  int64_t num_threads_, num_;
};

// Calls function(range) for the blocks begin .. end of a segment.
template <typename T, typename Function>
void for_blocks(const Segment<T>& segment, int64_t begin, int64_t end, Function function) {
  const int64_t total = segment.columns.total(segment.call);
  for (int64_t first = begin * kBlock<T>; first < end * kBlock<T>; first += kBlock<T>) {
    function(Range{first, std::min<int64_t>(kBlock<T>, total - first)});
  }
}

// Scratch for every thread.
template <typename T>
class Workspace {
 public:
  Workspace(const Network<T>& network, int64_t steps, int64_t num_sums, int64_t num_threads) {
    Arena counted(nullptr);
    Scratch<T>(counted, network, steps, num_sums);
    memory_.reset(static_cast<char*>(std::aligned_alloc(kCacheLine, counted.used() * num_threads)));
    if (!memory_) throw std::bad_alloc();
    for (int64_t thread = 0; thread < num_threads; ++thread) {
      Arena arena(memory_.get() + thread * counted.used());
      scratch_.emplace_back(arena, network, steps, num_sums);
    }
  }

  Scratch<T>& scratch(int64_t thread) { return scratch_[thread]; }

 private:
  std::unique_ptr<char, Freed> memory_;
  std::vector<Scratch<T>> scratch_;
};

template <typename T>
void step(const Call* calls, int64_t num_calls) {
  const std::vector<Segment<T>> segments(calls, calls + num_calls);
  const Parts<T> parts(segments);
  Workspace<T> workspace(segments[0].network, 1, 0, parts.num_threads());
  parts.run([&](int64_t part, int64_t thread) {
    parts.pieces(part, [&](size_t index, int64_t begin, int64_t end) {
      const Segment<T>& segment = segments[index];
      for_blocks(segment, begin, end, [&](Range range) {
        step_block<T>(segment.call, segment.network, segment.columns, range, workspace.scratch(thread));
      });
    });
  });
  if (segments[0].network.tracks_moments()) *static_cast<T*>(calls[0].decay) *= T(kBeta);
}

template <typename T>
void replay(const Call* calls, int64_t num_calls) {
  const std::vector<Segment<T>> segments(calls, calls + num_calls);
  const Parts<T> parts(segments);
  const WeightGradients<T> gradients(segments[0].network);
  const int64_t num_sums = gradients.num_sums();
  Workspace<T> workspace(segments[0].network, calls[0].num_steps, num_sums, parts.num_threads());
  std::vector<std::vector<double>> sums(parts.num());  // of each part, those of each segment that it has blocks of
  for (int64_t part = 0; part < parts.num(); ++part) {
    parts.pieces(part, [&](size_t, int64_t, int64_t) { sums[part].resize(sums[part].size() + num_sums); });
  }
  parts.run([&](int64_t part, int64_t thread) {
    Scratch<T>& scratch = workspace.scratch(thread);
    double* piece_sums = sums[part].data();
    parts.pieces(part, [&](size_t index, int64_t begin, int64_t end) {
      const Segment<T>& segment = segments[index];
      for_blocks(segment, begin, end, [&](Range range) {
        std::fill_n(scratch.sums, num_sums, T(0));
        replay_block<T>(segment.call, segment.network, segment.columns, range, gradients, scratch);
        for (int64_t i = 0; i < num_sums; ++i) piece_sums[i] += double(scratch.sums[i]);
      });
      piece_sums += num_sums;
    });
  });
  std::vector<double> totals(num_sums * num_calls);
  for (int64_t part = 0; part < parts.num(); ++part) {
    const double* piece_sums = sums[part].data();
    parts.pieces(part, [&](size_t index, int64_t, int64_t) {
      double* const total = totals.data() + index * num_sums;
      for (int64_t i = 0; i < num_sums; ++i) total[i] += *piece_sums++;
    });
  }
  for (int64_t index = 0; index < num_calls; ++index) gradients.write(totals.data() + index * num_sums, calls[index]);
}

// Σ x² over n numbers, bounded as gradients are, those of a few in T, the sums of these in double.
template <typename T>
double sum_of_squares(const T* x, int64_t n) {
  constexpr int64_t kAtOnce = 64 * kLanes<T>;
  const auto square_of = [](T number) {
    const T bounded = std::min(std::max(number, T(-kLargestGradient)), T(kLargestGradient));
    return bounded * bounded;
  };
  double sum = 0.0;
  for (int64_t first = 0; first < n; first += kAtOnce) {
    T squares[kLanes<T>] = {};
    const int64_t stop = std::min(first + kAtOnce, n), whole = stop - (stop - first) % kLanes<T>;
    for (int64_t start = first; start < whole; start += kLanes<T>) {
      for (int lane = 0; lane < kLanes<T>; ++lane) squares[lane] += square_of(x[start + lane]);
    }
    for (int64_t index = whole; index < stop; ++index) squares[index - whole] += square_of(x[index]);
    for (const T square : squares) sum += double(square);
  }
  return sum;
}

// 1, at once, where the gradient of a tensor is so much larger than those before it that it is to be shortened, or 0.
template <typename T>
int read_scales(const ScalesCall& call) {
  const FlushDenormals flush;
  T* const squares = static_cast<T*>(call.square);
  T steps = *static_cast<const T*>(call.steps);
  for (int64_t step = 0; step < call.num_steps; ++step) {
    const double correction_before = 1.0 - std::pow(kBeta, double(steps));
    steps += T(1);
    const T time = T(std::log(std::min(double(steps), kLastStep)) / 4.0 - 1.0);
    const double correction = 1.0 - std::pow(kBeta, double(steps));
    const T* grad = static_cast<const T*>(call.grads[step]);
    for (int64_t problem = 0; problem < call.num_problems; ++problem) {
      for (int64_t tensor = 0; tensor < call.num_tensors; ++tensor) {
        const int64_t size = call.sizes[tensor];
        T& square = squares[problem * call.num_tensors + tensor];
        const double mean = sum_of_squares(grad, size) / double(std::max<int64_t>(size, 1));
        if (square > T(kLeastSquare) && mean > kLargestJump * kLargestJump * double(square) / correction_before) return 1;
        square += T(1.0 - kBeta) * (T(mean) - square);
        const double root = std::sqrt(double(square) / correction + kLeastSquare);
        T* const read = static_cast<T*>(call.read[step]) + (tensor * call.num_problems + problem) * kScales;
        read[0] = time;
        read[1] = T(std::log(root) / 5.0 + 1.0);
        read[2] = T(1.0 / root);
        grad += size;
      }
    }
  }
  return 0;
}

// 0, or 1 where memory ran out.
template <typename Function>
int guarded(Function function) {
  try {
    function();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// One function on n numbers, for the tests of its stated error.
template <typename T>
void evaluate(int64_t which, int64_t n, const T* from, T* to) {
  const FlushDenormals flush;
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    const int64_t count = std::min<int64_t>(kLanes<T>, n - i);
    alignas(kCacheLine) T lanes[kLanes<T>];
    std::fill_n(lanes, kLanes<T>, T(1));
    std::copy_n(from + i, count, lanes);
    const Vector<T> x = load(lanes);
    store<T>(lanes, which == 0 ? sigmoid<T>(x) : which == 1 ? tanh<T>(x) : which == 2 ? log<T>(x) : exp<T>(x));
    std::copy_n(lanes, count, to + i);
  }
}

}  // namespace

extern "C" {

int64_t meta_opt_call_size() { return sizeof(Call); }
int64_t meta_opt_scales_call_size() { return sizeof(ScalesCall); }

int meta_opt_step(const Call* calls, int64_t num_calls) {
  return guarded([&] { calls->is_double ? step<double>(calls, num_calls) : step<float>(calls, num_calls); });
}

int meta_opt_replay(const Call* calls, int64_t num_calls) {
  return guarded([&] { calls->is_double ? replay<double>(calls, num_calls) : replay<float>(calls, num_calls); });
}

// 1 where a gradient is to be shortened first.
int meta_opt_read_scales(const ScalesCall* call) {
  return call->is_double ? read_scales<double>(*call) : read_scales<float>(*call);
}

// which: 0 sigmoid, 1 tanh, 2 natural logarithm, 3 exponential.
void meta_opt_evaluate(int64_t is_double, int64_t which, int64_t n, const void* from, void* to) {
  is_double ? evaluate(which, n, static_cast<const double*>(from), static_cast<double*>(to))
            : evaluate(which, n, static_cast<const float*>(from), static_cast<float*>(to));
}

}  // extern "C"
