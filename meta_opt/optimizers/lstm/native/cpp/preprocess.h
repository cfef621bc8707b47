// From gradients to the network's inputs.

#pragma once

#include <cmath>
#include <cstdint>

#include "functions.h"
#include "scratch.h"

namespace {

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

// From the gradient of a block to the network's inputs [F][kBlock], and to the direction of the base step in base; see
// meta_opt/optimizers/lstm/preprocessing.py.
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
  const Vector<T> smallest = all<T>(std::exp(-network.p)), one = all<T>(1.0), largest = all<T>(kLargestGradient);
  moments.decay *= T(kBeta);
  const T correction = T(1) - moments.decay;
  for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
    const Vector<T> g = clamp<T>(load(grad + lane), -largest, largest);
    T* to = inputs + lane;
    if (network.log_sign || network.log_times_sign) {
      const Vector<T> size = absolute<T>(g);
      const Vector<T> logarithm = log<T>(size < smallest ? smallest : size) / T(network.p);
      const Vector<T> sign = clamp<T>(g / smallest, -one, one);
      if (network.log_sign) {
        store<T>(to, logarithm);
        store<T>(to + kBlock<T>, sign);
        to += 2 * kBlock<T>;
      } else {
        store<T>(to, logarithm * sign);
        to += kBlock<T>;
      }
    }
    if (network.tracks_moments()) {
      Vector<T> m = load(moments.mean + lane), v = load(moments.square + lane);
      m += T(1.0 - kBeta) * (g - m);
      v += T(1.0 - kBeta) * (g * g - v);
      store<T>(moments.mean + lane, m);
      store<T>(moments.square + lane, v);
      const Vector<T> scale = T(1) / (sqrt<T>((v + T(1e-30)) / correction) + T(1e-8));
      const Vector<T> normalized = m * (scale / correction);
      store<T>(scratch.fade + lane, g == T(0) ? absolute<T>(normalized) : one);
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
    if (!network.log_sign && !network.log_times_sign && !network.moments) store<T>(to, g);
  }
}

template <typename T>
Moments<T> moments_before(const Call& call, const Network<T>& network, const Scratch<T>& scratch) {
  return {scratch.mean, scratch.square, network.tracks_moments() ? *static_cast<const T*>(call.decay) : T(1)};
}

}  // namespace
