#include "backends/fused_cuda/session.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "core/error.h"

namespace datasentinel::fused_cuda {
namespace {

// Large enough that a launch and two copies cost little beside the transfer, small enough that three of them
// overlap on batches of a few thousand rows.
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
// Below this the kernel reads the rows over the bus itself, which saves two copies' latencies.
constexpr std::size_t kMappedBytes = std::size_t{16} << 10;
// No value of a batch: all are finite.
constexpr std::uint64_t kNowhere = std::numeric_limits<std::uint64_t>::max();

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

class Block final : public DeviceBlock {
 public:
  Block(std::shared_ptr<const Driver> driver, std::size_t bytes)
      : driver_(std::move(driver)), memory_(cuda::make_device_memory(*driver_, bytes)) {}
  ~Block() override { driver_->enter_if_possible(); }
  [[nodiscard]] std::uint64_t address() const noexcept override { return memory_.get(); }

 private:
  std::shared_ptr<const Driver> driver_;
  DeviceMemory memory_;
};

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
  device_rows_.bad = cuda::make_device_memory(*driver_, sizeof(kNowhere));
  device_rows_.bad_on_host = cuda::make_pinned_memory(*driver_, sizeof(kNowhere));
  scores_only_ = entry_points(source.scores_only);
  all_ = entry_points(source.all);
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
  return {.few = entry_point(kernels.few),
          .bulk = entry_point(kernels.bulk),
          .few_rows = static_cast<std::size_t>(few_rows)};
}

std::unique_ptr<CudaSession::Lane> CudaSession::make_lane() const {
  driver_->enter();
  auto lane = std::make_unique<Lane>();
  const auto allocate = [&](Buffer& buffer, bool exists, std::size_t columns) {
    if (!exists) return;
    const std::size_t bytes = chunk_rows_ * columns * sizeof(float);
    buffer.host = cuda::make_pinned_memory(*driver_, bytes);
    driver_->check(driver_->cuMemHostGetDevicePointer_v2(&buffer.mapped, buffer.host.get(), 0),
                   "mapping memory");
    buffer.device = cuda::make_device_memory(*driver_, bytes);
  };
  for (Slot& slot : lane->slots) {
    slot.stream = cuda::make_stream(*driver_);
    allocate(slot.input, true, input_dim_);
    allocate(slot.scores, true, 1);
    allocate(slot.output, has_output_, input_dim_);
    allocate(slot.contributions, has_contributions_, input_dim_);
  }
  return lane;
}

void CudaSession::launch(Arguments arguments, void* stream) const {
  const EntryPoints& entries = arguments.output == 0 && arguments.contributions == 0 ? scores_only_ : all_;
  const EntryPoint& entry = arguments.rows <= entries.few_rows ? entries.few : entries.bulk;
  const auto block_rows = static_cast<std::size_t>(entry.kernel.rows);
  const auto blocks = static_cast<unsigned>(
      std::min<std::size_t>((arguments.rows + block_rows - 1) / block_rows, entry.most_blocks));
  auto rows = static_cast<long long>(arguments.rows);
  DeviceAddress constants = constants_.get();
  std::array<void*, 7> pointers{
      &arguments.input,         &rows,         &constants, &arguments.scores, &arguments.output,
      &arguments.contributions, &arguments.bad};
  driver_->check(driver_->cuLaunchKernel(
                     entry.function, blocks, 1, 1, static_cast<unsigned>(entry.kernel.threads), 1, 1,
                     static_cast<unsigned>(entry.kernel.shared_bytes), stream, pointers.data(), nullptr),
                 "launching the kernel");
}

void CudaSession::launch(const Slot& slot, Outputs wanted, bool mapped) const {
  const auto address = [mapped](const Buffer& buffer, bool is_wanted) -> DeviceAddress {
    if (!is_wanted) return 0;
    return mapped ? buffer.mapped : buffer.device.get();
  };
  launch({.input = address(slot.input, true),
          .rows = slot.rows,
          .scores = address(slot.scores, wanted.scores != nullptr),
          .output = address(slot.output, wanted.reconstructions != nullptr),
          .contributions = address(slot.contributions, wanted.contributions != nullptr)},
         slot.stream.get());
}

void CudaSession::start(Slot& slot, ConstRows rows, std::size_t first, std::size_t count,
                        Outputs wanted) const {
  const std::size_t bytes = count * input_dim_ * sizeof(float);
  slot.first = first;
  slot.rows = count;
  std::memcpy(slot.input.rows(), rows.row(first), bytes);
  if (bytes <= kMappedBytes) {
    launch(slot, wanted, true);
    return;
  }
  driver_->check(
      driver_->cuMemcpyHtoDAsync_v2(slot.input.device.get(), slot.input.host.get(), bytes, slot.stream.get()),
      "copying rows to the device");
  launch(slot, wanted, false);
  const auto fetch = [&](const float* target, const Buffer& buffer, std::size_t columns) {
    if (target == nullptr) return;
    driver_->check(driver_->cuMemcpyDtoHAsync_v2(buffer.host.get(), buffer.device.get(),
                                                 count * columns * sizeof(float), slot.stream.get()),
                   "copying results from the device");
  };
  fetch(wanted.scores, slot.scores, 1);
  fetch(wanted.reconstructions, slot.output, input_dim_);
  fetch(wanted.contributions, slot.contributions, input_dim_);
}

void CudaSession::finish(Slot& slot, Outputs outputs) const {
  if (slot.rows == 0) return;
  driver_->check(driver_->cuStreamSynchronize(slot.stream.get()), "running the kernel");
  const auto deliver = [&](float* target, const Buffer& buffer, std::size_t columns) {
    if (target != nullptr) {
      std::memcpy(target + slot.first * columns, buffer.rows(), slot.rows * columns * sizeof(float));
    }
  };
  deliver(outputs.scores, slot.scores, 1);
  deliver(outputs.reconstructions, slot.output, input_dim_);
  deliver(outputs.contributions, slot.contributions, input_dim_);
  slot.rows = 0;
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

void CudaSession::run(ConstRows rows, Outputs outputs) {
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
  try {
    driver_->enter();
    std::size_t turn = 0;
    for (std::size_t first = 0; first < rows.rows; first += chunk_rows_) {
      Slot& slot = lane->slots[turn++ % kSlots];
      finish(slot, outputs);
      start(slot, rows, first, std::min(chunk_rows_, rows.rows - first), outputs);
    }
    for (std::size_t i = 0; i < kSlots; ++i) finish(lane->slots[turn++ % kSlots], outputs);
  } catch (const Error&) {
    failed_.store(true, std::memory_order_relaxed);
    abandon(*lane);
    throw;
  }
}

void CudaSession::wait_for(std::uint64_t stream) {
  driver_->enter();
  driver_->check(driver_->cuStreamSynchronize(reinterpret_cast<void*>(stream)), "waiting for the rows");
}

std::shared_ptr<const DeviceBlock> CudaSession::allocate(std::size_t bytes) {
  driver_->enter();
  return std::make_shared<const Block>(driver_, bytes);
}

std::optional<Cell> CudaSession::score(std::uint64_t rows, std::size_t count, std::uint64_t scores) {
  const std::lock_guard lock(device_rows_.mutex);
  refuse_if_failed();
  void* const stream = device_rows_.stream.get();
  auto* const bad = static_cast<std::uint64_t*>(device_rows_.bad_on_host.get());
  try {
    driver_->enter();
    *bad = kNowhere;
    driver_->check(driver_->cuMemcpyHtoDAsync_v2(device_rows_.bad.get(), bad, sizeof(*bad), stream),
                   "copying to the device");
    launch({.input = rows, .rows = count, .scores = scores, .bad = device_rows_.bad.get()}, stream);
    driver_->check(driver_->cuMemcpyDtoHAsync_v2(bad, device_rows_.bad.get(), sizeof(*bad), stream),
                   "copying from the device");
    driver_->check(driver_->cuStreamSynchronize(stream), "running the kernel");
  } catch (const Error&) {
    failed_.store(true, std::memory_order_relaxed);
    // The memory is the caller's, who may free it now.
    static_cast<void>(driver_->cuStreamSynchronize(stream));
    throw;
  }
  if (*bad == kNowhere) return std::nullopt;
  return Cell{.row = *bad / input_dim_, .column = *bad % input_dim_};
}

Facts CudaSession::facts() const {
  Facts facts{{"device", driver_->device_name() + ", compute capability " +
                             std::to_string(driver_->architecture() / 10) + "." +
                             std::to_string(driver_->architecture() % 10)},
              {"driver", std::to_string(driver_->version())},
              {"rows per chunk", std::to_string(chunk_rows_)}};
  facts.insert(facts.end(), source_facts_.begin(), source_facts_.end());
  facts.insert(facts.end(), build_facts_.begin(), build_facts_.end());
  return facts;
}

}  // namespace datasentinel::fused_cuda
