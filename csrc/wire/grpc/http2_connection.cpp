#include "wire/grpc/http2_connection.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

// Beside `kMaxSpareFrames` at once a client may send so many a second for which nothing else has paid:
// keepalive pings, window updates and resets of real clients stay far below.
constexpr double kSpareFramesPerSecond = 200;
constexpr double kPaidByHeaders = 1;  // Of a request: as much as their frame costs.
constexpr double kPaidByByteSent = 1.0 / 512;
constexpr std::string_view kUnimplemented = "12";
// So many requests with far too large headers, or early pings, are forgiven.
constexpr unsigned kMaxOversizedHeaders = 2;
constexpr unsigned kMaxPingStrikes = 2;

template <std::size_t N, std::size_t M>
nghttp2::HeaderField fixed_header(const char (&name)[N], const char (&value)[M]) noexcept {
  // The library's interface takes no const pointers, and with these flags it keeps them as they are.
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value)), N - 1, M - 1,
          nghttp2::kBorrowedName | nghttp2::kBorrowedValue};
}

template <std::size_t N>
nghttp2::HeaderField header(const char (&name)[N], std::string_view value) noexcept {
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), N - 1, value.size(),
          nghttp2::kBorrowedName};
}

/// Fills `fields` with the response's last header fields; returns how many there are.
std::size_t trailers(const Http2Stream& stream, std::array<nghttp2::HeaderField, 5>& fields,
                     std::size_t count) {
  if (stream.status.empty()) {
    fields[count++] = fixed_header("grpc-status", "0");
  } else {
    fields[count++] = header("grpc-status", stream.status);
  }
  if (!stream.status_message.empty()) fields[count++] = header("grpc-message", stream.status_message);
  if (stream.status == kUnimplemented) {
    fields[count++] = fixed_header("grpc-accept-encoding", "identity,gzip,deflate");
  }
  return count;
}

/// What a frame costs. Content costs little, and nothing while its call goes on (`on_data`): it is bounded by
/// flow control, and may have been on its way when its stream was reset. Windows full of small messages must
/// cost less than a client may spare.
double cost_of_frame(std::uint8_t type, std::size_t payload_bytes) noexcept {
  if (type != nghttp2::kFrameData || payload_bytes == 0) return 1;
  return static_cast<double>(64 + payload_bytes) / (16 << 10);
}

