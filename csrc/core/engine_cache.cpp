#include "core/engine_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string_view>
#include <system_error>

#include "core/error.h"

namespace datasentinel {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "datasentinel engine 1\n";

/// FNV-1a, 64 bits: it finds accidents (truncation, bad blocks), and nobody else may write into the folder.
std::uint64_t checksum(std::span<const std::byte> bytes) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3U;
  return hash;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string header_of(const EngineKey& key, std::span<const std::byte> engine) {
  return std::string(kMagic) + key.text() + "bytes=" + std::to_string(engine.size()) +
         "\nchecksum=" + std::to_string(checksum(engine)) + "\n\n";
}

std::optional<Bytes> read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return std::nullopt;
  const std::streamoff size = file.tellg();
  if (size < 0) return std::nullopt;
  Bytes content(static_cast<std::size_t>(size));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(content.data()), size);
  if (!file) return std::nullopt;
  return content;
}

bool write_all(int descriptor, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

bool write_atomically(const fs::path& path, std::span<const std::byte> head,
                      std::span<const std::byte> body) {
  static std::atomic<unsigned> counter{0};
  std::error_code problem;
  if (fs::create_directories(path.parent_path(), problem)) {
    fs::permissions(path.parent_path(), fs::perms::owner_all, problem);
  }
  if (problem) return false;
  const fs::path temporary =
      path.string() + "." + std::to_string(::getpid()) + "-" + std::to_string(counter++) + ".tmp";
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return false;
  const bool written = write_all(descriptor, head) && write_all(descriptor, body) && ::fsync(descriptor) == 0;
  const bool closed = ::close(descriptor) == 0;
  if (written && closed) {
    fs::rename(temporary, path, problem);
    if (!problem) return true;
  }
  fs::remove(temporary, problem);
  return false;
}

}  // namespace

EngineKey& EngineKey::add(const std::string& name, const std::string& value) {
  std::string line = name + "=" + value;
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  text_ += line + "\n";
  return *this;
}

std::string checksum_text(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::uint64_t hash = checksum(bytes);
  std::string text(16, '0');
  for (std::size_t i = text.size(); i-- > 0; hash >>= 4U) text[i] = kDigits[hash & 15U];
  return text;
}

std::string EngineKey::file_name() const { return checksum_text(bytes_of(text_)) + ".engine"; }

fs::path EngineCache::path_of(const EngineKey& key) const { return folder_ / key.file_name(); }

std::optional<Bytes> EngineCache::load(const EngineKey& key) const {
  if (folder_.empty()) return std::nullopt;
  const std::optional<Bytes> content = read_file(path_of(key));
  if (!content) return std::nullopt;
  constexpr std::string_view kEnd = "\n\n";
  const std::string_view text(reinterpret_cast<const char*>(content->data()), content->size());
  const std::size_t end = text.find(kEnd);
  if (end == std::string_view::npos) return std::nullopt;
  const std::size_t start = end + kEnd.size();
  const std::span<const std::byte> engine = std::span(*content).subspan(start);
  if (text.substr(0, start) != header_of(key, engine)) return std::nullopt;
  return Bytes(engine.begin(), engine.end());
}

bool EngineCache::store(const EngineKey& key, std::span<const std::byte> engine) const {
  return !folder_.empty() && write_atomically(path_of(key), bytes_of(header_of(key, engine)), engine);
}

void EngineCache::remove(const EngineKey& key) const noexcept {
  if (folder_.empty()) return;
  std::error_code ignored;
  fs::remove(path_of(key), ignored);
}

Bytes EngineCache::load_hint(const std::string& name) const {
  if (folder_.empty()) return {};
  return read_file(folder_ / name).value_or(Bytes());
}

bool EngineCache::store_hint(const std::string& name, std::span<const std::byte> content) const {
  return !folder_.empty() && write_atomically(folder_ / name, content, {});
}

bool use_stored_or_built(const EngineCache& cache, const EngineKey& key,
                         const std::function<void(std::span<const std::byte>)>& use,
                         const std::function<Bytes()>& build) {
  if (const std::optional<Bytes> stored = cache.load(key)) {
    try {
      use(*stored);
      return false;
    } catch (const Error& error) {
      // No fault of the engine's, and a new one would need as much.
      if (error.code() == ErrorCode::out_of_memory) throw;
      // Whatever made it stale, a new one settles it; should that fail too, its error is the one to show.
      cache.remove(key);
    }
  }
  const Bytes built = build();
  use(built);
  cache.store(key, built);
  return true;
}

}  // namespace datasentinel
