#include "backends/tensorrt/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/buckets.h"
#include "core/error.h"

namespace datasentinel::tensorrt {

TensorRtSession::TensorRtSession(std::shared_ptr<const Engine> engine,
                                 std::shared_ptr<const cuda::Driver> driver, Facts build_facts)
    : driver_(std::move(driver)),
      engine_(std::move(engine)),
      build_facts_(std::move(build_facts)),
      lanes_([this] { return make_lane(); }) {}

std::unique_ptr<TensorRtSession::Lane> TensorRtSession::make_lane() const {
  driver_->enter();
  auto lane = std::make_unique<Lane>();
  lane->stream = cuda::make_stream(*driver_);
  lane->scratch = cuda::make_device_memory(*driver_, static_cast<std::size_t>(engine_->scratch_bytes()));
  const auto allocate = [&](Buffer& buffer, bool exists, std::size_t columns) {
    if (!exists) return;
    buffer.columns = columns;
    buffer.host = cuda::make_pinned_memory(*driver_, buffer.bytes(engine_->max_rows()));
    // Batches are padded, with rows of an earlier batch or these.
    std::memset(buffer.host.get(), 0, buffer.bytes(engine_->max_rows()));
    buffer.device = cuda::make_device_memory(*driver_, buffer.bytes(engine_->max_rows()));
  };
  allocate(lane->input, true, engine_->input_dim());
  allocate(lane->score, !engine_->score().empty(), 1);
  allocate(lane->reconstruction, !engine_->reconstruction().empty(), engine_->input_dim());
  allocate(lane->contributions, !engine_->contributions().empty(), engine_->input_dim());
  lane->buckets.resize(bucket_of(engine_->max_rows()) + 1);
  return lane;
}

TensorRtSession::Bucket& TensorRtSession::prepare(Lane& lane, std::size_t index) const {
  Bucket& bucket = lane.buckets[index];
  if (bucket.context) return bucket;
  const std::size_t rows = rows_of_bucket(index, engine_->max_rows());
  auto context = engine_->make_context();
  context->setDeviceMemoryV2(reinterpret_cast<void*>(static_cast<std::uintptr_t>(lane.scratch.get())),
                             engine_->scratch_bytes());
  if (!context->setOptimizationProfileAsync(engine_->profile_for(rows), lane.stream.get())) {
    engine_->library().fail("choosing a profile");
  }
  driver_->check(driver_->cuStreamSynchronize(lane.stream.get()), "choosing a profile");
  abi::Dims shape{};
  shape.nbDims = 2;
  shape.d[0] = static_cast<std::int64_t>(rows);
  shape.d[1] = static_cast<std::int64_t>(engine_->input_dim());
  if (!context->setInputShape(engine_->input().c_str(), shape)) {
    engine_->library().fail("setting the batch size");
  }
  const auto bind = [&](const std::string& name, const Buffer& buffer) {
    if (name.empty() || context->setTensorAddress(name.c_str(), buffer.device_rows())) return;
    engine_->library().fail("binding memory");
  };
  bind(engine_->input(), lane.input);
  bind(engine_->score(), lane.score);
  bind(engine_->reconstruction(), lane.reconstruction);
  bind(engine_->contributions(), lane.contributions);
  bucket.context = std::move(context);
  return bucket;
}

void TensorRtSession::enqueue(Lane& lane, Bucket& bucket, std::size_t rows, unsigned wanted) const {
  void* const stream = lane.stream.get();
  driver_->check(driver_->cuMemcpyHtoDAsync_v2(lane.input.device.get(), lane.input.host.get(),
                                               lane.input.bytes(rows), stream),
                 "copying rows to the device");
  if (!bucket.context->enqueueV3(stream)) engine_->library().fail("running the engine");
  const auto fetch = [&](const Buffer& buffer, unsigned bit) {
    if ((wanted & bit) == 0) return;
    driver_->check(
        driver_->cuMemcpyDtoHAsync_v2(buffer.host.get(), buffer.device.get(), buffer.bytes(rows), stream),
        "copying results from the device");
  };
  fetch(lane.score, kScore);
  fetch(lane.reconstruction, kReconstruction);
  fetch(lane.contributions, kContributions);
}

void TensorRtSession::capture(Lane& lane, Bucket& bucket, std::size_t rows, unsigned wanted) const {
  bucket.graphs[wanted] =
      cuda::captured(*driver_, lane.stream.get(), [&] { enqueue(lane, bucket, rows, wanted); });
  if (bucket.graphs[wanted].get() != nullptr) return;
  // Some engines cannot be captured (say, when a shape depends on data); they run call by call.
  bucket.capturable = false;
  static_cast<void>(engine_->library().logger().take_errors());
}

void TensorRtSession::run_chunk(Lane& lane, ConstRows rows, Outputs outputs) const {
  const bool score_by_us = outputs.scores != nullptr && lane.score.columns == 0;
  const bool contributions_by_us = outputs.contributions != nullptr && lane.contributions.columns == 0;
  const bool need_reconstruction = outputs.reconstructions != nullptr || score_by_us || contributions_by_us;
  const unsigned wanted = (outputs.scores != nullptr && !score_by_us ? kScore : 0U) |
                          (need_reconstruction ? kReconstruction : 0U) |
                          (outputs.contributions != nullptr && !contributions_by_us ? kContributions : 0U);

  const std::size_t index = bucket_of(rows.rows);
  const std::size_t padded = rows_of_bucket(index, engine_->max_rows());
  Bucket& bucket = prepare(lane, index);
  std::memcpy(lane.input.rows(), rows.data, rows.size() * sizeof(float));
  if (bucket.graphs[wanted].get() != nullptr) {
    driver_->check(driver_->cuGraphLaunch(bucket.graphs[wanted].get(), lane.stream.get()),
                   "launching a CUDA graph");
    driver_->check(driver_->cuStreamSynchronize(lane.stream.get()), "running the engine");
  } else {
    // TensorRT sets itself up in the first run of a context, which must not be captured.
    enqueue(lane, bucket, padded, wanted);
    driver_->check(driver_->cuStreamSynchronize(lane.stream.get()), "running the engine");
    if (bucket.capturable) capture(lane, bucket, padded, wanted);
  }

  const auto deliver = [&](float* target, const Buffer& buffer) {
    if (target != nullptr) std::memcpy(target, buffer.rows(), buffer.bytes(rows.rows));
  };
  if (score_by_us) {
    mean_squared_error(rows, lane.reconstruction.rows(), outputs.scores);
  } else {
    deliver(outputs.scores, lane.score);
  }
  deliver(outputs.reconstructions, lane.reconstruction);
  if (contributions_by_us) {
    squared_error_contributions(rows, lane.reconstruction.rows(), outputs.contributions);
  } else {
    deliver(outputs.contributions, lane.contributions);
  }
}

void TensorRtSession::run(ConstRows rows, Outputs outputs) {
  if (outputs.reconstructions != nullptr && engine_->reconstruction().empty()) {
    throw Error(ErrorCode::unsupported_model, "this model scores only; it has no output 'output'");
  }
  if (outputs.contributions != nullptr && engine_->contributions().empty() && !engine_->score().empty()) {
    throw Error(ErrorCode::unsupported_model,
                "this model does not explain its scores; it has no output 'contributions'");
  }
  loss_.refuse_if_lost();
  // Outside of `try`: no memory for one lane more does not end those that are there.
  const auto lane = lanes_.borrow();
  try {
    // The current context is a setting of the thread, and any thread may call.
    driver_->enter();
    for (std::size_t first = 0; first < rows.rows; first += engine_->max_rows()) {
      const std::size_t count = std::min(engine_->max_rows(), rows.rows - first);
      run_chunk(*lane, {.data = rows.row(first), .rows = count, .columns = rows.columns},
                outputs.from_row(first, rows.columns));
    }
  } catch (...) {
    loss_.settle(*driver_, lane->stream);
    // TensorRT does not say what a failed run leaves of its context.
    for (Bucket& bucket : lane->buckets) bucket = Bucket();
    throw;
  }
}

Facts TensorRtSession::facts() const {
  Facts facts{{"tensorrt", engine_->library().name()},
              {"library", engine_->library().path()},
              {"device", driver_->device_name() + ", compute capability " + driver_->compute_capability()},
              {"largest batch", std::to_string(engine_->max_rows())},
              {"engine bytes", std::to_string(engine_->size_bytes())},
              {"score", engine_->score().empty() ? "mean squared error, by the core" : "in the graph"}};
  facts.insert(facts.end(), build_facts_.begin(), build_facts_.end());
  return facts;
}

}  // namespace datasentinel::tensorrt
