#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "backends/cuda/driver.h"
#include "backends/fused/thread_pool.h"
#include "backends/fused_cuda/source.h"
#include "core/backend.h"
#include "core/engine_cache.h"
#include "core/pool.h"

namespace datasentinel::fused_cuda {

using cuda::DeviceAddress;
using cuda::DeviceMemory;
using cuda::Driver;
using cuda::Module;
using cuda::PinnedMemory;
using cuda::Stream;

/// A generated kernel, loaded on one device with its constants. Thread-safe.
///
/// A few rows are read from and answered into page-locked host memory by the kernel itself: one launch and
/// nothing else, and their scores are taken as they arrive. More rows go in chunks over several streams, so
/// that one chunk's copies overlap another's work: straight from and to the caller's memory where that is
/// page-locked, otherwise by way of ours, into which a few threads copy. Their values are checked by the
/// kernel.
class CudaSession final : public Session, public DeviceScoring {
 public:
  CudaSession(std::shared_ptr<const Driver> driver, const Source& source, const Bytes& cubin,
              const fused::Program& program, Facts build_facts);
  ~CudaSession() override;

  [[nodiscard]] std::size_t input_dim() const noexcept override { return input_dim_; }
  void run(ConstRows rows, Outputs outputs) override {
    static_cast<void>(run_chunks(rows, outputs, false, nullptr));
  }
  [[nodiscard]] std::optional<Cell> run_checked(ConstRows rows, Outputs outputs,
                                                const ScoresArrived& arrived) override;
  [[nodiscard]] bool on_device(std::size_t /*rows*/) const noexcept override { return true; }
  [[nodiscard]] DeviceScoring* device_scoring() noexcept override { return this; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "fused-cuda"; }
  [[nodiscard]] Facts facts() const override;

  [[nodiscard]] int device() const noexcept override { return driver_->device(); }
  [[nodiscard]] std::uint64_t stream() const noexcept override {
    return reinterpret_cast<std::uintptr_t>(device_rows_.stream.get());
  }
  [[nodiscard]] bool is_captured(std::uint64_t stream) override;
  void wait_for(std::uint64_t stream) override;
  [[nodiscard]] std::shared_ptr<const DeviceBlock> allocate(std::size_t bytes) override;
  [[nodiscard]] std::optional<Cell> score(std::uint64_t rows, std::size_t count, std::uint64_t scores,
                                          std::uint64_t stream) override;
  void launch(std::uint64_t rows, std::size_t count, std::uint64_t scores, std::uint64_t stream) override;
  [[nodiscard]] std::optional<Cell> take_bad_value() override;

 private:
  struct EntryPoint {
    Kernel kernel;
    void* function = nullptr;
    unsigned most_blocks = 1;  ///< As many as the device runs at a time; each takes further rows in turn.
  };

  struct EntryPoints {
    EntryPoint few, bulk;
    std::optional<EntryPoint> spread;
    std::size_t spread_rows = 0;  ///< Up to so many `spread` is the fastest,
    std::size_t few_rows = 0;     ///< and up to so many `few`.
    [[nodiscard]] const EntryPoint& for_rows(std::size_t rows) const noexcept;
  };

  /// Memory for one matrix of a chunk, on both sides.
  struct Buffer {
    PinnedMemory host;
    DeviceAddress mapped = 0;  ///< The host memory as the device addresses it.
    DeviceMemory device;
    [[nodiscard]] float* rows() const noexcept { return static_cast<float*>(host.get()); }
  };

  /// No value of a batch: all are finite.
  static constexpr std::uint64_t kNowhere = std::numeric_limits<std::uint64_t>::max();

  /// Where the kernel puts the place of the first value that is not finite: page-locked memory, mapped.
  struct BadValue {
    PinnedMemory cell;
    DeviceAddress mapped = 0;
    [[nodiscard]] std::uint64_t& place() const noexcept { return *static_cast<std::uint64_t*>(cell.get()); }
  };

