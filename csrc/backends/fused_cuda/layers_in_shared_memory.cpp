// The dense layers of `InSharedMemory`.

#include <algorithm>
#include <array>

#include "backends/fused_cuda/form_in_shared_memory.h"
#include "backends/fused_cuda/functions.h"
#include "backends/fused_cuda/layers.h"
#include "backends/fused_cuda/tensor_cores.h"

namespace datasentinel::fused_cuda {

using fused::Instruction;

namespace {

constexpr std::size_t kAhead = 4;  ///< Inputs whose weights a lane has asked for before it needs them.

std::size_t warps_of(const Blocking& blocking) { return static_cast<std::size_t>(blocking.threads) / kWarp; }

std::size_t tiles_of(const Blocking& blocking, Tile tile, std::size_t columns) {
  const std::size_t row_tiles = static_cast<std::size_t>(blocking.rows) / tile.warp_rows();
  return row_tiles * parts_of(columns, tile.warp_columns());
}

/// The largest tile of which every warp has one, and no larger than the layer.
Tile tile_of(const Blocking& blocking, std::size_t columns) {
  constexpr std::array kTiles{Tile{8, 8}, Tile{8, 4}, Tile{8, 2}, Tile{4, 4}, Tile{4, 2}};
  const auto fits = [&](Tile tile) {
    const bool is_too_wide = tile.columns > 2 && tile.warp_columns() / 2 >= columns;
    return !is_too_wide && tiles_of(blocking, tile, columns) >= warps_of(blocking);
  };
  return *std::find_if(kTiles.begin(), kTiles.end() - 1, fits);
}

}  // namespace

bool overwrites_inputs(const Blocking& blocking, const Instruction& step) {
  const std::size_t columns = step.dense.outputs;
  return tiles_of(blocking, tile_of(blocking, columns), columns) <= warps_of(blocking);
}

Words InSharedMemory::words_of(const Instruction& step, Words more) const {
  const fused::Dense& layer = step.dense;
  more.insert(more.end(), {{"a", offset(step.a)},
                           {"out", offset(step.out)},
                           {"inputs", text_of(layer.inputs)},
                           {"outputs", text_of(layer.outputs)}});
  return more;
}

Pieces InSharedMemory::dense(const Instruction& step) {
  if (low_[static_cast<std::size_t>(step.out)]) return dense_on_tensor_cores(step);
  if (blocking_.blocks > 1) return dense_over_cluster(step);
  if (blocking_.few_rows) return dense_of_few_rows(step);
  return dense_in_tiles(step, "0", step.dense.outputs);
}

/// A thread has one column and some of the inputs, for all rows of the block, so that its weights are read
/// at once; a second loop adds up what the threads of a column found.
Pieces InSharedMemory::dense_of_few_rows(const Instruction& step) {
  const fused::Dense& layer = step.dense;
  const auto threads = static_cast<std::size_t>(blocking_.threads);
  const std::size_t columns = padded(layer.outputs, kWarp);
  const std::size_t slices = std::max<std::size_t>(std::min(threads / columns, layer.inputs / 4), 1);
  const Words words = words_of(step, {{"columns", text_of(columns)},
                                      {"slices", text_of(slices)},
                                      {"slice", text_of(parts_of(layer.inputs, slices))},
                                      {"weights", text_of(constants_.add(layer.weights))},
                                      {"bias", text_of(constants_.add(bias_of(layer, layer.outputs)))},
                                      {"y", function_of(step.function, "sum")},
                                      {"y[r]", function_of(step.function, "sum[r]")}});
  const auto text = [&words](const char* form) { return fill(form, words); };
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

/// A warp multiplies tiles of some rows and columns, of which each of its lanes has a square: what a lane
/// reads for an input grows with the square's sides, what it multiplies with the area. Rows come from shared
/// memory; weights, which come from afar, some inputs ahead.
Pieces InSharedMemory::dense_in_tiles(const Instruction& step, const std::string& first, std::size_t count) {
  const fused::Dense& layer = step.dense;
  const Tile tile = tile_of(blocking_, count);
  const std::size_t group = tile.warp_columns();
  const std::size_t padded_inputs = padded(layer.inputs, kAhead);
  const Words words =
      words_of(step, {{"first", first},
                      {"group", text_of(group)},
                      {"groups", text_of(parts_of(layer.outputs, group))},
                      {"tiles", text_of(tiles_of(blocking_, tile, count))},
                      {"tile_rows", text_of(tile.warp_rows())},
                      {"rows", text_of(tile.rows)},
                      {"columns", text_of(tile.columns)},
                      {"vector", text_of(tile.vector())},
                      {"ahead", text_of(kAhead)},
                      {"weights", text_of(constants_.add_grouped(layer.weights, layer.inputs, layer.outputs,
                                                                 group, padded_inputs))},
                      {"bias", text_of(constants_.add(bias_of(layer, padded(layer.outputs, group))))},
                      {"padded", text_of(padded_inputs)},
                      {"y0", function_of(step.function, "sum[i][j]")},
                      {"y1", function_of(step.function, "sum[i + 1][j]")},
                      {"y2", function_of(step.function, "sum[i + 2][j]")},
                      {"y3", function_of(step.function, "sum[i + 3][j]")}});
  const auto text = [&words](const char* form) { return fill(form, words); };
  // Sums start as zeros also where they are not used: a compiler keeps registers for what it takes for values
  // of the loop before.
  const std::string sums =
      text(R"(      const int first_row = tile % (ROWS / @tile_rows@) * @tile_rows@ + THREAD % 4 * 4;
      const int group = (@first@) / @group@ + tile / (ROWS / @tile_rows@);
      const int first_column = group * @group@ + THREAD % 32 / 4 * @vector@;
      float sum[@rows@][@columns@] = {};
      if (tile < @tiles@ && group < @groups@) {
        const float* x = frame + @a@ * PITCH + first_row;
        const float* w = constants + @weights@ + group * (@padded@ - 1) * @group@ + first_column;
        #pragma unroll
        for (int j = 0; j < @columns@; ++j) {
          const float b = constants[@bias@ + first_column + j / @vector@ * 8 * @vector@ + j % @vector@];
          #pragma unroll
          for (int i = 0; i < @rows@; ++i) sum[i][j] = b;
        }
        alignas(16) float right[@ahead@][@columns@];
        const auto fetch = [&](int input, int u) {
          #pragma unroll
          for (int j = 0; j < @columns@; j += @vector@) {
            *reinterpret_cast<float@vector@*>(&right[u][j]) =
                *reinterpret_cast<const float@vector@*>(w + (input + u) * @group@ + 8 * j);
          }
        };
        #pragma unroll
        for (int u = 0; u < @ahead@; ++u) fetch(0, u);
        #pragma unroll 2
        for (int input = 0; input < @inputs@; input += @ahead@) {
          #pragma unroll
          for (int u = 0; u < @ahead@; ++u) {
            if (@inputs@ % @ahead@ != 0 && input + u >= @inputs@) break;
            alignas(16) float left[@rows@];
            #pragma unroll
            for (int i = 0; i < @rows@; i += 4) {
              *reinterpret_cast<float4*>(&left[i]) =
                  *reinterpret_cast<const float4*>(x + (input + u) * PITCH + 4 * i);
            }
            #pragma unroll
            for (int i = 0; i < @rows@; ++i) {
              #pragma unroll
              for (int j = 0; j < @columns@; ++j) sum[i][j] = fmaf(left[i], right[u][j], sum[i][j]);
            }
            // After the last ones, any will do: a condition would have them all wait for the loop's end.
            fetch(input + @ahead@ < @inputs@ ? input + @ahead@ : 0, u);
          }
        }
      }
)");
  const std::string stores = text(R"(      if (tile < @tiles@ && group < @groups@) {
        #pragma unroll
        for (int j = 0; j < @columns@; ++j) {
          const int c = first_column + j / @vector@ * 8 * @vector@ + j % @vector@;
          if (@outputs@ % @group@ != 0 && c >= @outputs@) break;
          float* const y = frame + (@out@ + c - (@first@)) * PITCH + first_row;
          #pragma unroll
          for (int i = 0; i < @rows@; i += 4) *reinterpret_cast<float4*>(y + 4 * i) = {@y0@, @y1@, @y2@, @y3@};
        }
      }
    }
)");
  if (!in_parts(step) && overwrites_inputs(blocking_, step)) {
    // The sums wait in registers, so that they may take the place of the layer's inputs.
    return {{.text = "    {\n      const int tile = THREAD / 32;\n" + sums, .reads = {slots(step.a)}},
            {.text = stores, .writes = {slots(step.out)}}};
  }
  const std::string loop = text("    for (int tile = THREAD / 32; tile < @tiles@; tile += THREADS / 32) {\n");
  return {{.text = loop + sums + stores, .reads = {slots(step.a)}, .writes = {slots(step.out)}}};
}

