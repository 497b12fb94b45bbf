#include "wire/model_outputs.h"

#include <algorithm>
#include <utility>

#include "serving/severity.h"
#include "wire/wording.h"

namespace datasentinel {
namespace {

/// The numbers of an output that the task holds as they are.
const float* stored(const ScoringTask& task, ModelOutput output) noexcept {
  switch (output) {
    case ModelOutput::output: return task.reconstructions.data();
    case ModelOutput::contributions: return task.contributions.data();
    default: return task.scores.data();
  }
}

}  // namespace

std::size_t count_values(const ScoringTask& task, ModelOutput output) noexcept {
  return is_matrix(output) ? task.rows * task.model->scorer->input_dim() : task.rows;
}

std::size_t count_bytes(const ScoringTask& task, ModelOutput output) noexcept {
  return count_values(task, output) * (is_bool(output) ? 1 : sizeof(float));
}

float number_of(const ScoringTask& task, ModelOutput output, std::size_t index) noexcept {
  const float number = stored(task, output)[index];
  return output == ModelOutput::severity ? severity(number, task.model->scorer->threshold()) : number;
}

void append_values(const ScoringTask& task, ModelOutput output, std::size_t first, std::size_t count,
                   std::string& out) {
  const std::size_t end = first + count;
  switch (output) {
    case ModelOutput::anomaly:
      for (std::size_t i = first; i < end; ++i) out.push_back(task.is_anomaly(i) ? '\1' : '\0');
      return;
    case ModelOutput::warming:
      for (std::size_t i = first; i < end; ++i) out.push_back(task.is_warming(i) ? '\1' : '\0');
      return;
    case ModelOutput::severity:
      for (std::size_t i = first; i < end; ++i) {
        const float value = number_of(task, output, i);
        out.append(reinterpret_cast<const char*>(&value), sizeof value);
      }
      return;
    default:
      if (count == 0) return;
      out.append(reinterpret_cast<const char*>(stored(task, output) + first), count * sizeof(float));
  }
}

std::string AskedOutputs::add(std::string_view name, bool is_plain) {
  const auto known = std::ranges::find(kModelOutputNames, name);
  if (known == kModelOutputNames.end()) {
    return "unknown output " + quoted(name) +
           "; this model has score, anomaly, warming, severity, output and contributions";
  }
  if (!is_plain) return "output " + quoted(name) + ": shared memory and classification are not supported";
  const auto output = static_cast<ModelOutput>(known - kModelOutputNames.begin());
  if (std::ranges::find(all(), output) != all().end()) {
    return "output " + quoted(name) + " is asked for twice";
  }
  outputs_[count_++] = output;
  return {};
}

std::string AskedOutputs::problem_for(const ServedModel& model) const {
  if (has_severity(model.scorer->threshold()) ||
      std::ranges::find(all(), ModelOutput::severity) == all().end()) {
    return {};
  }
  return "output 'severity' is the score over the threshold, and this model's is not above 0";
}

void AskedOutputs::add_usual(const ServedModel& model) noexcept {
  if (count_ != 0) return;
  outputs_ = {ModelOutput::score, ModelOutput::anomaly, ModelOutput::warming};
  count_ = model.states() == nullptr ? 2 : 3;
}

Wanted AskedOutputs::wanted() const noexcept {
  Wanted wanted;
  for (const ModelOutput output : all()) {
    switch (output) {
      case ModelOutput::output: wanted.reconstructions = true; break;
      case ModelOutput::contributions: wanted.contributions = true; break;
      default: wanted.scores = true;
    }
  }
  return wanted;
}

std::string problem_of_input(std::string_view name, std::string_view datatype, bool in_shared_memory) {
  if (name != "input") return "unknown input " + quoted(name) + "; this model has one input, 'input'";
  if (in_shared_memory) return "input 'input': shared memory is not supported";
  if (datatype != "FP32") return "input 'input': expected datatype FP32, got " + quoted(datatype);
  return {};
}

std::string problem_of_row_count(std::int64_t rows, std::size_t max_rows) {
  if (std::cmp_less_equal(rows, max_rows)) return {};
  return "input 'input': at most " + std::to_string(max_rows) + " rows a request, got " +
         std::to_string(rows);
}

}  // namespace datasentinel
