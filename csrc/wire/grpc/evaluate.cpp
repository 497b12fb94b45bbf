#include "wire/grpc/evaluate.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "core/protobuf.h"
#include "serving/reasons.h"
#include "serving/severity.h"
#include "serving/stream_request.h"
#include "wire/grpc/message_parts.h"
#include "wire/model_outputs.h"
#include "wire/wording.h"

namespace datasentinel {
namespace {

using protobuf::bytes_field_size;
using protobuf::double_of;
using protobuf::Reader;
using protobuf::WireType;
using protobuf::Writer;

// datasentinel.v1.Status
constexpr std::uint64_t kOk = 1;
constexpr std::uint64_t kAnomaly = 2;
constexpr std::uint64_t kError = 3;
constexpr std::uint64_t kWarming = 4;

std::uint64_t status_of(Decision decision) noexcept {
  switch (decision) {
    case Decision::ok: return kOk;
    case Decision::anomaly: return kAnomaly;
    case Decision::warming: return kWarming;
  }
  return kError;
}

/// Appends a datasentinel.v1.Contribution as a field of an EvaluateResponse.
void append_reason(const ScoringTask& task, const Reason& reason, std::string& out) {
  Writer writer(out);
  const std::string feature = task.model->scorer->feature_name(reason.column);
  constexpr std::size_t kFloatFieldBytes = 1 + sizeof(float);
  writer.begin_bytes(4, bytes_field_size(feature.size()) + kFloatFieldBytes * (reason.expected ? 3 : 2));
  writer.bytes_field(1, feature);
  writer.float_field(2, reason.contribution);
  writer.float_field(3, reason.value);
  if (reason.expected) writer.float_field(4, *reason.expected);
}

}  // namespace

GrpcStatus decode_evaluate(std::string_view message, const ModelTable& models, InferenceRequest& request) {
  ScoringTask& task = request.task;
  Reader field(message);
  StreamRequest stream;
  while (field.next()) {
    if (field.is(2, WireType::varint)) request.explain_top = static_cast<std::uint32_t>(field.varint());
    if (field.is(3, WireType::varint)) request.with_p_value = field.varint() != 0;
    if (field.is(4, WireType::bytes)) stream.id = field.bytes();
    if (field.is(5, WireType::fixed64)) stream.times_s.assign(1, double_of(field.bytes()));
  }
  const std::optional<std::size_t> count = count_floats(message, 1);
  if (!count) return not_a("EvaluateRequest");
  task.model = models.find({}, {});
  if (task.model == nullptr) return {GrpcCode::not_found, "no model is being served"};
  const std::size_t columns = task.model->scorer->input_dim();
  task.rows = 1;
  task.wanted.scores = true;
  task.wanted.contributions = request.explain_top != 0;
  task.wanted.reconstructions = request.explain_top != 0 && task.model->abilities.reconstructs;
  if (*count != columns) {
    task.failure = Error(ErrorCode::invalid_argument, "expected " + std::to_string(columns) +
                                                          " values per row, got " + std::to_string(*count));
  } else if (!read_floats(message, 1, task.values)) {
    return not_a("EvaluateRequest");
  } else if (request.with_p_value && task.model->abilities.p_values == nullptr) {
    task.failure = Error(ErrorCode::unsupported_model,
                         "this model has no calibration scores to take p-values from; run `datasentinel "
                         "recalibrate` with normal rows");
  } else if (const std::string problem = assign_stream(task, std::move(stream), "set stream_id");
             !problem.empty()) {
    task.failure = Error(ErrorCode::invalid_argument, problem);
  }
  return {};
}

GrpcStatus decode_evaluate_batch(std::string_view message, const ModelTable& models,
                                 const InferenceLimits& limits, InferenceRequest& request) {
  ScoringTask& task = request.task;
  std::string_view raw;
  std::string_view model_name;
  std::string_view model_version;
  std::uint64_t rows = 0;
  StreamRequest stream;
  Reader field(message);
  while (field.next()) {
    if (field.is(1, WireType::varint)) request.number = field.varint();
    if (field.is(2, WireType::varint)) rows = static_cast<std::uint32_t>(field.varint());
    if (field.is(4, WireType::bytes)) raw = field.bytes();
    if (field.is(5, WireType::bytes)) model_name = field.bytes();
    if (field.is(6, WireType::bytes)) model_version = field.bytes();
    if (field.is(7, WireType::bytes)) stream.id = field.bytes();
  }
  if (!field.ok() || !read_floats(message, 3, task.values) || !read_doubles(message, 8, stream.times_s)) {
    return not_a("EvaluateBatchRequest");
  }

  const auto refuse = [&task](ErrorCode code, const std::string& why) {
    task.failure = Error(code, why);
    return GrpcStatus{};
  };
  task.model = models.find(model_name, model_version);
  if (task.model == nullptr)
    return refuse(ErrorCode::not_found, describe_missing_model(model_name, model_version));
  if (rows > limits.max_rows) {
    return refuse(ErrorCode::invalid_argument, "at most " + std::to_string(limits.max_rows) +
                                                   " rows a request, got " + std::to_string(rows));
  }
  const std::size_t columns = task.model->scorer->input_dim();
  const std::size_t size = static_cast<std::size_t>(rows) * columns;
  const std::string expected = std::to_string(rows) + " rows of " + std::to_string(columns) + " values need ";
  if (!raw.empty() && task.values.size() != 0) {
    return refuse(ErrorCode::invalid_argument, "the batch has both values and raw_values");
  }
  if (!raw.empty()) {
    if (raw.size() != size * sizeof(float)) {
      return refuse(ErrorCode::invalid_argument, expected + std::to_string(size * sizeof(float)) +
                                                     " bytes of raw_values, got " +
                                                     std::to_string(raw.size()));
    }
    std::memcpy(task.values.extend(size), raw.data(), raw.size());
  } else if (task.values.size() != size) {
    return refuse(ErrorCode::invalid_argument,
                  expected + std::to_string(size) + " values, got " + std::to_string(task.values.size()));
  }
  task.rows = static_cast<std::size_t>(rows);
  task.wanted.scores = true;
  const std::string problem = assign_stream(task, std::move(stream), "set stream_id");
  if (!problem.empty()) return refuse(ErrorCode::invalid_argument, problem);
  return {};
}

void encode_evaluate_batch(const InferenceRequest& request, std::string& out) {
  Writer writer(out);
  const ScoringTask& task = request.task;
  if (request.number != 0) writer.varint_field(1, request.number);
  if (task.failure) return writer.bytes_field(4, task.failure->what());
  if (task.rows == 0) return;
  writer.begin_bytes(2, task.rows * sizeof(float));
  writer.raw(task.scores.data(), task.rows * sizeof(float));
  writer.begin_bytes(3, task.rows);
  for (std::size_t i = 0; i < task.rows; ++i) {
    writer.varint(status_of(task.decision(i)));
  }
  if (!has_severity(task.model->scorer->threshold())) return;
  writer.begin_bytes(5, task.rows * sizeof(float));
  append_values(task, ModelOutput::severity, 0, task.rows, out);
}

void encode_evaluate(const InferenceRequest& request, std::string& out) {
  Writer writer(out);
  const ScoringTask& task = request.task;
  if (task.failure) {
    writer.varint_field(1, kError);
    writer.bytes_field(3, task.failure->what());
    return;
  }
  const float score = *task.scores.data();
  writer.varint_field(1, status_of(task.decision(0)));
  if (score != 0) writer.double_field(2, static_cast<double>(score));
  if (request.explain_top != 0) {
    for (const Reason& reason : rank_reasons(task, 0, request.explain_top)) append_reason(task, reason, out);
  }
  if (request.with_p_value) writer.double_field(5, task.model->abilities.p_values->p_value(score));
  const double threshold = task.model->scorer->threshold();
  if (has_severity(threshold)) writer.double_field(6, static_cast<double>(severity(score, threshold)));
}

}  // namespace datasentinel