  /// A call, and which of its matrices the device can copy itself.
  struct Call {
    ConstRows rows;
    Outputs outputs;
    const ScoresArrived* arrived = nullptr;
    std::size_t chunk_rows = 0;
    bool is_checked = false;
    bool is_mapped = false;  ///< The kernel reads and answers in host memory.
    bool rows_locked = false, scores_locked = false, output_locked = false, contributions_locked = false;
    [[nodiscard]] bool wants_scores_only() const noexcept {
      return outputs.reconstructions == nullptr && outputs.contributions == nullptr;
    }
  };

  /// One chunk in flight.
  struct Slot {
    Stream stream;
    Buffer input, scores, output, contributions;
    BadValue bad;
    std::size_t first = 0;
    std::size_t rows = 0;     ///< 0: nothing in flight.
    std::size_t arrived = 0;  ///< Scores of its last chunk, of which nobody has been told.
  };

  /// A piece of host memory to be copied.
  struct Copy {
    char* to = nullptr;
    const char* from = nullptr;
    std::size_t bytes = 0;
    bool is_for_device = false;  ///< No core reads it then.
    void run(std::size_t first, std::size_t most) const noexcept;
  };

  /// What is copied at a time: rows into a slot and results out of it.
  class Copies {
   public:
    void add(float* to, const float* from, std::size_t values, bool is_for_device) noexcept {
      all_[count_++] = {.to = reinterpret_cast<char*>(to),
                        .from = reinterpret_cast<const char*>(from),
                        .bytes = values * sizeof(float),
                        .is_for_device = is_for_device};
    }
    [[nodiscard]] std::span<const Copy> all() const noexcept { return {all_.data(), count_}; }

   private:
    std::array<Copy, 4> all_;
    std::size_t count_ = 0;
  };

  /// What scoring rows on the device needs. One call that waits at a time: the kernel fills the device.
  struct DeviceRows {
    std::mutex mutex;
    Stream stream;
    BadValue bad;           ///< Of the call that waits.
    BadValue launched_bad;  ///< Of all that nobody waits for.
    std::atomic<bool> has_launched{false};
  };

  /// Addresses for one launch, on the device; 0 for what is not wanted.
  struct Arguments {
    DeviceAddress input = 0;
    std::size_t rows = 0;
    DeviceAddress scores = 0, output = 0, contributions = 0, bad = 0;
  };

  static constexpr std::size_t kSlots = 3;
  struct Lane {
    std::array<Slot, kSlots> slots;
  };

  [[nodiscard]] EntryPoint entry_point(const Kernel& kernel) const;
  [[nodiscard]] EntryPoints entry_points(const Kernels& kernels) const;
  [[nodiscard]] std::unique_ptr<Lane> make_lane() const;
  void launch(Arguments arguments, void* stream) const;
  void launch(const Slot& slot, const Call& call) const;
  [[nodiscard]] std::optional<Cell> cell_of(std::uint64_t place, std::size_t first_row = 0) const noexcept;
  void refuse_if_failed() const;
  [[nodiscard]] BadValue make_bad_value() const;
  [[nodiscard]] Call describe(ConstRows rows, Outputs outputs, bool is_checked) const;
  [[nodiscard]] std::optional<Cell> run_chunks(ConstRows rows, Outputs outputs, bool is_checked,
                                               const ScoresArrived* arrived);
  void copy(const Copies& copies);
  void take(Slot& slot, const Call& call, std::size_t first, std::size_t count, Copies& copies) const;
  void start(const Slot& slot, const Call& call) const;
  void await_scores(const Slot& slot) const;
  [[nodiscard]] std::optional<Cell> finish(Slot& slot, const Call& call, Copies& copies) const;
  void abandon(Lane& lane) const noexcept;

  std::shared_ptr<const Driver> driver_;
  std::size_t input_dim_;
  bool has_output_, has_contributions_;
  Facts source_facts_, build_facts_;
  Module module_;
  DeviceMemory constants_;
  EntryPoints scores_only_, all_;
  std::size_t chunk_rows_;
  std::atomic<bool> failed_{false};
  DeviceRows device_rows_;
  std::once_flag copiers_made_;
  std::unique_ptr<fused::ThreadPool>
      copiers_;  ///< Into and out of page-locked memory; made when first needed.
  Pool<Lane> lanes_;
};

}  // namespace datasentinel::fused_cuda
