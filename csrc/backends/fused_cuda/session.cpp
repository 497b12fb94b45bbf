#include "backends/fused_cuda/session.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace datasentinel::fused_cuda {
namespace {

// Large enough that a launch and two copies cost little beside the transfer, small enough that three of them
// overlap on batches of a few thousand rows.
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
// Nothing overlaps with copying back the last chunk's scores; rows that are copied by the device only,
// without threads to be woken for each chunk, go in smaller ones.
constexpr std::size_t kLockedChunksInOne = 2;
// From CUDA 12.6 on a graph of one launch takes the driver less than the launch itself: 2.5 us of 8.4 on an
// H100.
constexpr int kLeastReplayingDriver = 12060;
// Below this the kernel reads the rows over the bus itself, which saves two copies' latencies.
constexpr std::size_t kMappedBytes = std::size_t{16} << 10;
// Of a kernel that reads rows over the bus; twice what was enough for all of an H100's, and little of the
// device, where other calls want to work meanwhile.
constexpr unsigned kBusBlocksPerMultiprocessor = 2;
// How often memory is polled for a score, some tens of nanoseconds apart, before the driver waits for it.
constexpr int kMostLooks = 2000;
// The address of rows that a kernel reads four values at a time.
constexpr DeviceAddress kVectorBytes = 16;
// No score is NaN.
constexpr float kNoScore = std::numeric_limits<float>::quiet_NaN();

/// Leaves the core to its other thread for a moment.
void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

Module load(const Driver& driver, const Bytes& cubin) {
  driver.enter();
  Module module(driver);
  driver.check(driver.cuModuleLoadData(module.out(), cubin.data()), "loading the kernel");
  return module;
}

Facts facts_of(const Source& source) {
  std::string precision = "float32";
  if (source.low_layers > 0) {
    precision = std::string(to_string(source.precision)) + " in " + std::to_string(source.low_layers) +
                " of " + std::to_string(source.layers) + " matrix products, float32 elsewhere";
  }
  return {{"precision", precision},
          {"values of a row", source.in_registers ? "in registers" : "in shared memory"},
          {"rows per block", std::to_string(source.scores_only.bulk.rows) + ", of a few rows " +
                                 std::to_string(source.scores_only.few.rows)}};
}

}  // namespace

CudaSession::CudaSession(std::shared_ptr<const Driver> driver, const Source& source, const Bytes& cubin,
                         const fused::Program& program, Facts build_facts)
    : driver_(std::move(driver)),
      input_dim_(program.widths[static_cast<std::size_t>(program.input)]),
      has_output_(program.output >= 0),
      has_contributions_(program.contributions >= 0),
      is_bus_bound_(source.in_registers),
      replays_(driver_->version() >= kLeastReplayingDriver),
      source_facts_(facts_of(source)),
      build_facts_(std::move(build_facts)),
      module_(load(*driver_, cubin)),
      scores_only_(*driver_, module_.get(), source.scores_only),
      all_(*driver_, module_.get(), source.all),
      chunk_rows_(std::max<std::size_t>(kChunkBytes / (input_dim_ * sizeof(float)), 1)),
      lanes_([this] { return make_lane(); }) {
  driver_->enter();
  const std::size_t bytes = source.constants.size() * sizeof(float);
  constants_ = cuda::make_device_memory(*driver_, bytes);
  device_rows_.stream = cuda::make_stream(*driver_);
  // Not cuMemcpyHtoD: from pageable memory that may return before the bytes have arrived, and none of our
  // streams waits for it.
  driver_->check(driver_->cuMemcpyHtoDAsync_v2(constants_.get(), source.constants.data(), bytes,
                                               device_rows_.stream.get()),
                 "copying the weights");
  driver_->check(driver_->cuStreamSynchronize(device_rows_.stream.get()), "copying the weights");
  device_rows_.bad = make_bad_value();
  device_rows_.launched_bad = make_bad_value();
}

CudaSession::~CudaSession() {
  driver_->enter_if_possible();
  // On streams of others something may still be under way.
  if (device_rows_.has_launched.load()) static_cast<void>(driver_->cuCtxSynchronize());
}

