// The dense layers of `InSharedMemory`.

#include <algorithm>

#include "backends/fused_cuda/form_in_shared_memory.h"
#include "backends/fused_cuda/functions.h"
#include "backends/fused_cuda/tensor_cores.h"
#include "backends/fused_cuda/text.h"

namespace datasentinel::fused_cuda {

using fused::Instruction;

namespace {

constexpr std::size_t kWarp = 32;

std::size_t padded(std::size_t number, std::size_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

}  // namespace

Pieces InSharedMemory::dense(const Instruction& step) {
  if (low_[static_cast<std::size_t>(step.out)]) return dense_on_tensor_cores(step);
  if (blocking_.blocks > 0) return dense_over_blocks(step);
  if (blocking_.few_rows) return dense_of_few_rows(step);
  return {{.text = dense_in_tiles(step, "0", step.dense.outputs),
           .reads = {slots(step.a)},
           .writes = {slots(step.out)}}};
}

/// A thread has one column and some of the inputs, for all rows of the block, so that its weights are read
/// at once; a second loop adds up what the threads of a column found.
Pieces InSharedMemory::dense_of_few_rows(const Instruction& step) {
  const fused::Dense& layer = step.dense;
  const auto threads = static_cast<std::size_t>(blocking_.threads);
  const std::size_t columns = padded(layer.outputs, kWarp);
  const std::size_t slices = std::max<std::size_t>(std::min(threads / columns, layer.inputs / 4), 1);
  const std::size_t slice = (layer.inputs + slices - 1) / slices;
  const std::vector<double> bias = layer.bias.empty() ? std::vector<double>(layer.outputs, 0.0) : layer.bias;
  const auto text = [&](const char* form) {
    return fill(form, {{"a", offset(step.a)},
                       {"out", offset(step.out)},
                       {"inputs", text_of(layer.inputs)},
                       {"outputs", text_of(layer.outputs)},
                       {"columns", text_of(columns)},
                       {"slices", text_of(slices)},
                       {"slice", text_of(slice)},
                       {"weights", text_of(constants_.add(layer.weights))},
                       {"bias", text_of(constants_.add(bias))},
                       {"y", function_of(step.function, "sum")},
                       {"y[r]", function_of(step.function, "sum[r]")}});
  };
  const std::string sums = text(R"(    for (int i = THREAD; i < @columns@ * @slices@; i += THREADS) {
      const int c = i % @columns@, slice = i / @columns@;
      if (c < @outputs@) {
        const float* w = constants + @weights@ + c;
        const float4* x = reinterpret_cast<const float4*>(frame) + @a@;
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        #pragma unroll 16
        for (int k = slice * @slice@; k < (slice + 1) * @slice@; ++k) {
          if (@slice@ * @slices@ == @inputs@ || k < @inputs@) {
            const float weight = w[k * @outputs@];
            const float4 v = x[k];
            sum[0] = fmaf(v.x, weight, sum[0]);
            sum[1] = fmaf(v.y, weight, sum[1]);
            sum[2] = fmaf(v.z, weight, sum[2]);
            sum[3] = fmaf(v.w, weight, sum[3]);
          }
        }
)");
  if (slices == 1) {
    return {{.text = sums + text(R"(        #pragma unroll
        for (int r = 0; r < 4; ++r) {
          sum[r] += constants[@bias@ + c];
          frame[(@out@ + c) * PITCH + r] = @y[r]@;
        }
      }
    }
)"),
             .reads = {slots(step.a)},
             .writes = {slots(step.out)}}};
  }
  return {{.text = sums + text(R"(        #pragma unroll
        for (int r = 0; r < 4; ++r) scratch[i * 4 + r] = sum[r];
      }
    }
)"),
           .reads = {slots(step.a)},
           .writes = {scratch()}},
          {.text = text(R"(    for (int i = THREAD; i < @outputs@ * ROWS; i += THREADS) {
      const int c = i / ROWS, r = i % ROWS;
      float sum = constants[@bias@ + c];
      #pragma unroll
      for (int slice = 0; slice < @slices@; ++slice) sum += scratch[(slice * @columns@ + c) * 4 + r];
      frame[(@out@ + c) * PITCH + r] = @y@;
    }
)"),
           .reads = {scratch()},
           .writes = {slots(step.out)}}};
}

