// Loaded images and their kernels.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "faults.h"
#include "image.h"

namespace cuda_on_cpu {

class Module {
 public:
  /// Gives an error of CUDA, or 0.
  [[nodiscard]] int load(const void* image, int architecture) {
    ImageHeader header;
    std::memcpy(&header, image, sizeof header);
    if (ImageHeader::kMagic != header.magic) return 200;
    const std::string_view code(static_cast<const char*>(image) + sizeof header, header.bytes);
    if (checksum(code) != header.checksum) return 200;
    // Code runs on its own major version, from its minor version on.
    const int wanted = static_cast<int>(header.architecture);
    if (wanted / 10 != architecture / 10 || wanted > architecture) return 209;
    std::string path = (std::filesystem::temp_directory_path() / "cuda_on_cpu_XXXXXX").string();
    const int file = mkstemp(path.data());
    if (file < 0) die("no temporary file");
    const bool written = write(file, code.data(), code.size()) == static_cast<ssize_t>(code.size());
    close(file);
    library_ = written ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
    unlink(path.c_str());
    if (library_ == nullptr) die("a compiled kernel cannot be loaded");
    return 0;
  }

  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  ~Module() {
    if (library_ != nullptr) dlclose(library_);
  }

  [[nodiscard]] const EntryPoint* find(const std::string& name) const {
    return static_cast<const EntryPoint*>(dlsym(library_, ("entry_point_" + name).c_str()));
  }

 private:
  void* library_ = nullptr;
};

/// A kernel of a loaded module.
struct Function {
  const void* module = nullptr;
  const EntryPoint* entry = nullptr;
  int shared_bytes = 48 << 10;  ///< Most dynamic shared memory of a launch.
};

namespace detail {

inline thread_local sigjmp_buf* rescue = nullptr;
inline struct sigaction previous[2];
inline constexpr int kSignals[2] = {SIGSEGV, SIGBUS};

inline void on_bad_access(int signal) {
  if (rescue != nullptr) siglongjmp(*rescue, 1);
  // Another thread's own mistake: let it come again, as it would without us.
  sigaction(signal, &previous[signal == SIGSEGV ? 0 : 1], nullptr);
}

}  // namespace detail

/// Runs device work. Gives false when it touched memory that it may not touch. One thread at a time.
template <typename Run>
bool survives(Run run) {
  sigjmp_buf here;
  struct sigaction ours{};
  ours.sa_handler = detail::on_bad_access;
  for (int i = 0; i < 2; ++i) sigaction(detail::kSignals[i], &ours, &detail::previous[i]);
  volatile bool survived = false;
  if (sigsetjmp(here, 1) == 0) {
    detail::rescue = &here;
    run();
    survived = true;
  }
  detail::rescue = nullptr;
  for (int i = 0; i < 2; ++i) sigaction(detail::kSignals[i], &detail::previous[i], nullptr);
  return survived;
}

}  // namespace cuda_on_cpu
