// gRPC over a real scorer and a real HTTP/2 client: what is answered, however the bytes are cut.

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "grpc_messages.h"
#include "http2_client.h"
#include "sum_session.h"
#include "wire/grpc/grpc_session.h"

namespace datasentinel {
namespace {

/// The sum of a row, as a device would compute it: off the event loop, and not before it is let go.
class DeviceSession final : public Session {
 public:
  [[nodiscard]] std::size_t input_dim() const noexcept override { return sum_.input_dim(); }
  [[nodiscard]] std::string_view backend() const noexcept override { return "device"; }
  [[nodiscard]] Facts facts() const override { return {}; }
  [[nodiscard]] bool on_device(std::size_t /*rows*/) const noexcept override { return true; }
  void run(ConstRows rows, Outputs outputs) override {
    running = true;
    while (held) std::this_thread::yield();
    sum_.run(rows, outputs);
  }

  std::atomic<bool> held{false};
  std::atomic<bool> running{false};

 private:
  SumSession sum_{3};
};

/// A server with a model of three columns (an anomaly above 10), and one client.
struct Wire {
  explicit Wire(GrpcLimits limits = {}, QueueLimits queue = {}, std::shared_ptr<Session> session = nullptr,
                std::uint32_t window = 65535)
      : client(window) {
    if (session == nullptr) session = std::make_shared<SumSession>(3);
    models->put("sum", "1", std::make_shared<Scorer>(std::move(session), 10.0));
    inference =
        std::make_shared<InferenceService>(models, ServiceLimits{}, queue, [this] { wakes.fetch_add(1); });
    service = std::make_shared<GrpcService>(
        test_nghttp2(), inference, std::make_shared<RequestCounts>(std::vector<double>{1e-3, 1.0}), limits);
    server = std::make_unique<GrpcSession>(service);
  }

  /// Carries bytes both ways until both are silent; what the client says is cut into pieces of `piece` bytes.
  void exchange(std::size_t piece = std::string::npos) {
    for (bool moved = true; moved;) {
      moved = false;
      std::string replies;
      server->take_output(replies);
      const std::string bytes = client.outgoing();
      for (std::size_t at = 0; at < bytes.size(); at += std::min(piece, bytes.size())) {
        server->feed(std::string_view(bytes).substr(at, piece), replies);
      }
      while (server->unfinished() && !server->closed()) server->feed({}, replies);
      moved = !bytes.empty() || !replies.empty();
      CHECK(client.incoming(replies));
    }
  }

  /// Waits for the queue to have scored something, and takes it.
  void collect() {
    const int seen = collected;
    while (wakes.load() == seen) std::this_thread::yield();
    collected = wakes.load();
    for (const auto number : inference->collect()) CHECK(number == server->number());
    exchange();
  }

