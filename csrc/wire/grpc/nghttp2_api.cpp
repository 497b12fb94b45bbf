#include "wire/grpc/nghttp2_api.h"

#include <new>
#include <utility>

#include "core/error.h"

namespace datasentinel::nghttp2 {

Api::Api(std::string library_path) : library_(std::move(library_path)) {
#define DATASENTINEL_NGHTTP2_LOAD(name, result, ...) \
  name = library_.symbol<result (*)(__VA_ARGS__)>("nghttp2_" #name);
  DATASENTINEL_NGHTTP2_FUNCTIONS(DATASENTINEL_NGHTTP2_LOAD)
#undef DATASENTINEL_NGHTTP2_LOAD
#define DATASENTINEL_NGHTTP2_LOAD(name, result, ...) \
  name = library_.symbol_or_null<result (*)(__VA_ARGS__)>("nghttp2_" #name);
  DATASENTINEL_NGHTTP2_LATER_FUNCTIONS(DATASENTINEL_NGHTTP2_LOAD)
#undef DATASENTINEL_NGHTTP2_LOAD
}

std::string Api::describe() const {
  return "nghttp2 " + std::string(version(0)->version) + " (" + library_.path() + ")";
}

void Api::check(int result) const {
  if (result == kErrorNoMemory) throw std::bad_alloc();
  if (result != 0) throw Error(ErrorCode::backend_failure, strerror(result));
}

std::shared_ptr<const Api> open(const std::vector<std::string>& library_paths) {
  std::string problems;
  for (const std::string& path : library_paths) {
    try {
      return std::make_shared<const Api>(path);
    } catch (const Error& error) {
      problems += (problems.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  throw Error(ErrorCode::unavailable, problems);
}

}  // namespace datasentinel::nghttp2
