// The network: its constants, sizes and weights.

#pragma once

#include <cstdint>
#include <vector>

#include "call.h"

namespace {

// As in meta_opt/optimizers/lstm/preprocessing.py.
constexpr double kBeta = 0.95, kLastStep = 1000.0, kLargestGradient = 1e15, kLargestExponent = 10.0;
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
        log_times_sign(call.reads_log_times_sign),
        moments(call.reads_moments),
        scales(call.reads_scales),
        directions(call.reads_directions),
        has_direction(call.reads_directions && call.is_matrix),
        bounded(call.bounds_output),
        magnitude(call.has_magnitude),
        p(call.p),
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
  bool log_sign, log_times_sign, moments, scales, directions, has_direction, bounded, magnitude;
  double p;
  T output_scale, base_step;
  const T *output_weight, *output_bias;
  std::vector<Layer<T>> layers;
};

}  // namespace
