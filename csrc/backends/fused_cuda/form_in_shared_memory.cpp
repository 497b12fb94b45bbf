#include "backends/fused_cuda/form_in_shared_memory.h"

#include <algorithm>

#include "backends/fused/expanded_distances.h"
#include "backends/fused/network_layers.h"
#include "backends/fused/takers.h"
#include "backends/fused_cuda/text.h"

namespace datasentinel::fused_cuda {

using fused::Instruction;
using fused::Op;
using fused::Program;

namespace {

/// Most numbers that a thread keeps of a row while it takes a value's columns.
std::size_t numbers_kept(const Program& program) {
  const auto kept = [&](std::size_t position) {
    const Instruction& step = program.instructions[position];
    const bool is_list = step.op == Op::smallest || step.op == Op::largest;
    return is_list ? program.widths[static_cast<std::size_t>(step.out)] : 1;
  };
  const fused::Links links(program);
  std::size_t most = 1;
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    const std::size_t count = takers(program, links, i);
    std::size_t together = 0;
    for (std::size_t j = 1; j <= count; ++j) together += kept(i + j);
    most = std::max({most, kept(i), together});
  }
  return most;
}

/// Each value in a place of its own.
fused::FrameLayout laid_out_apart(const Program& program) {
  constexpr int kMultiple = 16;
  fused::FrameLayout layout;
  for (const std::size_t width : program.widths) {
    layout.offsets.push_back(layout.columns);
    layout.columns += (static_cast<int>(width) + kMultiple - 1) / kMultiple * kMultiple;
  }
  return layout;
}

}  // namespace

Program cut_into_parts(Program program, const Blocking& blocking) {
  if (blocking.few_rows) return program;
  const std::vector<bool> low = layers_in(blocking.precision, program);
  const fused::Links links(program);
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& step = program.instructions[i];
    if (step.op != Op::dense || step.dense.outputs <= kPartColumns) continue;
    const auto out = static_cast<std::size_t>(step.out);
    if (!low[out] && takers(program, links, i) > 0) program.widths[out] = kPartColumns;
  }
  return program;
}

std::size_t shared_floats(const Program& program, const fused::FrameLayout& layout,
                          const Blocking& blocking) {
  const auto threads = static_cast<std::size_t>(blocking.threads);
  const std::size_t scratch = blocking.blocks > 1 ? 0
                              : blocking.few_rows ? threads * static_cast<std::size_t>(blocking.rows)
                                                  : threads * numbers_kept(program);
  return static_cast<std::size_t>(layout.columns) * static_cast<std::size_t>(blocking.pitch()) + scratch;
}

fused::FrameLayout layout_of(const Program& program, const Blocking& blocking) {
  if (blocking.blocks > 1) return laid_out_apart(program);
  const std::vector<bool> low = layers_in(blocking.precision, program);
  const fused::Links links(program);
  return fused::lay_out(program, true, [&](const Instruction& step) {
    const auto out = static_cast<std::size_t>(step.out);
    // Distances are corrected by what they are taken of.
    const auto position = static_cast<std::size_t>(&step - program.instructions.data());
    return !blocking.few_rows && step.op == Op::dense &&
           !fused::expanded_distances(program, links, position) &&
           program.widths[out] == step.dense.outputs && !low[out] && overwrites_inputs(blocking, step);
  });
}

std::vector<bool> layers_in(Precision precision, const Program& program) {
  if (precision == Precision::float32) return std::vector<bool>(program.widths.size(), false);
  return fused::network_layers(program);
}

InSharedMemory::InSharedMemory(const Program& program, const fused::FrameLayout& layout,
                               const Blocking& blocking, Constants& constants)
    : program_(program),
      layout_(layout),
      blocking_(blocking),
      low_(layers_in(blocking.precision, program)),
      in_parts_(program.widths.size(), false),
      constants_(constants) {
  for (const Instruction& step : program.instructions) {
    if (step.op == Op::dense && in_parts(step)) in_parts_[static_cast<std::size_t>(step.out)] = true;
  }
}

std::string InSharedMemory::offset(int value) const {
  return std::to_string(layout_.offsets[static_cast<std::size_t>(value)]);
}

std::size_t InSharedMemory::width(int value) const {
  return program_.widths[static_cast<std::size_t>(value)];
}

std::string InSharedMemory::at(int value, const std::string& column) const {
  const std::string from = in_parts_[static_cast<std::size_t>(value)] ? " - first" : "";
  return "frame[(" + offset(value) + " + " + column + from + ") * PITCH + r]";
}