bool InSharedMemory::in_parts(const Instruction& step) const { return width(step.out) < step.dense.outputs; }

Pieces InSharedMemory::dense_in_parts(const Instruction& step, const Correction& correction,
                                      const std::vector<Reduction>& reductions) {
  std::string start, take, finish;
  std::size_t kept = 0;
  Pieces merges;
  for (const Reduction& reduction : reductions) {
    const auto text = [&](const char* form) {
      return fill(form, {{"kept", text_of(reduction.kept)},
                         {"before", text_of(kept)},
                         {"start", reduction.start},
                         {"take", reduction.take}});
    };
    start += text(R"(      float t@before@[@kept@];
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) t@before@[j] = @start@;
)");
    take += text("          { float (&t)[@kept@] = t@before@; @take@ }\n");
    finish += text(R"(      #pragma unroll
      for (int j = 0; j < @kept@; ++j) scratch[@before@ * THREADS + (THREAD / ROWS * @kept@ + j) * ROWS + r] = t@before@[j];
)");
    merges.push_back(
        {.text = merged(reduction, kept), .reads = {scratch()}, .writes = {slots(reduction.out)}});
    kept += reduction.kept;
  }
  std::string dense;
  for (const Piece& piece : dense_in_tiles(step, "first", kPartColumns)) dense += piece.text;
  const std::string text = fill(R"(    {
      const int r = THREAD % ROWS;
      @of_row@
@start@      for (int first = 0; first < @outputs@; first += @part@) {
@dense@        __syncthreads();
        #pragma unroll 8
        for (int p = THREAD / ROWS; p < @part@ && first + p < @outputs@; p += THREADS / ROWS) {
          const int c = first + p;
          @of_column@
@take@        }
        __syncthreads();
      }
@finish@    }
)",
                                {{"of_row", correction.row},
                                 {"of_column", correction.column},
                                 {"start", start},
                                 {"outputs", text_of(step.dense.outputs)},
                                 {"part", text_of(kPartColumns)},
                                 {"dense", dense},
                                 {"take", take},
                                 {"finish", finish}});
  Pieces pieces{{.text = text, .reads = {slots(step.a)}, .writes = {slots(step.out), scratch()}}};
  pieces.insert(pieces.end(), merges.begin(), merges.end());
  return pieces;
}

