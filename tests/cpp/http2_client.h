#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire/grpc/nghttp2_api.h"

namespace datasentinel {

/// The library that tests run on, both sides of a connection.
inline const std::shared_ptr<const nghttp2::Api>& test_nghttp2() {
  static const std::shared_ptr<const nghttp2::Api> api = nghttp2::open();
  return api;
}

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
    nghttp2::Callbacks* callbacks = nullptr;
    api_->session_callbacks_new(&callbacks);
    api_->session_callbacks_set_on_header_callback(callbacks, &on_header);
    api_->session_callbacks_set_on_data_chunk_recv_callback(callbacks, &on_data);
    api_->session_callbacks_set_on_stream_close_callback(callbacks, &on_close);
    api_->session_callbacks_set_on_frame_recv_callback(callbacks, &on_frame);
    nghttp2::Session* session = nullptr;
    client_function<int (*)(nghttp2::Session**, const nghttp2::Callbacks*, void*)>("session_client_new")(
        &session, callbacks, this);
    session_.reset(session);
    api_->session_callbacks_del(callbacks);
    const nghttp2::SettingsEntry settings{nghttp2::kInitialWindowSize, window};
    api_->submit_settings(session, nghttp2::kNoFlags, &settings, 1);
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
    std::vector<nghttp2::HeaderField> fields;
    for (auto& [name, value] : headers) {
      fields.push_back({reinterpret_cast<std::uint8_t*>(name.data()),
                        reinterpret_cast<std::uint8_t*>(value.data()), name.size(), value.size(), 0});
    }
    auto body = std::make_unique<Body>(Body{.data = std::move(data), .end = end});
    nghttp2::DataProvider provider{};
    provider.source.ptr = body.get();
    provider.read = &read_body;
    const auto submit =
        client_function<std::int32_t (*)(nghttp2::Session*, const void*, const nghttp2::HeaderField*,
                                         std::size_t, const nghttp2::DataProvider*, void*)>("submit_request");
    const std::int32_t id = submit(session_.get(), nullptr, fields.data(), fields.size(), &provider, nullptr);
    bodies_[id] = std::move(body);
    return id;
  }

  /// Sends more on an open call.
  void push(std::int32_t id, std::string_view data, bool end) {
    bodies_[id]->data.append(data);
    bodies_[id]->end = end;
    api_->session_resume_data(session_.get(), id);
  }

  void cancel(std::int32_t id) {
    api_->submit_rst_stream(session_.get(), nghttp2::kNoFlags, id, nghttp2::kCancel);
  }

  void ping() {
    client_function<int (*)(nghttp2::Session*, std::uint8_t, const std::uint8_t*)>("submit_ping")(
        session_.get(), nghttp2::kNoFlags, nullptr);
  }

  void open_window(std::int32_t id, std::int32_t size) {
    client_function<int (*)(nghttp2::Session*, std::uint8_t, std::int32_t, std::int32_t)>(
        "submit_window_update")(session_.get(), nghttp2::kNoFlags, id, size);
  }

  /// What is to be sent.
  [[nodiscard]] std::string outgoing() {
    std::string out;
    const std::uint8_t* data = nullptr;
    for (ssize_t size = 0; (size = api_->session_mem_send(session_.get(), &data)) > 0;) {
      out.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    }
    return out;
  }

  /// Takes what the server sent; false when that is no valid HTTP/2.
  bool incoming(std::string_view bytes) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
    return api_->session_mem_recv(session_.get(), data, bytes.size()) == static_cast<ssize_t>(bytes.size());
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
    void operator()(nghttp2::Session* session) const noexcept { test_nghttp2()->session_del(session); }
  };

  /// What only a client needs of the library.
  template <typename Function>
  [[nodiscard]] Function client_function(const std::string& name) const {
    return api_->library().symbol<Function>(("nghttp2_" + name).c_str());
  }

  static Http2Client& self(void* user) { return *static_cast<Http2Client*>(user); }

  static int on_header(nghttp2::Session*, const nghttp2::Frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                       void* user) {
    self(user).responses_[frame->hd.stream_id].headers[std::string(name, name + name_size)] =
        std::string(value, value + value_size);
    return 0;
  }

  static int on_data(nghttp2::Session*, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                     std::size_t size, void* user) {
    self(user).responses_[id].data.append(reinterpret_cast<const char*>(data), size);
    return 0;
  }

  static int on_close(nghttp2::Session*, std::int32_t id, std::uint32_t error, void* user) {
    self(user).responses_[id].closed = true;
    self(user).responses_[id].error = error;
    return 0;
  }

  static int on_frame(nghttp2::Session*, const nghttp2::Frame* frame, void* user) {
    if (frame->hd.type == nghttp2::kFrameGoaway) ++self(user).goaways_;
    if (frame->hd.type == nghttp2::kFramePing && (frame->hd.flags & nghttp2::kFlagAck) != 0)
      ++self(user).pongs_;
    return 0;
  }

  static ssize_t read_body(nghttp2::Session*, std::int32_t, std::uint8_t* buffer, std::size_t room,
                           std::uint32_t* flags, nghttp2::DataSource* source, void*) {
    auto& body = *static_cast<Body*>(source->ptr);
    const std::size_t size = std::min(room, body.data.size());
    if (size == 0 && !body.end) return nghttp2::kErrorDeferred;
    std::memcpy(buffer, body.data.data(), size);
    body.data.erase(0, size);
    if (body.data.empty() && body.end) *flags |= nghttp2::kDataEnd;
    return static_cast<ssize_t>(size);
  }

  std::shared_ptr<const nghttp2::Api> api_ = test_nghttp2();
  std::unique_ptr<nghttp2::Session, Free> session_;
  std::map<std::int32_t, std::unique_ptr<Body>> bodies_;
  std::map<std::int32_t, Response> responses_;
  int goaways_ = 0;
  int pongs_ = 0;
};

}  // namespace datasentinel