/// A warp has a column: its lanes take inputs in turns, and exchange what they found. Weights lie column by
/// column, so that lanes read side by side.
Pieces InSharedMemory::dense_over_blocks(const Instruction& step) {
  const fused::Dense& layer = step.dense;
  std::vector<double> columns(layer.weights.size());
  for (std::size_t k = 0; k < layer.inputs; ++k) {
    for (std::size_t c = 0; c < layer.outputs; ++c) {
      columns[c * layer.inputs + k] = layer.weights[k * layer.outputs + c];
    }
  }
  const std::vector<double> bias = layer.bias.empty() ? std::vector<double>(layer.outputs, 0.0) : layer.bias;
  const std::string text = fill(
      R"(    for (int c = THREAD / 32; c < @outputs@; c += THREADS / 32) {
      const float* w = constants + @weights@ + c * @inputs@;
      const float4* x = reinterpret_cast<const float4*>(frame) + @a@;
      float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      #pragma unroll 16
      for (int k = THREAD % 32; k < @inputs@; k += 32) {
        const float weight = w[k];
        const float4 v = x[k];
        sum[0] = fmaf(v.x, weight, sum[0]);
        sum[1] = fmaf(v.y, weight, sum[1]);
        sum[2] = fmaf(v.z, weight, sum[2]);
        sum[3] = fmaf(v.w, weight, sum[3]);
      }
      #pragma unroll
      for (int r = 0; r < 4; ++r) {
        #pragma unroll
        for (int lanes = 16; lanes > 0; lanes /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], lanes);
        sum[r] += constants[@bias@ + c];
        if (THREAD % 32 == 0) frame[(@out@ + c) * PITCH + r] = @y@;
      }
    }
)",
      {{"a", offset(step.a)},
       {"out", offset(step.out)},
       {"inputs", text_of(layer.inputs)},
       {"outputs", text_of(layer.outputs)},
       {"weights", text_of(constants_.add(columns))},
       {"bias", text_of(constants_.add(bias))},
       {"y", function_of(step.function, "sum[r]")}});
  return {{.text = text, .reads = {slots(step.a)}, .writes = {slots(step.out)}}};
}

/// A warp computes some columns for all rows of the block: weights are the same for its lanes, rows lie side
/// by side.
std::string InSharedMemory::dense_in_tiles(const Instruction& step, const std::string& first,
                                           std::size_t count) {
  const fused::Dense& layer = step.dense;
  const std::size_t warps = static_cast<std::size_t>(blocking_.threads) / kWarp;
  // The more columns a warp has, the less it reads for each multiplication; but every warp is to have some.
  std::size_t group = 16;
  while (group > 4 && (count + group - 1) / group < warps) group /= 2;
  std::vector<double> bias = layer.bias.empty() ? std::vector<double>(layer.outputs, 0.0) : layer.bias;
  bias.resize(padded(layer.outputs, group), 0.0);
  return fill(
      R"(    for (int group = (@first@) / @group@ + THREAD / 32;
         group < @groups@ && group * @group@ < @first@ + @count@; group += THREADS / 32) {
      const int lane = THREAD % 32;
      const float4* w = reinterpret_cast<const float4*>(constants + @weights@ + group * @inputs@ * @group@);
      float sum[ROWS / 32][@group@];
      #pragma unroll
      for (int t = 0; t < @group@; ++t) {
        const float b = constants[@bias@ + group * @group@ + t];
        #pragma unroll
        for (int j = 0; j < ROWS / 32; ++j) sum[j][t] = b;
      }
      #pragma unroll 4
      for (int k = 0; k < @inputs@; ++k) {
        float x[ROWS / 32];
        #pragma unroll
        for (int j = 0; j < ROWS / 32; ++j) x[j] = frame[(@a@ + k) * PITCH + lane + 32 * j];
        #pragma unroll
        for (int q = 0; q < @group@ / 4; ++q) {
          const float4 v = w[k * (@group@ / 4) + q];
          #pragma unroll
          for (int j = 0; j < ROWS / 32; ++j) {
            sum[j][4 * q] = fmaf(x[j], v.x, sum[j][4 * q]);
            sum[j][4 * q + 1] = fmaf(x[j], v.y, sum[j][4 * q + 1]);
            sum[j][4 * q + 2] = fmaf(x[j], v.z, sum[j][4 * q + 2]);
            sum[j][4 * q + 3] = fmaf(x[j], v.w, sum[j][4 * q + 3]);
          }
        }
      }
      #pragma unroll
      for (int t = 0; t < @group@; ++t) {
        const int c = group * @group@ + t;
        if (c >= @outputs@) break;
        #pragma unroll
        for (int j = 0; j < ROWS / 32; ++j) {
          frame[(@out@ + c - (@first@)) * PITCH + lane + 32 * j] = @y@;
        }
      }
    }
)",
      {{"first", first},
       {"count", text_of(count)},
       {"group", text_of(group)},
       {"groups", text_of((layer.outputs + group - 1) / group)},
       {"weights", text_of(constants_.add_grouped(layer.weights, layer.inputs, layer.outputs, group))},
       {"bias", text_of(constants_.add(bias))},
       {"inputs", text_of(layer.inputs)},
       {"outputs", text_of(layer.outputs)},
       {"a", offset(step.a)},
       {"out", offset(step.out)},
       {"y", function_of(step.function, "sum[j][t]")}});
}

bool InSharedMemory::in_parts(const Instruction& step) const { return width(step.out) < step.dense.outputs; }

