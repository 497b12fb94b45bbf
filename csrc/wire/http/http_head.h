#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace datasentinel {

/// Why a request is refused before it is answered; its connection ends then, since where the next one
/// begins is unknown.
struct HttpProblem {
  int status = 400;
  std::string reason;
};

/// Name and value.
using HttpField = std::pair<std::string_view, std::string_view>;

/// The head of an HTTP/1.x request. Views borrow from the bytes it was read from.
struct HttpHead {
  std::string_view method = {};
  std::string_view target = {};        ///< Path and query, also of an absolute-form target.
  std::string_view authority = {};     ///< Of an absolute-form target; `Host` says the same then.
  std::vector<HttpField> fields = {};  ///< As they came.
  std::optional<std::size_t> content_bytes = {};
  bool chunked = false;
  bool expects_continue = false;
  bool keep_alive = true;
  bool old = false;  ///< HTTP/1.0.

  /// The value of the field with this name in lower case, or nothing.
  [[nodiscard]] std::optional<std::string_view> find(std::string_view lower_name) const noexcept;
  /// The target without its query.
  [[nodiscard]] std::string_view path() const noexcept { return target.substr(0, target.find('?')); }

  /// Empties it, and keeps its memory.
  void clear() noexcept;
};

/// The end of a head's lines, each of which ends by CRLF or LF (RFC 9112 2.2): the number of bytes up to the
/// end of the empty line, or npos. The first `searched` bytes are known to hold none.
[[nodiscard]] std::size_t find_end_of_head(std::string_view bytes, std::size_t searched) noexcept;

/// Reads a head whose end is known: `text` is all of its lines, the empty one included. Strict as RFC 9112
/// is, where leniency would let two readers differ on where a request ends.
[[nodiscard]] std::optional<HttpProblem> read_head(std::string_view text, HttpHead& head);

/// Digits and nothing else, as a number of bytes.
[[nodiscard]] std::optional<std::size_t> read_size(std::string_view text) noexcept;

[[nodiscard]] bool equal_ignoring_case(std::string_view text, std::string_view lower) noexcept;

[[nodiscard]] std::string_view reason_phrase(int status) noexcept;

/// Takes the framing off a body in chunks (RFC 9112 7.1).
class ChunkedBody {
 public:
  /// Takes bytes off the front of `bytes`, and appends what is content to `body`. Chunk extensions and
  /// trailers are read and left aside.
  [[nodiscard]] std::optional<HttpProblem> read(std::string_view& bytes, std::string& body);

  [[nodiscard]] bool done() const noexcept { return state_ == State::done; }
  /// How long the content is so far, that of the chunk at hand included.
  [[nodiscard]] std::size_t announced_bytes() const noexcept { return announced_; }

 private:
  enum class State { size, content, end_of_content, trailer, done };

  State state_ = State::size;
  std::string line_;      ///< The start of a line whose end has not arrived.
  std::size_t left_ = 0;  ///< Of the chunk at hand.
  std::size_t announced_ = 0;
  std::size_t overhead_ = 0;  ///< Bytes of extensions and trailers.
};

}  // namespace datasentinel
