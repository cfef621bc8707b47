// How large the gradients of each tensor are.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "denormals.h"
#include "network.h"
#include "vectors.h"

namespace {

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
        const double largest = kLargestJump * kLargestJump * double(square) / correction_before;
        if (square > T(kLeastSquare) && mean > largest) return 1;
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

}  // namespace
