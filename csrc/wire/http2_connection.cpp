#include "wire/http2_connection.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

// More idle frames than this at once, or a second, are an attack: keepalive pings, window updates and resets
// of real clients stay far below.
constexpr double kMaxIdleFrames = 2000;
constexpr double kIdleFramesPerSecond = 200;
constexpr double kEarnedByRequest = 4;
constexpr std::string_view kUnimplemented = "12";
constexpr double kEarnedByByte = 1.0 / 512;

/// nghttp2's C functions say 0, or a negative error number. Only running out of memory is left to meet here.
void check(int result) {
  if (result == NGHTTP2_ERR_NOMEM) throw std::bad_alloc();
  if (result != 0) throw Error(ErrorCode::backend_failure, nghttp2_strerror(result));
}

template <std::size_t N, std::size_t M>
nghttp2_nv fixed_header(const char (&name)[N], const char (&value)[M]) noexcept {
  // The library's interface takes no const pointers, and with these flags it keeps them as they are.
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value)), N - 1, M - 1,
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

template <std::size_t N>
nghttp2_nv header(const char (&name)[N], std::string_view value) noexcept {
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), N - 1, value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

/// The response's last header fields, in `fields`; gives their number.
std::size_t trailers(const Http2Stream& stream, std::array<nghttp2_nv, 5>& fields, std::size_t count) {
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

std::string_view view(const std::uint8_t* data, std::size_t size) noexcept {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace

/// What nghttp2 calls. No exception may leave these: it would unwind through C.
struct Http2Connection::Callbacks {
  static Http2Connection& self(void* user_data) noexcept { return *static_cast<Http2Connection*>(user_data); }

  static Http2Stream* stream(nghttp2_session* session, std::int32_t id) noexcept {
    return static_cast<Http2Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  template <typename Action>
  static int guarded(Action&& action) noexcept {
    try {
      action();
      return 0;
    } catch (...) {
      return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
  }

  static int on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    return guarded([&] {
      Http2Stream& opened = self(user).handler_.open_stream(frame->hd.stream_id);
      check(nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, &opened));
    });
  }

  static int on_header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size,
                       std::uint8_t /*flags*/, void* user) {
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    Http2Stream* const found = stream(session, frame->hd.stream_id);
    if (found == nullptr) return 0;
    return guarded(
        [&] { self(user).handler_.on_header(*found, view(name, name_size), view(value, value_size)); });
  }

  static int on_data(nghttp2_session* session, std::uint8_t /*flags*/, std::int32_t id,
                     const std::uint8_t* data, std::size_t size, void* user) {
    Http2Stream* const found = stream(session, id);
    return guarded([&] {
      check(nghttp2_session_consume_connection(session, size));
      if (found == nullptr) return;
      found->unread += size;
      self(user).handler_.on_data(*found, view(data, size));
      self(user).give_credit(*found);
    });
  }

  static int on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Http2Stream* const found = stream(session, frame->hd.stream_id);
    return guarded([&] {
      const bool is_data = frame->hd.type == NGHTTP2_DATA;
      if (!is_data && frame->hd.type != NGHTTP2_HEADERS) return self(user).count_idle_frame();
      if (is_data && frame->hd.length == 0) self(user).count_idle_frame();
      if (found == nullptr) return;
      if (!is_data && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        self(user).handler_.on_headers_end(*found);
      }
      if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
        self(user).idle_frames_ -= kEarnedByRequest;
        self(user).handler_.on_end(*found);
      }
    });
  }

  static int on_close(nghttp2_session* session, std::int32_t id, std::uint32_t /*error*/, void* user) {
    Http2Stream* const found = stream(session, id);
    if (found == nullptr) return 0;
    return guarded([&] { self(user).handler_.close_stream(*found); });
  }

  static ssize_t read_out(nghttp2_session* session, std::int32_t id, std::uint8_t* buffer, std::size_t room,
                          std::uint32_t* flags, nghttp2_data_source* source, void* user) {
    auto& sending = *static_cast<Http2Stream*>(source->ptr);
    const std::size_t size = std::min(room, sending.unsent());
    std::memcpy(buffer, sending.out.data() + sending.out_start, size);
    sending.out_start += size;
    if (sending.unsent() != 0) return static_cast<ssize_t>(size);
    sending.out.clear();
    sending.out_start = 0;
    const int result = guarded([&] {
      if (sending.finished) {
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        std::array<nghttp2_nv, 5> fields;
        check(nghttp2_submit_trailer(session, id, fields.data(), trailers(sending, fields, 0)));
      } else {
        self(user).give_credit(sending);
      }
    });
    if (result != 0) return result;
    if (size == 0 && !sending.finished) {
      sending.deferred = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    return static_cast<ssize_t>(size);
  }
};

void Http2Connection::Free::operator()(nghttp2_session* session) const noexcept {
  nghttp2_session_del(session);
}

