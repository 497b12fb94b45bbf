#include "wire/rest_inference.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

constexpr std::array<std::string_view, 4> kOutputNames{"score", "anomaly", "output", "contributions"};
constexpr std::size_t kMaxQuotedBytes = 64;
constexpr std::size_t kKeptValues = 4096;

[[noreturn]] void reject(const std::string& reason) { throw Error(ErrorCode::invalid_argument, reason); }

/// A name from the request as a message may show it: printable ASCII, not too long.
std::string quoted(std::string_view name) {
  std::string text = "'";
  for (const char c : name.substr(0, kMaxQuotedBytes)) text += (c >= ' ' && c <= '~') ? c : '?';
  if (name.size() > kMaxQuotedBytes) text += "...";
  return text + "'";
}

std::string to_string(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t size : shape) text.append(text.size() > 1 ? ", " : "").append(std::to_string(size));
  return text + "]";
}

int http_status(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::unsupported_model: return 400;
    case ErrorCode::not_found: return 404;
    case ErrorCode::unavailable:
    case ErrorCode::out_of_memory:
    case ErrorCode::resource_exhausted: return 503;
    case ErrorCode::invalid_model:
    case ErrorCode::backend_failure: return 500;
  }
  return 500;
}

bool is_matrix(auto output) noexcept { return static_cast<int>(output) >= 2; }

void append_bytes(const std::vector<float>& values, std::string& out) {
  if (!values.empty()) {
    out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
}

/// Empties `values`, and frees what is more than small requests need.
void empty(std::vector<float>& values) {
  values.clear();
  if (values.capacity() > kKeptValues) values.shrink_to_fit();
}

}  // namespace

RestInference::RestInference(std::shared_ptr<const ModelTable> models, std::size_t max_rows,
                             double max_inline_us)
    : models_(std::move(models)), max_rows_(max_rows), max_inline_us_(max_inline_us) {
  if (models_ == nullptr || max_rows_ == 0) reject("models are needed, and max_rows must be at least 1");
}

