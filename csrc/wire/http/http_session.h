#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "serving/inference_service.h"
#include "serving/memory_budget.h"
#include "serving/request_counts.h"
#include "serving/turn.h"
#include "wire/http/http_head.h"
#include "wire/http/infer_path.h"
#include "wire/http/rest_reply.h"
#include "wire/http/rest_request.h"
#include "wire/input_buffer.h"
#include "wire/session.h"

namespace datasentinel {

struct HttpLimits {
  std::size_t max_header_bytes = std::size_t{16} << 10;
  std::size_t max_body_bytes = std::size_t{16} << 20;        ///< Of a request for inference.
  std::size_t max_other_body_bytes = std::size_t{64} << 10;  ///< Of any other.
  std::size_t max_rows = std::size_t{1} << 20;               ///< Of one request.
  std::chrono::microseconds turn = Turn::kLength;            ///< How long one `feed` may work.
};

/// Whether a request with this `Authorization` header, or none, may pass.
using Authorize = std::function<bool(std::optional<std::string_view>)>;

/// What all HTTP connections of one server share.
struct HttpService {
  std::shared_ptr<InferenceService> inference;
  std::shared_ptr<RequestCounts> counts;
  HttpLimits limits = {};
  std::string server = {};   ///< For the replies' `Server` field.
  Authorize authorize = {};  ///< Without it, everybody may pass.
};

/// A request that the session leaves to its owner, who answers with `respond`. One for inference whose body
/// is compressed, or that a browser sends, is handed back with `deliver` instead, unless it is refused.
struct HttpEvent {
  bool is_inference = false;  ///< Its `body` is compressed as `content-encoding` says, or stays here.
  std::string method = {};
  std::string target = {};
  std::vector<std::pair<std::string, std::string>> fields = {};
  std::string body = {};
};

/// One HTTP/1.1 connection: bytes in, reply bytes out, no sockets.
///
/// It reads every request, and answers those for inference of the Open Inference Protocol, off the event loop
/// where that takes long; it leaves the others to its owner. Pipelined requests are answered one after the
/// other, in turns; replies are written in pieces.
///
/// One thread at a time.
class HttpSession final : public WireSession {
 public:
  /// Throws Error{invalid_argument} for a service without inference or counts.
  explicit HttpSession(std::shared_ptr<const HttpService> service);
  ~HttpSession() override;

  void feed(std::string_view bytes, std::string& out) override;

  /// Half a request is refused, whole ones are still answered.
  void finish(std::string& out) override;

  /// Says with the next reply that it is the last one.
  void drain() noexcept { draining_ = true; }

  /// The request to be answered by the owner, once.
  [[nodiscard]] HttpEvent take_event() {
    asking_ = false;
    return std::exchange(event_, {});
  }
  [[nodiscard]] bool has_event() const noexcept override { return asking_; }

  /// Answers it; the rest of the turn is `feed`'s. `fields` are lines of the head, each with its end.
  void respond(int status, std::string_view fields, std::string body);

  /// Hands back a piece of the body, decompressed, of a request for inference.
  void deliver(std::string_view piece, bool is_last);

  /// A fault of ours, for the log; empty without one.
  [[nodiscard]] std::string take_failure() { return std::exchange(failure_, {}); }
  [[nodiscard]] bool needs_attention() const noexcept override { return !failure_.empty(); }

  [[nodiscard]] bool closed() const noexcept override { return state_ == State::closed; }
  [[nodiscard]] bool unfinished() const noexcept override { return unfinished_; }
  /// A request is being answered: by the queue, whose end `InferenceService::collect` tells, or by the owner.
  [[nodiscard]] bool waiting() const noexcept override {
    return state_ == State::queued || state_ == State::asked;
  }
  [[nodiscard]] bool mid_message() const noexcept override {
    return state_ == State::body || state_ == State::chunks || state_ == State::skip ||
           (state_ == State::head && !input_.empty());
  }

 private:
  enum class State : std::uint8_t {
    head,    ///< A request's head is read,
    body,    ///< or its body,
    chunks,  ///< or its body in chunks,
    skip,    ///< or a body that nobody needs.
    asked,   ///< The owner is to answer,
    queued,  ///< or the queue.
    reply,   ///< A reply is written.
    closed,
  };

  /// Bytes of a body that a step moves at most; a buffer of no more is kept for the next request.
  static constexpr std::size_t kMaxStepBytes = std::size_t{16} << 10;

  // Reading, http_session.cpp.
  void work();
  [[nodiscard]] bool step();
  [[nodiscard]] bool take_head();
  void begin(const HttpHead& head);
  [[nodiscard]] bool take_body();
  [[nodiscard]] bool take_chunks();
  [[nodiscard]] bool skip_body();
  [[nodiscard]] bool make_room(std::size_t bytes);

  // Answering and writing, http_answers.cpp.
  void dispatch(std::string_view body);
  void infer(std::string_view body);
  [[nodiscard]] bool is_long(const ServedModel& model, std::size_t body_bytes) const;
  void submit(std::unique_ptr<RestRequest> request);
  void on_scored(std::unique_ptr<ScoringJob> job) override;
  void answer(std::unique_ptr<RestRequest> request);
  void refuse(const HttpProblem& problem);
  void reply_error(int status, std::string_view reason, std::string_view fields = {});
  void begin_reply(int status, std::string_view fields, std::optional<std::size_t> body_bytes);
  void write_reply();
  void end_reply();
  void count(int status, std::size_t rows, std::size_t anomalies);

  std::shared_ptr<const HttpService> service_;
  State state_ = State::head;
  bool unfinished_ = false;
  bool ended_ = false;  ///< The peer will send no more.
  bool draining_ = false;
  InputBuffer input_;
  std::size_t searched_ = 0;     ///< So many bytes of the input hold no end of a head.
  std::size_t blank_bytes_ = 0;  ///< Of empty lines since the last head.
  MemoryCharge memory_;

  std::string out_;
  std::string failure_;

  // The request at hand.
  HttpHead head_;    ///< Only while it is read; it keeps its memory.
  HttpEvent event_;  ///< What the owner is asked.
  bool asking_ = false;
  std::size_t bytes_in_use_ = 0;  ///< Of the input, while they are its body.
  std::size_t owners_bytes_ = 0;  ///< Of a body for inference, held by the owner.
  bool is_inference_ = false;
  bool is_compressed_ = false;  ///< The body of a request for inference.
  bool without_body_ = false;   ///< HEAD: its reply has none.
  bool keep_alive_ = true;
  bool old_ = false;  ///< HTTP/1.0, in which no reply is chunked.
  InferPath model_;   ///< Of a request for inference.
  std::optional<std::size_t> json_bytes_;
  std::size_t max_body_bytes_ = 0;
  std::size_t body_bytes_ = 0;  ///< Announced, or still to be skipped.
  ChunkedBody chunks_;
  std::string body_;
  Turn::Clock::time_point started_;
  std::shared_ptr<std::atomic<bool>> cancelled_;

  // Its reply.
  std::unique_ptr<RestReply> reply_;
  std::string reply_body_;
  std::size_t replied_ = 0;
  bool reply_chunked_ = false;
};

}  // namespace datasentinel
