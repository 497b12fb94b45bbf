// Work that was given to the simulated device, and the order in which it is done.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace cuda_on_cpu {

/// Each stream is done in order; beyond what CUDA promises, streams overtake each other as a seeded generator
/// wants, and work stays undone for as long as nobody waits for it.
class Streams {
 public:
  using Id = std::uint64_t;
  static constexpr Id kLegacy = 1;

  struct Work {
    std::function<int()> run;              ///< Gives an error of CUDA, or 0.
    std::vector<std::uint64_t> addresses;  ///< Memory that it touches, by its area's device address.
    std::vector<std::pair<Id, std::uint64_t>> after = {};
  };

  /// Seed 0 does work only when it must.
  explicit Streams(unsigned seed) : random_(seed), eager_(seed != 0) {
    streams_[kLegacy] = {.is_blocking = true, .is_built_in = true};
  }

  Id make(bool is_blocking, bool is_built_in = false) {
    streams_[++last_] = {.is_blocking = is_blocking, .is_built_in = is_built_in};
    return last_;
  }
  [[nodiscard]] bool exists(Id id) const {
    const auto found = streams_.find(id);
    return found != streams_.end() && !found->second.is_destroyed;
  }
  [[nodiscard]] bool was_destroyed(Id id) const {
    const auto found = streams_.find(id);
    return found != streams_.end() && found->second.is_destroyed;
  }
  /// Work that was given to it is still done.
  void destroy(Id id) { streams_.at(id).is_destroyed = true; }

  using Graph = std::vector<Work>;

  enum class CaptureMode { global, of_thread, relaxed };

  /// What is given to the stream from now on is recorded, not done. False where it is recorded already.
  [[nodiscard]] bool begin_capture(Id id, CaptureMode mode) {
    return captures_.try_emplace(id, Capture{.graph = {}, .mode = mode}).second;
  }
  [[nodiscard]] bool is_captured(Id id) const { return captures_.contains(id); }
  /// Whether this thread may not allocate or wait for all: for captures of its own that are not relaxed, and
  /// for global ones of others. See cuThreadExchangeStreamCaptureMode.
  [[nodiscard]] bool is_restricted_by_captures() const {
    return std::ranges::any_of(captures_, [](const auto& entry) {
      const Capture& capture = entry.second;
      return capture.mode == CaptureMode::global ||
             (capture.mode == CaptureMode::of_thread && capture.thread == std::this_thread::get_id());
    });
  }
  [[nodiscard]] Graph end_capture(Id id) {
    Graph graph = std::move(captures_.at(id).graph);
    captures_.erase(id);
    return graph;
  }

  void add(Id id, Work work) {
    if (const auto capture = captures_.find(id); capture != captures_.end()) {
      capture->second.graph.push_back(std::move(work));
      return;
    }
    // The legacy default stream waits for all streams that block, and these wait for it.
    Stream& stream = streams_.at(id);
    for (const auto& [other_id, other] : streams_) {
      const bool is_waited_for =
          id == kLegacy ? other.is_blocking : stream.is_blocking && other_id == kLegacy;
      if (other_id != id && is_waited_for && !other.work.empty())
        work.after.emplace_back(other_id, other.added);
    }
    stream.work.push_back(std::move(work));
    ++stream.added;
  }

  /// Does all work of one stream, and some of the others'. Gives the first error.
  [[nodiscard]] int finish(Id id) {
    if (id == kLegacy) add(kLegacy, {.run = [] { return 0; }, .addresses = {}});
    while (!streams_.at(id).work.empty()) {
      const bool stray = eager_ && random_() % 3 == 0;
      if (const int error = do_next(stray ? any_busy() : id); error != 0) return error;
    }
    return 0;
  }

  [[nodiscard]] int finish_all() {
    while (is_busy()) {
      if (const int error = do_next(any_busy()); error != 0) return error;
    }
    return 0;
  }

  /// A device works while the host does something else, too.
  [[nodiscard]] int advance() {
    while (eager_ && is_busy() && random_() % 4 == 0) {
      if (const int error = do_next(any_busy()); error != 0) return error;
    }
    return 0;
  }

  /// Gives up all work, as after an error.
  void abandon() {
    for (auto& [id, stream] : streams_) {
      stream.done = stream.added;
      stream.work.clear();
    }
  }

  [[nodiscard]] bool touches(std::uint64_t address) const {
    return std::any_of(streams_.begin(), streams_.end(), [&](const auto& entry) {
      return std::any_of(entry.second.work.begin(), entry.second.work.end(), [&](const Work& work) {
        return std::find(work.addresses.begin(), work.addresses.end(), address) != work.addresses.end();
      });
    });
  }

  /// Streams that were made and not destroyed.
  [[nodiscard]] long alive() const {
    return std::count_if(streams_.begin(), streams_.end(), [](const auto& entry) {
      return !entry.second.is_built_in && !entry.second.is_destroyed;
    });
  }

 private:
  struct Stream {
    bool is_blocking = false;
    bool is_built_in = false;
    bool is_destroyed = false;
    std::deque<Work> work = {};
    std::uint64_t added = 0;  ///< Pieces of work ever given to it,
    std::uint64_t done = 0;   ///< and done.
  };
  struct Capture {
    Graph graph;
    CaptureMode mode;
    std::thread::id thread = std::this_thread::get_id();
  };

  [[nodiscard]] bool is_busy() const {
    return std::any_of(streams_.begin(), streams_.end(),
                       [](const auto& entry) { return !entry.second.work.empty(); });
  }

  [[nodiscard]] Id any_busy() {
    std::vector<Id> busy;
    for (const auto& [id, stream] : streams_) {
      if (!stream.work.empty()) busy.push_back(id);
    }
    return busy[random_() % busy.size()];
  }

  /// Does the stream's next piece of work, or first what that waits for.
  [[nodiscard]] int do_next(Id id) {
    Stream& stream = streams_.at(id);
    for (const auto& [other, number] : stream.work.front().after) {
      while (streams_.at(other).done < number) {
        if (const int error = do_next(other); error != 0) return error;
      }
    }
    const Work work = std::move(stream.work.front());
    stream.work.pop_front();
    ++stream.done;
    return work.run();
  }

  std::map<Id, Stream> streams_;
  std::map<Id, Capture> captures_;
  Id last_ = 0x57ea0000;  // Looks like no pointer, and like none of the special handles.
  std::mt19937 random_;
  bool eager_;
};

}  // namespace cuda_on_cpu
