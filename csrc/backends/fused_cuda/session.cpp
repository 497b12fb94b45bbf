#include "backends/fused_cuda/session.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>
#include <utility>

#include "core/error.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace datasentinel::fused_cuda {
namespace {

// Large enough that a launch and two copies cost little beside the transfer, small enough that three of them
// overlap on batches of a few thousand rows.
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
// Of a call's last chunk, nothing else hides the scores' way; rows that are copied by the device only,
// without threads to be woken for each chunk, go in smaller ones.
constexpr std::size_t kLockedChunksInOne = 2;
// Below this the kernel reads the rows over the bus itself, which saves two copies' latencies.
constexpr std::size_t kMappedBytes = std::size_t{16} << 10;
// What one thread copies at a time. One core moves some 8 GB/s, a bus 25 to 60.
constexpr std::size_t kPartBytes = std::size_t{128} << 10;
constexpr unsigned kMostCopiers = 8;
// From one chunk to the next the device takes less.
constexpr std::chrono::microseconds kLookout{200};
// How often memory is looked at for a score, some tens of nanoseconds apart, before the driver waits for it.
constexpr int kMostLooks = 2000;
// No score is that.
constexpr float kNoScore = std::numeric_limits<float>::quiet_NaN();

#if defined(__SSE2__)
/// Into memory that no core reads: its caches keep what they have.
void copy_past_caches(char* to, const char* from, std::size_t bytes) noexcept {
  constexpr std::size_t kVector = sizeof(__m128i);
  std::size_t at = 0;
  if (reinterpret_cast<std::uintptr_t>(to) % kVector == 0) {
    for (; at + kVector <= bytes; at += kVector) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + at),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
    }
    _mm_sfence();
  }
  std::memcpy(to + at, from + at, bytes - at);
}
#else
void copy_past_caches(char* to, const char* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}
#endif

/// Leaves the core to its other thread for a moment.
void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
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
}

CudaSession::~CudaSession() {
  driver_->enter_if_possible();
  // On streams of others something may still be under way.
  if (device_rows_.has_launched.load()) static_cast<void>(driver_->cuCtxSynchronize());
}

void CudaSession::Copy::run(std::size_t first, std::size_t most) const noexcept {
  const std::size_t count = std::min(most, bytes - first);
  if (is_for_device) {
    copy_past_caches(to + first, from + first, count);
  } else {
    std::memcpy(to + first, from + first, count);
  }
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
  if (kernels.spread && driver_->has_clusters()) {
    entries.spread = entry_point(*kernels.spread);
    // What an H100 does with its clusters twice takes less than one block takes once.
    const int clusters = std::max(driver_->multiprocessors() / kernels.spread->blocks, 1);
    entries.spread_rows = static_cast<std::size_t>(kernels.spread->rows * clusters);
  }
  return entries;
}

const CudaSession::EntryPoint& CudaSession::EntryPoints::for_rows(std::size_t rows) const noexcept {
  if (rows <= spread_rows) return *spread;
  return rows <= few_rows ? few : bulk;
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
  const EntryPoint& entry = entries.for_rows(arguments.rows);
  const auto block_rows = static_cast<std::size_t>(entry.kernel.rows);
  const std::size_t groups = (arguments.rows + block_rows - 1) / block_rows;
  const auto blocks = static_cast<unsigned>(std::min<std::size_t>(groups, entry.most_blocks));
  auto rows = static_cast<long long>(arguments.rows);
  DeviceAddress constants = constants_.get();
  std::array<void*, 7> pointers{
      &arguments.input,         &rows,         &constants, &arguments.scores, &arguments.output,
      &arguments.contributions, &arguments.bad};
  driver_->check(driver_->cuLaunchKernel(entry.function, blocks * static_cast<unsigned>(entry.kernel.blocks),
                                         1, 1, static_cast<unsigned>(entry.kernel.threads), 1, 1,
                                         static_cast<unsigned>(entry.kernel.shared_bytes), stream,
                                         pointers.data(), nullptr),
                 "launching the kernel");
}

void CudaSession::launch(const Slot& slot, const Call& call) const {
  const auto address = [&call](const Buffer& buffer, const float* wanted) -> DeviceAddress {
    if (wanted == nullptr) return 0;
    return call.is_mapped ? buffer.mapped : buffer.device.get();
  };
  if (call.is_checked) slot.bad.place() = kNowhere;
  if (call.is_mapped) std::fill_n(slot.scores.rows(), slot.rows, kNoScore);
  launch({.input = address(slot.input, call.rows.data),
          .rows = slot.rows,
          .scores = address(slot.scores, call.outputs.scores),
          .output = address(slot.output, call.outputs.reconstructions),
          .contributions = address(slot.contributions, call.outputs.contributions),
          .bad = call.is_checked ? slot.bad.mapped : 0},
         slot.stream.get());
}

CudaSession::Call CudaSession::describe(ConstRows rows, Outputs outputs, bool is_checked) const {
  Call call{.rows = rows, .outputs = outputs, .is_checked = is_checked};
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
  return call;
}

