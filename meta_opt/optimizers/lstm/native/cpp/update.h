// From the network's outputs to the update.

#pragma once

#include "functions.h"
#include "scratch.h"

namespace {

// The update without its magnitude, from the output and m̂/√v̂.
template <typename T>
INLINE Vector<T> plain_update(const Network<T>& network, Vector<T> output, Vector<T> base) {
  const Vector<T> update = network.output_scale * output;
  return network.base_step == T(0) ? update : update - network.base_step * base;
}

// The exponent of the magnitude that a second output stands for.
template <typename T>
INLINE Vector<T> bounded_exponent(Vector<T> output) {
  return clamp<T>(output, all<T>(-kLargestExponent), all<T>(kLargestExponent));
}

// An update, or the coefficient of one, faded where the gradient is zero.
template <typename T>
INLINE Vector<T> faded(const Network<T>& network, const Scratch<T>& scratch, int lane, Vector<T> value) {
  return network.tracks_moments() ? value * load(scratch.fade + lane) : value;
}

}  // namespace
