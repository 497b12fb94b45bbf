#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "wire/rest_inference.h"

namespace datasentinel {

struct HttpLimits {
  std::size_t max_header_bytes = std::size_t{16} << 10;
  std::size_t max_body_bytes = std::size_t{16} << 20;
};

/// Whether a request with this `Authorization` header, or none, may pass.
using Authorize = std::function<bool(std::optional<std::string_view>)>;

/// One HTTP/1.1 connection, as far as inference requests go: bytes in, reply bytes out, no sockets.
///
/// It answers plain `POST /v2/models/.../infer` requests, pipelined ones in order. A request that is anything
/// else (another path, a chunked or compressed body, a header that needs thought, a token that is not
/// accepted, something malformed), and one that would take long, is declined: its owner takes the bytes,
/// answers, and hands back what follows it.
///
/// One thread at a time.
class HttpSession {
 public:
  /// `server` is for the replies' `Server` header; no `authorize` lets everybody pass.
  HttpSession(std::shared_ptr<RestInference> inference, HttpLimits limits, std::string server,
              Authorize authorize = {});

  /// Takes the next bytes of the stream and appends the replies to every request they complete.
  void feed(std::string_view bytes, std::string& replies);

  /// The stream ended: what is left of an unfinished request is declined.
  void finish() noexcept { declined_ = declined_ || !buffer_.empty(); }

  /// The next request is not one for this session.
  [[nodiscard]] bool declined() const noexcept { return declined_; }

  /// The bytes of the declined request and all that came after it. The session expects a new request then.
  [[nodiscard]] std::string take_declined();

  /// Whether the start of a request was read, but not its end.
  [[nodiscard]] bool mid_message() const noexcept { return !buffer_.empty(); }

 private:
  /// The head of an inference request. Views borrow from the bytes it was read from.
  struct Head {
    std::size_t bytes = 0;
    std::string_view model_name = {};
    std::string_view model_version = {};
    std::optional<std::size_t> body_bytes = {};
    std::optional<std::size_t> json_bytes = {};
    std::optional<std::string_view> authorization = {};
    bool has_host = false;
  };

  [[nodiscard]] std::size_t answer_all(std::string_view bytes, std::string& replies);
  [[nodiscard]] bool read_head(std::string_view text, Head& head) const;
  [[nodiscard]] static bool read_request_line(std::string_view line, Head& head);
  [[nodiscard]] static bool read_header(std::string_view line, Head& head);
  void append_reply(const RestReply& reply, std::string& replies) const;

  std::shared_ptr<RestInference> inference_;
  HttpLimits limits_;
  std::string server_;
  Authorize authorize_;
  std::string buffer_;            ///< The start of a request whose end has not arrived, or what was declined.
  std::size_t needed_bytes_ = 0;  ///< With fewer bytes in the buffer there is nothing to do.
  bool declined_ = false;
};

}  // namespace datasentinel
