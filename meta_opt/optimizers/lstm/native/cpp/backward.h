// Backward through a layer.

#pragma once

#include <cstdint>

#include "forward.h"

namespace {

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

}  // namespace
