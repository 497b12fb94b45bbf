#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace datasentinel {

/// A gRPC client without a socket, over nghttp2's other side: what a real one would send and understand.
class Http2Client {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  struct Response {
    std::map<std::string, std::string> headers;  ///< With the trailers.
    std::string data;
    bool closed = false;
    std::uint32_t error = 0;

    [[nodiscard]] std::string status() const {
      const auto found = headers.find("grpc-status");
      return found == headers.end() ? std::string("none") : found->second;
    }
    [[nodiscard]] std::string message() const {
      const auto found = headers.find("grpc-message");
      return found == headers.end() ? std::string() : found->second;
    }
  };

  explicit Http2Client(std::uint32_t window = 65535) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, &on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, &on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, &on_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, &on_frame);
    nghttp2_session* session = nullptr;
    nghttp2_session_client_new(&session, callbacks, this);
    session_.reset(session);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, &settings, 1);
  }

  /// Opens a call with these bytes as its data; without `end` more may follow.
  std::int32_t call(std::string_view path, std::string data, Headers more = {}, bool end = true) {
    Headers headers{{":method", "POST"},
                    {":scheme", "http"},
                    {":path", std::string(path)},
                    {":authority", "test"},
                    {"content-type", "application/grpc"},
                    {"te", "trailers"}};
    headers.insert(headers.end(), more.begin(), more.end());
    std::vector<nghttp2_nv> fields;
    for (auto& [name, value] : headers) {
      fields.push_back({reinterpret_cast<std::uint8_t*>(name.data()),
                        reinterpret_cast<std::uint8_t*>(value.data()), name.size(), value.size(), 0});
    }
    auto body = std::make_unique<Body>(Body{.data = std::move(data), .end = end});
    nghttp2_data_provider provider{};
    provider.source.ptr = body.get();
    provider.read_callback = &read_body;
    const std::int32_t id =
        nghttp2_submit_request(session_.get(), nullptr, fields.data(), fields.size(), &provider, nullptr);
    bodies_[id] = std::move(body);
    return id;
  }

  /// Sends more on an open call.
  void push(std::int32_t id, std::string_view data, bool end) {
    bodies_[id]->data.append(data);
    bodies_[id]->end = end;
    nghttp2_session_resume_data(session_.get(), id);
  }

  void cancel(std::int32_t id) {
    nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
  }

  void ping() { nghttp2_submit_ping(session_.get(), NGHTTP2_FLAG_NONE, nullptr); }

  void open_window(std::int32_t id, std::int32_t size) {
    nghttp2_submit_window_update(session_.get(), NGHTTP2_FLAG_NONE, id, size);
  }

  /// What is to be sent.
  [[nodiscard]] std::string outgoing() {
    std::string out;
    const std::uint8_t* data = nullptr;
    for (ssize_t size = 0; (size = nghttp2_session_mem_send(session_.get(), &data)) > 0;) {
      out.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    }
    return out;
  }

  /// Takes what the server sent; false when that is no valid HTTP/2.
  bool incoming(std::string_view bytes) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
    return nghttp2_session_mem_recv(session_.get(), data, bytes.size()) == static_cast<ssize_t>(bytes.size());
  }

  [[nodiscard]] const Response& response(std::int32_t id) { return responses_[id]; }
  [[nodiscard]] int goaways() const noexcept { return goaways_; }
  [[nodiscard]] int pongs() const noexcept { return pongs_; }

 private:
  struct Body {
    std::string data;
    bool end = true;
  };
  struct Free {
    void operator()(nghttp2_session* session) const noexcept { nghttp2_session_del(session); }
  };

  static Http2Client& self(void* user) { return *static_cast<Http2Client*>(user); }

  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                       void* user) {
    self(user).responses_[frame->hd.stream_id].headers[std::string(name, name + name_size)] =
        std::string(value, value + value_size);
    return 0;
  }

  static int on_data(nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                     std::size_t size, void* user) {
    self(user).responses_[id].data.append(reinterpret_cast<const char*>(data), size);
    return 0;
  }

  static int on_close(nghttp2_session*, std::int32_t id, std::uint32_t error, void* user) {
    self(user).responses_[id].closed = true;
    self(user).responses_[id].error = error;
    return 0;
  }

  static int on_frame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type == NGHTTP2_GOAWAY) ++self(user).goaways_;
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) ++self(user).pongs_;
    return 0;
  }

  static ssize_t read_body(nghttp2_session*, std::int32_t, std::uint8_t* buffer, std::size_t room,
                           std::uint32_t* flags, nghttp2_data_source* source, void*) {
    auto& body = *static_cast<Body*>(source->ptr);
    const std::size_t size = std::min(room, body.data.size());
    if (size == 0 && !body.end) return NGHTTP2_ERR_DEFERRED;
    std::memcpy(buffer, body.data.data(), size);
    body.data.erase(0, size);
    if (body.data.empty() && body.end) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(size);
  }

  std::unique_ptr<nghttp2_session, Free> session_;
  std::map<std::int32_t, std::unique_ptr<Body>> bodies_;
  std::map<std::int32_t, Response> responses_;
  int goaways_ = 0;
  int pongs_ = 0;
};

}  // namespace datasentinel
