// Throws damaged and randomly interleaved gRPC connections at the session, by a seed, so that every finding
// can be repeated: `fuzz_grpc_session [ROUNDS [SEED]]`. It is worth most under the sanitizers. What must
// hold: nothing crashes, a valid client's calls are each answered once, and the queue is empty in the end.

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <random>
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

using Random = std::mt19937;

std::size_t below(Random& random, std::size_t limit) { return random() % limit; }

/// Half of the models are scored on the loop, half in the queue.
class EitherSession final : public Session {
 public:
  explicit EitherSession(bool on_device) : on_device_(on_device) {}
  [[nodiscard]] std::size_t input_dim() const noexcept override { return 3; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "either"; }
  [[nodiscard]] Facts facts() const override { return {}; }
  [[nodiscard]] bool on_device(std::size_t /*rows*/) const noexcept override { return on_device_; }
  void run(ConstRows rows, Outputs outputs) override { sum_.run(rows, outputs); }

 private:
  SumSession sum_{3};
  bool on_device_;
};

std::string damaged(std::string bytes, Random& random) {
  for (std::size_t i = below(random, 4); i-- > 0 && !bytes.empty();) {
    const std::size_t at = below(random, bytes.size());
    switch (below(random, 4)) {
      case 0: bytes[at] = static_cast<char>(random()); break;
      case 1: bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(random, 8))); break;
      case 2: bytes.erase(at, 1 + below(random, 8)); break;
      default: bytes.insert(at, 1 + below(random, 8), static_cast<char>(random())); break;
    }
  }
  return bytes;
}

std::string message_for(const std::string& path, Random& random) {
  std::vector<float> row(3);
  for (float& value : row) value = static_cast<float>(below(random, 20));
  if (path == kEvaluate) return evaluate_message(row, below(random, 10) == 0 ? 2 : 0);
  if (path == kEvaluateBatch || path == kEvaluateStream) return batch_message(1, 1, row, random() % 2 == 0);
  InferMessage message{.id = "x", .shape = {1, 3}, .values = row, .raw = random() % 2 == 0};
  if (random() % 2 == 0) message.outputs = {"output", "score"};
  return message.encode();
}

struct Server {
  explicit Server(bool on_device) {
    auto scorer = std::make_shared<Scorer>(std::make_shared<EitherSession>(on_device), 10.0);
    models->put("m", "1", std::move(scorer));
    GrpcLimits limits;
    limits.max_message_bytes = 2000;
    limits.max_buffered_bytes = 20000;
    inference =
        std::make_shared<InferenceService>(models, ServiceLimits{}, QueueLimits{.max_rows = 64}, [] {});
    service = std::make_shared<GrpcService>(
        test_nghttp2(), inference, std::make_shared<RequestCounts>(std::vector<double>{1.0}), limits);
    session = std::make_unique<GrpcSession>(service);
  }

  /// Answers what the session leaves to its owner, somehow.
  void attend(Random& random) {
    for (const GrpcEvent& event : session->take_events()) {
      if (event.kind == GrpcEvent::Kind::inflate) session->deliver(event.call, event.text);
      if (event.kind != GrpcEvent::Kind::end) continue;
      if (random() % 2 == 0) session->reply(event.call, "answer");
      session->finish_call(event.call, static_cast<int>(below(random, 17)), "done\n");
    }
    if (random() % 8 == 0) session->expire();
    static_cast<void>(session->next_deadline_s());
    static_cast<void>(inference->collect());
  }

  std::shared_ptr<ModelTable> models = std::make_shared<ModelTable>();
  std::shared_ptr<InferenceService> inference;
  std::shared_ptr<GrpcService> service;
  std::unique_ptr<GrpcSession> session;
};

