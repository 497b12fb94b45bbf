// Our declarations of libnghttp2's C interface against the official header: the compiler compares them.

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <type_traits>

#include "check.h"
#include "core/error.h"
#include "wire/grpc/nghttp2_api.h"

namespace datasentinel::nghttp2 {
namespace {

/// Whether two types are passed alike: both pointers, or numbers of the same size and sign.
template <typename Ours, typename Theirs>
constexpr bool passed_alike() {
  if constexpr (std::is_void_v<Ours> || std::is_void_v<Theirs>) {
    return std::is_void_v<Ours> && std::is_void_v<Theirs>;
  } else if constexpr (std::is_pointer_v<Ours> || std::is_pointer_v<Theirs>) {
    return std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>;
  } else {
    return sizeof(Ours) == sizeof(Theirs) && std::is_signed_v<Ours> == std::is_signed_v<Theirs>;
  }
}

template <typename Ours, typename Theirs>
struct CalledAlike : std::false_type {};

template <typename OurResult, typename... Ours, typename TheirResult, typename... Theirs>
struct CalledAlike<OurResult (*)(Ours...), TheirResult (*)(Theirs...)>
    : std::bool_constant<sizeof...(Ours) == sizeof...(Theirs) && passed_alike<OurResult, TheirResult>() &&
                         [] {
                           if constexpr (sizeof...(Ours) == sizeof...(Theirs)) {
                             return (passed_alike<Ours, Theirs>() && ...);
                           }
                           return false;
                         }()> {};

#define CHECK_FUNCTION(name, result, ...)                                                 \
  static_assert(CalledAlike<result (*)(__VA_ARGS__), decltype(&::nghttp2_##name)>::value, \
                "nghttp2_" #name " is declared otherwise");
DATASENTINEL_NGHTTP2_FUNCTIONS(CHECK_FUNCTION)
#if NGHTTP2_VERSION_NUM >= 0x013200
DATASENTINEL_NGHTTP2_LATER_FUNCTIONS(CHECK_FUNCTION)
#endif

static_assert(CalledAlike<OnBeginHeaders, nghttp2_on_begin_headers_callback>::value);
static_assert(CalledAlike<OnHeader, nghttp2_on_header_callback>::value);
static_assert(CalledAlike<OnDataChunk, nghttp2_on_data_chunk_recv_callback>::value);
static_assert(CalledAlike<SendData, nghttp2_send_data_callback>::value);
static_assert(CalledAlike<OnFrame, nghttp2_on_frame_recv_callback>::value);
static_assert(CalledAlike<OnFrame, nghttp2_on_frame_send_callback>::value);
static_assert(CalledAlike<OnStreamClose, nghttp2_on_stream_close_callback>::value);
static_assert(CalledAlike<ReadCallback, nghttp2_data_source_read_callback>::value);

#define CHECK_MEMBER(Ours, ours, Theirs, theirs)                    \
  static_assert(offsetof(Ours, ours) == offsetof(Theirs, theirs) && \
                sizeof(Ours::ours) == sizeof(Theirs::theirs))

CHECK_MEMBER(HeaderField, name, nghttp2_nv, name);
CHECK_MEMBER(HeaderField, value, nghttp2_nv, value);
CHECK_MEMBER(HeaderField, name_size, nghttp2_nv, namelen);
CHECK_MEMBER(HeaderField, value_size, nghttp2_nv, valuelen);
CHECK_MEMBER(HeaderField, flags, nghttp2_nv, flags);
static_assert(sizeof(HeaderField) == sizeof(nghttp2_nv));
CHECK_MEMBER(SettingsEntry, id, nghttp2_settings_entry, settings_id);
CHECK_MEMBER(SettingsEntry, value, nghttp2_settings_entry, value);
static_assert(sizeof(SettingsEntry) == sizeof(nghttp2_settings_entry));
CHECK_MEMBER(FrameHeader, length, nghttp2_frame_hd, length);
CHECK_MEMBER(FrameHeader, stream_id, nghttp2_frame_hd, stream_id);
CHECK_MEMBER(FrameHeader, type, nghttp2_frame_hd, type);
CHECK_MEMBER(FrameHeader, flags, nghttp2_frame_hd, flags);
CHECK_MEMBER(HeadersFrame, hd, nghttp2_headers, hd);
CHECK_MEMBER(HeadersFrame, category, nghttp2_headers, cat);
CHECK_MEMBER(DataSource, ptr, nghttp2_data_source, ptr);
static_assert(sizeof(DataSource) == sizeof(nghttp2_data_source));
CHECK_MEMBER(DataProvider, source, nghttp2_data_provider, source);
CHECK_MEMBER(DataProvider, read, nghttp2_data_provider, read_callback);
CHECK_MEMBER(Info, version, nghttp2_info, version_str);

static_assert(kErrorDeferred == NGHTTP2_ERR_DEFERRED);
static_assert(kErrorTemporal == NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE);
static_assert(kErrorNoMemory == NGHTTP2_ERR_NOMEM);
static_assert(kErrorCallback == NGHTTP2_ERR_CALLBACK_FAILURE);
static_assert(kNoFlags == NGHTTP2_FLAG_NONE);
static_assert(kFlagEndStream == NGHTTP2_FLAG_END_STREAM);
static_assert(kFlagAck == NGHTTP2_FLAG_ACK);
static_assert(kErrorWouldBlock == NGHTTP2_ERR_WOULDBLOCK);
static_assert(kDataNoCopy == NGHTTP2_DATA_FLAG_NO_COPY);
static_assert(kDataEnd == NGHTTP2_DATA_FLAG_EOF);
static_assert(kDataNoEndStream == NGHTTP2_DATA_FLAG_NO_END_STREAM);
static_assert(kBorrowedName == NGHTTP2_NV_FLAG_NO_COPY_NAME);
static_assert(kBorrowedValue == NGHTTP2_NV_FLAG_NO_COPY_VALUE);
static_assert(kRequestHeaders == NGHTTP2_HCAT_REQUEST);
static_assert(kFrameData == NGHTTP2_DATA);
static_assert(kFrameHeaders == NGHTTP2_HEADERS);
static_assert(kFrameSettings == NGHTTP2_SETTINGS);
static_assert(kFramePing == NGHTTP2_PING);
static_assert(kFrameGoaway == NGHTTP2_GOAWAY);
static_assert(kNoError == NGHTTP2_NO_ERROR);
static_assert(kCancel == NGHTTP2_CANCEL);
static_assert(kEnhanceYourCalm == NGHTTP2_ENHANCE_YOUR_CALM);
static_assert(kMaxConcurrentStreams == NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
static_assert(kInitialWindowSize == NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE);
static_assert(kMaxHeaderListSize == NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE);
static_assert(kNoRfc7540Priorities == NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES);

void says_why_it_cannot_be_opened() {
  CHECK_THROWS_WITH(ErrorCode::unavailable, "libnothing.so.14", open({"libnothing.so.14"}));
  CHECK_THROWS_WITH(ErrorCode::unavailable, "nghttp2_version", open({"libm.so.6"}));
  CHECK(open({"libnothing.so.14", kLibraryName})->describe().find(NGHTTP2_VERSION) != std::string::npos);
}

}  // namespace
}  // namespace datasentinel::nghttp2

int main() {
  datasentinel::nghttp2::says_why_it_cannot_be_opened();
  return datasentinel::check::result();
}
