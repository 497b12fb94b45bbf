#include "wire/http/rest_reply.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "serving/severity.h"
#include "wire/http/json_reader.h"

namespace datasentinel {

RestReply::RestReply(std::unique_ptr<RestRequest> request) : request_(std::move(request)) {
  const auto& outputs = request_->outputs;
  const auto is_binary = [](const RestRequestedOutput& wanted) { return wanted.binary; };
  std::size_t json_values = 0;
  std::size_t bytes = 0;
  for (const RestRequestedOutput& wanted : outputs) {
    const std::size_t size = size_of(wanted.output);
    if (wanted.binary) {
      bytes += is_bool(wanted.output) ? size : size * sizeof(float);
    } else {
      json_values += size;
    }
  }
  constexpr std::size_t kBytesAValue = 12;  // About; it only matters that a piece is no more than a few.
  const bool has_bytes = std::ranges::any_of(outputs, is_binary);
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
  return in_json_ || (json_bytes_ && output_ < request_->outputs.size());
}

std::size_t RestReply::size_of(RestOutput output) const noexcept {
  const ScoringTask& task = request_->task;
  return is_matrix(output) ? task.rows * task.model->scorer->input_dim() : task.rows;
}

const float* RestReply::values_of(RestOutput output) const noexcept {
  const ScoringTask& task = request_->task;
  switch (output) {
    case RestOutput::output: return task.reconstructions.data();
    case RestOutput::contributions: return task.contributions.data();
    default: return task.scores.data();
  }
}

float RestReply::severity(std::size_t row) const noexcept {
  const ScoringTask& task = request_->task;
  return datasentinel::severity(task.scores.data()[row], task.model->scorer->threshold());
}

void RestReply::begin_output(std::string& out) const {
  const RestRequestedOutput& wanted = request_->outputs[output_];
  const ScoringTask& task = request_->task;
  out += output_ == 0 ? "{\"name\":\"" : ",{\"name\":\"";
  out += kRestOutputNames[static_cast<std::size_t>(wanted.output)];
  out += is_bool(wanted.output) ? "\",\"datatype\":\"BOOL\",\"shape\":["
                                : "\",\"datatype\":\"FP32\",\"shape\":[";
  out += std::to_string(task.rows);
  if (is_matrix(wanted.output)) out.append(",").append(std::to_string(task.model->scorer->input_dim()));
  if (wanted.binary) {
    const std::size_t bytes = size_of(wanted.output) * (is_bool(wanted.output) ? 1 : 4);
    out.append("],\"parameters\":{\"binary_data_size\":").append(std::to_string(bytes)).append("}}");
  } else {
    out += "],\"data\":[";
  }
}

void RestReply::write_value(RestOutput output, std::size_t index, std::string& out) const {
  const ScoringTask& task = request_->task;
  switch (output) {
    case RestOutput::anomaly: out += task.is_anomaly(index) ? "true" : "false"; break;
    case RestOutput::warming: out += task.is_warming(index) ? "true" : "false"; break;
    case RestOutput::severity: append_json_number(severity(index), out); break;
    default: append_json_number(values_of(output)[index], out);
  }
}

void RestReply::write_json(std::string& out, std::size_t max_bytes) {
  const std::size_t start = out.size();
  const auto& outputs = request_->outputs;
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
    const RestRequestedOutput& wanted = outputs[output_];
    if (!std::exchange(output_begun_, true)) begin_output(out);
    if (wanted.binary) continue;
    const std::size_t size = size_of(wanted.output);
    for (; written_ < size; ++written_) {
      if (out.size() - start >= max_bytes) return;
      if (written_ != 0) out += ',';
      write_value(wanted.output, written_, out);
    }
    out += "]}";
  }
  out += "]}";
  in_json_ = false;
}

void RestReply::write_bytes(std::string& out) {
  const auto& outputs = request_->outputs;
  for (; output_ < outputs.size(); ++output_, written_ = 0) {
    const RestRequestedOutput& wanted = outputs[output_];
    if (!wanted.binary) continue;
    const std::size_t size = size_of(wanted.output);
    const std::size_t count = std::min(size - written_, kPieceBytes / sizeof(float));
    if (is_bool(wanted.output)) {
      const ScoringTask& task = request_->task;
      for (std::size_t i = written_; i < written_ + count; ++i) {
        const bool value = wanted.output == RestOutput::anomaly ? task.is_anomaly(i) : task.is_warming(i);
        out += value ? '\1' : '\0';
      }
    } else if (wanted.output == RestOutput::severity) {
      for (std::size_t i = written_; i < written_ + count; ++i) {
        const float value = severity(i);
        out.append(reinterpret_cast<const char*>(&value), sizeof value);
      }
    } else if (count != 0) {
      out.append(reinterpret_cast<const char*>(values_of(wanted.output) + written_), count * sizeof(float));
    }
    written_ += count;
    if (written_ < size) return;
  }
}

}  // namespace datasentinel
