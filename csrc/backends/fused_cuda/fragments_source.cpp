#include "backends/fused_cuda/fragments_source.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

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
constexpr std::size_t kBulkWarps = 8;
constexpr std::size_t kGroupWarps = 4;  ///< Of a warpgroup.

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
  TensorCores instructions = TensorCores::mma;
};

// A few rows are spread over many blocks, none of which works long enough to copy all weights first.
constexpr WarpBlocking kFewTiles{.tiles = 1, .warps = 4};

/// What was fastest on an H100 comes first; of warpgroups, the most, one of which multiplies while others
/// wait.
std::vector<WarpBlocking> choices(TensorCores instructions) {
  std::vector<WarpBlocking> some;
  if (instructions == TensorCores::mma) {
    for (const std::size_t tiles : {2, 1}) {
      some.push_back({.tiles = tiles, .warps = kBulkWarps, .holds_constants = true});
    }
    return some;
  }
  for (const std::size_t groups : {4, 3, 2, 1}) {
    some.push_back(
        {.tiles = 1, .warps = groups * kGroupWarps, .holds_constants = true, .instructions = instructions});
  }
  return some;
}

/// That a lane has for values; the rest is for addresses, weights and what a step needs for itself.
std::size_t most_registers(std::size_t warps) {
  constexpr std::size_t kOthers = 32;
  return std::min<std::size_t>(65536 / (kWarp * warps), 256) - kOthers;
}

/// Writes the kernels and collects their constants.
class FragmentsSource {
 public:
  explicit FragmentsSource(Precision precision) : precision_(precision) {}

  [[nodiscard]] Kernel add(const Program& program, const std::string& name, const WarpBlocking& blocking);
  void finish(Source& source) {
    source.text = std::string(kPrelude) + kTensorCoreFunctions;
    if (!functions_.empty()) source.text += kWarpgroupFunctions;
    for (const std::string& function : functions_) source.text += function;
    source.text += text_;
    source.constants = constants_.take();
  }

 private:
  const Precision precision_;
  std::set<std::string> functions_;
  std::string text_;
  Constants constants_;
};

Kernel FragmentsSource::add(const Program& program, const std::string& name, const WarpBlocking& blocking) {
  const auto [tiles, warps, holds_constants, instructions] = blocking;
  const bool in_groups = instructions == TensorCores::wgmma;
  InFragments form(program, precision_, instructions, tiles, constants_,
                   holds_constants ? "shared" : "constants");
  const std::string steps = all_steps(program, form);
  functions_.insert(form.functions().begin(), form.functions().end());
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
  const std::string show = in_groups ? "  show_to_warpgroups();\n" : "";
  // All values at once first: what is not finite leaves something of it in a sum of zeros.
  const std::string x = form.at(program.input, "c");
  const std::string check =
      "float nothing = 0.0f;\n" + form.each(columns, "nothing = fmaf(" + x + ", 0.0f, nothing);") +
      "    if (nothing != 0.0f) {\n" +
      form.each(columns, "check(" + x + ", ROW * " + text_of(columns) + " + c, bad);") + "    }\n";
  text_ +=
      fill(R"(#define THREADS @threads@
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
@wait@  for (; @go_on@ < rows; first += step) {
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
            {"wait", holds_constants ? "  wait_for_copies_but_one();\n" + show + "  __syncthreads();\n" : ""},
            // A warpgroup goes on together.
            {"go_on", in_groups ? "first - warp % 4 * WARP_ROWS" : "first"},
            {"held", text_of(held)},
            {"fetch", fetching(columns)},
            {"values", form.declarations()},
            {"check", check},
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
                                          Precision precision, TensorCores instructions) {
  if (!runs_in_fragments(program, precision)) return std::nullopt;
  const std::size_t registers = fragment_registers(program, precision, instructions);
  for (const WarpBlocking& bulk : choices(instructions)) {
    if (bulk.tiles * registers > most_registers(bulk.warps)) continue;
    FragmentsSource text(precision);
    const Program score = score_of(program);
    const bool has_more = has_more_than_scores(program);
    // The constants of the first kernels are those that blocks hold.
    Source source;
    source.scores_only.bulk = text.add(score, "score_rows", bulk);
    source.all.bulk = has_more ? text.add(program, "all_rows", bulk) : source.scores_only.bulk;
    if (source.all.bulk.shared_bytes > shared_bytes) continue;
    source.scores_only.few = text.add(score, "score_few_rows", kFewTiles);
    source.all.few = has_more ? text.add(program, "all_few_rows", kFewTiles) : source.scores_only.few;
    text.finish(source);
    source.instructions = instructions;
    return source;
  }
  return std::nullopt;
}

}  // namespace datasentinel::fused_cuda
