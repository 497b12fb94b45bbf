#include "backends/fused_cuda/session.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"

namespace datasentinel::fused_cuda {
namespace {

// Large enough that a launch and two copies cost little beside the transfer, small enough that three of them
// overlap on batches of a few thousand rows.
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
// Below this the kernel reads the rows over the bus itself, which saves two copies' latencies.
constexpr std::size_t kMappedBytes = std::size_t{16} << 10;
// What one thread copies at a time. One core moves some 10 GB/s, a bus 25 to 60.
constexpr std::size_t kStagedPart = std::size_t{512} << 10;
constexpr unsigned kMostStagers = 4;
// Each four rows more take many blocks as long again, while for blocks of their own they are as good as one.
constexpr std::size_t kMostSpreadRows = 8;

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
      source_facts_(facts_of(source)),
      build_facts_(std::move(build_facts)),
      module_(*driver_),
      chunk_rows_(std::max<std::size_t>(kChunkBytes / (input_dim_ * sizeof(float)), 1)),
      lanes_([this] { return make_lane(); }) {
  driver_->enter();
  driver_->check(driver_->cuModuleLoadData(module_.out(), cubin.data()), "loading the kernel");
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
  scores_only_ = entry_points(source.scores_only);
  all_ = entry_points(source.all);
  for (const EntryPoints* entries : {&scores_only_, &all_}) {
    if (!entries->spread) continue;
    workspace_floats_ = std::max(workspace_floats_, entries->spread->kernel.workspace_floats);
  }
  if (workspace_floats_ != 0) device_rows_.workspace = make_workspace();
}

CudaSession::~CudaSession() {
  driver_->enter_if_possible();
  // On streams of others something may still be under way.
  if (device_rows_.has_launched.load()) static_cast<void>(driver_->cuCtxSynchronize());
}

CudaSession::EntryPoint CudaSession::entry_point(const Kernel& kernel) const {
  EntryPoint entry{.kernel = kernel, .function = nullptr, .most_blocks = 1};
  driver_->check(driver_->cuModuleGetFunction(&entry.function, module_.get(), kernel.name.c_str()),
                 "finding the kernel");
  driver_->check(driver_->cuFuncSetAttribute(entry.function, cuda::kFunctionSharedBytes,
                                             static_cast<int>(kernel.shared_bytes)),
                 "reserving shared memory");
  int blocks = 0;
  driver_->check(driver_->cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, entry.function, kernel.threads,
                                                                      kernel.shared_bytes),
                 "asking how many blocks fit");
  entry.most_blocks = static_cast<unsigned>(std::max(blocks, 1) * std::max(driver_->multiprocessors(), 1));
  return entry;
}

CudaSession::EntryPoints CudaSession::entry_points(const Kernels& kernels) const {
  // As long as each multiprocessor has one block of a few rows at most, nothing is done sooner.
  const int few_rows = kernels.few.rows * std::max(driver_->multiprocessors(), 1);
  EntryPoints entries{.few = entry_point(kernels.few),
                      .bulk = entry_point(kernels.bulk),
                      .spread = {},
                      .few_rows = static_cast<std::size_t>(few_rows)};
  if (kernels.spread && driver_->launches_cooperatively()) {
    const EntryPoint spread = entry_point(*kernels.spread);
    if (spread.most_blocks >= static_cast<unsigned>(spread.kernel.blocks)) entries.spread = spread;
  }
  return entries;
}

DeviceMemory CudaSession::make_workspace() const {
  const std::vector<float> zeros(workspace_floats_, 0.0F);
  const std::size_t bytes = workspace_floats_ * sizeof(float);
  DeviceMemory workspace = cuda::make_device_memory(*driver_, bytes);
  void* const stream = device_rows_.stream.get();
  driver_->check(driver_->cuMemcpyHtoDAsync_v2(workspace.get(), zeros.data(), bytes, stream),
                 "clearing memory");
  driver_->check(driver_->cuStreamSynchronize(stream), "clearing memory");
  return workspace;
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
  for (Slot& slot : lane->slots) {
    slot.stream = cuda::make_stream(*driver_);
    slot.bad = make_bad_value();
    allocate(slot.input, true, input_dim_);
    allocate(slot.scores, true, 1);
    allocate(slot.output, has_output_, input_dim_);
    allocate(slot.contributions, has_contributions_, input_dim_);
  }
  return lane;
}

void CudaSession::launch(Arguments arguments, void* stream) const {
  const EntryPoints& entries = arguments.output == 0 && arguments.contributions == 0 ? scores_only_ : all_;
  const bool is_spread = entries.spread && arguments.workspace != 0 && arguments.rows <= kMostSpreadRows;
  const EntryPoint& entry = is_spread                            ? *entries.spread
                            : arguments.rows <= entries.few_rows ? entries.few
                                                                 : entries.bulk;
  const auto block_rows = static_cast<std::size_t>(entry.kernel.rows);
  const auto blocks = static_cast<unsigned>(
      std::min<std::size_t>((arguments.rows + block_rows - 1) / block_rows, entry.most_blocks));
  auto rows = static_cast<long long>(arguments.rows);
  DeviceAddress constants = constants_.get();
  std::array<void*, 8> pointers{
      &arguments.input,         &rows,          &constants,          &arguments.scores, &arguments.output,
      &arguments.contributions, &arguments.bad, &arguments.workspace};
  const auto threads = static_cast<unsigned>(entry.kernel.threads);
  const auto shared_bytes = static_cast<unsigned>(entry.kernel.shared_bytes);
  const int status = is_spread ? driver_->cuLaunchCooperativeKernel(
                                     entry.function, static_cast<unsigned>(entry.kernel.blocks), 1, 1,
                                     threads, 1, 1, shared_bytes, stream, pointers.data())
                               : driver_->cuLaunchKernel(entry.function, blocks, 1, 1, threads, 1, 1,
                                                         shared_bytes, stream, pointers.data(), nullptr);
  driver_->check(status, "launching the kernel");
}

void CudaSession::launch(const Slot& slot, const Call& call, bool mapped) const {
  const auto address = [mapped](const Buffer& buffer, const float* wanted) -> DeviceAddress {
    if (wanted == nullptr) return 0;
    return mapped ? buffer.mapped : buffer.device.get();
  };
  if (call.is_checked) slot.bad.place() = kNowhere;
  launch({.input = address(slot.input, call.rows.data),
          .rows = slot.rows,
          .scores = address(slot.scores, call.outputs.scores),
          .output = address(slot.output, call.outputs.reconstructions),
          .contributions = address(slot.contributions, call.outputs.contributions),
          .bad = call.is_checked ? slot.bad.mapped : 0,
          .workspace = slot.workspace.get()},
         slot.stream.get());
}

CudaSession::Call CudaSession::describe(ConstRows rows, Outputs outputs, bool is_checked) const {
  Call call{.rows = rows, .outputs = outputs, .is_checked = is_checked};
  if (rows.size() * sizeof(float) <= kMappedBytes) return call;
  const auto is_locked = [&](const float* matrix, std::size_t columns) {
    return matrix != nullptr && driver_->is_page_locked(matrix, rows.rows * columns * sizeof(float));
  };
  call.rows_locked = is_locked(rows.data, input_dim_);
  call.scores_locked = is_locked(outputs.scores, 1);
  call.output_locked = is_locked(outputs.reconstructions, input_dim_);
  call.contributions_locked = is_locked(outputs.contributions, input_dim_);
  return call;
}

void CudaSession::stage(float* target, const float* source, std::size_t bytes) {
  const std::size_t parts = (bytes + kStagedPart - 1) / kStagedPart;
  if (parts <= 1) {
    std::memcpy(target, source, bytes);
    return;
  }
  std::call_once(stagers_made_, [this] {
    const unsigned threads = std::clamp(std::thread::hardware_concurrency(), 1U, kMostStagers);
    stagers_ = std::make_unique<fused::ThreadPool>(threads - 1);
  });
  stagers_->run(parts, [&](std::size_t part) {
    const std::size_t first = part * kStagedPart;
    std::memcpy(reinterpret_cast<char*>(target) + first, reinterpret_cast<const char*>(source) + first,
                std::min(kStagedPart, bytes - first));
  });
}

void CudaSession::start(Slot& slot, const Call& call, std::size_t first, std::size_t count) {
  const std::size_t bytes = count * input_dim_ * sizeof(float);
  const float* rows = call.rows.row(first);
  slot.first = first;
  slot.rows = count;
  if (!call.rows_locked) {
    stage(slot.input.rows(), rows, bytes);
    rows = slot.input.rows();
  }
  if (call.rows.size() * sizeof(float) <= kMappedBytes) {
    launch(slot, call, true);
    return;
  }
  driver_->check(driver_->cuMemcpyHtoDAsync_v2(slot.input.device.get(), rows, bytes, slot.stream.get()),
                 "copying rows to the device");
  launch(slot, call, false);
  const auto fetch = [&](float* target, bool is_locked, const Buffer& buffer, std::size_t columns) {
    if (target == nullptr) return;
    driver_->check(driver_->cuMemcpyDtoHAsync_v2(is_locked ? target + first * columns : buffer.rows(),
                                                 buffer.device.get(), count * columns * sizeof(float),
                                                 slot.stream.get()),
                   "copying results from the device");
  };
  fetch(call.outputs.scores, call.scores_locked, slot.scores, 1);
  fetch(call.outputs.reconstructions, call.output_locked, slot.output, input_dim_);
  fetch(call.outputs.contributions, call.contributions_locked, slot.contributions, input_dim_);
}

std::optional<Cell> CudaSession::finish(Slot& slot, const Call& call) const {
  if (slot.rows == 0) return std::nullopt;
  driver_->check(driver_->cuStreamSynchronize(slot.stream.get()), "running the kernel");
  const std::size_t count = std::exchange(slot.rows, 0);
  if (call.is_checked) {
    if (const auto cell = cell_of(slot.bad.place(), slot.first)) return cell;
  }
  const auto deliver = [&](float* target, bool is_locked, const Buffer& buffer, std::size_t columns) {
    if (target == nullptr || is_locked) return;
    std::memcpy(target + slot.first * columns, buffer.rows(), count * columns * sizeof(float));
  };
  deliver(call.outputs.scores, call.scores_locked, slot.scores, 1);
  deliver(call.outputs.reconstructions, call.output_locked, slot.output, input_dim_);
  deliver(call.outputs.contributions, call.contributions_locked, slot.contributions, input_dim_);
  return std::nullopt;
}

/// After a failure nothing may be under way any more in what another thread borrows next.
void CudaSession::abandon(Lane& lane) const noexcept {
  for (Slot& slot : lane.slots) {
    if (slot.rows != 0) static_cast<void>(driver_->cuStreamSynchronize(slot.stream.get()));
    slot.rows = 0;
  }
}

void CudaSession::refuse_if_failed() const {
  // An error of CUDA is sticky: the context it happened in never works again.
  if (failed_.load(std::memory_order_relaxed)) {
    throw Error(ErrorCode::backend_failure, "fused-cuda: this session failed before; load the model again");
  }
}

std::optional<Cell> CudaSession::run_checked(ConstRows rows, Outputs outputs) {
  // For the kernel a check costs little beside the bus; of a few rows the CPU is done before one has started.
  const bool is_small = rows.size() * sizeof(float) <= kMappedBytes;
  if (is_small) {
    if (const auto cell = find_non_finite(rows)) return cell;
  }
  return run_chunks(rows, outputs, !is_small);
}

std::optional<Cell> CudaSession::run_chunks(ConstRows rows, Outputs outputs, bool is_checked) {
  if (outputs.reconstructions != nullptr && !has_output_) {
    throw Error(ErrorCode::unsupported_model, "this model scores only; it has no output 'output'");
  }
  if (outputs.contributions != nullptr && !has_contributions_) {
    throw Error(ErrorCode::unsupported_model,
                "this model does not explain its scores; it has no output 'contributions'");
  }
  refuse_if_failed();
  // Outside of `try`: no memory for one lane more does not end those that are there.
  const auto lane = lanes_.borrow();
  if (workspace_floats_ != 0 && rows.rows <= kMostSpreadRows && lane->slots.front().workspace.get() == 0) {
    driver_->enter();
    lane->slots.front().workspace = make_workspace();
  }
  try {
    driver_->enter();
    const Call call = describe(rows, outputs, is_checked);
    // Chunks are finished in the order of their rows, so the first bad value that is met is the first of all.
    std::optional<Cell> bad;
    std::size_t turn = 0;
    for (std::size_t first = 0; first < rows.rows && !bad; first += chunk_rows_, ++turn) {
      Slot& slot = lane->slots[turn % kSlots];
      bad = finish(slot, call);
      if (!bad) start(slot, call, first, std::min(chunk_rows_, rows.rows - first));
    }
    for (std::size_t i = 0; i < kSlots && !bad; ++i) bad = finish(lane->slots[turn++ % kSlots], call);
    if (bad) abandon(*lane);
    return bad;
  } catch (const Error&) {
    failed_.store(true, std::memory_order_relaxed);
    abandon(*lane);
    throw;
  }
}

Facts CudaSession::facts() const {
  Facts facts{{"device", driver_->device_name() + ", compute capability " + driver_->compute_capability()},
              {"driver", std::to_string(driver_->version())},
              {"rows per chunk", std::to_string(chunk_rows_)}};
  facts.insert(facts.end(), source_facts_.begin(), source_facts_.end());
  facts.insert(facts.end(), build_facts_.begin(), build_facts_.end());
  return facts;
}

}  // namespace datasentinel::fused_cuda