CudaSession::BadValue CudaSession::make_bad_value() const {
  BadValue bad;
  bad.cell = cuda::make_pinned_memory(*driver_, sizeof(kNowhere));
  bad.mapped = cuda::mapped_address(*driver_, bad.cell);
  bad.place() = kNowhere;
  return bad;
}

std::optional<Cell> CudaSession::cell_of(std::uint64_t place, std::size_t first_row) const noexcept {
  if (place == kNowhere) return std::nullopt;
  return Cell{.row = first_row + place / input_dim_, .column = place % input_dim_};
}

std::unique_ptr<CudaSession::Lane> CudaSession::make_lane() const {
  driver_->enter();
  auto lane = std::make_unique<Lane>();
  const auto allocate = [&](Buffer& buffer, bool exists, std::size_t columns) {
    if (!exists) return;
    const std::size_t bytes = chunk_rows_ * columns * sizeof(float);
    buffer.host = cuda::make_pinned_memory(*driver_, bytes);
    buffer.mapped = cuda::mapped_address(*driver_, buffer.host);
    buffer.device = cuda::make_device_memory(*driver_, bytes);
  };
  const std::size_t most_warps = std::max(scores_only_.most_warps(), all_.most_warps());
  for (Slot& slot : lane->slots) {
    slot.stream = cuda::make_stream(*driver_);
    slot.bad = make_bad_value();
    slot.replays = replays_;
    slot.anomalies.cells = cuda::make_pinned_memory(*driver_, most_warps * sizeof(unsigned));
    slot.anomalies.mapped = cuda::mapped_address(*driver_, slot.anomalies.cells);
    allocate(slot.input, true, input_dim_);
    allocate(slot.scores, true, 1);
    allocate(slot.output, has_output_, input_dim_);
    allocate(slot.contributions, has_contributions_, input_dim_);
  }
  return lane;
}

std::size_t CudaSession::launch(Arguments arguments, void* stream) const {
  const EntryPoints& entries = arguments.output == 0 && arguments.contributions == 0 ? scores_only_ : all_;
  const EntryPoint& entry = entries.for_rows(arguments.rows);
  const auto block_rows = static_cast<std::size_t>(entry.kernel.rows);
  const std::size_t groups = (arguments.rows + block_rows - 1) / block_rows;
  const auto blocks = static_cast<unsigned>(
      std::min<std::size_t>(groups, std::min(entry.most_blocks, arguments.most_blocks)));
  auto rows = static_cast<long long>(arguments.rows);
  DeviceAddress constants = constants_.get();
  std::array<void*, 9> pointers{&arguments.input,    &rows,
                                &constants,          &arguments.scores,
                                &arguments.output,   &arguments.contributions,
                                &arguments.bad,      &arguments.highest_normal,
                                &arguments.anomalies};
  driver_->check(driver_->cuLaunchKernel(entry.function, blocks * static_cast<unsigned>(entry.kernel.blocks),
                                         1, 1, static_cast<unsigned>(entry.kernel.threads), 1, 1,
                                         static_cast<unsigned>(entry.kernel.shared_bytes), stream,
                                         pointers.data(), nullptr),
                 "launching the kernel");
  return entry.warps(blocks);
}

void CudaSession::launch(Slot& slot, const Call& call) const {
  const auto address = [&call](const Buffer& buffer, const float* wanted) -> DeviceAddress {
    if (wanted == nullptr) return 0;
    return call.is_mapped ? buffer.mapped : buffer.device.get();
  };
  Arguments arguments{.input = address(slot.input, call.rows.data),
                      .rows = slot.rows,
                      .scores = address(slot.scores, call.outputs.scores),
                      .output = address(slot.output, call.outputs.reconstructions),
                      .contributions = address(slot.contributions, call.outputs.contributions)};
  if (call.highest_normal) {
    slot.bad.place() = kNowhere;
    arguments.bad = slot.bad.mapped;
    arguments.highest_normal = *call.highest_normal;
    arguments.anomalies = slot.anomalies.mapped;
  }
  if (call.is_direct()) {
    arguments.input = call.rows_at;
    arguments.scores = call.scores_at;
    arguments.most_blocks =
        kBusBlocksPerMultiprocessor * static_cast<unsigned>(std::max(driver_->multiprocessors(), 1));
  }
  slot.warps = launch(arguments, slot.stream.get());
}

