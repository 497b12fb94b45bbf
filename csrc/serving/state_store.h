#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "serving/stream_rules.h"

namespace datasentinel {

struct StateLimits {
  std::size_t max_streams = 100'000;
  std::size_t max_bytes = std::numeric_limits<std::size_t>::max();  ///< See `StateStore::bytes`.
};

/// Some streams and their states, as they leave a store and come back.
struct StatePage {
  std::vector<std::string> streams;
  std::vector<std::uint64_t> last_used;  ///< The greater, the later; one a stream.
  std::vector<float> records;            ///< One a stream: its state, and what is carried.
  std::vector<double> times_s;           ///< Of a stream's last row; NaN where that is not known.
};

/// The states of the streams of one graph, by stream id: floats, the last of which is the number of rows
/// seen; the time of a stream's last row, where that is known; and what is carried of it. Bounded: the stream
/// that was heard of least recently goes first, and begins anew when it is heard of again.
///
/// What the states mean is up to the graph; by which rules a stream goes on, to the version that scores its
/// next row. So versions that differ in their rules share the states.
///
/// An id that begins with a zero byte is of a stream that lasts no longer than its connection.
///
/// Thread-safe. Who scores the rows of a stream reads its state, and writes it afterwards; that two do not do
/// so at once is the callers' concern.
class StateStore {
 public:
  /// For states of `state_size` floats and `CarryRule::size` of what is carried. Throws
  /// Error{invalid_argument} for a limit or a state's size of 0.
  StateStore(std::size_t state_size, std::size_t carried_size, StateLimits limits);
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  [[nodiscard]] std::size_t state_size() const noexcept { return state_size_; }
  [[nodiscard]] std::size_t carried_size() const noexcept { return carried_size_; }
  [[nodiscard]] const StateLimits& limits() const noexcept { return limits_; }
  /// Floats that are kept of a stream: its state, and what is carried.
  [[nodiscard]] std::size_t record_size() const noexcept { return state_size_ + carried_size_; }
  /// Throws Error{invalid_argument} for rules of a model of so many columns that these states do not fit.
  void require_fit(const StreamRules& rules, std::size_t columns) const;
  /// Throws Error{invalid_argument} for a rule that carries more or fewer values than there is room for.
  void require_fit(const CarryRule& carry) const;

  /// Copies a stream's state, or zeros for a stream that is not known.
  void read(std::string_view stream, float* state) const;
  /// The same for several, with the times of their last rows and what is carried of them by this rule; what
  /// is null is left out.
  void read(std::span<const std::string_view> streams, const CarryRule& carry, float* states, double* times_s,
            float* carried) const;

  /// Keeps the states of these streams from now on, the times of their last rows, which are not known without
  /// `times_s`, and what is carried by rules that carry. The rules say, too, which of them are warming or
  /// stale. Streams that do not fit are dropped, the oldest first.
  void write(std::span<const std::string_view> streams, const StreamRules& rules, const float* states,
             const double* times_s = nullptr, const float* carried = nullptr);

  /// Drops a stream's state; whether there was one.
  bool forget(std::string_view stream);

  [[nodiscard]] bool contains(std::string_view stream) const;
  [[nodiscard]] std::size_t size() const;
  /// Memory of the streams: states, ids, and what it takes to find them.
  [[nodiscard]] std::size_t bytes() const;
  /// Streams that are still warming, by the rules that they were last written by.
  [[nodiscard]] std::size_t warming() const;
  /// Streams with a column that is stale, by the same.
  [[nodiscard]] std::size_t stale() const;
  /// Rows that were scored with such a column.
  [[nodiscard]] std::uint64_t stale_rows() const noexcept {
    return stale_rows_.load(std::memory_order_relaxed);
  }
  void count_stale_rows(std::uint64_t rows) noexcept {
    stale_rows_.fetch_add(rows, std::memory_order_relaxed);
  }
  /// The columns of a stream that are stale. Throws Error{invalid_argument} for a rule that does not fit.
  [[nodiscard]] std::vector<std::size_t> stale_columns(std::string_view stream, const CarryRule& carry) const;
  /// Streams that were dropped to make room.
  [[nodiscard]] std::uint64_t evicted() const;

  /// Copies the lasting streams of up to `count` places from `place` on, and moves `place` behind them; false
  /// where there are none left. The store may change between two calls: streams that were there all the time
  /// are copied.
  bool copy(std::size_t& place, std::size_t count, StatePage& page) const;

  /// Takes over streams that are not known, as used less recently than all that are, as far as there is room.
  /// They come in the order of their use, the latest first. Returns how many were taken. Throws
  /// Error{invalid_argument} for rules that do not fit.
  std::size_t insert(std::span<const std::string> streams, const StreamRules& rules, const float* records,
                     const double* times_s = nullptr);

  /// Work that is under way off the event loop; while there is any, the order of rows depends on all other
  /// work taking the same way.
  void begin_work() noexcept { work_.fetch_add(1, std::memory_order_relaxed); }
  void end_work() noexcept { work_.fetch_sub(1, std::memory_order_release); }
  [[nodiscard]] bool has_work() const noexcept { return work_.load(std::memory_order_acquire) != 0; }

 private:
  using Place = std::uint32_t;
  static constexpr Place kNone = std::numeric_limits<Place>::max();
  static constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  static constexpr std::uint64_t kFirstUse = std::uint64_t{1} << 48;

  /// Where a stream is, in a list by use.
  struct Slot {
    std::string stream;
    std::uint64_t last_used = 0;
    double time_s = kUnknown;
    Place older = kNone;
    Place newer = kNone;
    bool taken = false;
    bool warming = false;
    bool stale = false;
  };

  [[nodiscard]] float* state_at(Place place) const noexcept {
    return chunks_[place / chunk_slots_].get() + place % chunk_slots_ * record_size();
  }
  [[nodiscard]] std::size_t bytes_of(std::string_view stream) const noexcept;
  [[nodiscard]] Place find(std::string_view stream) const noexcept;
  [[nodiscard]] Place add(std::string_view stream);
  void drop(Place place);
  void link_newest(Place place) noexcept;
  void link_oldest(Place place) noexcept;
  void unlink(Place place) noexcept;
  void set_record(Place place, const StreamRules& rules, const float* state, const float* carried) noexcept;
  /// Counts it among those that are warming or stale, or no longer.
  void mark(Slot& slot, bool warming, bool stale) noexcept;

  std::size_t state_size_;
  std::size_t carried_size_;
  StateLimits limits_;
  std::size_t chunk_slots_;

  mutable std::mutex mutex_;
  std::deque<Slot> slots_;                                 ///< Their addresses stay.
  std::unordered_map<std::string_view, Place> by_stream_;  ///< The keys are the slots' own.
  std::vector<std::unique_ptr<float[]>> chunks_;           ///< Memory for states, `chunk_slots_` each.
  std::vector<Place> free_;
  Place oldest_ = kNone;
  Place newest_ = kNone;
  std::uint64_t last_use_ = kFirstUse;  ///< The number of the latest use, and what is before the first one.
  std::uint64_t before_uses_ = kFirstUse;
  std::size_t bytes_ = 0;
  std::size_t warming_ = 0;
  std::size_t stale_ = 0;
  std::uint64_t evicted_ = 0;
  std::atomic<std::uint64_t> stale_rows_{0};
  std::atomic<std::size_t> work_{0};
};

}  // namespace datasentinel
