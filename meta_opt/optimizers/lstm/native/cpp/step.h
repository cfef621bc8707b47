// One step of the learned optimizer.

#pragma once

#include <cstdint>
#include <vector>

#include "parts.h"
#include "preprocess.h"
#include "update.h"

namespace {

template <typename T>
void step_block(const Call& call, const Network<T>& network, const Columns& columns, Range range, Scratch<T>& scratch) {
  scratch.load_state(call, columns, range, network.tracks_moments());
  Moments<T> moments = moments_before(call, network, scratch);
  preprocess(call, network, columns, 0, range, moments, scratch);
  const int64_t total = columns.total(call), next = range.first + kBlock<T>;
  forward_layers(network, scratch, 0, [&](size_t index) {
    if (next + kBlock<T> > total) return Ahead<T>{};
    const auto at_next = [next](const void* tensor) { return static_cast<const T*>(tensor) + next; };
    return Ahead<T>{at_next(call.hidden[index]), at_next(call.cell[index]), total};
  });
  forward_output(network, scratch.below(network.layers.size()).at(0), scratch.out);
  for (int lane = 0; lane < kBlock<T>; lane += kLanes<T>) {
    Vector<T> update = plain_update(network, load(scratch.out + lane), load(scratch.base + lane));
    if (network.magnitude) update *= exp<T>(bounded_exponent<T>(load(scratch.out + kBlock<T> + lane)));
    store<T>(scratch.out + lane, faded(network, scratch, lane, update));
  }
  columns.scatter<T>(scratch.out, range, call.update);
  for (size_t index = 0; index < scratch.layers.size(); ++index) {
    store_rows<T>(scratch.layers[index].hidden.at(1), network.size, total, range, call.hidden[index]);
    store_rows<T>(scratch.layers[index].cell.at(1), network.size, total, range, call.cell[index]);
  }
  if (network.tracks_moments()) {
    columns.scatter<T>(scratch.mean, range, call.mean);
    columns.scatter<T>(scratch.square, range, call.square);
  }
}

template <typename T>
void step(const Call* calls, int64_t num_calls) {
  const std::vector<Segment<T>> segments(calls, calls + num_calls);
  const Parts<T> parts(segments);
  Workspace<T> workspace(segments[0].network, 1, 0, parts.num_threads());
  parts.run([&](int64_t part, int64_t thread) {
    parts.pieces(part, [&](size_t index, int64_t begin, int64_t end) {
      const Segment<T>& segment = segments[index];
      for_blocks(segment, begin, end, [&](Range range) {
        step_block<T>(segment.call, segment.network, segment.columns, range, workspace.scratch(thread));
      });
    });
  });
  if (segments[0].network.tracks_moments()) *static_cast<T*>(calls[0].decay) *= T(kBeta);
}

}  // namespace
