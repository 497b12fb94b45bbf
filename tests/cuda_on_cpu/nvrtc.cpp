// NVRTC for the simulated device: compiles a kernel's text with the system's C++ compiler.
//
// CUDA_ON_CPU_COMPILER, given when this is built, is its command with what finds kernel.h, one word a line.

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "image.h"

extern char** environ;

namespace {

namespace fs = std::filesystem;
using cuda_on_cpu::ImageHeader;

// Numbers of nvrtcResult.
enum Result { success = 0, invalid_input = 3, invalid_program = 4, invalid_option = 5, compilation = 6 };

struct Program {
  std::string source;
  std::string image;
  std::string log;
};

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// A folder of its own, removed with everything in it.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "cuda_on_cpu_XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  [[nodiscard]] const fs::path& path() const noexcept { return path_; }

 private:
  fs::path path_;
};

std::vector<std::string> lines_of(const char* text) {
  std::istringstream lines(text);
  std::vector<std::string> result;
  for (std::string line; std::getline(lines, line);) result.push_back(line);
  return result;
}

/// Runs a command with its output in `log`; true when it exits with 0.
bool run(std::vector<std::string> command, const fs::path& log) {
  std::vector<char*> words;
  for (std::string& word : command) words.push_back(word.data());
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  pid_t child = 0;
  const int problem = posix_spawnp(&child, words.front(), &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (problem != 0) {
    std::ofstream(log) << words.front() << ": " << std::strerror(problem) << "\n";
    return false;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// The text as C++, with a table for each entry point.
std::string unit_of(const std::string& source) {
  std::string unit =
      "#include \"kernel.h\"\n#line 1 \"fused.cu\"\n" + source + "\n#include \"entry_point.h\"\n";
  constexpr std::string_view kStart = "extern \"C\" __global__ void ";
  constexpr std::string_view kCluster = "__cluster_dims__(";
  constexpr std::string_view kBounds = "__launch_bounds__(";
  for (std::size_t at = source.find(kStart); at != std::string::npos; at = source.find(kStart, at)) {
    at += kStart.size();
    std::string cluster_size = "1";
    if (source.compare(at, kCluster.size(), kCluster) == 0) {
      const std::size_t first = at + kCluster.size();
      at = source.find(')', at);
      cluster_size = source.substr(first, at - first);
      at = source.find_first_not_of(" \n", at + 1);
    }
    if (source.compare(at, kBounds.size(), kBounds) == 0) at = source.find(')', at) + 1;
    at = source.find_first_not_of(" \n", at);
    const std::string name = source.substr(at, source.find('(', at) - at);
    unit += "CUDA_ON_CPU_ENTRY_POINT(" + name + ", " + cluster_size + ")\n";
  }
  return unit;
}

/// What this process and its children compiled before: a text is compiled often when its loading fails.
std::map<std::string, std::string> compiled_before;

int compile(Program& program, std::uint32_t architecture) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const std::string key = std::to_string(architecture) + program.source;
  if (const auto known = compiled_before.find(key); known != compiled_before.end()) {
    program.image = known->second;
    return success;
  }
  const Folder folder;
  if (folder.path().empty()) {
    program.log = "no folder for temporary files";
    return compilation;
  }
  const fs::path unit = folder.path() / "fused.cpp";
  const fs::path library = folder.path() / "fused.so";
  const fs::path log = folder.path() / "log";
  std::ofstream(unit) << unit_of(program.source);
  std::vector<std::string> command = lines_of(CUDA_ON_CPU_COMPILER);
  command.insert(command.end(), {"-shared", "-o", library.string(), unit.string()});
  const bool compiled = run(command, log);
  program.log = content_of(log);
  if (!compiled) return compilation;
  const std::string code = content_of(library);
  ImageHeader header{};
  std::copy(ImageHeader::kMagic.begin(), ImageHeader::kMagic.end(), header.magic);
  header.architecture = architecture;
  header.bytes = code.size();
  header.checksum = cuda_on_cpu::checksum(code);
  program.image.assign(reinterpret_cast<const char*>(&header), sizeof header);
  program.image += code;
  compiled_before[key] = program.image;
  return success;
}

int size_of(const Program* program, const std::string Program::* text, std::size_t terminator,
            std::size_t* size) {
  if (program == nullptr) return invalid_program;
  if (size == nullptr) return invalid_input;
  *size = (program->*text).size() + terminator;
  return success;
}

int copy_of(const Program* program, const std::string Program::* text, std::size_t terminator, char* target) {
  if (program == nullptr) return invalid_program;
  if (target == nullptr) return invalid_input;
  std::memcpy(target, (program->*text).c_str(), (program->*text).size() + terminator);
  return success;
}

}  // namespace

#define NVRTC_FUNCTION extern "C" __attribute__((visibility("default"))) int

NVRTC_FUNCTION nvrtcVersion(int* major, int* minor) {
  if (major == nullptr || minor == nullptr) return invalid_input;
  *major = 13;
  *minor = 0;
  return success;
}

NVRTC_FUNCTION nvrtcCreateProgram(Program** program, const char* source, const char* /*name*/, int headers,
                                  const char* const* /*contents*/, const char* const* /*names*/) {
  if (program == nullptr || source == nullptr || headers != 0) return invalid_input;
  *program = new Program{.source = source, .image = {}, .log = {}};
  return success;
}

NVRTC_FUNCTION nvrtcDestroyProgram(Program** program) {
  if (program == nullptr || *program == nullptr) return invalid_program;
  delete *program;
  *program = nullptr;
  return success;
}

NVRTC_FUNCTION nvrtcCompileProgram(Program* program, int options, const char* const* option) {
  constexpr std::string_view kArchitecture = "--gpu-architecture=sm_";
  if (program == nullptr) return invalid_program;
  int architecture = 0;
  for (int i = 0; i < options; ++i) {
    const std::string_view text = option[i];
    if (!text.starts_with("-")) return invalid_option;
    if (text.starts_with(kArchitecture)) architecture = std::atoi(text.substr(kArchitecture.size()).data());
  }
  // Without a real architecture NVRTC gives PTX and no cubin.
  if (architecture == 0) return invalid_option;
  return compile(*program, static_cast<std::uint32_t>(architecture));
}

NVRTC_FUNCTION nvrtcGetCUBINSize(Program* program, std::size_t* size) {
  return size_of(program, &Program::image, 0, size);
}
NVRTC_FUNCTION nvrtcGetCUBIN(Program* program, char* target) {
  return copy_of(program, &Program::image, 0, target);
}
NVRTC_FUNCTION nvrtcGetProgramLogSize(Program* program, std::size_t* size) {
  return size_of(program, &Program::log, 1, size);
}
NVRTC_FUNCTION nvrtcGetProgramLog(Program* program, char* target) {
  return copy_of(program, &Program::log, 1, target);
}