const RestReply& RestInference::answer(const RestRequest& request) {
  const auto started = std::chrono::steady_clock::now();
  recycle();
  ++counts_.requests;
  const auto model = models_->find(request.model_name, request.model_version);
  if (model == nullptr) {
    std::string reason = "unknown model " + quoted(request.model_name);
    if (!request.model_version.empty()) reason += ", version " + quoted(request.model_version);
    refuse(404, reason);
    return reply_;
  }
  try {
    infer(request, *model);
  } catch (const Error& error) {
    refuse(http_status(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    refuse(503, "out of memory");
  }
  const auto took = std::chrono::steady_clock::now() - started;
  model->statistics.add(reply_.status == 200, took);
  if (reply_.status == 200) {
    model->rest_cost.add(request.body.size(), std::chrono::duration<double, std::micro>(took).count());
  }
  return reply_;
}

bool RestInference::is_long(std::string_view model_name, std::string_view model_version,
                            std::size_t body_bytes) const {
  const auto model = models_->find(model_name, model_version);
  if (model == nullptr) return false;
  // JSON has more bytes a row than this, but never fewer than half as many.
  const std::size_t rows =
      std::max<std::size_t>(1, body_bytes / (sizeof(float) * model->scorer->input_dim()));
  if (model->scorer->session().on_device(rows)) return true;
  const double expected_us = model->rest_cost.expected_us(body_bytes);
  constexpr double kUsPerByte = 0.005;  // A guess, until a request has told.
  return (expected_us > 0 ? expected_us : kUsPerByte * static_cast<double>(body_bytes)) > max_inline_us_;
}

void RestInference::recycle() {
  reply_.status = 200;
  reply_.body.clear();
  if (reply_.body.capacity() > kKeptValues * sizeof(float)) reply_.body.shrink_to_fit();
  reply_.json_bytes.reset();
  id_.clear();
  binary_by_default_ = false;
  inputs_ = 0;
  name_.clear();
  datatype_.clear();
  shape_.clear();
  has_data_ = false;
  binary_bytes_.reset();
  in_shared_memory_ = false;
  outputs_.clear();
  empty(values_);
  empty(scores_);
  empty(reconstructions_);
  empty(contributions_);
}

void RestInference::refuse(int status, std::string_view reason) {
  ++counts_.errors[status];
  reply_.status = status;
  reply_.json_bytes.reset();
  reply_.body = "{\"error\":";
  append_json_string(reason, reply_.body);
  reply_.body += '}';
}

void RestInference::infer(const RestRequest& request, const ServedModel& model) {
  const std::size_t columns = model.scorer->input_dim();
  const std::size_t json_bytes = request.json_bytes.value_or(request.body.size());
  if (json_bytes > request.body.size()) {
    reject("Inference-Header-Content-Length is " + std::to_string(json_bytes) + ", but the body has only " +
           std::to_string(request.body.size()) + " bytes");
  }
  read_request(request, columns);
  check_input(columns);
  const ConstRows rows = rows_of(request.body.substr(json_bytes), columns);
  if (outputs_.empty()) outputs_ = {{Output::score, std::nullopt}, {Output::anomaly, std::nullopt}};
  score(model, rows);
  write_reply(model, rows.rows);
}

// ------------------------------------------------------------------------------------------------- reading

void RestInference::read_request(const RestRequest& request, std::size_t columns) {
  JsonReader json(request.body.substr(0, request.json_bytes.value_or(request.body.size())));
  std::string buffer;
  if (json.peek() != '{') json.fail("an object");
  json.read_object([&](std::string_view key) {
    if (key == "id") {
      id_ = json.read_string(buffer);
    } else if (key == "parameters") {
      json.read_object([&](std::string_view parameter) {
        if (parameter == "binary_data_output") {
          binary_by_default_ = json.read_bool();
        } else {
          json.skip_value();
        }
      });
    } else if (key == "inputs") {
      json.read_array([&] {
        if (++inputs_ == 1) {
          read_input(json, columns);
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

void RestInference::read_input(JsonReader& json, std::size_t columns) {
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
      read_data(json, columns);
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

void RestInference::read_data(JsonReader& json, std::size_t columns) {
  // Flat, or one array a row: the first element tells.
  std::optional<bool> nested;
  json.read_array([&] {
    const bool is_array = json.peek() == '[';
    if (!nested) nested = is_array;
    if (is_array != *nested) {
      reject("input 'input': data mixes numbers and rows at row " + std::to_string(values_.size() / columns));
    }
    if (is_array) {
      read_row(json, columns);
    } else {
      read_value(json, columns);
    }
  });
}

void RestInference::read_row(JsonReader& json, std::size_t columns) {
  const std::size_t before = values_.size();
  json.read_array([&] { read_value(json, columns); });
  if (const std::size_t count = values_.size() - before; count != columns) {
    reject("input 'input': expected " + std::to_string(columns) + " values per row, got " +
           std::to_string(count) + " at row " + std::to_string(before / columns));
  }
}

void RestInference::read_value(JsonReader& json, std::size_t columns) {
  float value = 0;
  const JsonReader::Number outcome = json.read_float32(value);
  if (outcome != JsonReader::Number::good) {
    const bool too_large = outcome == JsonReader::Number::out_of_range;
    reject("input 'input': value at row " + std::to_string(values_.size() / columns) + ", column " +
           std::to_string(values_.size() % columns) +
           (too_large ? " is outside float32's range" : " is not a number"));
  }
  if (values_.size() >= max_rows_ * columns) {
    reject("input 'input': at most " + std::to_string(max_rows_) + " rows a request");
  }
  values_.push_back(value);
}

void RestInference::read_output(JsonReader& json) {
  std::string buffer;
  std::string name;
  RequestedOutput wanted;
  bool supported = true;
  json.read_object([&](std::string_view key) {
    if (key == "name") {
      name = json.read_string(buffer);
    } else if (key == "parameters") {
      json.read_object([&](std::string_view parameter) {
        if (parameter == "binary_data") {
          wanted.binary = json.read_bool();
        } else {
          supported = supported && parameter != "shared_memory_region" && parameter != "classification";
          json.skip_value();
        }
      });
    } else {
      json.skip_value();
    }
  });
  const auto known = std::ranges::find(kOutputNames, name);
  if (known == kOutputNames.end()) {
    reject("unknown output " + quoted(name) + "; this model has score, anomaly, output and contributions");
  }
  if (!supported) reject("output " + quoted(name) + ": shared memory and classification are not supported");
  wanted.output = static_cast<Output>(known - kOutputNames.begin());
  if (std::ranges::any_of(outputs_, [&](const auto& other) { return other.output == wanted.output; })) {
    reject("output " + quoted(name) + " is asked for twice");
  }
  outputs_.push_back(wanted);
}

void RestInference::check_input(std::size_t columns) const {
  if (inputs_ != 1) reject("expected 1 input, 'input', got " + std::to_string(inputs_));
  if (name_ != "input") reject("unknown input " + quoted(name_) + "; this model has one input, 'input'");
  if (in_shared_memory_) reject("input 'input': shared memory is not supported");
  if (datatype_ != "FP32") reject("input 'input': expected datatype FP32, got " + quoted(datatype_));
  if (shape_.size() != 2 || shape_[0] < 0 || std::cmp_not_equal(shape_[1], columns)) {
    reject("input 'input': expected shape [N, " + std::to_string(columns) + "], got " + to_string(shape_));
  }
  if (std::cmp_greater(shape_[0], max_rows_)) {
    reject("input 'input': at most " + std::to_string(max_rows_) + " rows a request, got " +
           std::to_string(shape_[0]));
  }
}

ConstRows RestInference::rows_of(std::string_view raw, std::size_t columns) {
  const auto rows = static_cast<std::size_t>(shape_[0]);
  const std::size_t size = rows * columns;
  if (!binary_bytes_) {
    if (!raw.empty()) reject("input 'input': bytes follow the JSON, but it has no binary_data_size");
    if (!has_data_) reject("input 'input': it has neither data nor binary_data_size");
    if (values_.size() != size) {
      reject("input 'input': its shape " + to_string(shape_) + " needs " + std::to_string(size) +
             " values of data, got " + std::to_string(values_.size()));
    }
    return {.data = values_.data(), .rows = rows, .columns = columns};
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
  if (reinterpret_cast<std::uintptr_t>(raw.data()) % alignof(float) == 0) {
    return {.data = reinterpret_cast<const float*>(raw.data()), .rows = rows, .columns = columns};
  }
  values_.resize(size);
  if (size != 0) std::memcpy(values_.data(), raw.data(), raw.size());
  return {.data = values_.data(), .rows = rows, .columns = columns};
}

// ------------------------------------------------------------------------------------------------- scoring

void RestInference::score(const ServedModel& model, ConstRows rows) {
  Outputs outputs;
  const auto room = [](std::vector<float>& values, std::size_t size) {
    values.resize(size);
    return values.data();
  };
  for (const RequestedOutput& wanted : outputs_) {
    switch (wanted.output) {
      case Output::score:
      case Output::anomaly: outputs.scores = room(scores_, rows.rows); break;
      case Output::output: outputs.reconstructions = room(reconstructions_, rows.size()); break;
      case Output::contributions: outputs.contributions = room(contributions_, rows.size()); break;
    }
  }
  try {
    model.scorer->run(rows, outputs);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::invalid_argument) throw;
    reject(std::string("input 'input': ") + error.what());
  }
  counts_.rows += rows.rows;
  counts_.anomalies += static_cast<std::uint64_t>(
      std::ranges::count_if(scores_, [&](float score) { return model.scorer->is_anomaly(score); }));
}

// ------------------------------------------------------------------------------------------------- writing

bool RestInference::is_binary(const RequestedOutput& wanted) const noexcept {
  return wanted.binary.value_or(binary_by_default_);
}

void RestInference::write_reply(const ServedModel& model, std::size_t rows) {
  std::string& body = reply_.body;
  body += "{\"model_name\":";
  append_json_string(model.name, body);
  body += ",\"model_version\":";
  append_json_string(model.version, body);
  if (!id_.empty()) {
    body += ",\"id\":";
    append_json_string(id_, body);
  }
  body += ",\"outputs\":[";
  const std::size_t columns = model.scorer->input_dim();
  bool first = true;
  for (const RequestedOutput& wanted : outputs_) {
    const bool matrix = is_matrix(wanted.output);
    body += std::exchange(first, false) ? "{\"name\":\"" : ",{\"name\":\"";
    body += kOutputNames[static_cast<std::size_t>(wanted.output)];
    body += wanted.output == Output::anomaly ? "\",\"datatype\":\"BOOL\",\"shape\":["
                                             : "\",\"datatype\":\"FP32\",\"shape\":[";
    body += std::to_string(rows);
    if (matrix) body.append(",").append(std::to_string(columns));
    if (is_binary(wanted)) {
      const std::size_t bytes =
          wanted.output == Output::anomaly ? rows : rows * (matrix ? columns : 1) * sizeof(float);
      body.append("],\"parameters\":{\"binary_data_size\":").append(std::to_string(bytes)).append("}}");
    } else {
      body += "],\"data\":[";
      write_json_output(model, wanted.output, rows);
      body += "]}";
    }
  }
  body += "]}";
  if (std::ranges::none_of(outputs_, [&](const auto& wanted) { return is_binary(wanted); })) return;
  reply_.json_bytes = body.size();
  for (const RequestedOutput& wanted : outputs_) {
    if (is_binary(wanted)) write_binary_output(model, wanted.output, rows);
  }
}

void RestInference::write_json_output(const ServedModel& model, Output output, std::size_t rows) {
  std::string& body = reply_.body;
  const auto write = [&body](const std::vector<float>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i != 0) body += ',';
      append_json_number(values[i], body);
    }
  };
  switch (output) {
    case Output::score: return write(scores_);
    case Output::output: return write(reconstructions_);
    case Output::contributions: return write(contributions_);
    case Output::anomaly:
      for (std::size_t i = 0; i < rows; ++i) {
        if (i != 0) body += ',';
        body += model.scorer->is_anomaly(scores_[i]) ? "true" : "false";
      }
  }
}

void RestInference::write_binary_output(const ServedModel& model, Output output, std::size_t rows) {
  std::string& body = reply_.body;
  switch (output) {
    case Output::score: return append_bytes(scores_, body);
    case Output::output: return append_bytes(reconstructions_, body);
    case Output::contributions: return append_bytes(contributions_, body);
    case Output::anomaly:
      for (std::size_t i = 0; i < rows; ++i) body += model.scorer->is_anomaly(scores_[i]) ? '\1' : '\0';
  }
}

}  // namespace datasentinel
