#pragma once

#include <cstddef>
#include <string>

#include "backends/onnxruntime/api.h"
#include "core/tensor.h"

namespace datasentinel::onnxruntime {

/// A graph's inputs and outputs.
struct Signature {
  std::string input;
  std::size_t input_dim = 0;
  std::string score;           ///< Empty: the graph only reconstructs.
  std::size_t score_rank = 1;  ///< [batch] or [batch, 1].
  std::string reconstruction;  ///< Empty: the graph only scores.
  std::string contributions;   ///< Empty: the graph does not say why.
  std::string state;           ///< Empty: the graph has no memory.
  std::string state_next;
  std::size_t state_dim = 0;
  bool one_row_at_a_time = false;  ///< The graph was exported with a fixed batch of 1.
};

/// Which tensors a call needs from the graph, and what is computed from them afterwards.
struct Needs {
  bool score = false;
  bool reconstruction = false;
  bool contributions = false;
  bool score_by_us = false;
  bool contributions_by_us = false;
};

/// Throws Error{unsupported_model}: the graph lacks what is asked for.
[[nodiscard]] Needs needs_of(const Signature& signature, const Outputs& outputs);

/// Throws Error{unsupported_model}: the graph's inputs and outputs are not those of a detector.
[[nodiscard]] Signature read_signature(const Api& api, const OrtSession* session,
                                       const std::string& model_name);

}  // namespace datasentinel::onnxruntime
