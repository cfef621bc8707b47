// Blocks of coordinates, in and out of tensors.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "call.h"
#include "vectors.h"

namespace {

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

}  // namespace
