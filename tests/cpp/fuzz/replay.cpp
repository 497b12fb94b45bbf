// Runs a fuzz target over the files of folders, and over each of them cut short: what libFuzzer would do
// first.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void run(const std::string& content, std::size_t size) {
  // A copy of exactly this size, so that the sanitizers see every step beyond it.
  const std::string input = content.substr(0, size);
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t files = 0;
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string content{std::istreambuf_iterator<char>(file), {}};
      for (std::size_t part = 1; part <= 16; ++part) run(content, content.size() * part / 16);
      ++files;
    }
  }
  if (files == 0) {
    std::fprintf(stderr, "no inputs\n");
    return 1;
  }
  return 0;
}
