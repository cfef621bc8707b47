// The memory of one thread.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "blocks.h"
#include "forward.h"

namespace {

// Rows of a block at each step, [steps][rows][kBlock] with some distance between steps.
template <typename T>
struct Recorded {
  T* data;
  int64_t step_stride;

  T* at(int64_t step) const { return data + step * step_stride; }
};

// Hands out aligned pieces of one allocation; made with no memory, it counts how much that has to be.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (count * int64_t(sizeof(T)) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return piece;
  }

  // [steps][rows][kBlock]. An odd number of cache lines from step to step spreads a row over all sets of the cache.
  template <typename T>
  Recorded<T> take_recorded(int64_t steps, int64_t rows) {
    constexpr int64_t kLine = kCacheLine / int64_t(sizeof(T));
    const int64_t lines = (rows * kBlock<T> + kLine - 1) / kLine;
    const int64_t stride = (lines | 1) * kLine;
    return {take<T>(steps * stride), stride};
  }

  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// Everything a thread keeps of a block: T steps of it for the replay, one for a step.
template <typename T>
struct Scratch {
  struct LayerScratch {
    Recorded<T> gates, cell_tanh;  // steps 0 .. T-1
    Recorded<T> cell, hidden;      // before step 0 .. before step T
    T *hidden_grad, *cell_grad;

    Activations<T> at(int64_t step) const {
      return {gates.at(step), cell.at(step + 1), cell_tanh.at(step), hidden.at(step + 1)};
    }
  };

  Scratch(Arena& arena, const Network<T>& network, int64_t steps, int64_t num_sums) {
    const int64_t size = network.size;
    sums = arena.take<T>(num_sums);
    grad = arena.take<T>(kBlock<T>);
    base = arena.take<T>(kBlock<T>);
    mean = arena.take<T>(kBlock<T>);
    square = arena.take<T>(kBlock<T>);
    factor = arena.take<T>(kBlock<T>);
    fade = arena.take<T>(kBlock<T>);
    out = arena.take<T>(network.num_outputs() * kBlock<T>);
    inputs = arena.take_recorded<T>(steps, network.num_inputs);
    out_grad = arena.take_recorded<T>(steps, network.num_outputs());
    for (size_t index = 0; index < network.layers.size(); ++index) {
      LayerScratch scratch;
      scratch.gates = arena.take_recorded<T>(steps, kGates * size);
      scratch.cell_tanh = arena.take_recorded<T>(steps, size);
      scratch.cell = arena.take_recorded<T>(steps + 1, size);
      scratch.hidden = arena.take_recorded<T>(steps + 1, size);
      scratch.hidden_grad = arena.take<T>(size * kBlock<T>);
      scratch.cell_grad = arena.take<T>(size * kBlock<T>);
      layers.push_back(scratch);
    }
  }

  // What a layer reads at a step from below it.
  Recorded<T> below(size_t layer) const {
    if (layer == 0) return inputs;
    const Recorded<T>& hidden = layers[layer - 1].hidden;
    return {hidden.at(1), hidden.step_stride};
  }

  void load_state(const Call& call, const Columns& columns, Range range, bool moments) {
    const int64_t total = columns.total(call);
    for (size_t index = 0; index < layers.size(); ++index) {
      load_rows<T>(call.hidden[index], call.hidden_size, total, range, layers[index].hidden.at(0));
      load_rows<T>(call.cell[index], call.hidden_size, total, range, layers[index].cell.at(0));
    }
    if (moments) {
      columns.gather<T>(call.mean, range, mean);
      columns.gather<T>(call.square, range, square);
    }
  }

  T* sums;                                  // of WeightGradients
  T *grad, *base, *mean, *square, *factor;  // of one step, each [kBlock]
  T* fade;                                  // [kBlock], of one step: what an update counts for
  T* out;                                   // [R][kBlock]
  Recorded<T> inputs, out_grad;
  std::vector<LayerScratch> layers;
};

template <typename T, typename Function>
void forward_layers(const Network<T>& network, const Scratch<T>& scratch, int64_t step, Function ahead) {
  for (size_t index = 0; index < network.layers.size(); ++index) {
    const auto& layer = scratch.layers[index];
    forward_layer<T>(network.layers[index], network.size, scratch.below(index).at(step), layer.hidden.at(step),
                     layer.cell.at(step), layer.at(step), ahead(index));
  }
}

}  // namespace
