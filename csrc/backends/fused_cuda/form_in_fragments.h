#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backends/fused/program.h"
#include "backends/fused_cuda/constants.h"
#include "backends/fused_cuda/form.h"
#include "backends/fused_cuda/precision.h"
#include "backends/fused_cuda/tensor_cores.h"

namespace datasentinel::fused_cuda {

/// Whether all layers of the program run on tensor cores, and no step needs another row's or column's values
/// but to reduce them.
[[nodiscard]] bool runs_in_fragments(const fused::Program& program, Precision precision);

/// Registers that a lane needs at most for the values of 16 rows: those that only layers read are kept as
/// their operands.
[[nodiscard]] std::size_t fragment_registers(const fused::Program& program, Precision precision,
                                             TensorCores instructions);

/// A warp for tiles of 16 rows: values are what the tensor cores' instructions hand to its lanes. Lane 4 g +
/// t has columns 8 n + 2 t and the next of rows g (elements 0 and 1) and g + 8 (2 and 3), of which the next
/// layer's operands are made, so that no lane needs another's. The input lies in `x`, which the warp shares.
/// With `wgmma` four warps of one tile each multiply together, with weights in shared memory.
class InFragments final : public Form {
 public:
  /// `place`: what the text calls the array of constants.
  InFragments(const fused::Program& program, Precision precision, TensorCores instructions, std::size_t tiles,
              Constants& constants, std::string place)
      : program_(program),
        precision_(precision),
        instructions_(instructions),
        tiles_(tiles),
        constants_(constants),
        place_(std::move(place)) {}

  [[nodiscard]] std::string at(int value, const std::string& column) const override;
  [[nodiscard]] Slots slots(int /*value*/) const override { return {}; }
  [[nodiscard]] std::string constant(const std::vector<double>& values, const std::string& column) override;
  [[nodiscard]] std::string constant(const std::vector<int>& values, const std::string& column) override;
  [[nodiscard]] std::string each(std::size_t width, const std::string& body) const override;
  [[nodiscard]] Pieces reduce(const Reduction& reduction) const override;
  [[nodiscard]] Pieces dense(const fused::Instruction& step) override;
  [[nodiscard]] bool in_parts(const fused::Instruction& /*step*/) const override { return false; }
  [[nodiscard]] Pieces dense_in_parts(const fused::Instruction& /*step*/, const Correction& /*correction*/,
                                      const std::vector<Reduction>& /*reductions*/) override {
    return {};
  }
  [[nodiscard]] std::string barrier() const override { return ""; }

  /// Where values live.
  [[nodiscard]] std::string declarations() const;
  /// Functions that the steps so far need.
  [[nodiscard]] const std::set<std::string>& functions() const noexcept { return functions_; }

 private:
  /// Statements that add the products of some groups of columns to `sum`.
  [[nodiscard]] std::string by_warps(const Fragments& fragments);
  [[nodiscard]] std::string by_warpgroups(const Fragments& fragments, std::size_t at_once);
  [[nodiscard]] std::size_t width(int value) const {
    return program_.widths[static_cast<std::size_t>(value)];
  }

  const fused::Program& program_;
  const Precision precision_;
  const TensorCores instructions_;
  const std::size_t tiles_;
  Constants& constants_;
  const std::string place_;
  std::set<std::string> functions_;
};

}  // namespace datasentinel::fused_cuda
