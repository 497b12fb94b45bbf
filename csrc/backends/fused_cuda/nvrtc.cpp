#include "backends/fused_cuda/nvrtc.h"

#include <array>
#include <cstddef>

#include "core/error.h"
#include "core/usable_cores.h"

namespace datasentinel::fused_cuda {
namespace {

struct NvrtcProgram;  // _nvrtcProgram

constexpr int kSuccess = 0;  // NVRTC_SUCCESS

constexpr int kLeastSplittingMajor = 13;

/// Destroys a program through the library that made it.
class ProgramHandle {
 public:
  explicit ProgramHandle(int (*destroy)(NvrtcProgram**)) : destroy_(destroy) {}
  ProgramHandle(const ProgramHandle&) = delete;
  ProgramHandle& operator=(const ProgramHandle&) = delete;
  ~ProgramHandle() {
    if (program_ != nullptr) destroy_(&program_);
  }
  [[nodiscard]] NvrtcProgram** out() noexcept { return &program_; }
  [[nodiscard]] NvrtcProgram* get() const noexcept { return program_; }

 private:
  int (*destroy_)(NvrtcProgram**);
  NvrtcProgram* program_ = nullptr;
};

}  // namespace

Nvrtc::Nvrtc(const std::string& path) : library_(path) {
  int minor = 0;
  if (library_.symbol<int (*)(int*, int*)>("nvrtcVersion")(&major_, &minor) != kSuccess) {
    throw Error(ErrorCode::unavailable, "'" + path + "' does not tell its version");
  }
  version_ = std::to_string(major_) + "." + std::to_string(minor);
}

Bytes Nvrtc::compile(const std::string& source, const std::string& architecture) const {
  using Text = int (*)(NvrtcProgram*, char*);
  using Size = int (*)(NvrtcProgram*, std::size_t*);
  const auto create = library_.symbol<int (*)(NvrtcProgram**, const char*, const char*, int,
                                              const char* const*, const char* const*)>("nvrtcCreateProgram");
  const auto compile_program =
      library_.symbol<int (*)(NvrtcProgram*, int, const char* const*)>("nvrtcCompileProgram");
  ProgramHandle program(library_.symbol<int (*)(NvrtcProgram**)>("nvrtcDestroyProgram"));
  const auto fetch = [&](const char* size_name, const char* text_name) {
    std::size_t size = 0;
    std::string text;
    if (library_.symbol<Size>(size_name)(program.get(), &size) != kSuccess || size == 0) return text;
    text.resize(size);
    if (library_.symbol<Text>(text_name)(program.get(), text.data()) != kSuccess) text.clear();
    return text;
  };

  const std::string flag = "--gpu-architecture=sm_" + architecture;
  // Side by side it compiles to the same code. What 12.4 makes of this option is a complaint in the log.
  const std::string threads = "--split-compile=" + std::to_string(usable_cores());
  const std::array<const char*, 3> flags{flag.c_str(), "--std=c++17", threads.c_str()};
  const int count = major_ >= kLeastSplittingMajor ? 3 : 2;
  const int created = create(program.out(), source.c_str(), "fused.cu", 0, nullptr, nullptr);
  const int compiled = created == kSuccess ? compile_program(program.get(), count, flags.data()) : created;
  const std::string code = compiled == kSuccess ? fetch("nvrtcGetCUBINSize", "nvrtcGetCUBIN") : std::string();
  if (code.empty()) {
    const std::string log =
        program.get() == nullptr ? "" : fetch("nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
    throw Error(ErrorCode::backend_failure,
                "NVRTC " + version_ + " cannot compile for sm_" + architecture + ": " + log, log);
  }
  const auto view = std::as_bytes(std::span(code.data(), code.size()));
  return {view.begin(), view.end()};
}

}  // namespace datasentinel::fused_cuda