void CudaSession::copy(const Copies& copies) {
  const auto parts_of = [](const Copy& one) { return (one.bytes + kPartBytes - 1) / kPartBytes; };
  std::size_t parts = 0;
  for (const Copy& one : copies.all()) parts += parts_of(one);
  const auto copy_part = [&](std::size_t part) {
    for (const Copy& one : copies.all()) {
      if (part < parts_of(one)) return one.run(part * kPartBytes, kPartBytes);
      part -= parts_of(one);
    }
  };
  if (parts <= 1) {
    if (parts == 1) copy_part(0);
    return;
  }
  std::call_once(copiers_made_, [this] {
    const unsigned threads = std::clamp(std::thread::hardware_concurrency(), 1U, kMostCopiers);
    copiers_ = std::make_unique<fused::ThreadPool>(threads - 1, kLookout);
  });
  copiers_->run(parts, copy_part);
}

/// Takes the rows for the slot, which start copying where they are not page-locked.
void CudaSession::take(Slot& slot, const Call& call, std::size_t first, std::size_t count,
                       Copies& copies) const {
  slot.first = first;
  slot.rows = count;
  if (!call.rows_locked) {
    copies.add(slot.input.rows(), call.rows.row(first), count * input_dim_, !call.is_mapped);
  }
}

void CudaSession::start(const Slot& slot, const Call& call) const {
  const std::size_t bytes = slot.rows * input_dim_ * sizeof(float);
  const float* const rows = call.rows_locked ? call.rows.row(slot.first) : slot.input.rows();
  if (call.is_mapped) {
    launch(slot, call);
    return;
  }
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

std::optional<Cell> CudaSession::finish(Slot& slot, const Call& call, Copies& copies) const {
  slot.arrived = 0;
  if (slot.rows == 0) return std::nullopt;
  if (call.is_mapped && call.wants_scores_only()) {
    await_scores(slot);
  } else {
    driver_->check(driver_->cuStreamSynchronize(slot.stream.get()), "running the kernel");
  }
  const std::size_t count = std::exchange(slot.rows, 0);
  if (call.is_checked) {
    if (const auto cell = cell_of(slot.bad.place(), slot.first)) return cell;
  }
  const auto deliver = [&](float* target, bool is_locked, const Buffer& buffer, std::size_t columns) {
    if (target == nullptr || is_locked) return;
    copies.add(target + slot.first * columns, buffer.rows(), count * columns, false);
  };
  deliver(call.outputs.scores, call.scores_locked, slot.scores, 1);
  deliver(call.outputs.reconstructions, call.output_locked, slot.output, input_dim_);
  deliver(call.outputs.contributions, call.contributions_locked, slot.contributions, input_dim_);
  if (call.arrived != nullptr && call.outputs.scores != nullptr) slot.arrived = count;
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

std::optional<Cell> CudaSession::run_checked(ConstRows rows, Outputs outputs, const ScoresArrived& arrived) {
  // For the kernel a check costs little beside the bus; of a few rows the CPU is done before one has started.
  const bool is_small = rows.size() * sizeof(float) <= kMappedBytes;
  if (is_small) {
    if (const auto cell = find_non_finite(rows)) return cell;
  }
  return run_chunks(rows, outputs, !is_small, &arrived);
}

std::optional<Cell> CudaSession::run_chunks(ConstRows rows, Outputs outputs, bool is_checked,
                                            const ScoresArrived* arrived) {
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
    Call call = describe(rows, outputs, is_checked);
    call.arrived = arrived;
    // Chunks are finished in the order of their rows, so the first bad value that is met is the first of all.
    // A slot's scores go to the caller while its next rows come.
    std::optional<Cell> bad;
    const std::size_t chunks = (rows.rows + call.chunk_rows - 1) / call.chunk_rows;
    std::size_t first = 0;
    for (std::size_t turn = 0; turn < chunks + kSlots; ++turn) {
      Slot& slot = lane->slots[turn % kSlots];
      Copies copies;
      const std::size_t before = slot.first;
      bad = finish(slot, call, copies);
      if (bad) break;
      const std::size_t count = std::min(call.chunk_rows, rows.rows - first);
      if (count != 0) take(slot, call, first, count, copies);
      copy(copies);
      if (count != 0) start(slot, call);
      if (slot.arrived != 0) (*call.arrived)(before, slot.arrived);
      first += count;
    }
    if (bad) abandon(*lane);
    return bad;
  } catch (const Error&) {
    failed_.store(true, std::memory_order_relaxed);
    abandon(*lane);
    throw;
  } catch (...) {  // No memory or no thread: nothing of the device's.
    abandon(*lane);
    throw;
  }
}

Facts CudaSession::facts() const {
  Facts facts{{"device", driver_->device_name() + ", compute capability " + driver_->compute_capability()},
              {"driver", std::to_string(driver_->version())},
              {"rows per chunk", std::to_string(chunk_rows_)}};
  if (scores_only_.spread) {
    facts.emplace_back("blocks that share a few rows", std::to_string(scores_only_.spread->kernel.blocks));
  }
  facts.insert(facts.end(), source_facts_.begin(), source_facts_.end());
  facts.insert(facts.end(), build_facts_.begin(), build_facts_.end());
  return facts;
}

}  // namespace datasentinel::fused_cuda