/// Where the driver can, by a graph that was captured when so few rows came first.
void CudaSession::launch_mapped(Slot& slot, const Call& call) const {
  std::fill_n(slot.scores.rows(), slot.rows, kNoScore);
  const bool is_replayed = slot.replays && slot.rows <= kMostReplayedRows && !call.highest_normal &&
                           call.outputs.scores != nullptr && call.wants_scores_only();
  if (!is_replayed) return launch(slot, call);
  cuda::GraphExecutable& graph = slot.launches[slot.rows - 1];
  void* const stream = slot.stream.get();
  if (graph.get() == nullptr) graph = cuda::captured(*driver_, stream, [&] { launch(slot, call); });
  slot.replays = graph.get() != nullptr;
  if (!slot.replays) return launch(slot, call);
  driver_->check(driver_->cuGraphLaunch(graph.get(), stream), "launching the kernel");
}

CudaSession::Call CudaSession::describe(ConstRows rows, Outputs outputs,
                                        std::optional<float> highest_normal) const {
  Call call{.rows = rows, .outputs = outputs, .highest_normal = highest_normal};
  call.chunk_rows = chunk_rows_;
  call.is_mapped = rows.size() * sizeof(float) <= kMappedBytes;
  if (call.is_mapped) return call;
  const auto is_locked = [&](const float* matrix, std::size_t columns) {
    return matrix != nullptr && driver_->is_page_locked(matrix, rows.rows * columns * sizeof(float));
  };
  call.rows_locked = is_locked(rows.data, input_dim_);
  if (call.rows_locked) call.chunk_rows = std::max<std::size_t>(chunk_rows_ / kLockedChunksInOne, 1);
  call.scores_locked = is_locked(outputs.scores, 1);
  call.output_locked = is_locked(outputs.reconstructions, input_dim_);
  call.contributions_locked = is_locked(outputs.contributions, input_dim_);
  if (is_bus_bound_ && call.rows_locked && call.scores_locked && call.wants_scores_only()) {
    call.rows_at = driver_->mapped_address_or_null(rows.data);
    call.scores_at = driver_->mapped_address_or_null(outputs.scores);
    if (call.scores_at == 0 || call.rows_at % kVectorBytes != 0) call.rows_at = 0;
    if (call.is_direct()) call.chunk_rows = rows.rows;
  }
  return call;
}

/// Assigns rows to the slot; those that are not page-locked are queued for copying.
void CudaSession::take(Slot& slot, const Call& call, std::size_t first, std::size_t count,
                       Copies& copies) const {
  slot.first = first;
  slot.rows = count;
  if (!call.rows_locked) {
    copies.add(slot.input.rows(), call.rows.row(first), count * input_dim_, !call.is_mapped);
  }
}

void CudaSession::start(Slot& slot, const Call& call) const {
  if (call.is_mapped) return launch_mapped(slot, call);
  if (call.is_direct()) return launch(slot, call);
  const std::size_t bytes = slot.rows * input_dim_ * sizeof(float);
  const float* const rows = call.rows_locked ? call.rows.row(slot.first) : slot.input.rows();
  driver_->check(driver_->cuMemcpyHtoDAsync_v2(slot.input.device.get(), rows, bytes, slot.stream.get()),
                 "copying rows to the device");
  launch(slot, call);
  const auto fetch = [&](float* target, bool is_locked, const Buffer& buffer, std::size_t columns) {
    if (target == nullptr) return;
    driver_->check(driver_->cuMemcpyDtoHAsync_v2(is_locked ? target + slot.first * columns : buffer.rows(),
                                                 buffer.device.get(), slot.rows * columns * sizeof(float),
                                                 slot.stream.get()),
                   "copying results from the device");
  };
  fetch(call.outputs.scores, call.scores_locked, slot.scores, 1);
  fetch(call.outputs.reconstructions, call.output_locked, slot.output, input_dim_);
  fetch(call.outputs.contributions, call.contributions_locked, slot.contributions, input_dim_);
}

/// A kernel's answers are in the host's memory some microseconds before its stream is said to be done. They
/// are the last that it does with any memory.
void CudaSession::await_scores(const Slot& slot) const {
  int looks = 0;
  for (std::size_t i = 0; i < slot.rows; ++i) {
    const std::atomic_ref score(slot.scores.rows()[i]);
    while (std::isnan(score.load(std::memory_order_acquire))) {
      if (++looks > kMostLooks) {
        driver_->check(driver_->cuStreamSynchronize(slot.stream.get()), "running the kernel");
        return;
      }
      relax();
    }
  }
}