/// Warps multiply tiles of 32 rows and some groups of eight columns. Lane t of a group of
/// four takes two in a row of every eight inputs: then the frame's columns are read without bank conflicts.
Pieces InSharedMemory::dense_on_tensor_cores(const Instruction& step) {
  const fused::Dense& layer = step.dense;
  const Fragments fragments(blocking_.precision, layer);
  const std::size_t warps = warps_of(blocking_);
  const std::size_t row_tiles = static_cast<std::size_t>(blocking_.rows) / kWarp;
  std::size_t groups = 8;
  while (groups > 1 && row_tiles * parts_of(fragments.column_groups(), groups) < warps) groups /= 2;
  const std::size_t column_tiles = parts_of(fragments.column_groups(), groups);
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
            const int k = 32 * chunk + j / 2 * 8 + 2 * t + j % 2;
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
           words_of(step, {{"column_tiles", text_of(column_tiles)},
                           {"groups", text_of(groups)},
                           {"column_groups", text_of(fragments.column_groups())},
                           {"chunks", text_of(fragments.chunks())},
                           {"steps", text_of(fragments.steps())},
                           {"weights", text_of(constants_.add(fragments.packed()))},
                           {"bias", text_of(constants_.add(bias_of(layer, column_tiles * groups * 8)))},
                           {"pack", fragments.pack_text()},
                           {"load", fragments.load_text()},
                           {"multiply", "multiply_" + std::string(to_string(blocking_.precision))},
                           {"y", function_of(step.function, "sum[m][n][e]")}}));
  return {{.text = text, .reads = {slots(step.a)}, .writes = {slots(step.out)}}};
}

}  // namespace datasentinel::fused_cuda
