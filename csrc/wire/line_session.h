#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serving/model_table.h"

namespace datasentinel {

struct LineLimits {
  std::size_t max_line_bytes = std::size_t{1} << 20;  ///< Without the newline.
  std::size_t max_batch_rows = 4096;                  ///< More lines at once are scored in slices.
};

/// One connection of the line protocol: bytes in, reply bytes out, no sockets.
///
/// A line holds one row: D decimal numbers separated by blanks or by one comma (with blanks around it), ended
/// by `\n` or `\r\n`. Each line that is not blank is answered in order by `OK`, `ANOMALY` or
/// `ERROR: <reason>`. All complete lines of a chunk are scored as one batch. An error answers its own line
/// only; an over-long line is answered and ends the session, because its end is unknown. Every chunk goes to
/// the model that is the default when it arrives.
///
/// One thread at a time.
class LineSession {
 public:
  LineSession(std::shared_ptr<const ModelTable> models, LineLimits limits);

  /// Takes the next bytes of the stream and appends the replies to every line they complete.
  void feed(std::string_view bytes, std::string& replies);

  /// The stream ended: a last line without a newline is answered too.
  void finish(std::string& replies);

  /// Nothing more will be read; the caller closes the connection once the replies are written.
  [[nodiscard]] bool closed() const noexcept { return closed_; }

  [[nodiscard]] std::uint64_t lines() const noexcept { return lines_; }
  [[nodiscard]] std::uint64_t errors() const noexcept { return errors_; }
  /// Of the errors, those that are no fault of the line, but of the model or the machine.
  [[nodiscard]] std::uint64_t failures() const noexcept { return failures_; }
  [[nodiscard]] const std::string& last_failure() const noexcept { return last_failure_; }

 private:
  void begin();
  void take_line(std::string_view line, std::string& replies);
  void refuse_over_long_line();
  void refuse(std::string reason);
  [[nodiscard]] std::string score_rows();
  void score_pending(std::string& replies);
  void end(std::string& replies);

  std::shared_ptr<const ModelTable> models_;
  std::shared_ptr<const ServedModel> model_;  ///< Of the chunk at hand; null when none is served.
  LineLimits limits_;
  std::string partial_;  ///< The start of a line whose end has not arrived.
  bool closed_ = false;
  std::uint64_t lines_ = 0;
  std::uint64_t errors_ = 0;
  std::uint64_t failures_ = 0;
  std::string last_failure_;

  // The lines taken but not answered yet. An entry of `outcomes_` is true for a row of `rows_`, in order, and
  // false for a reason of `reasons_`, in order.
  std::vector<bool> outcomes_;
  std::vector<float> rows_;
  std::vector<std::string> reasons_;
  std::vector<float> scores_;
};

}  // namespace datasentinel
