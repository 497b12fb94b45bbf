#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "backends/tensorrt/library.h"
#include "core/backend.h"

namespace datasentinel::tensorrt {

/// A deserialised engine and what it offers. Immutable, shared by all lanes of a session.
class Engine {
 public:
  /// Throws Error{backend_failure} when TensorRT cannot load the bytes, Error{unsupported_model} when the
  /// model is not a detector.
  Engine(std::shared_ptr<const Library> library, std::span<const std::byte> bytes,
         const EngineOptions& options, const std::string& model_name);

  [[nodiscard]] abi::Owned<abi::VExecutionContext> make_context() const;
  /// Device memory that a context needs for either profile.
  [[nodiscard]] std::int64_t scratch_bytes() const noexcept { return scratch_bytes_; }
  /// The profile for a batch; 0 where the engine has but one.
  [[nodiscard]] int profile_for(std::size_t rows) const noexcept;

  [[nodiscard]] const Library& library() const noexcept { return *library_; }
  [[nodiscard]] std::size_t input_dim() const noexcept { return input_dim_; }
  [[nodiscard]] std::size_t max_rows() const noexcept { return max_rows_; }
  [[nodiscard]] const std::string& input() const noexcept { return input_; }
  // Empty where the graph has none.
  [[nodiscard]] const std::string& score() const noexcept { return score_; }
  [[nodiscard]] const std::string& reconstruction() const noexcept { return reconstruction_; }
  [[nodiscard]] const std::string& contributions() const noexcept { return contributions_; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }

 private:
  void read_signature(const EngineOptions& options, const std::string& model_name);

  std::shared_ptr<const Library> library_;
  // Declared in this order: the engine must go before the runtime that made it.
  abi::Owned<abi::VRuntime> runtime_;
  abi::Owned<abi::VCudaEngine> engine_;
  std::size_t size_bytes_ = 0;
  std::size_t input_dim_ = 0;
  std::size_t max_rows_ = 1;
  std::int64_t scratch_bytes_ = 0;
  std::string input_, score_, reconstruction_, contributions_;
};

}  // namespace datasentinel::tensorrt
