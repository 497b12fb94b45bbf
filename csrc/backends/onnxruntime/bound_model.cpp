#include "backends/onnxruntime/bound_model.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "core/buckets.h"

namespace datasentinel::onnxruntime {

BoundModel::BoundModel(std::shared_ptr<Runtime> runtime, OrtSession* session, const Signature& signature,
                       Provider provider, std::size_t max_rows, Callers callers)
    : runtime_(std::move(runtime)),
      session_(session),
      signature_(signature),
      max_rows_(signature.one_row_at_a_time ? 1 : max_rows),
      callers_(callers),
      memory_(runtime_, session, provider),
      lanes_([this] { return make_lane(); }) {
  if (callers_ == Callers::one_after_the_other) worker_.emplace();
}

void BoundModel::prepare() {
  if (callers_ == Callers::concurrent) return;
  worker_->run([this] {
    const auto lane = lanes_.borrow();
    {
      // All of them before the first capture: a captured graph goes on using memory that ONNX Runtime takes
      // for free after the run.
      const auto gate = runtime_->gate.work();
      for (std::size_t index = 0; index < lane->buckets.size(); ++index) {
        lane->buckets[index] = make_bucket(index);
        lane->buckets[index]->input.upload();
      }
    }
    for (const auto& bucket : lane->buckets) {
      const auto gate = runtime_->gate.capture();
      run_bucket(*bucket);
    }
  });
}

std::unique_ptr<BoundModel::Lane> BoundModel::make_lane() const {
  auto lane = std::make_unique<Lane>();
  lane->buckets.resize(bucket_of(max_rows_) + 1);
  return lane;
}

std::unique_ptr<BoundModel::Bucket> BoundModel::make_bucket(std::size_t index) const {
  const Api& api = runtime_->api;
  const char* what = "binding inputs and outputs";
  auto bucket = std::make_unique<Bucket>();
  bucket->rows = rows_of_bucket(index, max_rows_);
  bucket->binding = IoBindingHandle(api);
  api.check(api.CreateIoBinding(session_, bucket->binding.out()), what);

  const Shape matrix{.rows = bucket->rows, .columns = signature_.input_dim};
  bucket->input = StagedTensor(memory_, matrix);
  api.check(api.BindInput(bucket->binding.get(), signature_.input.c_str(), bucket->input.device_value()),
            what);
  // Every output is bound, since the graph computes it anyway; only those asked for are copied.
  const auto bind = [&](const std::string& name, StagedTensor& tensor, Shape shape) {
    if (name.empty()) return;
    tensor = StagedTensor(memory_, shape);
    api.check(api.BindOutput(bucket->binding.get(), name.c_str(), tensor.device_value()), what);
  };
  bind(signature_.score, bucket->score, {.rows = bucket->rows, .rank = signature_.score_rank});
  bind(signature_.reconstruction, bucket->reconstruction, matrix);
  bind(signature_.contributions, bucket->contributions, matrix);

  if (callers_ == Callers::one_after_the_other) {
    bucket->options = RunOptions(api);
    api.check(api.CreateRunOptions(bucket->options.out()), what);
    // 0 is ONNX Runtime's own.
    const std::string graph = std::to_string(index + 1);
    api.check(api.AddRunConfigEntry(bucket->options.get(), "gpu_graph_id", graph.c_str()), what);
  }
  return bucket;
}

void BoundModel::run_bucket(const Bucket& bucket) const {
  const Api& api = runtime_->api;
  api.check(api.RunWithBinding(session_, bucket.options.get(), bucket.binding.get()), "running the model");
}

void BoundModel::run(ConstRows rows, const Outputs& outputs) {
  const auto work = [&] { run_chunks(rows, outputs); };
  if (worker_.has_value()) {
    worker_->run(std::cref(work));  // A reference, so that nothing is allocated.
  } else {
    work();
  }
}

void BoundModel::run_chunks(ConstRows rows, const Outputs& outputs) {
  const auto lane = lanes_.borrow();
  const auto gate = runtime_->gate.work();
  for (std::size_t first = 0; first < rows.rows; first += max_rows_) {
    const std::size_t count = std::min(max_rows_, rows.rows - first);
    run_chunk(*lane, {.data = rows.row(first), .rows = count, .columns = rows.columns},
              outputs.from_row(first, rows.columns));
  }
}

void BoundModel::run_chunk(Lane& lane, ConstRows rows, const Outputs& outputs) const {
  const Needs needs = needs_of(signature_, outputs);
  const std::size_t index = bucket_of(rows.rows);
  if (lane.buckets[index] == nullptr) lane.buckets[index] = make_bucket(index);
  const Bucket& bucket = *lane.buckets[index];

  // The rows behind the batch are those of an earlier one: they are scored too and go nowhere.
  std::memcpy(bucket.input.host(), rows.data, rows.size() * sizeof(float));
  bucket.input.upload();
  run_bucket(bucket);

  const auto deliver = [](bool needed, const StagedTensor& tensor, float* target, std::size_t count) {
    if (!needed) return;
    tensor.download();
    if (target != nullptr) std::memcpy(target, tensor.host(), count * sizeof(float));
  };
  deliver(needs.score, bucket.score, outputs.scores, rows.rows);
  deliver(needs.reconstruction, bucket.reconstruction, outputs.reconstructions, rows.size());
  deliver(needs.contributions, bucket.contributions, outputs.contributions, rows.size());
  const float* reconstructions = bucket.reconstruction.host();
  if (needs.score_by_us) mean_squared_error(rows, reconstructions, outputs.scores);
  if (needs.contributions_by_us) squared_error_contributions(rows, reconstructions, outputs.contributions);
}

}  // namespace datasentinel::onnxruntime
