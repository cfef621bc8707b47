// Forward through a layer and through the output layer.

#pragma once

#include <cstdint>

#include "functions.h"
#include "network.h"

namespace {

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

}  // namespace
