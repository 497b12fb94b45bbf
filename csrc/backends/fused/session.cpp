#include "backends/fused/session.h"

#include <algorithm>

#include "core/error.h"

namespace datasentinel::fused {
namespace {

ConstRows part_of(ConstRows rows, std::size_t first, std::size_t count) {
  return {.data = rows.row(first), .rows = count, .columns = rows.columns};
}

States part_of(States states, std::size_t first, std::size_t columns) {
  return {.before = states.before == nullptr ? nullptr : states.before + first * columns,
          .after = states.after == nullptr ? nullptr : states.after + first * columns};
}

}  // namespace

FusedSession::FusedSession(const Program& program, const Kernels& kernels, const WordKernels* words,
                           int num_threads)
    : kernels_(kernels),
      program_(program, kernels.geometry, words),
      input_dim_(program.widths[static_cast<std::size_t>(program.input)]),
      state_dim_(program.state < 0 ? 0 : program.widths[static_cast<std::size_t>(program.state)]),
      has_output_(program.output >= 0),
      has_contributions_(program.contributions >= 0),
      frames_([floats = program_.frame_floats()] { return std::make_unique<AlignedFloats>(floats); }),
      num_threads_(static_cast<std::size_t>(num_threads)) {
  if (num_threads_ > 1) threads_ = std::make_unique<ThreadPool>(num_threads_ - 1);
}

void FusedSession::step(ConstRows rows, States states, Outputs outputs) {
  if (outputs.reconstructions != nullptr && !has_output_) {
    throw Error(ErrorCode::unsupported_model, "this model scores only; it has no output 'output'");
  }
  if (outputs.contributions != nullptr && !has_contributions_) {
    throw Error(ErrorCode::unsupported_model,
                "this model does not explain its scores; it has no output 'contributions'");
  }
  // Below this much work a thread costs more to wake than it saves.
  constexpr std::size_t kMultiplyAddsPerThread = std::size_t{1} << 20;
  const std::size_t useful =
      threads_ == nullptr ? 1 : rows.rows * (program_.work() + 1) / kMultiplyAddsPerThread;
  if (useful <= 1) {
    run_rows(rows, states, outputs);
    return;
  }
  const std::size_t block = program_.block_rows();
  const std::size_t parts = std::min(useful, num_threads_ * 4);
  const std::size_t rows_per_part = (rows.rows / parts + block) / block * block;
  threads_->run((rows.rows + rows_per_part - 1) / rows_per_part, [&](std::size_t part) {
    const std::size_t first = part * rows_per_part;
    const std::size_t count = std::min(rows_per_part, rows.rows - first);
    run_rows(part_of(rows, first, count), part_of(states, first, state_dim_),
             outputs.from_row(first, rows.columns));
  });
}

void FusedSession::run_rows(ConstRows rows, States states, Outputs outputs) {
  const auto frame = frames_.borrow();
  std::size_t first = 0;
  while (first < rows.rows) {
    const std::size_t count = std::min(rows.rows - first, program_.block_rows());
    const Outputs target = outputs.from_row(first, rows.columns);
    const States state = part_of(states, first, state_dim_);
    const auto run = count <= program_.few_rows() ? kernels_.run_few : kernels_.run_block;
    run(program_.view(),
        {.input = rows.row(first),
         .state = state.before,
         .rows = static_cast<int>(count),
         .scores = target.scores,
         .output = target.reconstructions,
         .contributions = target.contributions,
         .state_next = state.after},
        frame->data());
    first += count;
  }
}

Facts FusedSession::facts() const {
  std::string precision = "float32";
  if (const WordKernels* words = program_.view().words) {
    precision = words->precision;
    precision.append(" by ").append(words->instructions);
    precision.append(" in ").append(std::to_string(program_.word_layers()));
    precision.append(" of ").append(std::to_string(program_.layers()));
    precision.append(" matrix products, float32 elsewhere");
  }
  return {{"instruction set", kernels_.isa},
          {"precision", precision},
          {"threads", std::to_string(num_threads_)},
          {"packed weights bytes", std::to_string(program_.constant_bytes())},
          {"scratch bytes per concurrent call", std::to_string(program_.frame_floats() * sizeof(float))},
          {"multiply-adds per row", std::to_string(program_.multiply_adds())}};
}

}  // namespace datasentinel::fused
