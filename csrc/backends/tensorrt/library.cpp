#include "backends/tensorrt/library.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/error.h"

#define DATASENTINEL_TEXT_OF(x) #x
#define DATASENTINEL_TEXT(x) DATASENTINEL_TEXT_OF(x)
#define DATASENTINEL_TRT_MAJOR DATASENTINEL_TEXT(NV_TENSORRT_MAJOR)

namespace datasentinel::tensorrt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHeaderVersion = DATASENTINEL_TRT_MAJOR "." DATASENTINEL_TEXT(NV_TENSORRT_MINOR);
constexpr std::array kRuntimeNames = {"libnvinfer.so." DATASENTINEL_TRT_MAJOR,
                                      "libnvinfer_lean.so." DATASENTINEL_TRT_MAJOR};
constexpr const char* kParserName = "libnvonnxparser.so." DATASENTINEL_TRT_MAJOR;
constexpr int kHeaderNumber = NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100;

std::string needs() {
  return std::string("this build serves TensorRT ") + DATASENTINEL_TRT_MAJOR + " (its headers were " +
         kHeaderVersion + ")";
}

/// libnvinfer's files of whatever major version in `folder`, for a message.
std::string others_in(const fs::path& folder) {
  std::string found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("libnvinfer.so.") || name.starts_with("libnvinfer_lean.so.")) {
      found += found.empty() ? name : ", " + name;
    }
  }
  return found;
}

DynamicLibrary open_runtime(const LibraryHint& hint) {
  std::error_code ignored;
  if (hint.path.empty()) {
    // The loader's own search: system packages and LD_LIBRARY_PATH.
    for (const char* name : kRuntimeNames) {
      try {
        return DynamicLibrary(name);
      } catch (const Error&) {
        continue;
      }
    }
    throw Error(ErrorCode::unavailable, hint.problem + "; and the loader finds no " + kRuntimeNames[0]);
  }
  if (!fs::is_directory(hint.path, ignored)) return DynamicLibrary(hint.path);
  for (const char* name : kRuntimeNames) {
    const fs::path path = fs::path(hint.path) / name;
    if (fs::exists(path, ignored)) return DynamicLibrary(path.string());
  }
  const std::string others = others_in(hint.path);
  throw Error(ErrorCode::unavailable, "'" + hint.path + "' has no " + kRuntimeNames[0] +
                                          (others.empty() ? "" : ", only " + others) + "; " + needs());
}

std::string version_text(int number) {
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
         std::to_string(number % 100);
}

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

Library::Library(const LibraryHint& hint) : runtime_(open_runtime(hint)) {
  const int number = runtime_.symbol<std::int32_t (*)() noexcept>("getInferLibVersion")();
  version_ = version_text(number);
  if (number / 10000 != NV_TENSORRT_MAJOR) {
    throw Error(ErrorCode::unavailable,
                "'" + runtime_.path() + "' is TensorRT " + version_ + ", but " + needs());
  }
  if (number < kHeaderNumber) {
    throw Error(ErrorCode::unavailable,
                "'" + runtime_.path() + "' is TensorRT " + version_ + ", which is too old: " + needs());
  }
  create_runtime_ = runtime_.symbol<Factory>("createInferRuntime_INTERNAL");
  const fs::path path(runtime_.path());
  if (path.filename().string().starts_with("libnvinfer_lean")) {
    builder_problem_ = "'" + runtime_.path() + "' is the lean runtime, which runs engines but builds none";
  } else {
    open_builder(path.has_parent_path() ? path.parent_path().string() : "");
  }
}

void Library::open_builder(const std::string& folder) {
  try {
    create_builder_ = runtime_.symbol<Factory>("createInferBuilder_INTERNAL");
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
