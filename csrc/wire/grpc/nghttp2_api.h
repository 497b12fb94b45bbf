#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dynamic_library.h"

// The part of libnghttp2's C interface that we use. The library is opened at run time, so that every build
// serves gRPC and none needs its header. tests/cpp/test_nghttp2_abi.cpp compares all of this with the
// official header where that is installed.

namespace datasentinel::nghttp2 {

struct Session;
struct Callbacks;
struct Option;

struct HeaderField {
  std::uint8_t* name;
  std::uint8_t* value;
  std::size_t name_size;
  std::size_t value_size;
  std::uint8_t flags;
};

struct SettingsEntry {
  std::int32_t id;
  std::uint32_t value;
};

struct FrameHeader {
  std::size_t length;
  std::int32_t stream_id;
  std::uint8_t type;
  std::uint8_t flags;
  std::uint8_t reserved;
};

struct PrioritySpec {
  std::int32_t stream_id;
  std::int32_t weight;
  std::uint8_t exclusive;
};

struct HeadersFrame {
  FrameHeader hd;
  std::size_t padding_size;
  PrioritySpec priority;
  HeaderField* fields;
  std::size_t field_count;
  int category;
};

/// Of the union of all frames, the two members that are read here.
union Frame {
  FrameHeader hd;
  HeadersFrame headers;
};

union DataSource {
  int fd;
  void* ptr;
};

using ReadCallback = ssize_t (*)(Session* session, std::int32_t stream_id, std::uint8_t* buffer,
                                 std::size_t size, std::uint32_t* flags, DataSource* source, void* user);

struct DataProvider {
  DataSource source;
  ReadCallback read;
};

struct Info {
  int age;
  int version_number;
  const char* version;
  const char* protocol;
};

using OnBeginHeaders = int (*)(Session* session, const Frame* frame, void* user);
using OnHeader = int (*)(Session* session, const Frame* frame, const std::uint8_t* name,
                         std::size_t name_size, const std::uint8_t* value, std::size_t value_size,
                         std::uint8_t flags, void* user);
using OnDataChunk = int (*)(Session* session, std::uint8_t flags, std::int32_t stream_id,
                            const std::uint8_t* data, std::size_t size, void* user);
using OnFrame = int (*)(Session* session, const Frame* frame, void* user);
using SendData = int (*)(Session* session, Frame* frame, const std::uint8_t* frame_header, std::size_t size,
                         DataSource* source, void* user);
using OnStreamClose = int (*)(Session* session, std::int32_t stream_id, std::uint32_t error, void* user);

inline constexpr int kErrorWouldBlock = -504;    // NGHTTP2_ERR_WOULDBLOCK
inline constexpr int kErrorDeferred = -508;      // NGHTTP2_ERR_DEFERRED
inline constexpr int kErrorTemporal = -521;      // NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
inline constexpr int kErrorNoMemory = -901;      // NGHTTP2_ERR_NOMEM
inline constexpr int kErrorCallback = -902;      // NGHTTP2_ERR_CALLBACK_FAILURE
inline constexpr int kNoFlags = 0;               // NGHTTP2_FLAG_NONE
inline constexpr int kFlagEndStream = 1;         // NGHTTP2_FLAG_END_STREAM
inline constexpr int kFlagAck = 1;               // NGHTTP2_FLAG_ACK
inline constexpr int kDataEnd = 1;               // NGHTTP2_DATA_FLAG_EOF
inline constexpr int kDataNoEndStream = 2;       // NGHTTP2_DATA_FLAG_NO_END_STREAM
inline constexpr int kDataNoCopy = 4;            // NGHTTP2_DATA_FLAG_NO_COPY
inline constexpr int kBorrowedName = 2;          // NGHTTP2_NV_FLAG_NO_COPY_NAME
inline constexpr int kBorrowedValue = 4;         // NGHTTP2_NV_FLAG_NO_COPY_VALUE
inline constexpr int kRequestHeaders = 0;        // NGHTTP2_HCAT_REQUEST
inline constexpr int kFrameData = 0;             // NGHTTP2_DATA
inline constexpr int kFrameHeaders = 1;          // NGHTTP2_HEADERS
inline constexpr int kFrameSettings = 4;         // NGHTTP2_SETTINGS
inline constexpr int kFramePing = 6;             // NGHTTP2_PING
inline constexpr int kFrameGoaway = 7;           // NGHTTP2_GOAWAY
inline constexpr int kNoError = 0;               // NGHTTP2_NO_ERROR
inline constexpr int kCancel = 8;                // NGHTTP2_CANCEL
inline constexpr int kEnhanceYourCalm = 11;      // NGHTTP2_ENHANCE_YOUR_CALM
inline constexpr int kMaxConcurrentStreams = 3;  // NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
inline constexpr int kInitialWindowSize = 4;     // NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
inline constexpr int kMaxHeaderListSize = 6;     // NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
inline constexpr int kNoRfc7540Priorities = 9;   // NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES

// X(name, result, parameters...); the symbol is nghttp2_<name>.
#define DATASENTINEL_NGHTTP2_FUNCTIONS(X)                                                               \
  X(version, Info*, int)                                                                                \
  X(strerror, const char*, int)                                                                         \
  X(session_callbacks_new, int, Callbacks**)                                                            \
  X(session_callbacks_del, void, Callbacks*)                                                            \
  X(session_callbacks_set_on_begin_headers_callback, void, Callbacks*, OnBeginHeaders)                  \
  X(session_callbacks_set_on_header_callback, void, Callbacks*, OnHeader)                               \
  X(session_callbacks_set_on_data_chunk_recv_callback, void, Callbacks*, OnDataChunk)                   \
  X(session_callbacks_set_on_frame_recv_callback, void, Callbacks*, OnFrame)                            \
  X(session_callbacks_set_on_frame_send_callback, void, Callbacks*, OnFrame)                            \
  X(session_callbacks_set_on_stream_close_callback, void, Callbacks*, OnStreamClose)                    \
  X(session_callbacks_set_send_data_callback, void, Callbacks*, SendData)                               \
  X(option_new, int, Option**)                                                                          \
  X(option_del, void, Option*)                                                                          \
  X(option_set_no_auto_window_update, void, Option*, int)                                               \
  X(option_set_no_closed_streams, void, Option*, int)                                                   \
  X(option_set_max_outbound_ack, void, Option*, std::size_t)                                            \
  X(session_server_new2, int, Session**, const Callbacks*, void*, const Option*)                        \
  X(session_del, void, Session*)                                                                        \
  X(session_mem_recv, ssize_t, Session*, const std::uint8_t*, std::size_t)                              \
  X(session_mem_send, ssize_t, Session*, const std::uint8_t**)                                          \
  X(session_want_read, int, Session*)                                                                   \
  X(session_want_write, int, Session*)                                                                  \
  X(session_get_stream_user_data, void*, Session*, std::int32_t)                                        \
  X(session_set_stream_user_data, int, Session*, std::int32_t, void*)                                   \
  X(session_get_last_proc_stream_id, std::int32_t, Session*)                                            \
  X(session_set_local_window_size, int, Session*, std::uint8_t, std::int32_t, std::int32_t)             \
  X(session_consume_connection, int, Session*, std::size_t)                                             \
  X(session_consume_stream, int, Session*, std::int32_t, std::size_t)                                   \
  X(session_resume_data, int, Session*, std::int32_t)                                                   \
  X(submit_settings, int, Session*, std::uint8_t, const SettingsEntry*, std::size_t)                    \
  X(submit_response, int, Session*, std::int32_t, const HeaderField*, std::size_t, const DataProvider*) \
  X(submit_trailer, int, Session*, std::int32_t, const HeaderField*, std::size_t)                       \
  X(submit_rst_stream, int, Session*, std::uint8_t, std::int32_t, std::uint32_t)                        \
  X(submit_goaway, int, Session*, std::uint8_t, std::int32_t, std::uint32_t, const std::uint8_t*,       \
    std::size_t)                                                                                        \
  X(submit_shutdown_notice, int, Session*)

// Absent from older libraries; then null.
#define DATASENTINEL_NGHTTP2_LATER_FUNCTIONS(X) \
  X(option_set_no_rfc9113_leading_and_trailing_ws_validation, void, Option*, int)

/// The library, opened.
class Api {
 public:
  /// Throws Error{unavailable}: it cannot be opened, or lacks a function.
  explicit Api(std::string library_path);

  /// Its name and version, and where it was found.
  [[nodiscard]] std::string describe() const;
  [[nodiscard]] const DynamicLibrary& library() const noexcept { return library_; }

  /// The C functions return 0 or a negative error number. Throws std::bad_alloc or Error{backend_failure}.
  void check(int result) const;

#define DATASENTINEL_NGHTTP2_MEMBER(name, result, ...) result (*name)(__VA_ARGS__) = nullptr;
  DATASENTINEL_NGHTTP2_FUNCTIONS(DATASENTINEL_NGHTTP2_MEMBER)
  DATASENTINEL_NGHTTP2_LATER_FUNCTIONS(DATASENTINEL_NGHTTP2_MEMBER)
#undef DATASENTINEL_NGHTTP2_MEMBER

 private:
  DynamicLibrary library_;
};

/// The name that the loader looks for where no path is known. Its number is that of the ABI.
inline constexpr const char* kLibraryName = "libnghttp2.so.14";

/// Opens the first of these that can be opened. Throws Error{unavailable} that says why none can be.
[[nodiscard]] std::shared_ptr<const Api> open(const std::vector<std::string>& library_paths = {kLibraryName});

}  // namespace datasentinel::nghttp2
