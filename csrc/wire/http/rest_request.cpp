#include "wire/http/rest_request.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "core/error.h"
#include "serving/stream_request.h"
#include "wire/http/json_reader.h"
#include "wire/model_outputs.h"
#include "wire/wording.h"

namespace datasentinel {
namespace {

[[noreturn]] void reject(const std::string& reason) { throw Error(ErrorCode::invalid_argument, reason); }

std::string to_string(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t size : shape) text.append(text.size() > 1 ? ", " : "").append(std::to_string(size));
  return text + "]";
}

/// Reads one request, front to back.
class BodyReader {
 public:
  explicit BodyReader(RestRequest& request)
      : request_(request),
        values_(request.task.values),
        columns_(request.task.model->scorer->input_dim()),
        max_values_(request.max_rows * columns_),
        may_lack_(request.task.model->carries()) {}

  void read(std::string_view text) {
    const std::size_t json_bytes = request_.json_bytes.value_or(text.size());
    if (json_bytes > text.size()) {
      reject("Inference-Header-Content-Length is " + std::to_string(json_bytes) + ", but the body has only " +
             std::to_string(text.size()) + " bytes");
    }
    if (request_.json_bytes == 0) {
      read_raw_request(text);
    } else {
      read_json(text.substr(0, json_bytes));
      check_input();
      take_rows(text.substr(json_bytes));
    }
    const std::string problem =
        assign_stream(request_.task, std::move(stream_), "send the parameter sequence_id");
    if (!problem.empty()) reject(problem);
    request_.outputs.add_usual(*request_.task.model);
    for (const ModelOutput output : request_.outputs.all()) {
      const auto place = static_cast<std::size_t>(output);
      request_.in_binary[place] = binary_[place].value_or(binary_by_default_);
    }
  }

 private:
  void read_raw_request(std::string_view bytes) {
    const std::size_t row_bytes = columns_ * sizeof(float);
    if (bytes.size() % row_bytes != 0) {
      reject("a raw request holds rows of " + std::to_string(columns_) + " FP32 values, got " +
             std::to_string(bytes.size()) + " bytes, which is not a multiple of " +
             std::to_string(row_bytes));
    }
    shape_ = {static_cast<std::int64_t>(bytes.size() / row_bytes), static_cast<std::int64_t>(columns_)};
    check_row_count();
    take_bytes(bytes);
  }

  void read_json(std::string_view text) {
    JsonReader json(text);
    std::string buffer;
    if (json.peek() != '{') json.fail("an object");
    json.read_object([&](std::string_view key) {
      if (key == "id") {
        request_.id = json.read_string(buffer);
      } else if (key == "parameters") {
        json.read_object([&](std::string_view parameter) {
          if (parameter == "binary_data_output") {
            binary_by_default_ = json.read_bool();
          } else if (parameter == "sequence_id") {
            read_sequence_id(json);
          } else if (parameter == "sequence_start") {
            stream_.starts = json.read_bool();
          } else if (parameter == "sequence_end") {
            stream_.ends = json.read_bool();
          } else if (parameter == "timestamp") {
            read_timestamp(json);
          } else {
            json.skip_value();
          }
        });
      } else if (key == "inputs") {
        json.read_array([&] {
          if (++inputs_ == 1) {
            read_input(json);
          } else {
            json.skip_value();
          }
        });
      } else if (key == "outputs") {
        json.read_array([&] { read_output(json); });
      } else {
        json.skip_value();
      }
    });
    json.expect_end();
  }

  /// A text, or a number, where 0 stands for no sequence.
  void read_sequence_id(JsonReader& json) {
    if (json.peek() == '"') {
      std::string buffer;
      stream_.id = json.read_string(buffer);
    } else if (const std::int64_t number = json.read_integer(); number != 0) {
      stream_.id = std::to_string(number);
    }
  }

  /// A number, or a text of several.
  void read_timestamp(JsonReader& json) {
    stream_.times_s.clear();
    if (json.peek() != '"') {
      stream_.times_s.push_back(json.read_double());
      return;
    }
    std::string buffer;
    const std::string problem = read_times(json.read_string(buffer), request_.max_rows, stream_.times_s);
    if (!problem.empty()) reject(problem);
  }

  void read_input(JsonReader& json) {
    std::string buffer;
    json.read_object([&](std::string_view key) {
      if (key == "name") {
        name_ = json.read_string(buffer);
      } else if (key == "datatype") {
        datatype_ = json.read_string(buffer);
      } else if (key == "shape") {
        json.read_array([&] {
          shape_.push_back(json.read_integer());
          if (shape_.size() > 8) json.fail("fewer dimensions");
        });
      } else if (key == "data") {
        if (has_data_) json.fail("data only once");
        has_data_ = true;
        read_data(json);
      } else if (key == "parameters") {
        json.read_object([&](std::string_view parameter) {
          if (parameter == "binary_data_size") {
            binary_bytes_ = json.read_integer();
          } else {
            in_shared_memory_ = in_shared_memory_ || parameter == "shared_memory_region";
            json.skip_value();
          }
        });
      } else {
        json.skip_value();
      }
    });
  }

  void read_data(JsonReader& json) {
    // Flat, or one array a row: the first element decides.
    std::optional<bool> nested;
    json.read_array([&] {
      const bool is_array = json.peek() == '[';
      if (!nested) nested = is_array;
      if (is_array != *nested) {
        reject("input 'input': data mixes numbers and rows at row " +
               std::to_string(values_.size() / columns_));
      }
      if (is_array) {
        read_row(json);
      } else {
        read_value(json);
      }
    });
  }

