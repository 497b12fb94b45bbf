#include "backends/onnxruntime/api.h"

#include <charconv>

#include "core/error.h"

namespace datasentinel::onnxruntime {
namespace {

struct ApiBase {
  const void* const* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

ErrorCode code_of(int ort_code) {
  switch (ort_code) {
    case kErrorCodeNoSuchFile: return ErrorCode::not_found;
    case kErrorCodeInvalidProtobuf:
    case kErrorCodeInvalidGraph: return ErrorCode::invalid_model;
    case kErrorCodeNotImplemented: return ErrorCode::unsupported_model;
    default: return ErrorCode::backend_failure;
  }
}

/// The N of "1.N.P", which is also the newest table version that the library has.
std::uint32_t minor_of(std::string_view version) {
  const std::size_t dot = version.find('.');
  std::uint32_t minor = 0;
  if (dot != std::string_view::npos) {
    std::from_chars(version.data() + dot + 1, version.data() + version.size(), minor);
  }
  return minor;
}

}  // namespace

Api::Api(const std::string& library_path) : library_(library_path) {
  const auto* base = library_.symbol<const ApiBase* (*)()>("OrtGetApiBase")();
  version_ = base->GetVersionString();
  const void* const* table = base->GetApi(kApiVersion);
  if (table == nullptr) {
    throw Error(ErrorCode::unavailable, "'" + library_path + "' is ONNX Runtime " + version_ + "; 1." +
                                            std::to_string(kApiVersion) + " or later is needed");
  }
#define DATASENTINEL_ORT_LOAD(index, name, result, ...) \
  name = reinterpret_cast<result (*)(__VA_ARGS__)>(const_cast<void*>(table[index]));
  DATASENTINEL_ORT_FUNCTIONS(DATASENTINEL_ORT_LOAD)
  // A library asked for a version that it does not have complains on stderr, so its own is read first.
  if (minor_of(version_) >= kCopyApiVersion) {
    table = base->GetApi(kCopyApiVersion);
    if (table != nullptr) {
      DATASENTINEL_ORT_COPY_FUNCTIONS(DATASENTINEL_ORT_LOAD)
    }
  }
#undef DATASENTINEL_ORT_LOAD
}

std::vector<std::string> Api::providers() const {
  char** names = nullptr;
  int count = 0;
  check(GetAvailableProviders(&names, &count), "asking for the execution providers");
  const std::vector<std::string> result(names, names + count);
  check(ReleaseAvailableProviders(names, count), "asking for the execution providers");
  return result;
}

void Api::check(OrtStatus* status, const std::string& what) const {
  if (status == nullptr) return;
  const std::string text = GetErrorMessage(status);
  const ErrorCode code = code_of(GetErrorCode(status));
  ReleaseStatus(status);
  throw Error(code, what + ": ONNX Runtime " + version_ + " says: " + text, text);
}

}  // namespace datasentinel::onnxruntime