/// A client that is wrong in its messages or in its bytes, and hangs up in the middle.
void survives_anything(Random& random) {
  static const std::vector<std::string> paths{kInfer,         kStreamInfer,    kEvaluate,
                                              kEvaluateBatch, kEvaluateStream, "/other.S/Call"};
  Server server(random() % 2 == 0);
  Http2Client client(random() % 4 == 0 ? static_cast<std::uint32_t>(below(random, 64)) : 65535);
  const bool damage_bytes = random() % 2 == 0;
  std::vector<std::int32_t> calls;
  for (std::size_t step = 0; step < 20; ++step) {
    const std::string& path = paths[below(random, paths.size())];
    std::string message = message_for(path, random);
    if (random() % 2 == 0) message = damaged(std::move(message), random);
    std::string body = framed(message, random() % 8 == 0);
    if (random() % 8 == 0) body = damaged(std::move(body), random);
    Http2Client::Headers more;
    if (random() % 4 == 0) more.emplace_back("grpc-encoding", random() % 2 == 0 ? "gzip" : "odd");
    if (random() % 4 == 0) more.emplace_back("grpc-timeout", damaged("10m", random).substr(0, 8));
    for (auto& [name, value] : more) {
      for (char& c : value) c = c >= ' ' && c <= '~' ? c : '?';
    }
    calls.push_back(client.call(path, std::move(body), more, random() % 4 != 0));
    if (random() % 4 == 0) client.cancel(calls[below(random, calls.size())]);
    std::string bytes = client.outgoing();
    if (damage_bytes && random() % 4 == 0) bytes = damaged(std::move(bytes), random);
    std::string replies;
    while (!bytes.empty()) {
      const std::size_t piece = 1 + below(random, random() % 2 == 0 ? 8 : 4000);
      server.session->feed(std::string_view(bytes).substr(0, piece), replies);
      bytes.erase(0, piece);
    }
    while (server.session->unfinished() && !server.session->closed()) server.session->feed({}, replies);
    server.attend(random);
    if (random() % 8 == 0) server.session->drain();
    server.session->take_output(replies);
    if (!client.incoming(replies)) return;  // Its own state was damaged; the session ends with it.
  }
}

/// A client that is right: each of its calls is answered once, whatever comes between.
void answers_every_call_once(Random& random) {
  Server server(random() % 2 == 0);
  Http2Client client;
  std::vector<std::pair<std::int32_t, bool>> calls;  // With whether it was cancelled.
  const auto exchange = [&] {
    std::string replies;
    std::string bytes = client.outgoing();
    while (!bytes.empty()) {
      const std::size_t piece = 1 + below(random, 100);
      server.session->feed(std::string_view(bytes).substr(0, piece), replies);
      bytes.erase(0, piece);
    }
    while (server.session->unfinished() && !server.session->closed()) server.session->feed({}, replies);
    static_cast<void>(server.inference->collect());
    server.session->take_output(replies);
    CHECK(client.incoming(replies));
    return !replies.empty();
  };
  for (std::size_t step = 0; step < 30; ++step) {
    for (std::size_t i = below(random, 4); i-- > 0;) {
      calls.emplace_back(client.call(kInfer, framed(message_for(kInfer, random))), false);
    }
    if (!calls.empty() && random() % 4 == 0) {
      auto& [id, cancelled] = calls[below(random, calls.size())];
      if (!client.response(id).closed) {
        client.cancel(id);
        cancelled = true;
      }
    }
    exchange();
  }
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (server.session->open_calls() != 0 && std::chrono::steady_clock::now() < give_up) {
    if (!exchange()) std::this_thread::yield();
  }
  exchange();
  for (const auto& [id, cancelled] : calls) {
    if (cancelled) continue;
    const auto& response = client.response(id);
    CHECK(response.closed && (response.status() == "0" || response.status() == "8"));
    CHECK(response.status() == "8" || response.data.size() > 5);
  }
}

}  // namespace
}  // namespace datasentinel

int main(int argc, char** argv) {
  using namespace datasentinel;
  const unsigned long rounds = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 400;
  const unsigned long seed = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
  for (unsigned long round = 0; round < rounds && check::failures == 0; ++round) {
    Random random(static_cast<Random::result_type>(seed + round));
    survives_anything(random);
    answers_every_call_once(random);
    if (check::failures != 0) std::fprintf(stderr, "seed %lu\n", seed + round);
  }
  return check::result();
}