  void read_row(JsonReader& json) {
    const std::size_t before = values_.size();
    json.read_array([&] { read_value(json); });
    if (const std::size_t count = values_.size() - before; count != columns_) {
      reject("input 'input': expected " + std::to_string(columns_) + " values per row, got " +
             std::to_string(count) + " at row " + std::to_string(before / columns_));
    }
  }

  void read_value(JsonReader& json) {
    float value = std::numeric_limits<float>::quiet_NaN();
    if (may_lack_ && json.peek() == 'n') {
      json.skip_value();
      return append(value);
    }
    const Decimal outcome = json.read_float32(value);
    if (outcome != Decimal::good) {
      reject("input 'input': value at row " + std::to_string(values_.size() / columns_) + ", column " +
             std::to_string(values_.size() % columns_) +
             (outcome == Decimal::out_of_range ? " is outside float32's range" : " is not a number"));
    }
    append(value);
  }

  void append(float value) {
    if (values_.size() >= max_values_) reject_row_count();
    values_.append(value);
  }

  void read_output(JsonReader& json) {
    std::string buffer;
    std::string name;
    std::optional<bool> binary;
    bool supported = true;
    json.read_object([&](std::string_view key) {
      if (key == "name") {
        name = json.read_string(buffer);
      } else if (key == "parameters") {
        json.read_object([&](std::string_view parameter) {
          if (parameter == "binary_data") {
            binary = json.read_bool();
          } else {
            supported = supported && parameter != "shared_memory_region" && parameter != "classification";
            json.skip_value();
          }
        });
      } else {
        json.skip_value();
      }
    });
    const std::string problem = request_.outputs.add(name, supported);
    if (!problem.empty()) reject(problem);
    binary_[static_cast<std::size_t>(request_.outputs.all().back())] = binary;
  }

  void check_input() const {
    if (inputs_ != 1) reject("expected 1 input, 'input', got " + std::to_string(inputs_));
    const std::string problem = problem_of_input(name_, datatype_, in_shared_memory_);
    if (!problem.empty()) reject(problem);
    if (shape_.size() != 2 || shape_[0] < 0 || std::cmp_not_equal(shape_[1], columns_)) {
      reject("input 'input': expected shape [N, " + std::to_string(columns_) + "], got " + to_string(shape_));
    }
    check_row_count();
  }

  void check_row_count() const {
    const std::string problem = problem_of_row_count(shape_[0], request_.max_rows);
    if (!problem.empty()) reject(problem);
  }

  [[noreturn]] void reject_row_count() const {
    reject("input 'input': at most " + std::to_string(request_.max_rows) + " rows a request");
  }

  void take_rows(std::string_view raw) {
    request_.task.rows = static_cast<std::size_t>(shape_[0]);
    const std::size_t size = request_.task.rows * columns_;
    if (!binary_bytes_) {
      if (!raw.empty()) reject("input 'input': bytes follow the JSON, but it has no binary_data_size");
      if (!has_data_) reject("input 'input': it has neither data nor binary_data_size");
      if (values_.size() != size) {
        reject("input 'input': its shape " + to_string(shape_) + " needs " + std::to_string(size) +
               " values of data, got " + std::to_string(values_.size()));
      }
      return;
    }
    if (has_data_) reject("input 'input': it has both data and binary_data_size");
    if (std::cmp_not_equal(*binary_bytes_, size * sizeof(float))) {
      reject("input 'input': its shape " + to_string(shape_) + " needs a binary_data_size of " +
             std::to_string(size * sizeof(float)) + ", got " + std::to_string(*binary_bytes_));
    }
    if (raw.size() != size * sizeof(float)) {
      reject("input 'input': expected " + std::to_string(size * sizeof(float)) +
             " bytes behind the JSON, got " + std::to_string(raw.size()));
    }
    take_bytes(raw);
  }

  void take_bytes(std::string_view raw) {
    request_.task.rows = static_cast<std::size_t>(shape_[0]);
    float* const room = values_.extend(raw.size() / sizeof(float));
    if (!raw.empty()) std::memcpy(room, raw.data(), raw.size());
  }

  RestRequest& request_;
  FloatBuffer& values_;
  std::size_t columns_;
  std::size_t max_values_;
  bool may_lack_;  ///< Whether the model carries values that are null.
  bool binary_by_default_ = false;
  std::size_t inputs_ = 0;
  std::string name_;
  std::string datatype_;
  std::vector<std::int64_t> shape_;
  bool has_data_ = false;
  std::optional<std::int64_t> binary_bytes_;
  bool in_shared_memory_ = false;
  StreamRequest stream_;
  /// By output, what the request says of it; nothing: as it says for all.
  std::array<std::optional<bool>, kModelOutputNames.size()> binary_;
};

/// What the rows and all that is computed from them take.
std::size_t memory_for(const ScoringTask& task) {
  const std::size_t columns = task.model->scorer->input_dim();
  std::size_t floats_a_row = columns + 1;
  if (task.wanted.reconstructions) floats_a_row += columns;
  if (task.wanted.contributions) floats_a_row += columns;
  return task.rows * floats_a_row * sizeof(float);
}

}  // namespace

void RestRequest::prepare() noexcept {
  read(body);
  body = {};
}

void RestRequest::read(std::string_view text) noexcept {
  try {
    BodyReader(*this).read(text);
    if (const std::string problem = outputs.problem_for(*task.model); !problem.empty()) {
      throw Error(ErrorCode::unsupported_model, problem);
    }
    task.wanted = outputs.wanted();
    if (!memory.resize(memory.bytes() + memory_for(task))) {
      throw Error(ErrorCode::out_of_memory, "the server's memory for requests is full, try again later");
    }
    is_read = true;
  } catch (const Error& error) {
    task.failure = error;
  } catch (const std::bad_alloc&) {
    task.failure = Error(ErrorCode::out_of_memory, "out of memory");
  }
}

}  // namespace datasentinel
