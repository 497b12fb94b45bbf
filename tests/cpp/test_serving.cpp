// The serving room without a wire: the table of models.

#include <memory>

#include "check.h"
#include "serving/model_table.h"
#include "sum_session.h"

namespace datasentinel {
namespace {

void the_table_finds_models_by_name_and_version() {
  const auto scorer = [] { return std::make_shared<Scorer>(std::make_shared<SumSession>(2), 1.0); };
  ModelTable models;
  CHECK(models.find("", "") == nullptr);
  models.put("a", "1", scorer());
  models.put("b", "7", scorer());
  const auto generation = models.generation();
  models.put("a", "2", scorer());
  CHECK(models.generation() > generation);
  CHECK(models.find("", "")->name == "a" && models.find("", "")->version == "2");
  CHECK(models.find("a", "1")->version == "1");
  CHECK(models.find("b", "")->version == "7");
  CHECK(models.find("a", "3") == nullptr && models.find("c", "") == nullptr);

  const auto held = models.find("a", "2");
  models.put("a", "2", scorer());
  CHECK(models.find("a", "2")->scorer != held->scorer);
  models.put("a", "1", scorer());  // Rolled back: what was put last is the latest.
  CHECK(models.find("a", "")->version == "1");
  CHECK(!models.remove("a", "9") && !models.remove("c", "1"));
  CHECK(models.remove("a", "1"));
  CHECK(models.find("a", "")->version == "2");
  models.set_default("b");
  CHECK(models.find("", "")->name == "b");
  CHECK(models.remove("b", "7"));
  CHECK(models.find("", "") == nullptr);
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "needs a name", models.put("", "1", scorer()));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "needs a name", models.set_default(""));
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  the_table_finds_models_by_name_and_version();
  return check::result();
}