std::string_view view(const std::uint8_t* data, std::size_t size) noexcept {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace

/// What nghttp2 calls. No exception may leave these: it would unwind through C.
struct Http2Connection::Callbacks {
  static Http2Connection& self(void* user_data) noexcept { return *static_cast<Http2Connection*>(user_data); }

  static Http2Stream* stream(Http2Connection& connection, std::int32_t id) noexcept {
    return static_cast<Http2Stream*>(
        connection.api_->session_get_stream_user_data(connection.session_.get(), id));
  }

  template <typename Action>
  static int guarded(Action&& action) noexcept {
    try {
      action();
      return 0;
    } catch (...) {
      return nghttp2::kErrorCallback;
    }
  }

  static int on_begin_headers(nghttp2::Session* session, const nghttp2::Frame* frame, void* user) {
    if (frame->headers.category != nghttp2::kRequestHeaders) return 0;
    return guarded([&] {
      self(user).in_headers_ = true;
      Http2Stream& opened = self(user).handler_.open_stream(frame->hd.stream_id);
      self(user).api_->check(
          self(user).api_->session_set_stream_user_data(session, frame->hd.stream_id, &opened));
    });
  }

  static int on_header(nghttp2::Session* /*session*/, const nghttp2::Frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size,
                       std::uint8_t /*flags*/, void* user) {
    if (frame->headers.category != nghttp2::kRequestHeaders) return 0;
    Http2Stream* const found = stream(self(user), frame->hd.stream_id);
    if (found == nullptr) return 0;
    bool accepted = true;
    const int result = guarded([&] {
      accepted = self(user).handler_.on_header(*found, view(name, name_size), view(value, value_size));
      if (accepted) return;
      self(user).in_headers_ = false;
      if (++self(user).oversized_headers_ > kMaxOversizedHeaders) self(user).hang_up("headers are too large");
    });
    return result == 0 && !accepted ? nghttp2::kErrorTemporal : result;
  }

  static int on_data(nghttp2::Session* session, std::uint8_t /*flags*/, std::int32_t id,
                     const std::uint8_t* data, std::size_t size, void* user) {
    Http2Stream* const found = stream(self(user), id);
    return guarded([&] {
      self(user).api_->check(self(user).api_->session_consume_connection(session, size));
      if (found == nullptr) return;
      self(user).progress_ += size;
      // However small a client cuts its messages, they are scored or refused in the end.
      if (!found->finished) self(user).spare_frames_ += cost_of_frame(nghttp2::kFrameData, size);
      found->unread += size;
      self(user).handler_.on_data(*found, view(data, size));
      self(user).give_credit(*found);
    });
  }

  static int on_frame(nghttp2::Session* /*session*/, const nghttp2::Frame* frame, void* user) {
    Http2Stream* const found = stream(self(user), frame->hd.stream_id);
    return guarded([&] {
      const bool is_data = frame->hd.type == nghttp2::kFrameData;
      if (frame->hd.type == nghttp2::kFrameSettings) self(user).greeted_ = true;
      if (frame->hd.type == nghttp2::kFramePing && (frame->hd.flags & nghttp2::kFlagAck) == 0) {
        self(user).count_ping();
      }
      if (!is_data && frame->hd.type != nghttp2::kFrameHeaders) return;
      if (!is_data) self(user).in_headers_ = false;
      if (found == nullptr) return;
      if (!is_data && frame->headers.category == nghttp2::kRequestHeaders) {
        ++self(user).progress_;
        self(user).spare_frames_ += kPaidByHeaders;
        self(user).handler_.on_headers_end(*found);
      }
      if ((frame->hd.flags & nghttp2::kFlagEndStream) != 0) {
        found->ended = true;
        self(user).handler_.on_end(*found);
      }
    });
  }

  /// A response that is complete before its request: what is still to come of that is not wanted.
  static int on_frame_sent(nghttp2::Session* /*session*/, const nghttp2::Frame* frame, void* user) {
    if (frame->hd.type != nghttp2::kFrameHeaders || (frame->hd.flags & nghttp2::kFlagEndStream) == 0)
      return 0;
    const Http2Stream* const found = stream(self(user), frame->hd.stream_id);
    if (found == nullptr || found->ended) return 0;
    return guarded([&] {
      const nghttp2::Api& api = *self(user).api_;
      api.check(
          api.submit_rst_stream(self(user).session_.get(), nghttp2::kNoFlags, found->id, nghttp2::kNoError));
    });
  }

  static int on_close(nghttp2::Session* /*session*/, std::int32_t id, std::uint32_t /*error*/, void* user) {
    Http2Stream* const found = stream(self(user), id);
    if (found == nullptr) return 0;
    return guarded([&] { self(user).handler_.close_stream(*found); });
  }

  /// Returns how much of a response's body goes into its next frame; `send_data` takes it.
  static ssize_t read_out(nghttp2::Session* session, std::int32_t id, std::uint8_t* /*buffer*/,
                          std::size_t room, std::uint32_t* flags, nghttp2::DataSource* source, void* user) {
    auto& sending = *static_cast<Http2Stream*>(source->ptr);
    const std::size_t size = std::min(room, sending.unsent());
    if (size != 0) *flags |= nghttp2::kDataNoCopy;
    if (size != sending.unsent()) return static_cast<ssize_t>(size);
    if (sending.finished) {
      *flags |= nghttp2::kDataEnd | nghttp2::kDataNoEndStream;
      const int result = guarded([&] {
        std::array<nghttp2::HeaderField, 5> fields;
        self(user).api_->check(
            self(user).api_->submit_trailer(session, id, fields.data(), trailers(sending, fields, 0)));
      });
      if (result != 0) return result;
    } else if (size == 0) {
      sending.deferred = true;
      return nghttp2::kErrorDeferred;
    }
    return static_cast<ssize_t>(size);
  }

  /// Copies a frame of a response's body to where it is sent from, if there is room.
  static int send_data(nghttp2::Session* /*session*/, nghttp2::Frame* /*frame*/, const std::uint8_t* header,
                       std::size_t size, nghttp2::DataSource* source, void* user) {
    auto& sending = *static_cast<Http2Stream*>(source->ptr);
    if (self(user).out_->size() >= self(user).max_out_) return nghttp2::kErrorWouldBlock;
    return guarded([&] {
      constexpr std::size_t kFrameHeaderBytes = 9;
      self(user).out_->append(view(header, kFrameHeaderBytes));
      self(user).out_->append(sending.out, sending.out_start, size);
      sending.out_start += size;
      self(user).progress_ += size;
      if (sending.unsent() != 0) return;
      sending.out_start = 0;
      empty_buffer(sending.out);
      if (!sending.finished) self(user).give_credit(sending);
    });
  }
};

Http2Connection::Http2Connection(std::shared_ptr<const nghttp2::Api> api, Http2Handler& handler,
                                 const Http2Limits& limits)
    : api_(std::move(api)), handler_(handler), limits_(limits), session_(nullptr, Free{api_.get()}) {
  const nghttp2::Api& library = *api_;
  nghttp2::Callbacks* callbacks = nullptr;
  library.check(library.session_callbacks_new(&callbacks));
  const std::unique_ptr<nghttp2::Callbacks, void (*)(nghttp2::Callbacks*)> owned_callbacks(
      callbacks, library.session_callbacks_del);
  library.session_callbacks_set_on_begin_headers_callback(callbacks, &Callbacks::on_begin_headers);
  library.session_callbacks_set_on_header_callback(callbacks, &Callbacks::on_header);
  library.session_callbacks_set_on_data_chunk_recv_callback(callbacks, &Callbacks::on_data);
  library.session_callbacks_set_on_frame_recv_callback(callbacks, &Callbacks::on_frame);
  library.session_callbacks_set_on_frame_send_callback(callbacks, &Callbacks::on_frame_sent);
  library.session_callbacks_set_on_stream_close_callback(callbacks, &Callbacks::on_close);
  library.session_callbacks_set_send_data_callback(callbacks, &Callbacks::send_data);

  nghttp2::Option* option = nullptr;
  library.check(library.option_new(&option));
  const std::unique_ptr<nghttp2::Option, void (*)(nghttp2::Option*)> owned_option(option, library.option_del);
  library.option_set_no_auto_window_update(option, 1);
  library.option_set_no_closed_streams(option, 1);
  library.option_set_max_outbound_ack(option, 100);
  if (library.option_set_no_rfc9113_leading_and_trailing_ws_validation != nullptr) {
    // A blank around a header's value, a token's for instance, deserves an answer, not a reset stream.
    library.option_set_no_rfc9113_leading_and_trailing_ws_validation(option, 1);
  }

  nghttp2::Session* session = nullptr;
  library.check(library.session_server_new2(&session, callbacks, this, option));
  session_.reset(session);
  const std::array<nghttp2::SettingsEntry, 4> settings{
      {{nghttp2::kMaxConcurrentStreams, limits_.max_streams},
       {nghttp2::kInitialWindowSize, static_cast<std::uint32_t>(limits_.stream_window_bytes)},
       {nghttp2::kMaxHeaderListSize, limits_.max_header_bytes},
       {nghttp2::kNoRfc7540Priorities, 1}}};
  library.check(library.submit_settings(session, nghttp2::kNoFlags, settings.data(), settings.size()));
  library.check(
      library.session_set_local_window_size(session, nghttp2::kNoFlags, 0, limits_.connection_window_bytes));
}

Http2Connection::~Http2Connection() = default;

void Http2Connection::receive(std::string_view bytes) {
  if (failed_ || hung_up_) return;
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  failed_ = api_->session_mem_recv(session_.get(), data, bytes.size()) < 0;
  charge_frames(bytes);
}

bool Http2Connection::send(std::string& out, std::size_t max_bytes) {
  const std::size_t start = out.size();
  out_ = &out;
  max_out_ = start + max_bytes;
  ssize_t size = 1;
  while (size > 0 && out.size() < max_out_) {
    const std::uint8_t* data = nullptr;
    size = api_->session_mem_send(session_.get(), &data);
    if (size > 0) out.append(view(data, static_cast<std::size_t>(size)));
  }
  failed_ |= size < 0;
  spare_frames_ += static_cast<double>(out.size() - start) * kPaidByByteSent;
  return out.size() >= max_out_;
}

void Http2Connection::push(Http2Stream& stream) {
  if (!stream.responding) {
    stream.responding = true;
    nghttp2::DataProvider provider{};
    provider.source.ptr = &stream;
    provider.read = &Callbacks::read_out;
    const std::array<nghttp2::HeaderField, 2> fields{fixed_header(":status", "200"),
                                                     fixed_header("content-type", "application/grpc")};
    api_->check(api_->submit_response(session_.get(), stream.id, fields.data(), fields.size(), &provider));
  } else if (stream.deferred) {
    stream.deferred = false;
    api_->check(api_->session_resume_data(session_.get(), stream.id));
  }
}

void Http2Connection::finish(Http2Stream& stream, int status, std::string_view message) {
  stream.finished = true;
  if (status != 0) stream.status = std::to_string(status);
  stream.status_message = percent_encode(message);
  if (stream.responding || stream.unsent() != 0) return push(stream);
  stream.responding = true;
  std::array<nghttp2::HeaderField, 5> fields{fixed_header(":status", "200"),
                                             fixed_header("content-type", "application/grpc")};
  const std::size_t count = trailers(stream, fields, 2);
  api_->check(api_->submit_response(session_.get(), stream.id, fields.data(), count, nullptr));
}

void Http2Connection::refuse(Http2Stream& stream) {
  stream.responding = stream.finished = true;
  const std::array<nghttp2::HeaderField, 1> fields{fixed_header(":status", "415")};
  api_->check(api_->submit_response(session_.get(), stream.id, fields.data(), fields.size(), nullptr));
}

void Http2Connection::reset(Http2Stream& stream) {
  api_->check(api_->submit_rst_stream(session_.get(), nghttp2::kNoFlags, stream.id, nghttp2::kCancel));
}

void Http2Connection::announce_shutdown() { api_->check(api_->submit_shutdown_notice(session_.get())); }

void Http2Connection::refuse_new_streams() {
  const std::int32_t last = api_->session_get_last_proc_stream_id(session_.get());
  api_->check(api_->submit_goaway(session_.get(), nghttp2::kNoFlags, last, nghttp2::kNoError, nullptr, 0));
}

bool Http2Connection::closed() const noexcept {
  if (failed_) return true;
  if (api_->session_want_write(session_.get()) != 0) return false;
  return hung_up_ || api_->session_want_read(session_.get()) == 0;
}

Http2Stream* Http2Connection::find(std::int32_t id) const noexcept {
  return static_cast<Http2Stream*>(api_->session_get_stream_user_data(session_.get(), id));
}

void Http2Connection::charge_frames(std::string_view bytes) {
  frames_.read(bytes, [this](std::uint8_t type, std::size_t payload_bytes) {
    spare_frames_ -= cost_of_frame(type, payload_bytes);
  });
  const auto now = std::chrono::steady_clock::now();
  const std::chrono::duration<double> passed = now - charged_;
  charged_ = now;
  spare_frames_ = std::min(kMaxSpareFrames, spare_frames_ + kSpareFramesPerSecond * passed.count());
  if (spare_frames_ < 0) hang_up("too many frames that ask for nothing");
}

void Http2Connection::count_ping() {
  const auto now = std::chrono::steady_clock::now();
  // As in gRPC, pings are welcome while replies move: clients measure bandwidth by them.
  const bool early = now - last_ping_ < limits_.min_ping_interval && progress_ == progress_at_ping_;
  ping_strikes_ = early ? ping_strikes_ + 1 : 0;
  last_ping_ = now;
  progress_at_ping_ = progress_;
  if (ping_strikes_ > kMaxPingStrikes) hang_up("too_many_pings");
}

void Http2Connection::hang_up(std::string_view why) {
  if (std::exchange(hung_up_, true)) return;
  const std::int32_t last = api_->session_get_last_proc_stream_id(session_.get());
  api_->check(api_->submit_goaway(session_.get(), nghttp2::kNoFlags, last, nghttp2::kEnhanceYourCalm,
                                  reinterpret_cast<const std::uint8_t*>(why.data()), why.size()));
}

void Http2Connection::give_credit(Http2Stream& stream) {
  // A peer that does not read its replies gets no credit for more requests.
  if (stream.unread == 0 || stream.unsent() > limits_.max_unsent_bytes) return;
  api_->check(api_->session_consume_stream(session_.get(), stream.id, std::exchange(stream.unread, 0)));
}

std::string percent_encode(std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string encoded;
  encoded.reserve(text.size());
  for (const char c : text) {
    if (c >= ' ' && c <= '~' && c != '%') {
      encoded += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      encoded += {'%', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return encoded;
}

}  // namespace datasentinel
