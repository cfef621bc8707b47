// All blocks, on all threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "denormals.h"
#include "scratch.h"

namespace {

// What one network works on.
template <typename T>
struct Segment {
  explicit Segment(const Call& call)
      : call(call), network(call), columns(call), num_blocks((columns.total(call) + kBlock<T> - 1) / kBlock<T>) {}

  const Call& call;
  Network<T> network;
  Columns columns;
  int64_t num_blocks;
};

struct Freed {
  void operator()(char* memory) const { std::free(memory); }
};

// The blocks of all segments cut into parts, and threads that take one part after another: first those of their own,
// whose states are still in their cores' caches from the step before, then what others have left, so that a thread on a
// slow or busy core takes fewer. What comes out of a part does not depend on who worked on it, so that results depend on
// the number of threads asked for and on nothing else.
template <typename T>
class Parts {
 public:
  explicit Parts(const std::vector<Segment<T>>& segments) : segments_(segments), first_block_{0} {
    for (const Segment<T>& segment : segments) first_block_.push_back(first_block_.back() + segment.num_blocks);
    // A thread is worth its start from about four blocks on.
    constexpr int64_t kLeastWork = 4, kPartsPerThread = 4;
    const Call& call = segments[0].call;
    const int64_t useful = std::min(num_blocks(), num_blocks() * call.num_steps / kLeastWork);
    num_threads_ = std::max<int64_t>(std::min(useful, call.num_threads), 1);
    num_ = num_threads_ == 1 ? 1 : std::min(num_blocks(), kPartsPerThread * num_threads_);
  }

  int64_t num() const { return num_; }
  int64_t num_threads() const { return num_threads_; }

  // Calls function(part, thread) for every part.
  template <typename Function>
  void run(Function function) const {
    std::vector<Queue> queues(num_threads_);
    for (int64_t owner = 0; owner < num_threads_; ++owner) queues[owner].next = first_part(owner);
    const auto work = [&](int64_t thread) {
      const FlushDenormals flush;
      for (int64_t other = 0; other < num_threads_; ++other) {
        const int64_t owner = (thread + other) % num_threads_, end = first_part(owner + 1);
        for (int64_t part; (part = queues[owner].next++) < end;) function(part, thread);
      }
    };
    if (num_threads_ == 1) return work(0);
#ifdef _OPENMP
    // No num_threads clause: it makes GOMP rebuild the pool that it shares with torch (pytorch/pytorch#32008).
#pragma omp parallel
    {
      if (omp_get_thread_num() < num_threads_) work(omp_get_thread_num());
    }
#else
    work(0);
#endif
  }

  // Calls function(segment, begin, end) for every segment that has blocks in a part, with those blocks.
  template <typename Function>
  void pieces(int64_t part, Function function) const {
    const int64_t begin = part * num_blocks() / num_, end = (part + 1) * num_blocks() / num_;
    for (size_t index = 0; index < segments_.size(); ++index) {
      const int64_t first = first_block_[index];
      const int64_t from = std::max(begin, first), to = std::min(end, first_block_[index + 1]);
      if (from < to) function(index, from - first, to - first);
    }
  }

 private:
  struct alignas(kCacheLine) Queue {
    std::atomic<int64_t> next;
  };

  int64_t num_blocks() const { return first_block_.back(); }
  int64_t first_part(int64_t owner) const { return owner * num_ / num_threads_; }

  const std::vector<Segment<T>>& segments_;
  std::vector<int64_t> first_block_;  // of each segment, and the number of all
  int64_t num_threads_, num_;
};

// Calls function(range) for the blocks begin .. end of a segment.
template <typename T, typename Function>
void for_blocks(const Segment<T>& segment, int64_t begin, int64_t end, Function function) {
  const int64_t total = segment.columns.total(segment.call);
  for (int64_t first = begin * kBlock<T>; first < end * kBlock<T>; first += kBlock<T>) {
    function(Range{first, std::min<int64_t>(kBlock<T>, total - first)});
  }
}

// Scratch for every thread.
template <typename T>
class Workspace {
 public:
  Workspace(const Network<T>& network, int64_t steps, int64_t num_sums, int64_t num_threads) {
    Arena counted(nullptr);
    Scratch<T>(counted, network, steps, num_sums);
    memory_.reset(static_cast<char*>(std::aligned_alloc(kCacheLine, counted.used() * num_threads)));
    if (!memory_) throw std::bad_alloc();
    for (int64_t thread = 0; thread < num_threads; ++thread) {
      Arena arena(memory_.get() + thread * counted.used());
      scratch_.emplace_back(arena, network, steps, num_sums);
    }
  }

  Scratch<T>& scratch(int64_t thread) { return scratch_[thread]; }

 private:
  std::unique_ptr<char, Freed> memory_;
  std::vector<Scratch<T>> scratch_;
};

}  // namespace
