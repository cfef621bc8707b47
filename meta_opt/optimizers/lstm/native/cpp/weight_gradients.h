// The gradient of all weights.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pair_sums.h"

namespace {

// Which sums over pairs of rows make up the gradient of φ, and where each stands among the sums of a block. Blocks are
// added up in double, so that their number costs no digits.
template <typename T>
class WeightGradients {
 public:
  explicit WeightGradients(const Network<T>& network)
      : size_(network.size), output_(network.num_outputs(), network.top_width), output_bias_(network.num_outputs(), 1) {
    for (const Layer<T>& layer : network.layers) {
      const LayerSums sums{{kGates * size_, layer.width}, {kGates * size_, size_}, {kGates * size_, 1}, num_sums_};
      num_sums_ += sums.below.num_sums() + sums.hidden.num_sums() + sums.bias.num_sums();
      layers_.push_back(sums);
    }
    output_offset_ = num_sums_;
    num_sums_ += output_.num_sums() + output_bias_.num_sums();
  }

  int64_t num_sums() const { return num_sums_; }

  // Adds the steps first .. first + steps of a block, whose gates hold their gradients.
  void add(const Scratch<T>& scratch, int64_t first, int64_t steps) const {
    T* const sums = scratch.sums;
    const auto from = [first](Recorded<T> recorded) { return Recorded<T>{recorded.at(first), recorded.step_stride}; };
    alignas(kCacheLine) T one[kBlock<T>];
    std::fill_n(one, kBlock<T>, T(1));
    const Recorded<T> ones{one, 0};
    for (size_t index = 0; index < layers_.size(); ++index) {
      const LayerSums& layer = layers_[index];
      const Recorded<T> gates = from(scratch.layers[index].gates);
      T* to = sums + layer.offset;
      layer.below.add(gates, from(scratch.below(index)), steps, to);
      layer.hidden.add(gates, from(scratch.layers[index].hidden), steps, to += layer.below.num_sums());
      layer.bias.add(gates, ones, steps, to + layer.hidden.num_sums());
    }
    const Recorded<T> out_grad = from(scratch.out_grad);
    output_.add(out_grad, from(scratch.below(layers_.size())), steps, sums + output_offset_);
    output_bias_.add(out_grad, ones, steps, sums + output_offset_ + output_.num_sums());
  }

  void write(const double* sums, const Call& call) const {
    for (size_t index = 0; index < layers_.size(); ++index) {
      const LayerSums& layer = layers_[index];
      const double* below = sums + layer.offset;
      const double* hidden = below + layer.below.num_sums();
      const double* bias = hidden + layer.hidden.num_sums();
      const int64_t width = layer.below.right_rows();
      T* weight_grad = static_cast<T*>(call.weight_grads[index]);
      T* bias_grad = static_cast<T*>(call.bias_grads[index]);
      for (int64_t row = 0; row < kGates * size_; ++row) {
        for (int64_t column = 0; column < width; ++column) *weight_grad++ = T(layer.below.sum(below, row, column));
        for (int64_t column = 0; column < size_; ++column) *weight_grad++ = T(layer.hidden.sum(hidden, row, column));
        bias_grad[row] = T(layer.bias.sum(bias, row, 0));
      }
    }
    const double* output = sums + output_offset_;
    T* weight_grad = static_cast<T*>(call.output_weight_grad);
    T* bias_grad = static_cast<T*>(call.output_bias_grad);
    for (int64_t row = 0; row < output_.left_rows(); ++row) {
      for (int64_t k = 0; k < output_.right_rows(); ++k) *weight_grad++ = T(output_.sum(output, row, k));
      *bias_grad++ = T(output_bias_.sum(output + output_.num_sums(), row, 0));
    }
  }

 private:
  struct LayerSums {
    PairSums below, hidden, bias;
    int64_t offset;
  };

  int64_t size_;
  std::vector<LayerSums> layers_;
  PairSums output_, output_bias_;
  int64_t output_offset_ = 0, num_sums_ = 0;
};

}  // namespace
