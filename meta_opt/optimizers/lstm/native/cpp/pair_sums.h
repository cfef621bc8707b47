// Sums of products of rows, which weight gradients are made of.

#pragma once

#include <cstdint>

#include "scratch.h"

namespace {

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

}  // namespace
