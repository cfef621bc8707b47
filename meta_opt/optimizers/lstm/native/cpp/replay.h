// The replay of T steps, which gives the gradient of the weights.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backward.h"
#include "parts.h"
#include "preprocess.h"
#include "update.h"
#include "weight_gradients.h"

namespace {

template <typename T>
void backward_step(const Network<T>& network, Scratch<T>& scratch, int64_t step) {
  if (network.layers.empty()) return;
  const int64_t size = network.size;
  T* const top_grad = scratch.layers.back().hidden_grad;
  for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
    for (int64_t row = 0; row < network.num_outputs(); ++row) {
      const Vector<T> out_grad = load(scratch.out_grad.at(step) + row * kBlock<T> + lane);
      for (int64_t unit = 0; unit < size; ++unit) {
        T* to = top_grad + unit * kBlock<T> + lane;
        store<T>(to, load(to) + network.output_weight[row * size + unit] * out_grad);
      }
    }
  }
  for (size_t index = network.layers.size(); index-- > 0;) {
    const Layer<T>& layer = network.layers[index];
    auto& at = scratch.layers[index];
    const int64_t stride = layer.width + size;
    const T* gate_grads = at.gates.at(step);
    backward_cell<T>(size, at.at(step), at.cell.at(step), at.hidden_grad, at.cell_grad);
    if (index > 0) {
      transposed_product<T, true>(layer.weight, stride, size, gate_grads, kGates * size,
                                  scratch.layers[index - 1].hidden_grad);
    }
    // Before the first step there is a state that does not depend on φ.
    if (step > 0) {
      transposed_product<T, false>(layer.weight + layer.width, stride, size, gate_grads, kGates * size, at.hidden_grad);
    }
  }
}

template <typename T>
void replay_block(const Call& call, const Network<T>& network, const Columns& columns, Range range,
                  const WeightGradients<T>& gradients, Scratch<T>& scratch) {
  scratch.load_state(call, columns, range, network.tracks_moments());
  Moments<T> moments = moments_before(call, network, scratch);
  for (int64_t step = 0; step < call.num_steps; ++step) {
    preprocess(call, network, columns, step, range, moments, scratch);
    forward_layers(network, scratch, step, [](size_t) { return Ahead<T>{}; });
    T* const out_grad = scratch.out_grad.at(step);
    columns.gather<T>(call.coefficients[step], range, out_grad);
    if (network.bounded || network.magnitude) {
      forward_output(network, scratch.below(network.layers.size()).at(step), scratch.out);
    }
    for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
      Vector<T> slope = faded(network, scratch, lane, load(out_grad + lane));
      if (network.magnitude) {
        const Vector<T> output = load(scratch.out + kBlock<T> + lane), exponent = bounded_exponent<T>(output);
        slope *= exp<T>(exponent);
        const Vector<T> plain = plain_update(network, load(scratch.out + lane), load(scratch.base + lane));
        store<T>(out_grad + kBlock<T> + lane, output == exponent ? slope * plain : Vector<T>{});
      }
      if (network.bounded) slope -= slope * load(scratch.out + lane) * load(scratch.out + lane);
      store<T>(out_grad + lane, network.output_scale * slope);
    }
  }
  const int64_t units = network.size * kBlock<T>;
  for (auto& layer : scratch.layers) {
    std::fill_n(layer.hidden_grad, units, T(0));
    std::fill_n(layer.cell_grad, units, T(0));
  }
  const int64_t step_bytes = 8 * units * int64_t(sizeof(T)) * call.num_layers;
  const int64_t chunk = step_bytes == 0 ? call.num_steps : std::max<int64_t>(kChunkBytes / step_bytes, 1);
  for (int64_t end = call.num_steps; end > 0;) {
    const int64_t begin = std::max<int64_t>(end - chunk, 0);
    for (int64_t step = end - 1; step >= begin; --step) backward_step(network, scratch, step);
    gradients.add(scratch, begin, end - begin);
    end = begin;
  }
}

template <typename T>
void replay(const Call* calls, int64_t num_calls) {
  const std::vector<Segment<T>> segments(calls, calls + num_calls);
  const Parts<T> parts(segments);
  const WeightGradients<T> gradients(segments[0].network);
  const int64_t num_sums = gradients.num_sums();
  Workspace<T> workspace(segments[0].network, calls[0].num_steps, num_sums, parts.num_threads());
  std::vector<std::vector<double>> sums(parts.num());  // of each part, those of each segment that it has blocks of
  for (int64_t part = 0; part < parts.num(); ++part) {
    parts.pieces(part, [&](size_t, int64_t, int64_t) { sums[part].resize(sums[part].size() + num_sums); });
  }
  parts.run([&](int64_t part, int64_t thread) {
    Scratch<T>& scratch = workspace.scratch(thread);
    double* piece_sums = sums[part].data();
    parts.pieces(part, [&](size_t index, int64_t begin, int64_t end) {
      const Segment<T>& segment = segments[index];
      for_blocks(segment, begin, end, [&](Range range) {
        std::fill_n(scratch.sums, num_sums, T(0));
        replay_block<T>(segment.call, segment.network, segment.columns, range, gradients, scratch);
        for (int64_t i = 0; i < num_sums; ++i) piece_sums[i] += double(scratch.sums[i]);
      });
      piece_sums += num_sums;
    });
  });
  std::vector<double> totals(num_sums * num_calls);
  for (int64_t part = 0; part < parts.num(); ++part) {
    const double* piece_sums = sums[part].data();
    parts.pieces(part, [&](size_t index, int64_t, int64_t) {
      double* const total = totals.data() + index * num_sums;
      for (int64_t i = 0; i < num_sums; ++i) total[i] += *piece_sums++;
    });
  }
  for (int64_t index = 0; index < num_calls; ++index) gradients.write(totals.data() + index * num_sums, calls[index]);
}

}  // namespace
