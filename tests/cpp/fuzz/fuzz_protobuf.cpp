// Any bytes as the messages that carry rows; the first byte says which.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "sum_session.h"
#include "wire/grpc/evaluate.h"
#include "wire/grpc/model_infer.h"

namespace {

using namespace datasentinel;

std::shared_ptr<ModelTable> make_models() {
  auto models = std::make_shared<ModelTable>();
  models->put("sum", "1", std::make_shared<Scorer>(std::make_shared<SumSession>(3), 10.0));
  models->set_default("sum");
  return models;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::shared_ptr<ModelTable> models = make_models();
  if (size == 0) return 0;
  const std::string_view message(reinterpret_cast<const char*>(data) + 1, size - 1);
  const InferenceLimits limits{.max_rows = 1000};
  InferenceRequest request;
  switch (data[0] % 3) {
    case 0: static_cast<void>(decode_model_infer(message, *models, limits, request)); break;
    case 1: static_cast<void>(decode_evaluate(message, *models, request)); break;
    default: static_cast<void>(decode_evaluate_batch(message, *models, limits, request)); break;
  }
  return 0;
}
