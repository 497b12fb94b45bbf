#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace datasentinel {

using Bytes = std::vector<std::byte>;

/// Everything that a built engine depends on, as named facts. Two keys are the same iff their facts are.
class EngineKey {
 public:
  EngineKey& add(const std::string& name, const std::string& value);

  /// The facts as lines `name=value`; control characters become blanks, so that a value is one line.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  /// A file name for the key. The file repeats the key, so a clash of names is a miss, never a mix-up.
  [[nodiscard]] std::string file_name() const;

 private:
  std::string text_;
};

/// Built engines (code compiled for one device) in one folder per user, each in a file that starts with its
/// key, its length and a checksum. An engine holds code, so the folder is made readable by its owner only.
/// Thread-safe, and safe among processes: files are replaced atomically.
class EngineCache {
 public:
  /// An empty folder means that nothing is kept.
  explicit EngineCache(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// The engine stored for `key`; nothing when there is none, or when the file is truncated, damaged or of
  /// another key.
  [[nodiscard]] std::optional<Bytes> load(const EngineKey& key) const;

  /// False when the folder cannot be written, which costs time at the next start and harms nobody.
  bool store(const EngineKey& key, std::span<const std::byte> engine) const;

  void remove(const EngineKey& key) const noexcept;

  /// The same for the builder's timings, which are only a hint to it: no key but the file's name.
  [[nodiscard]] Bytes load_hint(const std::string& name) const;
  bool store_hint(const std::string& name, std::span<const std::byte> content) const;

 private:
  [[nodiscard]] std::filesystem::path path_of(const EngineKey& key) const;

  std::filesystem::path folder_;
};

/// FNV-1a, 64 bits, in hexadecimal: it detects accidents, not forgeries.
[[nodiscard]] std::string checksum_text(std::span<const std::byte> bytes);

/// Hands a usable engine to `use`: the stored one, and if `use` throws Error over it, or there is none, a
/// newly built one, which replaces it. Out of memory is final, and so is `use` throwing over a new engine: it
/// is built once, not in a loop.
///
/// Returns true when the engine was built.
bool use_stored_or_built(const EngineCache& cache, const EngineKey& key,
                         const std::function<void(std::span<const std::byte>)>& use,
                         const std::function<Bytes()>& build);

}  // namespace datasentinel
