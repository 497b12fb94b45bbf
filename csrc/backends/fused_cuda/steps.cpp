#include "backends/fused_cuda/steps.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <vector>

#include "backends/fused/expanded_distances.h"
#include "backends/fused/packed_program.h"
#include "backends/fused/takers.h"
#include "backends/fused_cuda/functions.h"
#include "backends/fused_cuda/text.h"

namespace datasentinel::fused_cuda {
namespace {

using fused::Instruction;
using fused::Op;
using fused::Program;

bool is_reduction(Op op) {
  switch (op) {
    case Op::sum:
    case Op::sum_squares:
    case Op::sum_difference:
    case Op::min_columns:
    case Op::max_columns:
    case Op::smallest:
    case Op::largest: return true;
    default: return false;
  }
}

bool overlaps(const std::vector<Slots>& some, const std::vector<Slots>& others) {
  return std::any_of(some.begin(), some.end(), [&](Slots x) {
    return std::any_of(others.begin(), others.end(), [x](Slots y) { return x.overlaps(y); });
  });
}

/// What a loop calls a value that it makes.
std::string local(int value) { return std::string("e").append(std::to_string(value)); }

void append(std::vector<Slots>& to, const std::vector<Slots>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

/// Puts pieces after each other, with a barrier before one that touches what others wrote or still read, or
/// what waits for writes that have a way of their own.
class Sequence {
 public:
  explicit Sequence(const Form& form) : form_(form) {}

  void put(const Piece& piece) {
    std::erase_if(under_way_, [&](const Piece& sent) {
      const bool is_needed = overlaps(piece.reads, sent.writes) || overlaps(piece.writes, sent.writes);
      if (is_needed) text_ += sent.arrival;
      return is_needed;
    });
    if (overlaps(piece.reads, written_) || overlaps(piece.writes, written_) ||
        overlaps(piece.writes, read_)) {
      wait_for_threads();
    }
    text_ += piece.text;
    append(read_, piece.reads);
    if (piece.arrival.empty()) {
      append(written_, piece.writes);
    } else {
      under_way_.push_back(piece);
    }
  }
  void put(const Pieces& pieces) {
    for (const Piece& piece : pieces) put(piece);
  }
  void wait() {
    for (const Piece& sent : under_way_) text_ += sent.arrival;
    under_way_.clear();
    wait_for_threads();
  }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  void wait_for_threads() {
    text_ += form_.barrier();
    read_.clear();
    written_.clear();
  }

  const Form& form_;
  std::string text_;
  std::vector<Slots> read_, written_;
  Pieces under_way_;
};

/// Steps on single values that one loop does.
struct Group {
  std::vector<const Instruction*> steps;
  std::size_t last = 0;  ///< The last one's position.
  std::size_t width = 0;
  std::vector<int> results, filled;    ///< Values it makes; values into which it copies.
  std::vector<int> own_reads;          ///< Values of which each thread reads the column it has.
  std::vector<Slots> any_reads, made;  ///< Values of which it reads others; where results may be put.
};

/// Writes the steps of a program in one form.
class StepWriter {
 public:
  StepWriter(const Program& program, Form& form) : program_(program), links_(program), form_(form) {
    last_use_.assign(program.widths.size(), 0);
    for (std::size_t i = 0; i < program.instructions.size(); ++i) {
      for (const int value : {program.instructions[i].a, program.instructions[i].b}) {
        if (value >= 0) last_use_[static_cast<std::size_t>(value)] = i;
      }
    }
    for (const int value : {program.score, program.output, program.contributions}) {
      if (value >= 0) last_use_[static_cast<std::size_t>(value)] = std::numeric_limits<std::size_t>::max();
    }
  }

  [[nodiscard]] std::string steps(std::size_t first, std::size_t end) {
    Sequence sequence(form_);
    for (std::size_t i = first; i < end; ++i) {
      const Instruction& step = program_.instructions[i];
      if (step.op != Op::dense && !is_reduction(step.op)) {
        if (!joins(step)) flush(sequence);
        join(step, i);
        continue;
      }
      flush(sequence);
      if (step.op != Op::dense) {
        sequence.put(form_.reduce(reduction(step)));
        continue;
      }
      const Correction correction = correction_of(i);
      if (form_.in_parts(step)) {
        std::vector<Reduction> reductions;
        for (std::size_t left = takers(program_, links_, i); left > 0; --left) {
          reductions.push_back(reduction(program_.instructions[++i]));
        }
        sequence.put(form_.dense_in_parts(step, correction, reductions));
        continue;
      }
      sequence.put(form_.dense(step));
      if (correction.column.empty()) continue;
      sequence.put({.text = form_.each(width(step.out), correction.text()),
                    .reads = {form_.slots(step.a)},
                    .writes = {form_.slots(step.out)}});
    }
    flush(sequence);
    sequence.wait();
    return sequence.text();
  }

 private:
  [[nodiscard]] std::size_t width(int value) const {
    return program_.widths[static_cast<std::size_t>(value)];
  }

  /// Squared distances to what a row is next to are computed again from differences; see
  /// fused::ExpandedDistances.
  [[nodiscard]] Correction correction_of(std::size_t position) {
    const auto distances = fused::expanded_distances(program_, links_, position);
    if (!distances) return {};
    const Instruction& step = program_.instructions[position];
    const std::string z = form_.at(step.a, "k");
    const std::string centre =
        form_.constant(distances->centres, "c * " + text_of(distances->width) + " + k");
    return {.row = "const float near = " + literal(fused::kNearShare) + " * " +
                   form_.at(step.a, text_of(distances->width)) + ";",
            .column =
                fill("if (@square@ < @largest@ * near && @square@ < @gain@ * near) { float sum = 0.0f; @add@ "
                     "@square@ = @gain@ * sum; }",
                     {{"square", form_.at(step.out, "c")},
                      {"largest", literal(fused::to_float32(std::ranges::max(distances->gains)))},
                      {"gain", form_.constant(distances->gains, "c")},
                      {"add", form_.loop(distances->width, "const float d = " + z + " - " + centre +
                                                               "; sum = fmaf(d, d, sum);")}})};
  }

  // ------------------------------------------------------------------------------- steps on single values

  [[nodiscard]] static std::vector<int> operands(const Instruction& step) {
    std::vector<int> values{step.a};
    if (step.b >= 0) values.push_back(step.b);
    return values;
  }

  [[nodiscard]] std::size_t loop_width(const Instruction& step) const {
    return width(step.op == Op::copy ? step.a : step.out);
  }

  [[nodiscard]] bool is_own(const Instruction& step, int operand) const {
    return step.op != Op::gather && width(operand) == loop_width(step);
  }

  [[nodiscard]] Slots target(const Instruction& step) const {
    Slots slots = form_.slots(step.out);
    if (step.op == Op::copy) {
      slots.begin = std::min(slots.begin + static_cast<int>(step.out_column), slots.end);
      slots.end = std::min(slots.begin + static_cast<int>(width(step.a)), slots.end);
    }
    return slots;
  }

  static bool contains(const std::vector<int>& values, int value) {
    return std::find(values.begin(), values.end(), value) != values.end();
  }

  /// A store may meet what its own thread reads, at the same place, but nothing that another thread reads.
  [[nodiscard]] bool may_meet(Slots store, int read) const {
    const Slots slots = form_.slots(read);
    return !store.overlaps(slots) || store.begin == slots.begin;
  }

  [[nodiscard]] bool joins(const Instruction& step) const {
    if (group_.steps.empty()) return true;
    if (loop_width(step) != group_.width) return false;
    const Slots store = target(step);
    if (overlaps({store}, group_.any_reads)) return false;
    for (const int read : group_.own_reads) {
      if (!may_meet(store, read)) return false;
    }
    for (const int operand : operands(step)) {
      if (contains(group_.filled, operand)) return false;
      if (is_own(step, operand)) {
        if (contains(group_.results, operand)) continue;
        for (const Slots made : group_.made) {
          if (!may_meet(made, operand)) return false;
        }
        if (!may_meet(store, operand)) return false;
      } else if (contains(group_.results, operand) || overlaps({form_.slots(operand)}, group_.made) ||
                 store.overlaps(form_.slots(operand))) {
        return false;
      }
    }
    return true;
  }

  void join(const Instruction& step, std::size_t position) {
    group_.width = loop_width(step);
    group_.last = position;
    group_.steps.push_back(&step);
    for (const int operand : operands(step)) {
      if (!is_own(step, operand)) {
        group_.any_reads.push_back(form_.slots(operand));
      } else if (!contains(group_.results, operand)) {
        group_.own_reads.push_back(operand);
      }
    }
    group_.made.push_back(target(step));
    (step.op == Op::copy ? group_.filled : group_.results).push_back(step.out);
  }

  void flush(Sequence& sequence) {
    if (group_.steps.empty()) return;
    Piece piece;
    std::string body;
    for (const Instruction* step : group_.steps) {
      if (step->op == Op::copy) {
        body +=
            form_.at(step->out, text_of(step->out_column) + " + c") + " = " + operand(*step, step->a) + "; ";
        piece.writes.push_back(target(*step));
        continue;
      }
      body += "const float " + local(step->out) + " = " + expression(*step) + "; ";
      if (last_use_[static_cast<std::size_t>(step->out)] > group_.last) {
        body += form_.at(step->out, "c") + " = " + local(step->out) + "; ";
        piece.writes.push_back(target(*step));
      }
    }
    for (const int read : group_.own_reads) piece.reads.push_back(form_.slots(read));
    append(piece.reads, group_.any_reads);
    piece.text = form_.each(group_.width, body);
    sequence.put(piece);
    group_ = {};
  }

  /// A value of the column at hand: out of this loop, or of the frame.
  [[nodiscard]] std::string operand(const Instruction& step, int value) const {
    if (contains(group_.results, value)) return local(value);
    return form_.at(value, width(value) < loop_width(step) ? "0" : "c");
  }

  /// (x - center) scale + offset, in column c.
  std::string map(const Instruction& step, std::string text) {
    if (!step.center.empty()) text = "(" + text + " - " + form_.constant(step.center, "c") + ")";
    if (!step.scale.empty()) text = "(" + text + " * " + form_.constant(step.scale, "c") + ")";
    if (!step.offset.empty()) text = "(" + text + " + " + form_.constant(step.offset, "c") + ")";
    return text;
  }

  std::string difference(const Instruction& step, const std::string& a, std::string b) {
    if (!step.scale_b.empty()) b += " * " + form_.constant(step.scale_b, "c");
    return "(" + map(step, a) + " - " + b + ")";
  }

  std::string expression(const Instruction& s) {
    if (s.op == Op::gather) return form_.at(s.a, form_.constant(s.indices, "c"));
    std::string a = operand(s, s.a);
    const std::string b = s.b < 0 ? std::string() : operand(s, s.b);
    switch (s.op) {
      case Op::apply: return function_of(s.function, a);
      case Op::affine: return map(s, a);
      case Op::difference: return difference(s, a, b);
      case Op::add: return a + " + " + b;
      case Op::subtract: return a + " - " + b;
      case Op::multiply: return a + " * " + b;
      case Op::divide: return a + " / " + b;
      case Op::minimum: return "smaller(" + a + ", " + b + ")";
      case Op::maximum: return "larger(" + a + ", " + b + ")";
      default: return a;
    }
  }

  // ------------------------------------------------------------------------------------------- reductions

  Reduction sum(const Instruction& step, const std::string& term) {
    const std::string weight = step.weights.empty() ? "" : form_.constant(step.weights, "c") + " * ";
    return {
        .a = step.a,
        .b = step.b,
        .start = "0.0f",
        .take = "const float d = " + term + "; t[0] += " + weight + (step.op == Op::sum ? "d;" : "(d * d);"),
        .merge = "t[0] += x;",
        .result = "t[j] * " + literal(fused::to_float32(step.factor)),
        .out = step.out};
  }

  /// The columns of a that come first in an order, by insertion into a short list.
  Reduction extremes(const Instruction& step, const std::string& worst, std::string_view first,
                     std::string_view second) {
    const std::string kept = text_of(width(step.out));
    const std::string insert = fill(
        "_Pragma(\"unroll\") for (int n = 0; n < @kept@; ++n) { const float y = t[n]; "
        "t[n] = @first@(y, x); x = @second@(y, x); }",
        {{"kept", kept}, {"first", std::string(first)}, {"second", std::string(second)}});
    return {.a = step.a,
            .kept = width(step.out),
            .start = worst,
            .take = "float x = " + map(step, form_.at(step.a, "c")) + "; " + insert,
            .merge = insert,
            .result = "t[j]",
            .out = step.out};
  }

  Reduction extreme(const Instruction& step, const std::string& worst, const std::string& better) {
    return {.a = step.a,
            .start = worst,
            .take = "t[0] = " + better + "(t[0], " + map(step, form_.at(step.a, "c")) + ");",
            .merge = "t[0] = " + better + "(t[0], x);",
            .result = "t[j]",
            .out = step.out};
  }

  Reduction reduction(const Instruction& s) {
    const std::string a = form_.at(s.a, "c");
    switch (s.op) {
      case Op::sum: return sum(s, a);
      case Op::sum_squares: return sum(s, map(s, a));
      case Op::sum_difference: return sum(s, difference(s, a, form_.at(s.b, "c")));
      case Op::min_columns: return extreme(s, "INFINITE", "smaller");
      case Op::max_columns: return extreme(s, "-INFINITE", "larger");
      case Op::smallest: return extremes(s, "INFINITE", "smaller", "larger");
      default: return extremes(s, "-INFINITE", "larger", "smaller");
    }
  }

  const Program& program_;
  const fused::Links links_;
  Form& form_;
  std::vector<std::size_t> last_use_;  ///< By value: the last step that reads it.
  Group group_;
};

}  // namespace

std::string all_steps(const fused::Program& program, Form& form) {
  StepWriter writer(program, form);
  const std::size_t score = program.score_instructions;
  const std::size_t output = program.output_instructions;
  const std::size_t all = program.instructions.size();
  std::string text = writer.steps(0, score);
  if (output > score) {
    text += "    if (output != nullptr || contributions != nullptr) {\n" + writer.steps(score, output) +
            "    }\n";
  }
  if (all > output) text += "    if (contributions != nullptr) {\n" + writer.steps(output, all) + "    }\n";
  return text;
}

}  // namespace datasentinel::fused_cuda
