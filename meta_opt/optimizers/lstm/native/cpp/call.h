// What Python hands over.

#pragma once

#include <cstdint>

// What Python hands over; mirrored field by field in native/calls.py. All coordinates of B problems lie in
// contiguous [B, N] tensors, of which a network works on the columns start..stop, n of them: a segment. An array of
// these is one for each segment, which differ in their columns, weights and states, but not in sizes and numbers.
struct Call {
  int64_t is_double, num_layers, hidden_size, num_inputs;
  int64_t reads_log_sign, reads_moments, reads_scales, reads_directions, is_matrix;
  int64_t reads_log_times_sign;
  int64_t bounds_output, has_magnitude, segment;
  double p, output_scale, base_step;
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

// What scales are read from; see Scales of meta_opt/optimizers/lstm/preprocessing.py. Mirrored in native/scales.py.
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
