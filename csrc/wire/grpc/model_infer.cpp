#include "wire/grpc/model_infer.h"

#include <cstring>
#include <optional>
#include <utility>

#include "core/protobuf.h"
#include "core/utf8.h"
#include "serving/stream_request.h"
#include "wire/grpc/message_parts.h"
#include "wire/model_outputs.h"
#include "wire/wording.h"

namespace datasentinel {
namespace {

using protobuf::bytes_field_size;
using protobuf::double_of;
using protobuf::Reader;
using protobuf::varint_size;
using protobuf::WireType;
using protobuf::Writer;

GrpcStatus invalid(std::string message) { return {GrpcCode::invalid_argument, std::move(message)}; }

/// Whether a map's entry has this key. Anything else that the map holds is ignored.
bool has_parameter(std::string_view entry, std::string_view key) noexcept {
  Reader field(entry);
  while (field.next()) {
    if (field.is(1, WireType::bytes)) return field.bytes() == key;
  }
  return false;
}

/// Reads what an entry of the request's parameters says about a stream, as Triton's stateful models have it,
/// and when its rows were taken. Returns what is wrong, or an empty string.
std::string read_parameter(std::string_view entry, std::size_t max_rows, StreamRequest& stream) {
  std::string_view key;
  std::string_view text;
  std::optional<std::uint64_t> number;
  std::optional<double> real;
  bool is_signed = false;
  Reader field(entry);
  while (field.next()) {
    if (field.is(1, WireType::bytes)) key = field.bytes();
    if (!field.is(2, WireType::bytes)) continue;
    Reader value(field.bytes());
    while (value.next()) {
      if (value.is(3, WireType::bytes)) text = value.bytes();
      if (value.is(4, WireType::fixed64)) real = double_of(value.bytes());
      if (value.type() != WireType::varint) continue;
      number = value.varint();
      is_signed = value.number() == 2;
    }
  }
  if (key == "sequence_start") stream.starts = number.value_or(0) != 0;
  if (key == "sequence_end") stream.ends = number.value_or(0) != 0;
  if (key == "timestamp") {
    stream.times_s.clear();
    if (!real && !number) return read_times(text, max_rows, stream.times_s);
    const auto whole = static_cast<std::int64_t>(number.value_or(0));
    stream.times_s.push_back(real ? *real : static_cast<double>(whole));
  }
  if (key != "sequence_id") return {};
  stream.id = text;
  if (number.value_or(0) == 0) return {};
  stream.id = is_signed ? std::to_string(static_cast<std::int64_t>(*number)) : std::to_string(*number);
  return {};
}

// ------------------------------------------------------------------------------------------
// ModelInferRequest

/// An input tensor as it came. Views borrow from the message.
struct InputTensor {
  std::string_view name;
  std::string_view datatype;
  std::array<std::int64_t, 2> shape{};
  std::size_t rank = 0;
  std::string_view contents;
  bool has_contents = false;
  bool in_shared_memory = false;
};

void add_dimension(InputTensor& tensor, std::uint64_t dimension) noexcept {
  if (tensor.rank < tensor.shape.size()) tensor.shape[tensor.rank] = static_cast<std::int64_t>(dimension);
  ++tensor.rank;
}

bool read_input(std::string_view message, InputTensor& tensor) noexcept {
  Reader field(message);
  while (field.next()) {
    switch (field.number()) {
      case 1:
        if (field.type() == WireType::bytes) tensor.name = field.bytes();
        break;
      case 2:
        if (field.type() == WireType::bytes) tensor.datatype = field.bytes();
        break;
      case 3:
        if (field.type() == WireType::varint) {
          add_dimension(tensor, field.varint());
        } else if (field.type() == WireType::bytes) {
          std::string_view packed = field.bytes();
          std::uint64_t dimension = 0;
          while (!packed.empty()) {
            if (!Reader::take_varint(packed, dimension)) return false;
            add_dimension(tensor, dimension);
          }
        }
        break;
      case 4:
        if (field.type() == WireType::bytes) {
          tensor.in_shared_memory |= has_parameter(field.bytes(), "shared_memory_region");
        }
        break;
      case 5:
        if (field.type() == WireType::bytes) {
          tensor.contents = field.bytes();
          tensor.has_contents = true;
        }
        break;
      default: break;
    }
  }
  return field.ok();
}

/// Adds a requested output. Returns why it cannot be, or an empty string.
std::string read_requested_output(std::string_view message, InferenceRequest& request) {
  Reader field(message);
  std::string_view name;
  bool in_shared_memory = false;
  bool classified = false;
  while (field.next()) {
    if (field.is(1, WireType::bytes)) name = field.bytes();
    if (field.is(2, WireType::bytes)) {
      in_shared_memory |= has_parameter(field.bytes(), "shared_memory_region");
      classified |= has_parameter(field.bytes(), "classification");
    }
  }
  if (!field.ok()) return "the message is not a valid ModelInferRequest";
  return request.outputs.add(name, !in_shared_memory && !classified);
}

/// Checks the input's declaration against the model. Returns what is wrong, or an empty string.
std::string check_input(const InputTensor& input, std::size_t columns, const InferenceLimits& limits) {
  const std::string expected = "expected shape [N, " + std::to_string(columns) + "]";
  std::string problem = problem_of_input(input.name, input.datatype, input.in_shared_memory);
  if (!problem.empty()) return problem;
  if (input.rank != 2)
    return "input 'input': " + expected + ", got one of rank " + std::to_string(input.rank);
  if (input.shape[0] < 0 || std::cmp_not_equal(input.shape[1], columns)) {
    return "input 'input': " + expected + ", got [" + std::to_string(input.shape[0]) + ", " +
           std::to_string(input.shape[1]) + "]";
  }
  return problem_of_row_count(input.shape[0], limits.max_rows);
}

/// Takes the rows from the raw bytes or the contents. Returns what is wrong, or an empty string.
std::string read_rows(const InputTensor& input, std::optional<std::string_view> raw, std::size_t size,
                      FloatBuffer& values) {
  if (raw && input.has_contents) return "input 'input': it has both contents and raw_input_contents";
  if (raw) {
    if (raw->size() != size * sizeof(float)) {
      return "input 'input': its shape needs " + std::to_string(size * sizeof(float)) +
             " bytes of raw_input_contents, got " + std::to_string(raw->size());
    }
    if (size != 0) std::memcpy(values.extend(size), raw->data(), raw->size());
    return {};
  }
  if (!read_floats(input.contents, 6, values)) return "input 'input': its contents are not valid";
  if (values.size() != size) {
    return "input 'input': its shape needs " + std::to_string(size) + " values of fp32_contents, got " +
           std::to_string(values.size());
  }
  return {};
}

// -----------------------------------------------------------------------------------------
// ModelInferResponse

/// Appends an InferOutputTensor, with its contents unless they follow as raw bytes.
void append_tensor(const InferenceRequest& request, ModelOutput output, std::string& out) {
  Writer writer(out);
  const ScoringTask& task = request.task;
  const std::size_t columns = task.model->scorer->input_dim();
  const std::string_view name = name_of(output);
  const std::string_view datatype = is_bool(output) ? "BOOL" : "FP32";
  const std::size_t shape_bytes =
      varint_size(task.rows) + (is_matrix(output) ? varint_size(columns) : std::size_t{0});
  const std::size_t value_bytes = count_bytes(task, output);
  const std::size_t contents_bytes = bytes_field_size(value_bytes);
  writer.begin_bytes(5, bytes_field_size(name.size()) + bytes_field_size(datatype.size()) +
                            bytes_field_size(shape_bytes) +
                            (request.raw ? std::size_t{0} : bytes_field_size(contents_bytes)));
  writer.bytes_field(1, name);
  writer.bytes_field(2, datatype);
  writer.begin_bytes(3, shape_bytes);
  writer.varint(task.rows);
  if (is_matrix(output)) writer.varint(columns);
  if (!request.raw) {
    writer.begin_bytes(5, contents_bytes);
    writer.begin_bytes(is_bool(output) ? 1 : 6, value_bytes);
    append_values(task, output, 0, count_values(task, output), out);
  }
}

}  // namespace

GrpcStatus decode_model_infer(std::string_view message, const ModelTable& models,
                              const InferenceLimits& limits, InferenceRequest& request) {
  std::string_view model_name;
  std::string_view model_version;
  std::string_view id;
  StreamRequest stream;
  InputTensor input;
  std::size_t inputs = 0;
  std::optional<std::string_view> raw;
  std::size_t raws = 0;
  Reader field(message);
  while (field.next()) {
    if (field.type() != WireType::bytes) continue;
    switch (field.number()) {
      case 1: model_name = field.bytes(); break;
      case 2: model_version = field.bytes(); break;
      case 3: id = field.bytes(); break;
      case 4:
        if (std::string problem = read_parameter(field.bytes(), limits.max_rows, stream); !problem.empty()) {
          return invalid(std::move(problem));
        }
        break;
      case 5:
        if (++inputs == 1 && !read_input(field.bytes(), input)) return not_a("ModelInferRequest");
        break;
      case 6:
        if (std::string problem = read_requested_output(field.bytes(), request); !problem.empty()) {
          return invalid(std::move(problem));
        }
        break;
      case 7:
        raw = field.bytes();
        ++raws;
        break;
      default: break;
    }
  }
  if (!field.ok() || !is_utf8(id)) return not_a("ModelInferRequest");
  request.id = id;  // Also for a refusal.

  ScoringTask& task = request.task;
  task.model = models.find(model_name, model_version);
  if (task.model == nullptr) {
    return {GrpcCode::not_found, describe_missing_model(model_name, model_version)};
  }
  if (inputs != 1) return invalid("expected 1 input, 'input', got " + std::to_string(inputs));
  if (raws > 1) return invalid("expected 1 entry of raw_input_contents, got " + std::to_string(raws));

  const std::size_t columns = task.model->scorer->input_dim();
  std::string problem = check_input(input, columns, limits);
  if (problem.empty()) {
    task.rows = static_cast<std::size_t>(input.shape[0]);
    problem = read_rows(input, raw, task.rows * columns, task.values);
  }
  if (problem.empty()) {
    problem = assign_stream(task, std::move(stream), "send the parameter sequence_id");
  }
  if (problem.empty()) problem = request.outputs.problem_for(*task.model);
  if (!problem.empty()) return invalid(std::move(problem));

  request.raw = raw.has_value();
  request.outputs.add_usual(*task.model);
  task.wanted = request.outputs.wanted();
  return {};
}

void encode_model_infer(const InferenceRequest& request, std::string& out) {
  Writer writer(out);
  const ServedModel& model = *request.task.model;
  writer.bytes_field(1, model.name);
  writer.bytes_field(2, model.version);
  if (!request.id.empty()) writer.bytes_field(3, request.id);
  for (const ModelOutput output : request.outputs.all()) append_tensor(request, output, out);
  if (!request.raw) return;
  for (const ModelOutput output : request.outputs.all()) {
    writer.begin_bytes(6, count_bytes(request.task, output));
    append_values(request.task, output, 0, count_values(request.task, output), out);
  }
}

void encode_model_stream_infer(const InferenceRequest& request, std::string_view problem, std::string& out) {
  std::string response;
  if (problem.empty()) {
    encode_model_infer(request, response);
  } else {
    if (!request.id.empty()) Writer(response).bytes_field(3, request.id);
    Writer(out).bytes_field(1, problem);
  }
  Writer(out).bytes_field(2, response);
}

}  // namespace datasentinel