  std::shared_ptr<ModelTable> models = std::make_shared<ModelTable>();
  std::atomic<int> wakes{0};
  int collected = 0;
  std::shared_ptr<InferenceService> inference;
  std::shared_ptr<GrpcService> service;
  std::unique_ptr<GrpcSession> server;
  Http2Client client;
};

/// The one message of a response.
std::string message_of(const Http2Client::Response& response) {
  return response.data.size() < 5 ? std::string("none") : response.data.substr(5);
}

std::string evaluated(std::uint64_t status, double score, double threshold = 10) {
  std::string message;
  protobuf::Writer writer(message);
  writer.varint_field(1, status);
  if (score != 0) writer.double_field(2, score);
  writer.double_field(6, static_cast<double>(static_cast<float>(score / threshold)));
  return message;
}

void evaluates_rows() {
  Wire wire;
  const auto normal = wire.client.call(kEvaluate, framed(evaluate_message({1, 2, 3})));
  const auto anomaly = wire.client.call(kEvaluate, framed(evaluate_message({4, 5, 6})));
  const auto narrow = wire.client.call(kEvaluate, framed(evaluate_message({1, 2})));
  const auto broken = wire.client.call(kEvaluate, framed("\xff\xff"));
  const auto wrong = wire.client.call(kEvaluate, framed(evaluate_message({1, std::nanf(""), 3})));
  wire.exchange();
  CHECK(wire.client.response(normal).status() == "0");
  CHECK(wire.client.response(normal).headers.at(":status") == "200");
  CHECK(wire.client.response(normal).closed && wire.client.response(normal).error == 0);
  CHECK(message_of(wire.client.response(normal)) == evaluated(1, 6));
  CHECK(message_of(wire.client.response(anomaly)) == evaluated(2, 15));
  CHECK(message_of(wire.client.response(narrow)).ends_with("expected 3 values per row, got 2"));
  CHECK(message_of(wire.client.response(wrong)).ends_with("non-finite value at row 0, column 1"));
  CHECK(wire.client.response(broken).status() == "3");
  const auto counts = wire.service->counts().take();
  CHECK(counts.requests == 5 && counts.rows == 2 && counts.anomalies == 1 && counts.errors.at(3) == 3);
  CHECK(wire.server->open_calls() == 0 && !wire.server->closed());
}

void infers_what_is_asked_for() {
  Wire wire;
  const std::vector<float> rows{1, 2, 3, 4, 5, 6};
  const InferMessage raw{.id = "abc", .shape = {2, 3}, .values = rows};
  const auto both = wire.client.call(kInfer, framed(raw.encode()));
  InferMessage only = raw;
  only.raw = false;
  only.outputs = {"output"};
  const auto output = wire.client.call(kInfer, framed(only.encode()));
  wire.exchange();

  const std::string answer = message_of(wire.client.response(both));
  const std::vector<float> sums{6, 15};
  CHECK(answer.find("sum") != std::string::npos && answer.find("abc") != std::string::npos);
  CHECK(answer.ends_with(std::string("\x32\x02\x00\x01", 4)));  // raw_output_contents of `anomaly`
  CHECK(answer.find(std::string_view(reinterpret_cast<const char*>(sums.data()), 8)) != std::string::npos);

  const std::string echoed = message_of(wire.client.response(output));
  CHECK(echoed.ends_with(std::string_view(reinterpret_cast<const char*>(rows.data()), 24)));
  CHECK(echoed.find("score") == std::string::npos);
}

void says_what_is_wrong_with_a_request() {
  Wire wire({.max_rows = 4});
  const std::vector<float> row{1, 2, 3};
  const auto problem = [&](const InferMessage& message) {
    const auto id = wire.client.call(kInfer, framed(message.encode()));
    wire.exchange();
    return wire.client.response(id).status() + " " + wire.client.response(id).message();
  };
  CHECK(problem({.shape = {1, 3}, .values = row}) == "0 ");
  CHECK(problem({.model = "x", .shape = {1, 3}, .values = row}) == "5 unknown model 'x'");
  CHECK(problem({.model = "sum", .version = "2", .shape = {1, 3}, .values = row}) ==
        "5 unknown model 'sum', version '2'");
  CHECK(problem({.input = "x\n", .shape = {1, 3}, .values = row}) ==
        "3 unknown input 'x?'; this model has one input, 'input'");
  CHECK(problem({.datatype = "FP64", .shape = {1, 3}, .values = row}) ==
        "3 input 'input': expected datatype FP32, got 'FP64'");
  CHECK(problem({.shape = {3}, .values = row}) ==
        "3 input 'input': expected shape [N, 3], got one of rank 1");
  CHECK(problem({.shape = {1, 2}, .values = row}) == "3 input 'input': expected shape [N, 3], got [1, 2]");
  CHECK(problem({.shape = {2, 3}, .values = row}) ==
        "3 input 'input': its shape needs 24 bytes of raw_input_contents, got 12");
  CHECK(problem({.shape = {2, 3}, .values = row, .raw = false}) ==
        "3 input 'input': its shape needs 6 values of fp32_contents, got 3");
  CHECK(problem({.shape = {5, 3}, .values = row}) == "3 input 'input': at most 4 rows a request, got 5");
  CHECK(problem({.shape = {~0ULL, 3}, .values = row}) ==
        "3 input 'input': expected shape [N, 3], got [-1, 3]");
  CHECK(problem({.shape = {1, 3}, .values = {1, 2, std::numeric_limits<float>::infinity()}}) ==
        "3 input 'input': non-finite value at row 0, column 2");
  CHECK(problem({.shape = {1, 3}, .values = row, .outputs = {"mse"}}).starts_with("3 unknown output 'mse'"));
  CHECK(problem({.shape = {1, 3}, .values = row, .outputs = {"score", "score"}}) ==
        "3 output 'score' is asked for twice");
  CHECK(problem({.id = "\xff", .shape = {1, 3}, .values = row}).starts_with("3 the message is not a valid"));
  CHECK(problem({.shape = {0, 3}}) == "0 ");
}

void answers_alike_however_the_bytes_are_cut() {
  for (std::size_t piece = 1; piece < 40; ++piece) {
    Wire wire;
    std::vector<std::int32_t> calls;
    for (int i = 0; i < 12; ++i) {
      const auto value = static_cast<float>(i);
      calls.push_back(wire.client.call(kEvaluate, framed(evaluate_message({value, 0, 0}))));
    }
    wire.exchange(piece);
    for (std::size_t i = 0; i < calls.size(); ++i) {
      CHECK(message_of(wire.client.response(calls[i])) == evaluated(i > 10 ? 2 : 1, static_cast<double>(i)));
    }
  }
}

void a_large_request_comes_back_whole() {
  Wire wire;
  std::vector<float> rows(3 * 20000);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
  const auto id = wire.client.call(
      kInfer, framed(InferMessage{.shape = {20000, 3}, .values = rows, .outputs = {"output"}}.encode()));
  for (int i = 0; i < 50 && !wire.client.response(id).closed; ++i) wire.exchange();
  const std::string answer = message_of(wire.client.response(id));
  CHECK(answer.ends_with(
      std::string_view(reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(float))));
}

void a_stream_answers_in_order() {
  Wire wire;
  const auto id = wire.client.call(kStreamInfer, {}, {}, false);
  std::string requests;
  for (float i = 0; i < 5; ++i) {
    requests += framed(InferMessage{.id = std::to_string(static_cast<int>(i)),
                                    .shape = {1, 3},
                                    .values = {i, i == 3 ? std::nanf("") : 0, 0}}
                           .encode());
  }
  wire.client.push(id, requests, false);
  wire.exchange();
  const std::string& data = wire.client.response(id).data;
  std::size_t last = 0;
  for (const char* name : {"\x1a\x01"
                           "0",
                           "\x1a\x01"
                           "1",
                           "\x1a\x01"
                           "2",
                           "non-finite",
                           "\x1a\x01"
                           "4"}) {
    const std::size_t found = data.find(name);
    CHECK(found != std::string::npos && found > last);
    last = found;
  }
  CHECK(!wire.client.response(id).closed && wire.server->open_calls() == 1);
  wire.client.push(id, {}, true);
  wire.exchange();
  CHECK(wire.client.response(id).status() == "0" && wire.server->open_calls() == 0);
}

/// An EvaluateBatchResponse.
std::string evaluated_batch(std::uint64_t id, const std::vector<float>& scores, std::string_view statuses) {
  std::string message;
  protobuf::Writer writer(message);
  writer.varint_field(1, id);
  writer.begin_bytes(2, scores.size() * sizeof(float));
  writer.raw(scores.data(), scores.size() * sizeof(float));
  writer.bytes_field(3, statuses);
  writer.begin_bytes(5, scores.size() * sizeof(float));
  for (const float score : scores) {
    const auto severity = static_cast<float>(static_cast<double>(score) / 10);
    writer.raw(&severity, sizeof severity);
  }
  return message;
}

void a_model_whose_threshold_is_not_above_0_has_no_severity() {
  Wire wire;
  wire.models->put("sum", "1", std::make_shared<Scorer>(std::make_shared<SumSession>(3), -1.0));
  const InferMessage asked{.shape = {1, 3}, .values = {1, 2, 3}, .outputs = {"score", "severity"}};
  const auto refused = wire.client.call(kInfer, framed(asked.encode()));
  const auto one = wire.client.call(kEvaluate, framed(evaluate_message({1, 2, 3})));
  const auto batch = wire.client.call(kEvaluateBatch, framed(batch_message(0, 1, {1, 2, 3})));
  wire.exchange();
  CHECK(wire.client.response(refused).status() == "3");
  CHECK(wire.client.response(refused).message().starts_with("output 'severity' is the score over"));
  std::string expected;
  protobuf::Writer(expected).varint_field(1, 2);
  protobuf::Writer(expected).double_field(2, 6);
  CHECK(message_of(wire.client.response(one)) == expected);
  expected = {};
  const float score = 6;
  protobuf::Writer(expected).bytes_field(2, {reinterpret_cast<const char*>(&score), sizeof score});
  protobuf::Writer(expected).bytes_field(3, "\2");
  CHECK(message_of(wire.client.response(batch)) == expected);
}

void evaluates_batches() {
  Wire wire;
  const auto raw = wire.client.call(kEvaluateBatch, framed(batch_message(7, 2, {1, 2, 3, 4, 5, 6})));
  const auto packed = wire.client.call(kEvaluateBatch, framed(batch_message(8, 1, {1, 2, 3}, false)));
  const auto wrong = wire.client.call(kEvaluateBatch, framed(batch_message(9, 2, {1, 2, 3})));
  const auto stream =
      wire.client.call(kEvaluateStream, framed(batch_message(1, 1, {1, 1, 1})) + framed("\xff") +
                                            framed(batch_message(3, 1, {9, 9, 9})));
  wire.exchange();
  CHECK(message_of(wire.client.response(raw)) == evaluated_batch(7, {6, 15}, "\1\2"));
  CHECK(message_of(wire.client.response(packed)) == evaluated_batch(8, {6}, "\1"));
  CHECK(message_of(wire.client.response(wrong))
            .ends_with("2 rows of 3 values need 24 bytes of raw_values, got 12"));
  const std::string& data = wire.client.response(stream).data;
  CHECK(data.starts_with(framed(evaluated_batch(1, {3}, "\1"))));
  CHECK(data.ends_with(framed(evaluated_batch(3, {27}, "\2"))));
  CHECK(data.find("not a valid EvaluateBatchRequest") != std::string::npos);
  CHECK(wire.client.response(stream).status() == "0");
}

void limits_end_a_call_not_the_connection() {
  Wire wire({.max_message_bytes = 100, .max_header_bytes = 1000});
  const auto long_message = wire.client.call(kInfer, framed(std::string(101, 'x')));
  const auto long_headers = wire.client.call(kInfer, {}, {{"x", std::string(1000, 'x')}});
  const auto unknown_encoding = wire.client.call(kInfer, framed("x"), {{"grpc-encoding", "br"}});
  const auto flagged = wire.client.call(kInfer, framed("x", true));
  const auto two = wire.client.call(kEvaluate, framed("") + framed(""));
  const auto none = wire.client.call(kEvaluate, {});
  const auto cut = wire.client.call(kEvaluate, framed("x").substr(0, 3));
  const auto late =
      wire.client.call(kEvaluate, framed(evaluate_message({1, 2, 3})), {{"grpc-timeout", "0n"}});
  const auto odd = wire.client.call(kEvaluate, framed(""), {{"grpc-timeout", "1x"}});
  const auto good = wire.client.call(kEvaluate, framed(evaluate_message({1, 2, 3})));
  wire.exchange();
  CHECK(wire.client.response(long_message).status() == "8");
  CHECK(wire.client.response(long_headers).status() == "8");
  CHECK(wire.client.response(unknown_encoding).status() == "12");
  CHECK(wire.client.response(unknown_encoding).headers.at("grpc-accept-encoding") == "identity,gzip,deflate");
  CHECK(wire.client.response(flagged).status() == "13");
  CHECK(wire.client.response(two).status() == "3");
  CHECK(wire.client.response(none).status() == "3");
  CHECK(wire.client.response(cut).status() == "3");
  CHECK(wire.client.response(late).status() == "4");
  CHECK(wire.client.response(odd).status() == "3");
  CHECK(message_of(wire.client.response(good)) == evaluated(1, 6));
  CHECK(wire.server->open_calls() == 0);
}

void a_call_waiting_for_its_message_ends_at_its_deadline() {
  Wire wire;
  const auto id = wire.client.call(kEvaluate, "\0", {{"grpc-timeout", "1m"}}, false);
  wire.exchange();
  CHECK(wire.server->needs_attention());
  CHECK(wire.server->next_deadline_s().has_value());
  CHECK(!wire.server->needs_attention());
  while (*wire.server->next_deadline_s() > 0) std::this_thread::yield();
  wire.server->expire();
  wire.exchange();
  CHECK(wire.client.response(id).status() == "4");
  CHECK(!wire.server->next_deadline_s().has_value());
}

void other_methods_go_to_the_owner() {
  Wire wire;
  const auto id = wire.client.call("/a.B/C", framed("ping"), {{"x-key", "value"}});
  wire.exchange();
  auto events = wire.server->take_events();
  CHECK(events.size() == 3);
  CHECK(events[0].kind == GrpcEvent::Kind::call && events[0].text == "/a.B/C" && events[0].call == id);
  CHECK(events[0].metadata.back().first == "x-key" && events[0].metadata.back().second == "value");
  CHECK(events[1].kind == GrpcEvent::Kind::message && events[1].text == "ping");
  CHECK(events[2].kind == GrpcEvent::Kind::end);
  wire.server->reply(id, "pong");
  wire.server->reply(id, "again");
  wire.server->finish_call(id, 9, "50 % done\n");
  wire.exchange();
  CHECK(wire.client.response(id).data == framed("pong") + framed("again"));
  CHECK(wire.client.response(id).status() == "9");
  CHECK(wire.client.response(id).message() == "50 %25 done%0A");

  const auto cancelled = wire.client.call("/a.B/C", {}, {}, false);
  wire.exchange();
  wire.client.cancel(cancelled);
  wire.exchange();
  events = wire.server->take_events();
  CHECK(events.size() == 2 && events[1].kind == GrpcEvent::Kind::cancel);
  wire.server->reply(cancelled, "too late");
  wire.server->finish_call(cancelled, 0, "");
  wire.exchange();
}

std::string contribution_of(std::string_view feature, float contribution) {
  std::string message;
  protobuf::Writer writer(message);
  writer.bytes_field(1, feature);
  writer.float_field(2, contribution);
  writer.float_field(3, contribution);  // The value: it is what SumSession takes for the contribution.
  std::string field;
  protobuf::Writer(field).bytes_field(4, message);
  return field;
}

void reasons_come_greatest_first_and_no_more_than_asked_for() {
  Wire wire;
  const auto two = wire.client.call(kEvaluate, framed(evaluate_message({1, 3, 2}, 2)));
  const auto all = wire.client.call(kEvaluate, framed(evaluate_message({1, 3, 2}, 4'000'000'000)));
  const auto refused = wire.client.call(kEvaluate, framed(evaluate_message({1, 3}, 2)));
  wire.exchange();
  CHECK(wire.server->take_events().empty());
  const std::string greatest = contribution_of("x1", 3) + contribution_of("x2", 2);
  const std::string told = message_of(wire.client.response(two));
  CHECK(told.find(greatest) != std::string::npos && told.find("x0") == std::string::npos);
  CHECK(message_of(wire.client.response(all)).find(greatest + contribution_of("x0", 1)) != std::string::npos);
  CHECK(message_of(wire.client.response(refused)).find("expected 3 values per row, got 2") !=
        std::string::npos);
}

void a_compressed_message_comes_back_inflated() {
  Wire wire;
  const auto id = wire.client.call(kEvaluate, framed("squeezed", true), {{"grpc-encoding", "gzip"}});
  wire.exchange();
  const auto events = wire.server->take_events();
  CHECK(events.size() == 1 && events[0].kind == GrpcEvent::Kind::inflate && events[0].text == "squeezed");
  wire.server->deliver(id, evaluate_message({1, 2, 3}));
  wire.exchange();
  CHECK(message_of(wire.client.response(id)) == evaluated(1, 6));
}

void asks_who_may_pass() {
  Wire wire;
  wire.service = std::make_shared<GrpcService>(
      test_nghttp2(), wire.inference, std::make_shared<RequestCounts>(std::vector<double>{}), GrpcLimits{},
      [](std::string_view path, std::string_view token) {
        if (path != kEvaluate) return GrpcStatus{GrpcCode::unavailable, "not here"};
        return token == "Bearer x" ? GrpcStatus{} : GrpcStatus{GrpcCode::unauthenticated, "who are you?"};
      });
  wire.server = std::make_unique<GrpcSession>(wire.service);
  const auto row = framed(evaluate_message({1, 2, 3}));
  const auto with = wire.client.call(kEvaluate, row, {{"authorization", "Bearer x"}});
  const auto without = wire.client.call(kEvaluate, row);
  const auto other = wire.client.call("/a.B/C", row, {{"authorization", "Bearer x"}});
  wire.exchange();
  CHECK(wire.client.response(with).status() == "0");
  CHECK(wire.client.response(without).status() == "16");
  CHECK(wire.client.response(without).headers.at("grpc-message") == "who are you?");
  CHECK(wire.client.response(other).status() == "14");
  CHECK(wire.server->take_events().empty());
}

void work_for_a_device_leaves_the_loop_and_comes_back() {
  const auto device = std::make_shared<DeviceSession>();
  Wire wire({}, {.max_rows = 4}, device);
  const auto row = [](float value) { return framed(evaluate_message({value, 0, 0})); };
  device->held = true;
  const auto first = wire.client.call(kEvaluate, row(1));
  wire.exchange();
  while (!device->running) std::this_thread::yield();
  std::vector<std::int32_t> calls;
  for (float i = 2; i < 7; ++i) calls.push_back(wire.client.call(kEvaluate, row(i)));
  wire.exchange();
  CHECK(!wire.client.response(first).closed);
  CHECK(wire.client.response(calls[3]).status() == "8" && wire.client.response(calls[4]).status() == "8");
  wire.client.cancel(calls[1]);
  wire.exchange();
  device->held = false;
  while (wire.server->open_calls() != 0) wire.collect();
  CHECK(message_of(wire.client.response(first)) == evaluated(1, 1));
  CHECK(message_of(wire.client.response(calls[0])) == evaluated(1, 2));
  CHECK(wire.client.response(calls[1]).data.empty());
  CHECK(message_of(wire.client.response(calls[2])) == evaluated(1, 4));
  CHECK(wire.inference->queue().depth_rows() == 0);

  // Four jobs were accepted; those behind the first one waited, the cancelled one and the refused ones do not
  // count for the model.
  const Histogram::Values waits = wire.inference->queue().waits_s().values();
  CHECK(std::accumulate(waits.counts.begin(), waits.counts.end(), std::uint64_t{0}) == 4);
  const auto statistics = wire.models->find("", "")->statistics->values();
  CHECK(statistics.successes == 3);
  CHECK(statistics.queue_ns > 0 && statistics.queue_ns <= statistics.success_ns);
  CHECK(waits.sum >= static_cast<double>(statistics.queue_ns) * 1e-9);

  device->held = true;
  const auto orphan = wire.client.call(kEvaluate, row(1));
  wire.exchange();
  CHECK(!wire.client.response(orphan).closed);
  wire.server.reset();  // The connection goes while its row is being scored.
  device->held = false;
  while (wire.wakes.load() == wire.collected) std::this_thread::yield();
  CHECK(wire.inference->collect().empty());
}

void replies_wait_for_a_reader_who_is_slow() {
  Wire wire({}, {}, nullptr, 0);
  const auto id = wire.client.call(kEvaluate, framed(evaluate_message({1, 2, 3})));
  wire.exchange();
  CHECK(wire.client.response(id).data.empty() && wire.server->open_calls() == 1);
  wire.client.open_window(id, 1000);
  wire.exchange();
  CHECK(message_of(wire.client.response(id)) == evaluated(1, 6));
  CHECK(wire.server->open_calls() == 0);
}

void drains_without_losing_a_call() {
  Wire wire;
  const auto open = wire.client.call(kEvaluate, {}, {}, false);
  const auto stream = wire.client.call(kEvaluateStream, framed(batch_message(1, 1, {1, 2, 3})), {}, false);
  wire.exchange();
  wire.server->drain();
  wire.exchange();
  wire.server->drain();
  wire.exchange();
  CHECK(wire.client.goaways() == 2 && wire.server->open_calls() == 1);
  CHECK(wire.client.response(stream).data == framed(evaluated_batch(1, {6}, "\1")));
  CHECK(wire.client.response(stream).status() == "14");
  wire.client.push(open, framed(evaluate_message({1, 2, 3})), true);
  wire.exchange();
  CHECK(message_of(wire.client.response(open)) == evaluated(1, 6));
  CHECK(wire.server->open_calls() == 0);
}

/// A frame as a client's library would not send it.
std::string raw_frame(int type, int flags, std::int32_t stream, const std::string& payload = {}) {
  std::string bytes;
  for (const int shift : {16, 8, 0}) bytes += static_cast<char>(payload.size() >> shift);
  bytes += static_cast<char>(type);
  bytes += static_cast<char>(flags);
  for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(stream >> shift);
  return bytes + payload;
}

/// Sends the frame so many times, or until the connection ends.
void flood(Wire& wire, const std::string& frame, int times) {
  std::string replies;
  for (int i = 0; i < times && !wire.server->closed(); ++i) {
    wire.server->feed(frame, replies);
    while (wire.server->unfinished() && !wire.server->closed()) wire.server->feed({}, replies);
  }
  CHECK(wire.client.incoming(replies));
}

void a_flood_of_frames_that_ask_for_nothing_ends_the_connection() {
  const std::string one(1, '\1');
  const std::string increment("\0\0\0\1", 4);
  const std::pair<const char*, std::string> floods[] = {
      {"empty DATA", raw_frame(0, 0, 1)},
      {"DATA of padding", raw_frame(0, 8, 1, std::string(1, '\xFF') + std::string(255, '\0'))},
      {"DATA on a stream that is closed", raw_frame(0, 0, 3, one)},
      {"PRIORITY", raw_frame(2, 0, 1, increment + one)},
      {"RST_STREAM", raw_frame(3, 0, 3, increment)},
      {"SETTINGS", raw_frame(4, 0, 0)},
      {"PING", raw_frame(6, 0, 0, std::string(8, '\0'))},
      {"answers to PING", raw_frame(6, 1, 0, std::string(8, '\0'))},
      {"WINDOW_UPDATE", raw_frame(8, 0, 0, increment)},
      {"WINDOW_UPDATE on a stream that is closed", raw_frame(8, 0, 3, increment)},
      {"PRIORITY_UPDATE", raw_frame(16, 0, 0, increment + "u=1")},
      {"a type that nobody knows", raw_frame(0x77, 0, 0, "x")},
  };
  for (const auto& [what, frame] : floods) {
    Wire wire;
    CHECK(wire.client.call(kEvaluateStream, {}, {}, false) == 1);
    CHECK(wire.client.call(kEvaluate, framed(evaluate_message({1, 2, 3}))) == 3);
    wire.exchange();
    flood(wire, frame, 50);
    wire.exchange();
    CHECK(!wire.server->closed() && wire.server->open_calls() == 1);
    flood(wire, frame, 1'000'000);
    if (!wire.server->closed()) check::fail(__FILE__, __LINE__, what);
  }
  Wire resets;
  for (int i = 0; i < 5000 && !resets.server->closed(); ++i) {
    const auto id = resets.client.call(kEvaluate, {}, {}, i % 2 == 0);
    resets.exchange(9);
    resets.client.cancel(id);
    resets.exchange();
  }
  CHECK(resets.server->closed());
}

void what_was_on_its_way_to_calls_that_have_ended_ends_no_connection() {
  Wire wire;
  std::vector<std::int32_t> calls(8);
  for (auto& id : calls) {
    id = wire.client.call(kEvaluateStream, framed(batch_message(1, 1, {1, 2, 3})), {}, false);
  }
  wire.exchange();
  CHECK(wire.server->open_calls() == calls.size());
  for (const auto id : calls) wire.server->finish_call(id, 14, "the server is draining");
  const std::string late = framed(batch_message(2, 1, {1, 2, 3}));
  const auto window = static_cast<std::size_t>(Http2Limits().connection_window_bytes);
  for (std::size_t sent = 0; sent + calls.size() * late.size() <= window;) {
    std::string frames, replies;
    for (const auto id : calls) frames += raw_frame(0, 0, id, late);
    sent += calls.size() * late.size();
    wire.server->feed(frames, replies);
    CHECK(wire.client.incoming(replies));
  }
  wire.exchange();
  CHECK(!wire.server->closed() && wire.client.goaways() == 0);
}

void many_small_messages_end_no_connection() {
  Wire wire;
  const auto id = wire.client.call(kEvaluateStream, {}, {}, false);
  for (int i = 0; i < 20'000; ++i) {
    wire.client.push(id, framed(batch_message(1, 1, {1, 2, 3})), false);
    wire.client.open_window(0, 64);  // Other clients do so for every message that they read.
    wire.client.open_window(id, 64);
    wire.client.ping();
    wire.exchange();
  }
  CHECK(!wire.server->closed() && wire.client.goaways() == 0);
}

void a_large_message_in_small_frames_ends_no_connection() {
  constexpr std::size_t kRows = 250'000;
  Wire wire;
  const auto id = wire.client.call(kEvaluateBatch, {}, {}, false);
  wire.exchange();
  const std::string message = framed(batch_message(1, kRows, std::vector<float>(3 * kRows, 1.0F)));
  for (std::size_t at = 0; at < message.size();) {
    std::string frames, replies;
    for (; frames.size() < 64 << 10 && at < message.size(); at += 8) {
      frames += raw_frame(0, at + 8 >= message.size() ? 1 : 0, id, message.substr(at, 8));
    }
    wire.server->feed(frames, replies);
    while (wire.server->unfinished() && !wire.server->closed()) wire.server->feed({}, replies);
    CHECK(wire.client.incoming(replies));
  }
  wire.exchange();
  CHECK(wire.client.response(id).status() == "0");
  CHECK(!wire.server->closed() && wire.client.goaways() == 0);
}

void what_is_no_http2_ends_the_connection() {
  Wire wire;
  std::string replies;
  wire.server->feed("GET / HTTP/1.1\r\nHost: x\r\n\r\n", replies);
  CHECK(wire.server->closed());
  Wire plain;
  const auto id = plain.client.call(kEvaluate, "x", {{"content-type", "text/plain"}});
  plain.exchange();
  CHECK(plain.client.response(id).headers.at(":status") == "415");
}

void a_new_version_takes_effect_on_an_open_connection() {
  Wire wire;
  const auto evaluated_now = [&] {
    const auto id = wire.client.call(kEvaluate, framed(evaluate_message({5, 5, 5})));
    wire.exchange();
    return wire.client.response(id).status() + message_of(wire.client.response(id));
  };
  CHECK(evaluated_now() == "0" + evaluated(2, 15));
  wire.models->put("sum", "2", std::make_shared<Scorer>(std::make_shared<SumSession>(3), 100.0));
  CHECK(evaluated_now() == "0" + evaluated(1, 15, 100));
  CHECK(wire.models->remove("sum", "2") && wire.models->remove("sum", "1"));
  CHECK(evaluated_now() == "5none");
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  evaluates_rows();
  infers_what_is_asked_for();
  says_what_is_wrong_with_a_request();
  answers_alike_however_the_bytes_are_cut();
  a_large_request_comes_back_whole();
  a_stream_answers_in_order();
  a_model_whose_threshold_is_not_above_0_has_no_severity();
  evaluates_batches();
  limits_end_a_call_not_the_connection();
  a_call_waiting_for_its_message_ends_at_its_deadline();
  other_methods_go_to_the_owner();
  reasons_come_greatest_first_and_no_more_than_asked_for();
  a_compressed_message_comes_back_inflated();
  asks_who_may_pass();
  work_for_a_device_leaves_the_loop_and_comes_back();
  replies_wait_for_a_reader_who_is_slow();
  drains_without_losing_a_call();
  a_flood_of_frames_that_ask_for_nothing_ends_the_connection();
  what_was_on_its_way_to_calls_that_have_ended_ends_no_connection();
  many_small_messages_end_no_connection();
  a_large_message_in_small_frames_ends_no_connection();
  what_is_no_http2_ends_the_connection();
  a_new_version_takes_effect_on_an_open_connection();
  return check::result();
}
