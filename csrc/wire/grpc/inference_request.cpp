#include "wire/grpc/inference_request.h"

namespace datasentinel {

void InferenceRequest::recycle() noexcept {
  task.recycle();
  cancelled = nullptr;
  id.clear();
  number = 0;
  outputs.clear();
  raw = false;
  explain_top = 0;
  with_p_value = false;
}

}  // namespace datasentinel
