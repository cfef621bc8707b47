// The coordinatewise LSTM of meta_opt/optimizers/coordinatewise_lstm.py for the CPU: one step of the learned optimizer,
// and the replay that gives its meta-gradient Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩ from recorded gradients.
//
// Coordinates are independent of each other, so everything runs in blocks of coordinates whose activations stay in the
// cache, from the first step to the last and back, and a vector register holds one unit of neighbouring coordinates.
// Within a block every array is [rows][kBlock]; the matrix products below are register-tiled over those rows.
//
// Plain C++17 with the vector types of GCC and Clang, no intrinsics: the compiler's target decides the register width.
//
// One translation unit: the headers are its parts, and the compiler sees all of them at once.

#include <algorithm>
#include <cstdint>
#include <new>

#include "call.h"
#include "denormals.h"
#include "functions.h"
#include "replay.h"
#include "scales.h"
#include "step.h"

namespace {

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
