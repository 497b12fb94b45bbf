#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "serving/model_table.h"
#include "wire/json_reader.h"

namespace datasentinel {

/// One inference request of the Open Inference Protocol over HTTP.
struct RestRequest {
  std::string_view model_name;     ///< Empty for the default model.
  std::string_view model_version;  ///< Empty for the latest.
  std::string_view body;
  /// Bytes of `body` that are JSON; the tensors' bytes follow. Nothing: all of it is JSON.
  std::optional<std::size_t> json_bytes = {};
};

/// Its answer. The body is JSON, followed by tensors' bytes when `json_bytes` says so.
struct RestReply {
  int status = 200;
  std::string body;
  std::optional<std::size_t> json_bytes;
};

/// Answers the inference requests of the Open Inference Protocol's REST form: JSON, and the extension that
/// carries tensors as bytes behind it. Numbers go from the text into float32 and back without anything
/// between.
///
/// What all connections of one server share: it keeps the scratch memory. One thread at a time.
class RestInference {
 public:
  struct Counts {
    std::uint64_t requests = 0;
    std::uint64_t rows = 0;
    std::uint64_t anomalies = 0;
    std::map<int, std::uint64_t> errors;  ///< Requests answered with an error, by status.
  };

  /// `max_rows` limits one request; one that is expected to take more than `max_inline_us` is long.
  RestInference(std::shared_ptr<const ModelTable> models, std::size_t max_rows, double max_inline_us);

  /// Never throws for the request's sake; the reply is good until the next call.
  const RestReply& answer(const RestRequest& request);

  /// Whether a request with so many bytes should not hold up others: it takes long, or runs on a device.
  [[nodiscard]] bool is_long(std::string_view model_name, std::string_view model_version,
                             std::size_t body_bytes) const;

  /// What was answered since the last call.
  [[nodiscard]] Counts take_counts() { return std::exchange(counts_, {}); }

 private:
  enum class Output : std::uint8_t { score, anomaly, output, contributions };

  struct RequestedOutput {
    Output output = Output::score;
    std::optional<bool> binary = {};  ///< Nothing: as the request says for all.
  };

  void infer(const RestRequest& request, const ServedModel& model);
  void read_request(const RestRequest& request, std::size_t columns);
  void read_input(JsonReader& json, std::size_t columns);
  void read_data(JsonReader& json, std::size_t columns);
  void read_row(JsonReader& json, std::size_t columns);
  void read_value(JsonReader& json, std::size_t columns);
  void read_output(JsonReader& json);
  void check_input(std::size_t columns) const;
  [[nodiscard]] ConstRows rows_of(std::string_view raw, std::size_t columns);
  void score(const ServedModel& model, ConstRows rows);
  void write_reply(const ServedModel& model, std::size_t rows);
  void write_json_output(const ServedModel& model, Output output, std::size_t rows);
  void write_binary_output(const ServedModel& model, Output output, std::size_t rows);
  [[nodiscard]] bool is_binary(const RequestedOutput& wanted) const noexcept;
  void refuse(int status, std::string_view reason);
  void recycle();

  std::shared_ptr<const ModelTable> models_;
  std::size_t max_rows_;
  double max_inline_us_;
  Counts counts_;
  RestReply reply_;

  // The request at hand.
  std::string id_;
  bool binary_by_default_ = false;
  std::size_t inputs_ = 0;
  std::string name_;
  std::string datatype_;
  std::vector<std::int64_t> shape_;
  bool has_data_ = false;
  std::vector<float> values_;
  std::optional<std::int64_t> binary_bytes_;
  bool in_shared_memory_ = false;
  std::vector<RequestedOutput> outputs_;

  // Its answer.
  std::vector<float> scores_;
  std::vector<float> reconstructions_;
  std::vector<float> contributions_;
};

}  // namespace datasentinel