Http2Connection::Http2Connection(Http2Handler& handler, const Http2Limits& limits)
    : handler_(handler), limits_(limits) {
  nghttp2_session_callbacks* callbacks = nullptr;
  check(nghttp2_session_callbacks_new(&callbacks));
  const std::unique_ptr<nghttp2_session_callbacks, decltype(&nghttp2_session_callbacks_del)> owned_callbacks(
      callbacks, &nghttp2_session_callbacks_del);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, &Callbacks::on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, &Callbacks::on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, &Callbacks::on_data);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, &Callbacks::on_frame);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, &Callbacks::on_close);

  nghttp2_option* option = nullptr;
  check(nghttp2_option_new(&option));
  const std::unique_ptr<nghttp2_option, decltype(&nghttp2_option_del)> owned_option(option,
                                                                                    &nghttp2_option_del);
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_no_closed_streams(option, 1);
  nghttp2_option_set_max_outbound_ack(option, 100);

  nghttp2_session* session = nullptr;
  check(nghttp2_session_server_new2(&session, callbacks, this, option));
  session_.reset(session);
  const std::array<nghttp2_settings_entry, 4> settings{
      {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits_.max_streams},
       {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(limits_.stream_window_bytes)},
       {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits_.max_header_bytes},
       {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1}}};
  check(nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings.data(), settings.size()));
  check(
      nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, limits_.connection_window_bytes));
}

Http2Connection::~Http2Connection() = default;

void Http2Connection::receive(std::string_view bytes) {
  if (failed_) return;
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  failed_ = nghttp2_session_mem_recv(session_.get(), data, bytes.size()) < 0;
}

void Http2Connection::send(std::string& out) {
  const std::uint8_t* data = nullptr;
  for (;;) {
    const ssize_t size = nghttp2_session_mem_send(session_.get(), &data);
    failed_ |= size < 0;
    if (size <= 0) return;
    idle_frames_ -= static_cast<double>(size) * kEarnedByByte;
    out.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
  }
}

void Http2Connection::push(Http2Stream& stream) {
  if (!stream.responding) {
    stream.responding = true;
    nghttp2_data_provider provider{};
    provider.source.ptr = &stream;
    provider.read_callback = &Callbacks::read_out;
    const std::array<nghttp2_nv, 2> fields{fixed_header(":status", "200"),
                                           fixed_header("content-type", "application/grpc")};
    check(nghttp2_submit_response(session_.get(), stream.id, fields.data(), fields.size(), &provider));
  } else if (stream.deferred) {
    stream.deferred = false;
    check(nghttp2_session_resume_data(session_.get(), stream.id));
  }
}

void Http2Connection::finish(Http2Stream& stream, int status, std::string_view message) {
  stream.finished = true;
  if (status != 0) stream.status = std::to_string(status);
  stream.status_message = percent_encode(message);
  if (stream.responding || stream.unsent() != 0) return push(stream);
  stream.responding = true;
  std::array<nghttp2_nv, 5> fields{fixed_header(":status", "200"),
                                   fixed_header("content-type", "application/grpc")};
  const std::size_t count = trailers(stream, fields, 2);
  check(nghttp2_submit_response(session_.get(), stream.id, fields.data(), count, nullptr));
}

void Http2Connection::refuse(Http2Stream& stream) {
  stream.responding = stream.finished = true;
  const std::array<nghttp2_nv, 1> fields{fixed_header(":status", "415")};
  check(nghttp2_submit_response(session_.get(), stream.id, fields.data(), fields.size(), nullptr));
}

void Http2Connection::announce_shutdown() { check(nghttp2_submit_shutdown_notice(session_.get())); }

void Http2Connection::refuse_new_streams() {
  const std::int32_t last = nghttp2_session_get_last_proc_stream_id(session_.get());
  check(nghttp2_submit_goaway(session_.get(), NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, nullptr, 0));
}

bool Http2Connection::closed() const noexcept {
  return failed_ ||
         (nghttp2_session_want_read(session_.get()) == 0 && nghttp2_session_want_write(session_.get()) == 0);
}

Http2Stream* Http2Connection::find(std::int32_t id) const noexcept {
  return Callbacks::stream(session_.get(), id);
}

void Http2Connection::count_idle_frame() {
  const auto now = std::chrono::steady_clock::now();
  const std::chrono::duration<double> passed = now - idle_frames_since_;
  idle_frames_since_ = now;
  idle_frames_ = std::max(0.0, idle_frames_ - kIdleFramesPerSecond * passed.count()) + 1;
  if (idle_frames_ > kMaxIdleFrames) {
    check(nghttp2_session_terminate_session(session_.get(), NGHTTP2_ENHANCE_YOUR_CALM));
  }
}

void Http2Connection::give_credit(Http2Stream& stream) {
  // A peer that does not read its replies gets no credit for more requests.
  if (stream.unread == 0 || stream.unsent() > limits_.max_unsent_bytes) return;
  check(nghttp2_session_consume_stream(session_.get(), stream.id, std::exchange(stream.unread, 0)));
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