void CudaSession::finish(Slot& slot, const Call& call, Copies& copies, Findings& findings) const {
  if (slot.rows == 0) return;
  if (call.is_mapped && call.wants_scores_only()) {
    await_scores(slot);
  } else {
    driver_->check(driver_->cuStreamSynchronize(slot.stream.get()), "running the kernel");
  }
  const std::size_t count = std::exchange(slot.rows, 0);
  if (call.highest_normal) {
    findings.bad = cell_of(slot.bad.place(), slot.first);
    if (findings.bad) return;
    const auto found = slot.anomalies.of(slot.warps);
    findings.anomalies = std::accumulate(found.begin(), found.end(), findings.anomalies.value_or(0));
  }
  const auto deliver = [&](float* target, bool is_locked, const Buffer& buffer, std::size_t columns) {
    if (target == nullptr || is_locked) return;
    copies.add(target + slot.first * columns, buffer.rows(), count * columns, false);
  };
  deliver(call.outputs.scores, call.scores_locked, slot.scores, 1);
  deliver(call.outputs.reconstructions, call.output_locked, slot.output, input_dim_);
  deliver(call.outputs.contributions, call.contributions_locked, slot.contributions, input_dim_);
}

void CudaSession::abandon(Lane& lane) noexcept {
  for (Slot& slot : lane.slots) {
    loss_.settle(*driver_, slot.stream);
    slot.rows = 0;
  }
}

Session::Findings CudaSession::run_checked(ConstRows rows, Outputs outputs, float highest_normal) {
  // For the kernel a check costs little beside the bus; of a few rows the CPU is done before one has started.
  if (rows.size() * sizeof(float) <= kMappedBytes) return Session::run_checked(rows, outputs, highest_normal);
  return run_chunks(rows, outputs, highest_normal);
}

Session::Findings CudaSession::run_chunks(ConstRows rows, Outputs outputs,
                                          std::optional<float> highest_normal) {
  if (outputs.reconstructions != nullptr && !has_output_) {
    throw Error(ErrorCode::unsupported_model, "this model scores only; it has no output 'output'");
  }
  if (outputs.contributions != nullptr && !has_contributions_) {
    throw Error(ErrorCode::unsupported_model,
                "this model does not explain its scores; it has no output 'contributions'");
  }
  loss_.refuse_if_lost();
  // Outside of `try`: no memory for one lane more does not end those that are there.
  const auto lane = lanes_.borrow();
  try {
    driver_->enter();
    const Call call = describe(rows, outputs, highest_normal);
    // Chunks are finished in the order of their rows, so the first bad value that is met is the first of all.
    // A slot's scores go to the caller while its next rows come.
    Findings findings;
    const std::size_t chunks = (rows.rows + call.chunk_rows - 1) / call.chunk_rows;
    std::size_t first = 0;
    for (std::size_t turn = 0; turn < chunks + kSlots; ++turn) {
      Slot& slot = lane->slots[turn % kSlots];
      Copies copies;
      finish(slot, call, copies, findings);
      if (findings.bad) break;
      const std::size_t count = std::min(call.chunk_rows, rows.rows - first);
      if (count != 0) take(slot, call, first, count, copies);
      copiers_.run(copies);
      if (count != 0) start(slot, call);
      first += count;
    }
    if (findings.bad) abandon(*lane);
    return findings;
  } catch (...) {
    abandon(*lane);
    throw;
  }
}

Facts CudaSession::facts() const {
  Facts facts{{"device", driver_->device_name() + ", compute capability " + driver_->compute_capability()},
              {"driver", std::to_string(driver_->version())},
              {"rows per chunk", std::to_string(chunk_rows_)}};
  if (scores_only_.blocks_of_cluster() > 1) {
    facts.emplace_back("blocks that share a few rows", std::to_string(scores_only_.blocks_of_cluster()));
  }
  facts.insert(facts.end(), source_facts_.begin(), source_facts_.end());
  facts.insert(facts.end(), build_facts_.begin(), build_facts_.end());
  return facts;
}

}  // namespace datasentinel::fused_cuda
