#include "backends/fused_cuda/fragments_source.h"

#include <string>

#include "backends/fused_cuda/constants.h"
#include "backends/fused_cuda/form_in_fragments.h"
#include "backends/fused_cuda/functions.h"
#include "backends/fused_cuda/kernel_text.h"
#include "backends/fused_cuda/layers.h"
#include "backends/fused_cuda/steps.h"
#include "backends/fused_cuda/tensor_cores.h"
#include "backends/fused_cuda/text.h"

namespace datasentinel::fused_cuda {

using fused::Program;

namespace {

constexpr std::size_t kTileRows = 16;
// A few rows are spread over many blocks, none of which works long enough to copy all weights first.
constexpr std::size_t kFewWarps = 4;
constexpr std::size_t kBulkWarps = 8;
// Of 255; the rest is for addresses, weights and what a step needs for itself.
constexpr std::size_t kMostRegisters = 224;

/// Copies rows from `from` on, and zeros for rows that are not there.
std::string fetching(std::size_t columns) {
  return fill(columns % 4 == 0 ? R"(    for (int i = lane; i < WARP_ROWS * @columns@ / 4; i += 32) {
      const int r = i / (@columns@ / 4), c = i % (@columns@ / 4) * 4;
      const bool is_row = from + r < rows;
      copy_async(to + r * X_PITCH + c, is_row ? input + (from + r) * @columns@ + c : input, is_row);
    }
)"
                               : R"(    for (int i = lane; i < WARP_ROWS * @columns@; i += 32) {
      const int r = i / @columns@, c = i % @columns@;
      to[r * X_PITCH + c] = from + r < rows ? input[(from + r) * @columns@ + c] : 0.0f;
    }
)",
              {{"columns", text_of(columns)}});
}

/// Has a block keep the first `floats` constants in shared memory.
std::string holding(std::size_t floats) {
  return fill(
      R"(  for (int i = 4 * threadIdx.x; i < @floats@; i += 4 * THREADS) copy_async(shared + i, constants + i, true);
  end_copies();
)",
      {{"floats", text_of(floats)}});
}

/// How a block works.
struct WarpBlocking {
  std::size_t tiles = 0;  ///< Of 16 rows, that a warp has at a time.
  std::size_t warps = 0;
  bool holds_constants = false;  ///< In shared memory.
};

/// Writes the kernels and collects their constants.
class FragmentsSource {
 public:
  explicit FragmentsSource(Precision precision) : precision_(precision) {}

  [[nodiscard]] Kernel add(const Program& program, const std::string& name, const WarpBlocking& blocking);
  void finish(Source& source) {
    source.text = std::string(kPrelude) + kTensorCoreFunctions + text_;
    source.constants = constants_.take();
  }

 private:
  const Precision precision_;
  std::string text_;
  Constants constants_;
};

Kernel FragmentsSource::add(const Program& program, const std::string& name, const WarpBlocking& blocking) {
  const auto [tiles, warps, holds_constants] = blocking;
  InFragments form(program, precision_, tiles, constants_, holds_constants ? "shared" : "constants");
  const std::string steps = all_steps(program, form);
  const std::size_t columns = width_of(program, program.input);
  // Lanes read pairs of columns of neighbouring rows, in different banks.
  const std::size_t pitch = padded(columns, kWarp) + 8;
  const std::size_t rows = kTileRows * tiles;
  const std::size_t row_floats = 2 * rows * pitch * warps;
  const std::size_t held = holds_constants ? constants_.size() : 0;
  std::string writes;
  const auto write = [&](const std::string& target, int value) {
    if (value < 0) return;
    const std::size_t width = width_of(program, value);
    const std::string body = "if (ROW < rows" + std::string(width == 1 ? " && t == 0" : "") + ") { " +
                             stored(target, "ROW * " + text_of(width) + " + c", form.at(value, "c")) + " }";
    writes += "    if (" + target + " != nullptr) {\n" + form.each(width, body) + "    }\n";
  };
  write("scores", program.score);
  write("output", program.output);
  write("contributions", program.contributions);
  const std::string check = fill("check(@x@, ROW * @columns@ + c, bad);",
                                 {{"x", form.at(program.input, "c")}, {"columns", text_of(columns)}});
  text_ += fill(R"(#define THREADS @threads@
#define WARP_ROWS @rows@
#define X_PITCH @pitch@
#define ROW (first + 16 * m + g + e / 2 * 8)
@signature@  EXTERN_SHARED(shared);
  (void)output; (void)contributions;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
@hold@  const auto fetch = [&](float* to, long long from) {
@fetch@    end_copies();
  };
  float* here = shared + @held@ + warp * (2 * WARP_ROWS * X_PITCH);
  float* there = here + WARP_ROWS * X_PITCH;
  const long long step = gridDim.x * (THREADS / 32 * (long long)WARP_ROWS);
  long long first = (blockIdx.x * (THREADS / 32LL) + warp) * WARP_ROWS;
  fetch(here, first);
@wait@  for (; first < rows; first += step) {
    fetch(there, first + step);
    wait_for_copies_but_one();
    __syncwarp();
    const float* const x = here;
@values@    if (bad != nullptr) {
@check@    }
@steps@@writes@    // The rows after the next may not overwrite what another lane still reads.
    __syncwarp();
    here = there;
    there = const_cast<float*>(x);
  }
@tell@}
#undef THREADS
#undef WARP_ROWS
#undef X_PITCH
#undef ROW

)",
                {{"threads", text_of(kWarp * warps)},
                 {"rows", text_of(rows)},
                 {"pitch", text_of(pitch)},
                 {"signature", signature(name, static_cast<int>(kWarp * warps))},
                 {"hold", holds_constants ? holding(held) : std::string()},
                 {"wait", holds_constants ? "  wait_for_copies_but_one();\n  __syncthreads();\n" : ""},
                 {"held", text_of(held)},
                 {"fetch", fetching(columns)},
                 {"values", form.declarations()},
                 {"check", form.each(columns, check)},
                 {"steps", steps},
                 {"writes", writes},
                 {"tell", kTelling}});
  return {.name = name,
          .rows = static_cast<int>(rows * warps),
          .threads = static_cast<int>(kWarp * warps),
          .shared_bytes = (held + row_floats) * sizeof(float)};
}

}  // namespace

std::optional<Source> source_in_fragments(const Program& program, std::size_t shared_bytes,
                                          Precision precision) {
  if (!runs_in_fragments(program, precision)) return std::nullopt;
  const std::size_t registers = fragment_registers(program, precision);
  for (const std::size_t tiles : {2, 1}) {
    if (tiles * registers > kMostRegisters) continue;
    const WarpBlocking few{.tiles = 1, .warps = kFewWarps};
    const WarpBlocking bulk{.tiles = tiles, .warps = kBulkWarps, .holds_constants = true};
    FragmentsSource text(precision);
    const auto add = [&](const Program& part, const std::string& name) {
      return Kernels{.few = text.add(part, name + "_few_rows", few),
                     .bulk = text.add(part, name + "_rows", bulk)};
    };
    Source source;
    source.scores_only = add(score_of(program), "score");
    source.all = has_more_than_scores(program) ? add(program, "all") : source.scores_only;
    if (source.all.bulk.shared_bytes > shared_bytes) continue;
    text.finish(source);
    return source;
  }
  return std::nullopt;
}

}  // namespace datasentinel::fused_cuda
