#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/protobuf.h"
#include "wire/grpc/grpc_call.h"

namespace datasentinel {

inline constexpr const char* kInfer = "/inference.GRPCInferenceService/ModelInfer";
inline constexpr const char* kStreamInfer = "/inference.GRPCInferenceService/ModelStreamInfer";
inline constexpr const char* kEvaluate = "/datasentinel.v1.InferenceService/Evaluate";
inline constexpr const char* kEvaluateBatch = "/datasentinel.v1.InferenceService/EvaluateBatch";
inline constexpr const char* kEvaluateStream = "/datasentinel.v1.InferenceService/EvaluateStream";

inline std::string framed(std::string_view message, bool compressed = false) {
  std::string out;
  append_grpc_message(out, [message](std::string& text) { text.append(message); });
  out[0] = compressed ? '\1' : '\0';
  return out;
}

/// An EvaluateRequest.
inline std::string evaluate_message(const std::vector<float>& values, std::uint64_t explain_top = 0) {
  std::string message;
  protobuf::Writer writer(message);
  writer.begin_bytes(1, values.size() * sizeof(float));
  writer.raw(values.data(), values.size() * sizeof(float));
  if (explain_top != 0) writer.varint_field(2, explain_top);
  return message;
}

/// An EvaluateBatchRequest.
inline std::string batch_message(std::uint64_t id, std::uint64_t rows, const std::vector<float>& values,
                                 bool raw = true) {
  std::string message;
  protobuf::Writer writer(message);
  writer.varint_field(1, id);
  writer.varint_field(2, rows);
  writer.begin_bytes(raw ? 4 : 3, values.size() * sizeof(float));
  writer.raw(values.data(), values.size() * sizeof(float));
  return message;
}

struct InferMessage {
  std::string model = {};
  std::string version = {};
  std::string id = {};
  std::string input = "input";
  std::string datatype = "FP32";
  std::vector<std::uint64_t> shape = {};
  std::vector<float> values = {};
  bool raw = true;
  std::vector<std::string> outputs = {};

  [[nodiscard]] std::string encode() const {
    std::string tensor;
    protobuf::Writer tensor_writer(tensor);
    tensor_writer.bytes_field(1, input);
    tensor_writer.bytes_field(2, datatype);
    for (const std::uint64_t size : shape) tensor_writer.varint_field(3, size);
    std::string floats(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    if (!raw) {
      std::string contents;
      protobuf::Writer(contents).bytes_field(6, floats);
      tensor_writer.bytes_field(5, contents);
    }
    std::string message;
    protobuf::Writer writer(message);
    if (!model.empty()) writer.bytes_field(1, model);
    if (!version.empty()) writer.bytes_field(2, version);
    if (!id.empty()) writer.bytes_field(3, id);
    std::string parameter;  // A map entry: key, and a value of no interest.
    protobuf::Writer parameter_writer(parameter);
    parameter_writer.bytes_field(1, "priority");
    parameter_writer.bytes_field(2, "\x10\x07");
    writer.bytes_field(4, parameter);
    writer.bytes_field(5, tensor);
    for (const std::string& output : outputs) {
      std::string requested;
      protobuf::Writer(requested).bytes_field(1, output);
      writer.bytes_field(6, requested);
    }
    if (raw) writer.bytes_field(7, floats);
    return message;
  }
};

}  // namespace datasentinel
