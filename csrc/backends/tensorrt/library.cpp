#include "backends/tensorrt/library.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace datasentinel::tensorrt {
namespace {

namespace fs = std::filesystem;

struct Kind {
  Product product;
  const char* product_name;
  const char* stem;    ///< The library's file name up to its major version.
  const char* parser;  ///< The ONNX parser's, null where there is none.
  int major, minor;    ///< The oldest version with the ABI of api.h; later majors may differ.
};

/// In order of preference: the lean runtime builds no engine.
constexpr std::array kKinds = {
    Kind{Product::enterprise, "TensorRT", "libnvinfer.so.", "libnvonnxparser.so.", abi::kMajor, abi::kMinor},
    Kind{Product::rtx, "TensorRT for RTX", "libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so.", 1, 7},
    Kind{Product::lean, "TensorRT", "libnvinfer_lean.so.", nullptr, abi::kMajor, abi::kMinor},
};

const Kind& kind_of(Product product) {
  return *std::find_if(kKinds.begin(), kKinds.end(),
                       [product](const Kind& kind) { return kind.product == product; });
}

/// The product, told by the name of its library; `enterprise` for a name of the user's own.
Product product_of(const fs::path& path) {
  const std::string name = path.filename().string();
  for (const Kind& kind : kKinds) {
    const std::string stem(kind.stem);
    if (name.starts_with(stem.substr(0, stem.size() - 1))) return kind.product;
  }
  return Product::enterprise;
}

std::string file_name(const Kind& kind) { return kind.stem + std::to_string(kind.major); }

std::string all_file_names() {
  std::string names;
  for (const Kind& kind : kKinds) names += (names.empty() ? "" : ", ") + file_name(kind);
  return names;
}

/// What there is of TensorRT in `folder`, of whatever version, as a list for a message.
std::string libraries_in(const std::string& folder) {
  std::string found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    for (const Kind& kind : kKinds) {
      if (name.starts_with(kind.stem)) found += found.empty() ? name : ", " + name;
    }
  }
  return found;
}

DynamicLibrary open_by_loader(const std::string& problem) {
  for (const Kind& kind : kKinds) {
    try {
      return DynamicLibrary(file_name(kind));
    } catch (const Error&) {
      continue;
    }
  }
  throw Error(ErrorCode::unavailable, problem + "; and the loader finds none of " + all_file_names());
}

DynamicLibrary open_library(const LibraryHint& hint) {
  if (hint.path.empty()) return open_by_loader(hint.problem);
  std::error_code ignored;
  if (!fs::is_directory(hint.path, ignored)) return DynamicLibrary(hint.path);
  for (const Kind& kind : kKinds) {
    const fs::path path = fs::path(hint.path) / file_name(kind);
    if (fs::exists(path, ignored)) return DynamicLibrary(path.string());
  }
  const std::string others = libraries_in(hint.path);
  throw Error(ErrorCode::unavailable, "'" + hint.path + "' has none of " + all_file_names() +
                                          (others.empty() ? "" : ", only " + others));
}

}  // namespace

void Logger::log(abi::Severity severity, const char* message) noexcept {
  if (severity != abi::Severity::kERROR && severity != abi::Severity::kINTERNAL_ERROR) return;
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

Library::Library(const LibraryHint& hint) : library_(open_library(hint)), product_(product_of(path())) {
  read_version();
  create_runtime_ = library_.symbol<Factory>("createInferRuntime_INTERNAL");
  if (product_ == Product::lean) {
    builder_problem_ = "'" + path() + "' is the lean runtime, which runs engines but builds none";
  } else {
    open_builder();
  }
}

void Library::read_version() {
  const int number = library_.symbol<std::int32_t (*)() noexcept>("getInferLibVersion")();
  // 8601 is 8.6.1 and 110400 is 11.4.0; TensorRT for RTX 1.7.1 is 10701.
  const int minors = product_ != Product::rtx && number < 10000 ? 10 : 100;
  const int major = number / 100 / minors;
  const int minor = number / 100 % minors;
  version_ = std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(number % 100);
  const Kind& kind = kind_of(product_);
  if (major != kind.major || minor < kind.minor) {
    throw Error(ErrorCode::unavailable, "'" + path() + "' is " + name() + "; served are " +
                                            kind.product_name + " " + std::to_string(kind.major) + "." +
                                            std::to_string(kind.minor) + " and later of that major version");
  }
  abi_version_ = product_ == Product::rtx ? number : abi::kVersion;
}

void Library::open_builder() {
  const Kind& kind = kind_of(product_);
  const fs::path file(path());
  const std::string parser = kind.parser + std::to_string(kind.major);
  try {
    create_builder_ = library_.symbol<Factory>("createInferBuilder_INTERNAL");
    parser_.emplace(file.has_parent_path() ? (file.parent_path() / parser).string() : parser);
    create_parser_ = parser_->symbol<ParserFactory>("createNvOnnxParser_INTERNAL");
  } catch (const Error& error) {
    builder_problem_ = error.what();
  }
}

std::string Library::name() const { return std::string(kind_of(product_).product_name) + " " + version_; }

void Library::fail(const std::string& what) const {
  const std::string text = logger_->take_errors();
  throw Error(ErrorCode::backend_failure, what + ": " + name() + " says: " + text, text);
}

template <typename T>
T* Library::checked(void* pointer, const char* what) const {
  if (!is_object(pointer)) fail(std::string("making ") + what);
  return static_cast<T*>(pointer);
}

abi::Owned<abi::VRuntime> Library::make_runtime() const {
  static_cast<void>(logger_->take_errors());  // Of what was tried before.
  return abi::Owned(
      checked<abi::Object<abi::VRuntime>>(create_runtime_(logger_.get(), abi_version_), "a runtime"));
}

abi::Owned<abi::VBuilder> Library::make_builder() const {
  if (!builder_problem_.empty())
    throw Error(ErrorCode::unavailable, "no engine can be built: " + builder_problem_);
  static_cast<void>(logger_->take_errors());  // Of what was tried before.
  return abi::Owned(
      checked<abi::Object<abi::VBuilder>>(create_builder_(logger_.get(), abi_version_), "a builder"));
}

std::unique_ptr<abi::IParser> Library::make_parser(abi::Object<abi::VNetworkDefinition>& network) const {
  return std::unique_ptr<abi::IParser>(checked<abi::IParser>(
      create_parser_(&network, logger_.get(), abi::kOnnxParserVersion), "an ONNX parser"));
}

}  // namespace datasentinel::tensorrt
