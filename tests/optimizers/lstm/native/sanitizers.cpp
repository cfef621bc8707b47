// Steps, replays and scales of odd shapes, for a build with sanitizers: every array is exactly as long as it must be.

#include "lstm.cpp"

#include <cstdio>
#include <random>

struct Options {
  int64_t log_sign, moments, scales, directions, layers, size, bounded, magnitude;
  double base_step;
  int64_t coordinates, problems, steps, threads;

  int64_t num_inputs() const {
    const int64_t read = 2 * log_sign + 2 * moments + 4 * scales + directions;
    return read == 0 ? 1 : read;
  }
};

std::mt19937 generator(0);

// Numbers of many sizes, some of them zero, huge or infinite.
template <typename T>
std::vector<T> random(int64_t count, bool wild = false) {
  std::normal_distribution<double> normal;
  std::vector<T> numbers(count);
  for (T& number : numbers) {
    number = T(0.3 * normal(generator));
    if (!wild) continue;
    const unsigned kind = generator() % 16;
    number = kind == 0 ? T(0) : kind == 1 ? T(1e30) : kind == 2 ? -std::numeric_limits<T>::infinity() : number;
  }
  return numbers;
}

template <typename T>
using Arrays = std::vector<std::vector<T>>;

template <typename T>
std::vector<void*> table(Arrays<T>& arrays) {
  std::vector<void*> pointers;
  for (std::vector<T>& array : arrays) pointers.push_back(array.data());
  return pointers;
}

template <typename T>
struct Weights {
  explicit Weights(const Options& of) {
    int64_t width = of.num_inputs();
    for (int64_t layer = 0; layer < of.layers; ++layer, width = of.size) {
      weights.push_back(random<T>(4 * of.size * (width + of.size)));
      biases.push_back(random<T>(4 * of.size));
    }
    output_weight = random<T>((1 + of.magnitude) * width);
    output_bias = random<T>(1 + of.magnitude);
    of_weights = table(weights);
    of_biases = table(biases);
  }

  Arrays<T> weights, biases;
  std::vector<T> output_weight, output_bias;
  std::vector<void*> of_weights, of_biases;
};

// A step, then a replay, of three networks: for no coordinate, for most, a matrix, and for one.
template <typename T>
bool run(const Options& of) {
  const int64_t bounds[] = {0, 0, of.coordinates, of.coordinates + 1}, segments = 3;
  const int64_t all = of.problems * bounds[segments];
  Arrays<T> grads, coefficients, directions, scales;
  for (int64_t step = 0; step < of.steps; ++step) {
    grads.push_back(random<T>(all, true));
    coefficients.push_back(random<T>(all));
    directions.push_back(random<T>(of.directions ? all : 0));
    scales.push_back(random<T>(of.scales ? segments * of.problems * 3 : 0));
  }
  std::vector<T> mean(all), square(all), update(all);
  T decay(1);
  const auto of_grads = table(grads), of_coefficients = table(coefficients);
  const auto of_directions = table(directions), of_scales = table(scales);
  std::vector<Weights<T>> weights, results;
  Arrays<T> states[2 * segments];
  std::vector<void*> of_states[2 * segments];
  std::vector<Call> calls(segments);
  for (int64_t index = 0; index < segments; ++index) {
    weights.emplace_back(of);
    results.emplace_back(of);
    const int64_t own = of.problems * (bounds[index + 1] - bounds[index]);
    for (int64_t state : {2 * index, 2 * index + 1}) {
      for (int64_t layer = 0; layer < of.layers; ++layer) states[state].push_back(random<T>(of.size * own));
      of_states[state] = table(states[state]);
    }
  }
  for (int64_t index = 0; index < segments; ++index) {
    Weights<T>&from = weights[index], &to = results[index];
    calls[index] = {
        sizeof(T) == 8, of.layers, of.layers ? of.size : 0, of.num_inputs(), of.log_sign, of.moments, of.scales,
        of.directions, index == 1, 0, of.bounded, of.magnitude, index, 10.0, 0.1, of.base_step, of.problems, bounds[segments],
        bounds[index], bounds[index + 1], 1, of.threads, from.of_weights.data(), from.of_biases.data(),
        from.output_weight.data(), from.output_bias.data(), of_states[2 * index].data(),
        of_states[2 * index + 1].data(), mean.data(), square.data(), &decay, of_grads.data(), of_scales.data(),
        of_directions.data(), update.data(), of_coefficients.data(), to.of_weights.data(), to.of_biases.data(),
        to.output_weight.data(), to.output_bias.data()};
  }
  if (meta_opt_step(calls.data(), segments)) return false;
  for (Call& call : calls) call.num_steps = of.steps;
  return meta_opt_replay(calls.data(), segments) == 0;
}

// Scales of tensors of 0, some, and 1 coordinates.
template <typename T>
bool run_scales(const Options& of) {
  const std::vector<int64_t> sizes{0, of.coordinates, 1};
  const int64_t tensors = int64_t(sizes.size());
  Arrays<T> grads, read;
  for (int64_t step = 0; step < of.steps; ++step) {
    grads.push_back(random<T>(of.problems * (of.coordinates + 1)));
    read.emplace_back(of.problems * tensors * 3);
  }
  std::vector<T> square(of.problems * tensors);
  const T steps(0);
  const auto of_grads = table(grads), of_read = table(read);
  const ScalesCall call{sizeof(T) == 8, of.problems, tensors, of.steps, sizes.data(), of_grads.data(), square.data(),
                        &steps, of_read.data()};
  const int shortens = meta_opt_read_scales(&call);
  std::fill(grads.back().begin(), grads.back().end(), std::numeric_limits<T>::infinity());
  meta_opt_read_scales(&call);
  return shortens == 0 || of.steps > 1;
}

int main() {
  const int64_t inputs[][4] = {{0, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0}, {1, 1, 0, 0}, {1, 1, 1, 0}, {1, 1, 1, 1}};
  const int64_t networks[][2] = {{0, 1}, {1, 1}, {2, 5}};
  int64_t done = 0, good = 0;
  for (int64_t coordinates : {0, 1, 63, 64, 65, 129}) {
    for (int64_t problems : {1, 3}) {
      for (int64_t steps : {1, 7}) {
        for (const auto& reads : inputs) {
          for (const auto& network : networks) {
            for (int64_t output : {0, 1, 2}) {
              const Options of{reads[0], reads[1], reads[2], reads[3], network[0], network[1], output == 1, output == 2,
                               output == 2 ? 0.03 : 0.0, coordinates, problems, steps, 1 + output};
              good += run<float>(of) + run<double>(of);
              done += 2;
            }
          }
        }
        Options of{};
        of.coordinates = coordinates, of.problems = problems, of.steps = steps;
        good += run_scales<float>(of) + run_scales<double>(of);
        done += 2;
        for (int64_t which = 0; which < 4; ++which) {
          auto x = random<float>(coordinates, true), y = x;
          auto of_x = random<double>(coordinates, true), of_y = of_x;
          meta_opt_evaluate(0, which, coordinates, x.data(), y.data());
          meta_opt_evaluate(1, which, coordinates, of_x.data(), of_y.data());
        }
      }
    }
  }
  std::printf("%lld of %lld\n", (long long)good, (long long)done);
}
