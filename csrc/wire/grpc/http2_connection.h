#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "wire/grpc/http2_frames.h"
#include "wire/grpc/nghttp2_api.h"

namespace datasentinel {

struct Http2Limits {
  std::uint32_t max_streams = 128;
  std::uint32_t max_header_bytes = 16U << 10;  ///< Announced to peers.
  /// Pings may come so often while no reply moves; after the third that comes earlier the connection ends.
  std::chrono::duration<double> min_ping_interval{0};
  std::int32_t stream_window_bytes = 1 << 20;      ///< What a peer may send on a stream before we read it.
  std::int32_t connection_window_bytes = 8 << 20;  ///< The same for all streams together.
  std::size_t max_unsent_bytes = std::size_t{1} << 20;  ///< Of one stream, before it is not read any more.
};

/// One request and its response. The handler owns it and may derive from it.
struct Http2Stream {
  std::int32_t id = 0;
  std::string out;  ///< Response bytes that are not sent yet, from `out_start` on.
  std::size_t out_start = 0;
  bool responding = false;     ///< The response's headers are on their way.
  bool finished = false;       ///< Nothing will be added to `out`; trailers follow it.
  bool deferred = false;       ///< The library waits to be told that `out` has grown.
  bool ended = false;          ///< The peer has sent everything.
  std::size_t unread = 0;      ///< Received, but the peer has no new credit for it yet.
  std::string status;          ///< For the trailers, in decimal; empty stands for 0.
  std::string status_message;  ///< For the trailers, percent-encoded.

  [[nodiscard]] std::size_t unsent() const noexcept { return out.size() - out_start; }
};

/// Empties a buffer, and frees memory that is more than small messages need.
inline void empty_buffer(std::string& buffer) noexcept {
  constexpr std::size_t kKeptBytes = std::size_t{16} << 10;
  buffer.clear();
  // Assigning an empty string would keep the memory.
  if (buffer.capacity() > kKeptBytes) std::string().swap(buffer);
}

/// What happens on a connection.
class Http2Handler {
 public:
  virtual ~Http2Handler() = default;
  /// A peer opens a stream; the reference stays valid until `close_stream`.
  virtual Http2Stream& open_stream(std::int32_t id) = 0;
  /// False when the headers have become far too large: the stream is reset, and the rest is passed over.
  [[nodiscard]] virtual bool on_header(Http2Stream& stream, std::string_view name,
                                       std::string_view value) = 0;
  virtual void on_headers_end(Http2Stream& stream) = 0;
  virtual void on_data(Http2Stream& stream, std::string_view data) = 0;
  virtual void on_end(Http2Stream& stream) = 0;
  /// The stream is gone: complete, or given up by either side.
  virtual void close_stream(Http2Stream& stream) = 0;
};

/// The server's side of an HTTP/2 connection that carries gRPC, over libnghttp2: bytes in, bytes out.
///
/// One thread at a time.
class Http2Connection {
 public:
  Http2Connection(std::shared_ptr<const nghttp2::Api> api, Http2Handler& handler, const Http2Limits& limits);
  Http2Connection(const Http2Connection&) = delete;
  Http2Connection& operator=(const Http2Connection&) = delete;
  ~Http2Connection();

  /// Takes the next bytes of the stream; the handler hears of everything in them.
  void receive(std::string_view bytes);

  /// Appends what may be sent now, but hardly more than `max_bytes`; returns whether there is more.
  bool send(std::string& out, std::size_t max_bytes);

  /// `stream.out` has grown: starts the response, or goes on with it.
  void push(Http2Stream& stream);

  /// Ends the response after what is in `stream.out`, with this status in the trailers.
  void finish(Http2Stream& stream, int status, std::string_view message);

  /// Answers a request that is not a gRPC call with HTTP's "unsupported media type".
  void refuse(Http2Stream& stream);

  /// Gives a stream up, without an answer.
  void reset(Http2Stream& stream);

  /// Announces that the connection will close: the peer should send no new requests.
  void announce_shutdown();

  /// Takes no new requests from now on; those under way go on.
  void refuse_new_streams();

  /// Nothing more will be read, or written after what `send` appends.
  [[nodiscard]] bool closed() const noexcept;

  /// The peer's HTTP/2 preface has not arrived yet, or a header block has begun and not ended.
  [[nodiscard]] bool mid_frame() const noexcept { return !greeted_ || in_headers_; }

  /// Grows with every request, message and reply that moves; not with pings and the like.
  [[nodiscard]] std::uint64_t progress() const noexcept { return progress_; }

  /// A message has come that will be answered: it pays for the frames that its sender needs besides, to end
  /// the call and to open its windows again.
  void on_message() noexcept { spare_frames_ += kPaidByMessage; }

  /// The stream of this number, or null.
  [[nodiscard]] Http2Stream* find(std::int32_t id) const noexcept;

 private:
  struct Callbacks;
  friend struct Callbacks;

  struct Free {
    const nghttp2::Api* api;
    void operator()(nghttp2::Session* session) const noexcept { api->session_del(session); }
  };

  /// Every frame costs, whatever its kind; requests, messages, replies and time pay. Who sends more than that
  /// is told so, and the connection ends.
  void charge_frames(std::string_view bytes);
  void count_ping();
  /// Says goodbye with a reason, and reads no more.
  void hang_up(std::string_view why);
  void give_credit(Http2Stream& stream);

  std::shared_ptr<const nghttp2::Api> api_;
  Http2Handler& handler_;
  Http2Limits limits_;
  std::unique_ptr<nghttp2::Session, Free> session_;
  std::string* out_ = nullptr;  ///< Where `send` appends, up to `max_out_` and a frame.
  std::size_t max_out_ = 0;
  bool failed_ = false;
  bool hung_up_ = false;
  bool greeted_ = false;
  bool in_headers_ = false;
  std::uint64_t progress_ = 0;
  unsigned oversized_headers_ = 0;
  unsigned ping_strikes_ = 0;
  std::uint64_t progress_at_ping_ = 0;
  std::chrono::steady_clock::time_point last_ping_{};
  static constexpr double kMaxSpareFrames = 2000;
  static constexpr double kPaidByMessage = 8;
  Http2FrameReader frames_;
  double spare_frames_ = kMaxSpareFrames;  ///< So many are paid for, and not sent yet.
  std::chrono::steady_clock::time_point charged_ = std::chrono::steady_clock::now();
};

/// A status message as the trailer carries it: bytes outside of printable ASCII, and '%', as %XX.
[[nodiscard]] std::string percent_encode(std::string_view text);

}  // namespace datasentinel
