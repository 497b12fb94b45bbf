#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serving/inference_service.h"
#include "serving/request_counts.h"
#include "sum_session.h"

namespace datasentinel::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Ends the run, as a sanitizer would.
inline void require(bool holds, const char* what, std::string_view left = {}, std::string_view right = {}) {
  if (holds) return;
  std::cerr << what << "\n" << left << "\n--\n" << right << "\n";
  std::abort();
}

/// A service with a model of three columns, "sum", that never leaves the thread: what a run does, the next
/// one does again.
inline std::shared_ptr<InferenceService> make_inference() {
  auto models = std::make_shared<ModelTable>();
  models->put("sum", "1", std::make_shared<Scorer>(std::make_shared<SumSession>(3), 10.0));
  return std::make_shared<InferenceService>(
      models, ServiceLimits{.max_inline_us = 1e12, .max_memory_bytes = std::size_t{1} << 20}, QueueLimits{},
      [] {});
}

inline std::shared_ptr<RequestCounts> make_counts() {
  return std::make_shared<RequestCounts>(std::vector<double>{1.0});
}

/// Hands the bytes to `take`, in pieces of so many.
template <typename Take>
void in_pieces(std::string_view bytes, std::size_t piece, Take take) {
  for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
    // A copy of exactly this size, so that the sanitizers see every step beyond it.
    const std::string part(bytes.substr(0, piece));
    take(std::string_view(part));
  }
}

}  // namespace datasentinel::fuzz
