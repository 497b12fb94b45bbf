#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "serving/memory_budget.h"
#include "serving/request_counts.h"
#include "serving/turn.h"
#include "wire/input_buffer.h"
#include "wire/session.h"

namespace datasentinel {

struct LineLimits {
  std::size_t max_line_bytes = std::size_t{1} << 20;  ///< Without the newline.
  std::size_t max_batch_rows = 4096;                  ///< More lines at once are scored in several batches.
  std::chrono::microseconds turn = Turn::kLength;     ///< How long one `feed` may decode.
};

/// One connection of the line protocol: bytes in, reply bytes out, no sockets.
///
/// A line holds one row: D decimal numbers separated by blanks or by one comma (with blanks around it), ended
/// by `\n` or `\r\n`. `@id ` before them names the stream of the row; without it, a model with memory takes
/// the connection for a stream. `t=seconds `, behind the id where there is one, says when the row was taken,
/// since 1970. Where the model carries values, `nan` and nothing between commas are missing ones. Each line
/// that is not blank is answered in order by `OK`, `ANOMALY`, `WARMING` or `ERROR: <reason>`. All complete
/// lines of a turn are scored as one batch, off the event loop where that takes long. An error answers its
/// own line only; an over-long line is answered and ends the session, because its end is unknown. Every
/// turn's lines go to the model that is the default then.
///
/// One thread at a time.
class LineSession final : public WireSession {
 public:
  /// `counts` is for all connections. Throws Error{invalid_argument} for a limit of 0.
  LineSession(std::shared_ptr<InferenceService> service, std::shared_ptr<RequestCounts> counts,
              LineLimits limits);
  ~LineSession() override;

  void feed(std::string_view bytes, std::string& replies) override;

  /// Answers a last line without a newline, too.
  void finish(std::string& replies) override;

  [[nodiscard]] bool needs_attention() const noexcept override { return failures_ != 0; }
  [[nodiscard]] bool mid_message() const noexcept override { return !unfinished_ && !input_.empty(); }
  [[nodiscard]] bool closed() const noexcept override { return closed_ && !waiting_; }
  [[nodiscard]] bool unfinished() const noexcept override { return unfinished_ && !waiting_; }
  /// Lines are being scored off the event loop; their replies are due when `InferenceService::collect` names
  /// this session.
  [[nodiscard]] bool waiting() const noexcept override { return waiting_; }

  /// How many lines failed through a fault of the model or the machine since the last call, and why the last
  /// of them did.
  [[nodiscard]] std::pair<std::uint64_t, std::string> take_failures() {
    return {std::exchange(failures_, 0), std::exchange(last_failure_, {})};
  }

 private:
  void on_scored(std::unique_ptr<ScoringJob> job) override;
  void take_turn(std::string& replies);
  void take_line(std::string_view line);
  /// Takes the name of a stream off the line; false where the line was refused for it.
  [[nodiscard]] bool take_stream(std::string_view& line, std::string_view& stream);
  /// Takes the time of the row off the line, where there is one; false where the line was refused for it.
  [[nodiscard]] bool take_time(std::string_view& line, double& time_s);
  void charge_input(std::string& replies);
  void refuse_rest(std::string reason);
  void refuse(std::string reason);
  void score(std::string& replies);
  void answer(std::string& replies);

  std::shared_ptr<RequestCounts> counts_;
  LineLimits limits_;
  std::string own_stream_;  ///< The id of the stream of lines that name none.
  InputBuffer input_;
  MemoryCharge memory_;       ///< For what the input holds above `kOwnBytes`.
  std::size_t searched_ = 0;  ///< So many bytes of the input hold no newline.
  bool unfinished_ = false;
  bool waiting_ = false;
  bool closed_ = false;
  std::uint64_t failures_ = 0;
  std::string last_failure_;

  // The lines taken but not answered yet. An entry of `outcomes_` is true for a row of the job, in order, and
  // false for a reason of `reasons_`, in order.
  Turn::Clock::time_point started_;
  std::vector<bool> outcomes_;
  std::vector<std::string> reasons_;
  std::unique_ptr<ScoringJob> job_ = std::make_unique<ScoringJob>();
  std::string due_;  ///< Replies to lines that were scored off the event loop.
};

}  // namespace datasentinel
