// The cache of built engines: what is a hit, what is not, and that a stale engine is rebuilt once.

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "core/engine_cache.h"

namespace datasentinel {
namespace {

namespace fs = std::filesystem;

/// A fresh folder, removed at the end.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "datasentinel-engines-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  [[nodiscard]] fs::path path() const { return path_ / "engines"; }

 private:
  fs::path path_;
};

Bytes bytes(std::string_view text) {
  const auto view = std::as_bytes(std::span(text.data(), text.size()));
  return {view.begin(), view.end()};
}

std::string_view text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

EngineKey key_for(const std::string& gpu) {
  EngineKey key;
  key.add("model sha256", "abc").add("GPU", gpu).add("driver", "13010");
  return key;
}

fs::path only_engine(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder)) found.push_back(entry.path());
  CHECK(found.size() == 1);
  return found.empty() ? fs::path() : found.front();
}

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void overwrite(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

void gives_back_what_was_stored() {
  const Folder folder;
  const EngineCache cache(folder.path());
  const EngineKey key = key_for("H200");
  CHECK(!cache.load(key));
  const Bytes engine = bytes(std::string_view("en\0gine\n\nwith blank lines", 25));
  CHECK(cache.store(key, engine));
  CHECK(cache.load(key) == engine);
  CHECK(cache.store(key, bytes("newer")));
  CHECK(cache.load(key) == bytes("newer"));
  cache.remove(key);
  CHECK(!cache.load(key));
}

void only_the_owner_may_read_the_folder() {
  const Folder folder;
  CHECK(EngineCache(folder.path()).store(key_for("H200"), bytes("engine")));
  CHECK(fs::status(folder.path()).permissions() == fs::perms::owner_all);
  const auto file = fs::status(only_engine(folder.path())).permissions();
  CHECK((file & (fs::perms::group_all | fs::perms::others_all)) == fs::perms::none);
}

void an_engine_of_another_gpu_is_a_miss() {
  const Folder folder;
  const EngineCache cache(folder.path());
  CHECK(cache.store(key_for("A100"), bytes("for the A100")));
  CHECK(!cache.load(key_for("H200")));
  // Even where the names of the files clash.
  fs::rename(only_engine(folder.path()), folder.path() / key_for("H200").file_name());
  CHECK(!cache.load(key_for("H200")));
}

void facts_cannot_be_forged_with_newlines() {
  EngineKey honest;
  honest.add("GPU", "A").add("driver", "1");
  EngineKey forged;
  forged.add("GPU", "A\ndriver=1");
  CHECK(honest.text() != forged.text());
}

void a_truncated_or_damaged_engine_is_a_miss() {
  const Folder folder;
  const EngineCache cache(folder.path());
  const EngineKey key = key_for("H200");
  CHECK(cache.store(key, bytes("0123456789")));
  const fs::path file = only_engine(folder.path());
  const std::string whole = content_of(file);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    overwrite(file, whole.substr(0, length));
    CHECK(!cache.load(key));
  }
  for (std::size_t position = 0; position < whole.size(); ++position) {
    std::string damaged = whole;
    damaged[position] = static_cast<char>(damaged[position] ^ 1);
    overwrite(file, damaged);
    CHECK(!cache.load(key));
  }
  overwrite(file, whole + "more");
  CHECK(!cache.load(key));
  overwrite(file, whole);
  CHECK(cache.load(key) == bytes("0123456789"));
}

void a_stored_engine_is_not_built_again() {
  const Folder folder;
  const EngineCache cache(folder.path());
  int built = 0;
  std::vector<std::string> used;
  const auto use = [&](std::span<const std::byte> engine) { used.emplace_back(text(engine)); };
  const auto build = [&] {
    ++built;
    return bytes("engine");
  };
  CHECK(use_stored_or_built(cache, key_for("H200"), use, build));
  CHECK(!use_stored_or_built(cache, key_for("H200"), use, build));
  CHECK(built == 1);
  CHECK(use_stored_or_built(cache, key_for("A100"), use, build));
  CHECK(built == 2);
  CHECK(used.size() == 3);
}

void a_stale_engine_is_rebuilt_once_and_replaced() {
  const Folder folder;
  const EngineCache cache(folder.path());
  const EngineKey key = key_for("H200");
  CHECK(cache.store(key, bytes("stale")));
  int built = 0;
  const auto use = [](std::span<const std::byte> engine) {
    if (text(engine) == "stale") throw Error(ErrorCode::backend_failure, "the library refuses it");
  };
  const auto build = [&] {
    ++built;
    return bytes("fresh");
  };
  CHECK(use_stored_or_built(cache, key, use, build));
  CHECK(built == 1);
  CHECK(cache.load(key) == bytes("fresh"));
}

void an_engine_that_never_loads_is_an_error_and_not_kept() {
  const Folder folder;
  const EngineCache cache(folder.path());
  int built = 0;
  const auto use = [](std::span<const std::byte>) { throw Error(ErrorCode::backend_failure, "no"); };
  const auto build = [&] {
    ++built;
    return bytes("engine");
  };
  CHECK(cache.store(key_for("H200"), bytes("stale")));
  CHECK_THROWS_WITH(ErrorCode::backend_failure, "no",
                    use_stored_or_built(cache, key_for("H200"), use, build));
  CHECK(built == 1);
  CHECK(!cache.load(key_for("H200")));
}

void without_a_folder_nothing_is_kept() {
  const EngineCache cache({});
  CHECK(!cache.store(key_for("H200"), bytes("engine")));
  CHECK(!cache.load(key_for("H200")));
  CHECK(cache.load_hint("timings").empty());
}

void a_folder_that_is_a_file_harms_nobody() {
  const Folder folder;
  overwrite(folder.path(), "in the way");
  const EngineCache cache(folder.path());
  CHECK(!cache.store(key_for("H200"), bytes("engine")));
  CHECK(use_stored_or_built(cache, key_for("H200"), [](auto) {}, [] { return bytes("engine"); }));
}

void hints_are_kept_by_name() {
  const Folder folder;
  const EngineCache cache(folder.path());
  CHECK(cache.load_hint("timings").empty());
  CHECK(cache.store_hint("timings", bytes("12 us")));
  CHECK(cache.load_hint("timings") == bytes("12 us"));
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  gives_back_what_was_stored();
  only_the_owner_may_read_the_folder();
  an_engine_of_another_gpu_is_a_miss();
  facts_cannot_be_forged_with_newlines();
  a_truncated_or_damaged_engine_is_a_miss();
  a_stored_engine_is_not_built_again();
  a_stale_engine_is_rebuilt_once_and_replaced();
  an_engine_that_never_loads_is_an_error_and_not_kept();
  without_a_folder_nothing_is_kept();
  a_folder_that_is_a_file_harms_nobody();
  hints_are_kept_by_name();
  return datasentinel::check::result();
}
