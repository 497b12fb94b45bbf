// Any bytes as JSON: read without a tree, and what was read as a string written again.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "wire/http/json_reader.h"

namespace {

using datasentinel::JsonReader;

void read_value(JsonReader& reader, std::string& out) {
  std::string buffer;
  switch (reader.peek()) {
    case '{':
      reader.read_object([&](std::string_view key) {
        datasentinel::append_json_string(key, out);
        read_value(reader, out);
      });
      break;
    case '[': reader.read_array([&] { read_value(reader, out); }); break;
    case '"': datasentinel::append_json_string(reader.read_string(buffer), out); break;
    case 't':
    case 'f': static_cast<void>(reader.read_bool()); break;
    default: {
      float value = 0;
      const auto outcome = reader.read_float32(value);
      if (outcome != decltype(outcome)::good) reader.skip_value();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const bool skips : {false, true}) {
    try {
      JsonReader reader(text);
      std::string out;
      if (skips) {
        reader.skip_value();
      } else {
        read_value(reader, out);
      }
      reader.expect_end();
    } catch (const datasentinel::Error&) {
    }
  }
  return 0;
}