Slots InSharedMemory::slots(int value) const {
  const int begin = layout_.offsets[static_cast<std::size_t>(value)];
  return {begin, begin + static_cast<int>(width(value))};
}

std::string InSharedMemory::constant(const std::vector<double>& values, const std::string& column) {
  return "constants[" + text_of(constants_.add(values)) + " + " + column + "]";
}

std::string InSharedMemory::constant(const std::vector<int>& values, const std::string& column) {
  return "(int)constants[" + text_of(constants_.add(values)) + " + " + column + "]";
}

std::string InSharedMemory::each(std::size_t width, const std::string& body) const {
  return fill(R"(    for (int i = THREAD; i < @width@ * ROWS; i += THREADS) {
      const int c = i / ROWS, r = i % ROWS;
      @body@
    }
)",
              {{"width", text_of(width)}, {"body", body}});
}

/// The lists of all threads of a row, made one.
std::string InSharedMemory::merged(const Reduction& reduction, std::size_t before) const {
  return fill(R"(    for (int r = THREAD; r < ROWS; r += THREADS) {
      const float* const lists = scratch + @before@ * THREADS + r;
      float t[@kept@];
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) t[j] = lists[j * ROWS];
      for (int part = 1; part < THREADS / ROWS; ++part) {
        #pragma unroll
        for (int i = 0; i < @kept@; ++i) { float x = lists[(part * @kept@ + i) * ROWS]; @merge@ }
      }
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) @out@ = @result@;
    }
)",
              {{"before", text_of(before)},
               {"kept", text_of(reduction.kept)},
               {"merge", reduction.merge},
               {"out", at(reduction.out, "j")},
               {"result", reduction.result}});
}

Pieces InSharedMemory::reduce(const Reduction& reduction) const {
  const auto parts = static_cast<std::size_t>(blocking_.threads / blocking_.rows);
  std::vector<Slots> reads{slots(reduction.a)};
  if (reduction.b >= 0) reads.push_back(slots(reduction.b));
  const auto text = [&](const char* form) {
    return fill(form, {{"kept", text_of(reduction.kept)},
                       {"start", reduction.start},
                       {"width", text_of(width(reduction.a))},
                       {"take", reduction.take},
                       {"merge", reduction.merge},
                       {"out", at(reduction.out, "j")},
                       {"result", reduction.result}});
  };
  if (blocking_.few_rows) {
    // A warp for each row: lanes take columns and exchange what they found.
    return {{.text = text(R"(    for (int r = THREAD / 32; r < ROWS; r += THREADS / 32) {
      float t[@kept@];
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) t[j] = @start@;
      #pragma unroll 8
      for (int c = THREAD % 32; c < @width@; c += 32) { @take@ }
      #pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        float other[@kept@];
        #pragma unroll
        for (int j = 0; j < @kept@; ++j) other[j] = __shfl_xor_sync(0xffffffffu, t[j], lanes);
        #pragma unroll
        for (int i = 0; i < @kept@; ++i) { float x = other[i]; @merge@ }
      }
      if (THREAD % 32 == 0) {
        #pragma unroll
        for (int j = 0; j < @kept@; ++j) @out@ = @result@;
      }
    }
)"),
             .reads = reads,
             .writes = {slots(reduction.out)}}};
  }
  constexpr std::size_t kLeastColumnsOfAPart = 4;
  if (width(reduction.a) < kLeastColumnsOfAPart * parts) {
    return {{.text = text(R"(    for (int r = THREAD; r < ROWS; r += THREADS) {
      float t[@kept@];
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) t[j] = @start@;
      #pragma unroll 8
      for (int c = 0; c < @width@; ++c) { @take@ }
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) @out@ = @result@;
    }
)"),
             .reads = reads,
             .writes = {slots(reduction.out)}}};
  }
  return {{.text = text(R"(    {
      const int r = THREAD % ROWS;
      float t[@kept@];
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) t[j] = @start@;
      #pragma unroll 8
      for (int c = THREAD / ROWS; c < @width@; c += THREADS / ROWS) { @take@ }
      #pragma unroll
      for (int j = 0; j < @kept@; ++j) scratch[(THREAD / ROWS * @kept@ + j) * ROWS + r] = t[j];
    }
)"),
           .reads = reads,
           .writes = {scratch()}},
          {.text = merged(reduction, 0), .reads = {scratch()}, .writes = {slots(reduction.out)}}};
}

}  // namespace datasentinel::fused_cuda
