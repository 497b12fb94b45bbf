#include "backends/tensorrt/library.h"

#include <filesystem>
#include <utility>

#include "core/error.h"

#define DATASENTINEL_TEXT_OF(x) #x
#define DATASENTINEL_TEXT(x) DATASENTINEL_TEXT_OF(x)
#define DATASENTINEL_TRT_MAJOR DATASENTINEL_TEXT(NV_TENSORRT_MAJOR)

namespace datasentinel::tensorrt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHeaderVersion = DATASENTINEL_TRT_MAJOR "." DATASENTINEL_TEXT(NV_TENSORRT_MINOR);
constexpr const char* kParserName = "libnvonnxparser.so." DATASENTINEL_TRT_MAJOR;

template <typename T>
std::unique_ptr<T> checked(void* pointer, const char* what, Logger& logger) {
  T* object = object_or_null<T>(pointer);
  if (object == nullptr) {
    const std::string text = logger.take_errors();
    throw Error(ErrorCode::backend_failure, std::string("TensorRT makes no ") + what + ": " + text, text);
  }
  return std::unique_ptr<T>(object);
}

}  // namespace

const char* header_version() noexcept { return kHeaderVersion; }

void Logger::log(Severity severity, const nvinfer1::AsciiChar* message) noexcept {
  if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
  constexpr std::size_t kMost = 2000;
  try {
    const std::lock_guard lock(mutex_);
    if (errors_.size() > kMost) return;
    if (!errors_.empty()) errors_ += "; ";
    errors_ += message;
  } catch (...) {  // Out of memory for a message: the error itself is reported all the same.
    return;
  }
}

std::string Logger::take_errors() {
  const std::lock_guard lock(mutex_);
  return std::exchange(errors_, {});
}

Library::Library(Runtime&& runtime) : runtime_(std::move(runtime)) {
  const Version& version = runtime_.version;
  if (version.major != NV_TENSORRT_MAJOR || version.minor < NV_TENSORRT_MINOR) {
    throw Error(ErrorCode::unavailable, "'" + path() + "' is TensorRT " + version.text() +
                                            "; this build's module for TensorRT " DATASENTINEL_TRT_MAJOR
                                            " serves " +
                                            kHeaderVersion + " and later of that major version");
  }
  create_runtime_ = runtime_.library.symbol<Factory>("createInferRuntime_INTERNAL");
  const fs::path file(path());
  if (file.filename().string().starts_with("libnvinfer_lean")) {
    builder_problem_ = "'" + path() + "' is the lean runtime, which runs engines but builds none";
  } else {
    open_builder(file.has_parent_path() ? file.parent_path().string() : "");
  }
}

void Library::open_builder(const std::string& folder) {
  try {
    create_builder_ = runtime_.library.symbol<Factory>("createInferBuilder_INTERNAL");
    parser_.emplace(folder.empty() ? std::string(kParserName) : (fs::path(folder) / kParserName).string());
    create_parser_ = parser_->symbol<ParserFactory>("createNvOnnxParser_INTERNAL");
  } catch (const Error& error) {
    builder_problem_ = error.what();
  }
}

std::unique_ptr<nvinfer1::IRuntime> Library::make_runtime() const {
  return checked<nvinfer1::IRuntime>(create_runtime_(logger_.get(), NV_TENSORRT_VERSION), "runtime",
                                     *logger_);
}

std::unique_ptr<nvinfer1::IBuilder> Library::make_builder() const {
  if (!builder_problem_.empty())
    throw Error(ErrorCode::unavailable, "no engine can be built: " + builder_problem_);
  return checked<nvinfer1::IBuilder>(create_builder_(logger_.get(), NV_TENSORRT_VERSION), "builder",
                                     *logger_);
}

std::unique_ptr<nvonnxparser::IParser> Library::make_parser(nvinfer1::INetworkDefinition& network) const {
  return checked<nvonnxparser::IParser>(create_parser_(&network, logger_.get(), NV_ONNX_PARSER_VERSION),
                                        "ONNX parser", *logger_);
}

}  // namespace datasentinel::tensorrt
