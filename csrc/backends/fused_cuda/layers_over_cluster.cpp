// The dense layers of `InSharedMemory` where a cluster of blocks shares the rows.

#include <algorithm>
#include <bit>

#include "backends/fused_cuda/form_in_shared_memory.h"
#include "backends/fused_cuda/functions.h"
#include "backends/fused_cuda/layers.h"

namespace datasentinel::fused_cuda {

namespace {

// Columns that a warp has at a time: each value of a row is read once for all of them.
constexpr std::size_t kMostColumns = 4;
// What a thread may hold of weights, in registers.
constexpr std::size_t kMostHeldWeights = 64;

}  // namespace

/// A warp has some columns: its lanes take inputs in turns and exchange what they found until some lanes have
/// all of a column, which they send to the blocks. Weights lie column by column, so that lanes read side by
/// side. They do not depend on the layer before: where a thread can hold its own, they come while it waits.
Pieces InSharedMemory::dense_over_cluster(const fused::Instruction& step) {
  const fused::Dense& layer = step.dense;
  std::vector<double> by_column(layer.weights.size());
  for (std::size_t k = 0; k < layer.inputs; ++k) {
    for (std::size_t c = 0; c < layer.outputs; ++c) {
      by_column[c * layer.inputs + k] = layer.weights[k * layer.outputs + c];
    }
  }
  const std::size_t warps = static_cast<std::size_t>(blocking_.threads * blocking_.blocks) / kWarp;
  const std::size_t turns = parts_of(layer.inputs, kWarp);
  const std::size_t columns = std::min(std::bit_ceil(parts_of(layer.outputs, warps)), kMostColumns);
  const std::size_t passes = parts_of(layer.outputs, warps * columns);
  const bool is_held = passes == 1 && columns * turns <= kMostHeldWeights;
  const std::string name = std::to_string(step.out);
  const std::string number = text_of(arrivals_.size());
  arrivals_.push_back(layer.outputs * static_cast<std::size_t>(blocking_.rows) * sizeof(float));
  const Words words =
      words_of(step, {{"columns", text_of(columns)},
                      {"turns", text_of(turns)},
                      {"unroll", text_of(is_held ? turns : 4)},
                      {"passes", text_of(passes)},
                      {"warps", text_of(warps)},
                      {"weights", text_of(constants_.add(by_column))},
                      {"biases", text_of(constants_.add(bias_of(layer, layer.outputs)))},
                      {"name", name},
                      {"weight", is_held ? "w" + name + "[t][j]" : "w[c * " + text_of(layer.inputs) + "]"},
                      {"bias", is_held ? "b" + name : "c < " + text_of(layer.outputs) + " ? b[c] : 0.0f"},
                      {"number", number},
                      {"y", function_of(step.function, "sums[r]")}});
  const std::string hold = fill(R"(    float w@name@[@columns@][@turns@], b@name@;
    {
      const int c = LANE / (32 / @columns@) * @warps@ + WARP;
      b@name@ = c < @outputs@ ? constants[@biases@ + c] : 0.0f;
    }
    #pragma unroll
    for (int t = 0; t < @columns@; ++t) {
      const int c = t * @warps@ + WARP;
      #pragma unroll
      for (int j = 0; j < @turns@; ++j) {
        const int k = LANE + 32 * j;
        w@name@[t][j] = c < @outputs@ && k < @inputs@ ? constants[@weights@ + c * @inputs@ + k] : 0.0f;
      }
    }
)",
                                words);
  const std::string compute = fill(R"(    for (int pass = 0; pass < @passes@; ++pass) {
      float sums[4 * @columns@];
      #pragma unroll
      for (int i = 0; i < 4 * @columns@; ++i) sums[i] = 0.0f;
      #pragma unroll @unroll@
      for (int j = 0; j < @turns@; ++j) {
        const int k = LANE + 32 * j;
        const float* w = constants + @weights@ + k;
        (void)w;
        if (@inputs@ % 32 == 0 || k < @inputs@) {
          const float4 x = *reinterpret_cast<const float4*>(frame + (@a@ + k) * PITCH);
          #pragma unroll
          for (int t = 0; t < @columns@; ++t) {
            const int c = (pass * @columns@ + t) * @warps@ + WARP;
            const float weight = c < @outputs@ ? @weight@ : 0.0f;
            sums[4 * t] = fmaf(x.x, weight, sums[4 * t]);
            sums[4 * t + 1] = fmaf(x.y, weight, sums[4 * t + 1]);
            sums[4 * t + 2] = fmaf(x.z, weight, sums[4 * t + 2]);
            sums[4 * t + 3] = fmaf(x.w, weight, sums[4 * t + 3]);
          }
        }
      }
      const float* b = constants + @biases@;
      (void)b;
      constexpr int kLanes = 32 / @columns@;  // That have the same column in the end.
      add_over_lanes<@columns@>(sums);
      const int c = (pass * @columns@ + LANE / kLanes) * @warps@ + WARP;
      const float bias = @bias@;
      #pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        sums[r] += bias;
        sums[r] = @y@;
      }
      if (c < @outputs@) {
        for (int block = LANE % kLanes; block < BLOCKS; block += kLanes) {
          send(frame + (@out@ + c) * PITCH, sums, block, arrivals + @number@);
        }
      }
    }
)",
                                   words);
  const Piece piece{.text = compute,
                    .reads = {slots(step.a)},
                    .writes = {slots(step.out)},
                    .arrival = "    wait_for(arrivals + " + number + ");\n"};
  return is_held ? Pieces{{.text = hold}, piece} : Pieces{piece};
}

}  // namespace datasentinel::fused_cuda
