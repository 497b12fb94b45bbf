#include "wire/http/rest_reply.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "wire/http/json_reader.h"
#include "wire/model_outputs.h"

namespace datasentinel {

RestReply::RestReply(std::unique_ptr<RestRequest> request) : request_(std::move(request)) {
  std::size_t json_values = 0;
  std::size_t bytes = 0;
  bool has_bytes = false;
  for (const ModelOutput output : request_->outputs.all()) {
    if (request_->is_binary(output)) {
      bytes += count_bytes(request_->task, output);
      has_bytes = true;
    } else {
      json_values += count_values(request_->task, output);
    }
  }
  constexpr std::size_t kBytesAValue = 12;  // About; it only matters that a piece is no more than a few.
  if (!has_bytes && json_values > kPieceBytes / kBytesAValue) return;
  write_json(json_, std::numeric_limits<std::size_t>::max());
  in_json_ = false;
  body_bytes_ = json_.size() + bytes;
  if (has_bytes) json_bytes_ = json_.size();
}

bool RestReply::write_piece(std::string& out) {
  if (!json_.empty()) {
    out.append(std::exchange(json_, {}));
    output_ = written_ = 0;
  } else if (in_json_) {
    write_json(out, kPieceBytes);
    if (!in_json_) return false;
  } else {
    write_bytes(out);
  }
  return in_json_ || (json_bytes_ && output_ < request_->outputs.all().size());
}

void RestReply::begin_output(std::string& out) const {
  const ModelOutput output = request_->outputs.all()[output_];
  const ScoringTask& task = request_->task;
  out += output_ == 0 ? "{\"name\":\"" : ",{\"name\":\"";
  out += name_of(output);
  out += is_bool(output) ? "\",\"datatype\":\"BOOL\",\"shape\":[" : "\",\"datatype\":\"FP32\",\"shape\":[";
  out += std::to_string(task.rows);
  if (is_matrix(output)) out.append(",").append(std::to_string(task.model->scorer->input_dim()));
  if (request_->is_binary(output)) {
    const std::size_t bytes = count_bytes(task, output);
    out.append("],\"parameters\":{\"binary_data_size\":").append(std::to_string(bytes)).append("}}");
  } else {
    out += "],\"data\":[";
  }
}

void RestReply::write_value(ModelOutput output, std::size_t index, std::string& out) const {
  const ScoringTask& task = request_->task;
  switch (output) {
    case ModelOutput::anomaly: out += task.is_anomaly(index) ? "true" : "false"; break;
    case ModelOutput::warming: out += task.is_warming(index) ? "true" : "false"; break;
    default: append_json_number(number_of(task, output, index), out);
  }
}

void RestReply::write_json(std::string& out, std::size_t max_bytes) {
  const std::size_t start = out.size();
  const auto outputs = request_->outputs.all();
  if (!std::exchange(begun_, true)) {
    const ServedModel& model = *request_->task.model;
    out += "{\"model_name\":";
    append_json_string(model.name, out);
    out += ",\"model_version\":";
    append_json_string(model.version, out);
    if (!request_->id.empty()) {
      out += ",\"id\":";
      append_json_string(request_->id, out);
    }
    out += ",\"outputs\":[";
  }
  for (; output_ < outputs.size(); ++output_, written_ = 0, output_begun_ = false) {
    const ModelOutput output = outputs[output_];
    if (!std::exchange(output_begun_, true)) begin_output(out);
    if (request_->is_binary(output)) continue;
    const std::size_t size = count_values(request_->task, output);
    for (; written_ < size; ++written_) {
      if (out.size() - start >= max_bytes) return;
      if (written_ != 0) out += ',';
      write_value(output, written_, out);
    }
    out += "]}";
  }
  out += "]}";
  in_json_ = false;
}

void RestReply::write_bytes(std::string& out) {
  const auto outputs = request_->outputs.all();
  for (; output_ < outputs.size(); ++output_, written_ = 0) {
    const ModelOutput output = outputs[output_];
    if (!request_->is_binary(output)) continue;
    const std::size_t size = count_values(request_->task, output);
    const std::size_t count = std::min(size - written_, kPieceBytes / sizeof(float));
    append_values(request_->task, output, written_, count, out);
    written_ += count;
    if (written_ < size) return;
  }
}

}  // namespace datasentinel