Pieces InSharedMemory::dense_in_parts(const Instruction& step, const Reduction& reduction) {
  const std::string text = fill(R"(    {
      const int r = THREAD % ROWS;
      float t[@kept@];
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) t[j] = @start@;
      for (int first = 0; first < @outputs@; first += @part@) {
@dense@        __syncthreads();
        #pragma unroll 8
        for (int c = THREAD / ROWS; c < @part@ && first + c < @outputs@; c += THREADS / ROWS) { @take@ }
        __syncthreads();
      }
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) scratch[(THREAD / ROWS * @kept@ + j) * ROWS + r] = t[j];
    }
)",
                                {{"kept", text_of(reduction.kept)},
                                 {"start", reduction.start},
                                 {"outputs", text_of(step.dense.outputs)},
                                 {"part", text_of(kPartColumns)},
                                 {"dense", dense_in_tiles(step, "first", kPartColumns)},
                                 {"take", reduction.take}});
  return {{.text = text, .reads = {slots(step.a)}, .writes = {slots(step.out), scratch()}},
          {.text = merged(reduction), .reads = {scratch()}, .writes = {slots(reduction.out)}}};
}

/// Warps multiply tiles of 32 rows and some groups of eight columns. The order of the inputs does not matter
/// to a sum, so lane t of a group of four takes eight in a row of every 32 inputs, for rows and weights
/// alike: then the frame's columns are read without bank conflicts, and weights 16 bytes at a time.
Pieces InSharedMemory::dense_on_tensor_cores(const Instruction& step) {
  const fused::Dense& layer = step.dense;
  const Fragments fragments(blocking_.precision, layer);
  const std::size_t warps = static_cast<std::size_t>(blocking_.threads) / kWarp;
  const std::size_t row_tiles = static_cast<std::size_t>(blocking_.rows) / kWarp;
  std::size_t groups = 8;
  while (groups > 1 && row_tiles * ((fragments.column_groups() + groups - 1) / groups) < warps) groups /= 2;
  std::vector<double> bias = layer.bias.empty() ? std::vector<double>(layer.outputs, 0.0) : layer.bias;
  const std::size_t column_tiles = (fragments.column_groups() + groups - 1) / groups;
  bias.resize(column_tiles * groups * 8, 0.0);
  const std::string text =
      fill(R"(    for (int tile = THREAD / 32; tile < ROWS / 32 * @column_tiles@; tile += THREADS / 32) {
      const int lane = THREAD % 32, g = lane / 4, t = lane % 4;
      const int first_row = tile % (ROWS / 32) * 32;
      const int first_group = tile / (ROWS / 32) * @groups@;
      const uint4* w = reinterpret_cast<const uint4*>(constants + @weights@) + lane;
      float sum[2][@groups@][4];
      #pragma unroll
      for (int n = 0; n < @groups@; ++n) {
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          sum[0][n][e] = sum[1][n][e] = constants[@bias@ + 8 * (first_group + n) + 2 * t + e % 2];
        }
      }
      for (int chunk = 0; chunk < @chunks@; ++chunk) {
        unsigned a[2][@steps@][4];
        #pragma unroll
        for (int m = 0; m < 2; ++m) {
          float x[2][8];
          #pragma unroll
          for (int j = 0; j < 8; ++j) {
            const int k = 32 * chunk + 8 * t + j;
            const float* from = frame + (@a@ + k) * PITCH + first_row + 16 * m + g;
            x[0][j] = @inputs@ % 32 == 0 || k < @inputs@ ? from[0] : 0.0f;
            x[1][j] = @inputs@ % 32 == 0 || k < @inputs@ ? from[8] : 0.0f;
          }
@pack@        }
        #pragma unroll
        for (int n = 0; n < @groups@; ++n) {
          if (first_group + n >= @column_groups@) break;
          unsigned b[@steps@][2];
@load@          #pragma unroll
          for (int s = 0; s < @steps@; ++s) {
            @multiply@(sum[0][n], a[0][s], b[s]);
            @multiply@(sum[1][n], a[1][s], b[s]);
          }
        }
      }
      #pragma unroll
      for (int n = 0; n < @groups@; ++n) {
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int c = 8 * (first_group + n) + 2 * t + e % 2;
          if (c < @outputs@) {
            #pragma unroll
            for (int m = 0; m < 2; ++m) {
              frame[(@out@ + c) * PITCH + first_row + 16 * m + g + e / 2 * 8] = @y@;
            }
          }
        }
      }
    }
)",
           {{"column_tiles", text_of(column_tiles)},
            {"groups", text_of(groups)},
            {"column_groups", text_of(fragments.column_groups())},
            {"chunks", text_of(fragments.chunks())},
            {"steps", text_of(fragments.steps())},
            {"weights", text_of(constants_.add(fragments.packed()))},
            {"bias", text_of(constants_.add(bias))},
            {"inputs", text_of(layer.inputs)},
            {"outputs", text_of(layer.outputs)},
            {"a", offset(step.a)},
            {"out", offset(step.out)},
            {"pack", fragments.pack_text()},
            {"load", fragments.load_text()},
            {"multiply", "multiply_" + std::string(to_string(blocking_.precision))},
            {"y", function_of(step.function, "sum[m][n][e]")}});
  return {{.text = text, .reads = {slots(step.a)}, .writes = {slots(step.out)}}};
}

}  // namespace datasentinel::fused_cuda
