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
#include <utility>

#include "backends/cuda/context_loss.h"
#include "backends/cuda/driver.h"
#include "backends/fused_cuda/copies.h"
#include "backends/fused_cuda/entry_points.h"
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
/// A few rows are read from and answered into page-locked host memory by the kernel itself: one launch, of a
/// CUDA graph where they are very few, and nothing else, and their scores are taken as they arrive. Where a
/// kernel does little with a row and rows and scores lie in page-locked memory of the caller's, one launch
/// reads them there, however many. Other rows go in chunks over several streams, so that one chunk's copies
/// overlap another's work: straight from and to the caller's memory where that is page-locked, otherwise by
/// way of ours, into which a few threads copy. The kernel checks their values and counts their anomalies.
class CudaSession final : public Session, public DeviceScoring {
 public:
  CudaSession(std::shared_ptr<const Driver> driver, const Source& source, const Bytes& cubin,
              const fused::Program& program, Facts build_facts);
  ~CudaSession() override;

  [[nodiscard]] std::size_t input_dim() const noexcept override { return input_dim_; }
  void run(ConstRows rows, Outputs outputs) override {
    static_cast<void>(run_chunks(rows, outputs, std::nullopt));
  }
  [[nodiscard]] Findings run_checked(ConstRows rows, Outputs outputs, float highest_normal) override;
  [[nodiscard]] bool on_device(std::size_t /*rows*/) const noexcept override { return true; }
  [[nodiscard]] DeviceScoring* device_scoring() noexcept override { return this; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "fused-cuda"; }
  [[nodiscard]] Facts facts() const override;
  /// Not once other threads have the session.
  void add_fact(std::string name, std::string value) {
    build_facts_.emplace_back(std::move(name), std::move(value));
  }
  [[nodiscard]] bool has_output() const noexcept { return has_output_; }
  [[nodiscard]] bool has_contributions() const noexcept { return has_contributions_; }

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

  /// Where warps put how many anomalies each has found: page-locked memory, mapped.
  struct Anomalies {
    PinnedMemory cells;
    DeviceAddress mapped = 0;
    [[nodiscard]] std::span<const unsigned> of(std::size_t warps) const noexcept {
      return {static_cast<const unsigned*>(cells.get()), warps};
    }
  };

  /// A call, and which of its matrices the device can copy itself.
  struct Call {
    ConstRows rows;
    Outputs outputs;
    std::optional<float> highest_normal;  ///< Rows are checked and anomalies counted, unless there is none.
    std::size_t chunk_rows = 0;
    bool is_mapped = false;                    ///< The kernel reads and answers in our host memory.
    DeviceAddress rows_at = 0, scores_at = 0;  ///< Of the caller's memory, where the kernel works in that.
    bool rows_locked = false, scores_locked = false, output_locked = false, contributions_locked = false;
    [[nodiscard]] bool wants_scores_only() const noexcept {
      return outputs.reconstructions == nullptr && outputs.contributions == nullptr;
    }
    [[nodiscard]] bool is_direct() const noexcept { return rows_at != 0; }
  };

  static constexpr std::size_t kMostReplayedRows = 8;

  /// One chunk in flight.
  struct Slot {
    Stream stream;
    Buffer input, scores, output, contributions;
    BadValue bad;
    Anomalies anomalies;
    std::size_t first = 0;
    std::size_t rows = 0;   ///< 0: nothing in flight.
    std::size_t warps = 0;  ///< That work on them.
    /// By the number of rows: the launch that scores so few of them.
    std::array<cuda::GraphExecutable, kMostReplayedRows> launches;
    bool replays = false;  ///< Whether the driver is to be asked for them.
  };

  /// What scoring rows on the device needs. One call that waits at a time: the kernel fills the device.
  struct DeviceRows {
    std::mutex mutex;
    Stream stream;
    BadValue bad;           ///< Of the call that waits.
    BadValue launched_bad;  ///< Of all calls that return at once.
    std::atomic<bool> has_launched{false};
  };

  /// Addresses for one launch, on the device; 0 for what is not wanted.
  struct Arguments {
    DeviceAddress input = 0;
    std::size_t rows = 0;
    DeviceAddress scores = 0, output = 0, contributions = 0, bad = 0;
    float highest_normal = 0;
    DeviceAddress anomalies = 0;
    unsigned most_blocks = std::numeric_limits<unsigned>::max();
  };

  static constexpr std::size_t kSlots = 3;
  struct Lane {
    std::array<Slot, kSlots> slots;
  };

  [[nodiscard]] std::unique_ptr<Lane> make_lane() const;
  /// Returns how many warps there are.
  std::size_t launch(Arguments arguments, void* stream) const;
  void launch(Slot& slot, const Call& call) const;
  void launch_mapped(Slot& slot, const Call& call) const;
  [[nodiscard]] std::optional<Cell> cell_of(std::uint64_t place, std::size_t first_row = 0) const noexcept;
  [[nodiscard]] BadValue make_bad_value() const;
  [[nodiscard]] Call describe(ConstRows rows, Outputs outputs, std::optional<float> highest_normal) const;
  [[nodiscard]] Findings run_chunks(ConstRows rows, Outputs outputs, std::optional<float> highest_normal);
  void take(Slot& slot, const Call& call, std::size_t first, std::size_t count, Copies& copies) const;
  void start(Slot& slot, const Call& call) const;
  void await_scores(const Slot& slot) const;
  void finish(Slot& slot, const Call& call, Copies& copies, Findings& findings) const;
  /// Waits until nothing is under way any more in what another thread borrows next.
  void abandon(Lane& lane) noexcept;

  std::shared_ptr<const Driver> driver_;
  std::size_t input_dim_;
  bool has_output_, has_contributions_, is_bus_bound_, replays_;
  Facts source_facts_, build_facts_;
  Module module_;
  EntryPoints scores_only_, all_;
  DeviceMemory constants_;
  std::size_t chunk_rows_;
  cuda::ContextLoss loss_{"fused-cuda"};
  DeviceRows device_rows_;
  Copiers copiers_;
  Pool<Lane> lanes_;
};

}  // namespace datasentinel::fused_cuda
