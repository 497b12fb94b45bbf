// The line protocol over a real scorer: what is answered, in which order, however the bytes are cut.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "running_mean_session.h"
#include "sum_session.h"
#include "wire/lines/line_session.h"

namespace datasentinel {
namespace {

std::shared_ptr<Scorer> make_scorer(double threshold = 10.0, std::size_t columns = 3) {
  return std::make_shared<Scorer>(std::make_shared<SumSession>(columns), threshold);
}

std::shared_ptr<ModelTable> serving(std::shared_ptr<Scorer> scorer) {
  auto models = std::make_shared<ModelTable>();
  models->put("sum", "1", std::move(scorer));
  return models;
}

/// Sessions of one server: three values a line; an anomaly when their sum is above 10.
struct Server {
  explicit Server(std::shared_ptr<ModelTable> models_ = serving(make_scorer()),
                  ServiceLimits limits = {.max_inline_us = 1e9}, QueueLimits queue = {})
      : models(std::move(models_)),
        service(std::make_shared<InferenceService>(models, limits, queue, [this] { wakes.fetch_add(1); })) {}

  LineSession open(LineLimits limits = {}) const { return {service, counts, limits}; }

  /// Waits for the queue to have scored something, and takes it.
  std::vector<std::uint64_t> collect() {
    while (wakes.load() == collected) std::this_thread::yield();
    collected = wakes.load();
    return service->collect();
  }

  std::atomic<int> wakes{0};
  int collected = 0;
  std::shared_ptr<ModelTable> models;
  std::shared_ptr<InferenceService> service;
  std::shared_ptr<RequestCounts> counts = std::make_shared<RequestCounts>(std::vector<double>{1.0});
};

/// Feeds the bytes, and takes as many turns as it needs.
std::string feed(LineSession& session, std::string_view bytes) {
  std::string replies;
  session.feed(bytes, replies);
  while (session.unfinished()) session.feed({}, replies);
  return replies;
}

std::string answer(const std::string& bytes, LineLimits limits = {}) {
  const Server server;
  LineSession session = server.open(limits);
  std::string replies = feed(session, bytes);
  session.finish(replies);
  return replies;
}

void answers_each_line_in_order() {
  CHECK(answer("1 2 3\n4 5 6\n1,2,3\n") == "OK\nANOMALY\nOK\n");
  CHECK(answer("1 2 3\r\n9 9 9\r\n") == "OK\nANOMALY\n");
  CHECK(answer("  1 ,\t2 , 3  \n") == "OK\n");
  CHECK(answer("+1 -2e0 3E-1\n") == "OK\n");
  CHECK(answer("1 2 3\nx 2 3\n9 9 9\n") == "OK\nERROR: value 1 is not a number: 'x'\nANOMALY\n");
}

void ignores_blank_lines_and_answers_an_unended_last_one() {
  CHECK(answer("\n\r\n  \t \n").empty());
  CHECK(answer("9 9 9") == "ANOMALY\n");
  CHECK(answer("").empty());
}

void names_what_is_wrong_with_a_line() {
  CHECK(answer("1 2\n") == "ERROR: expected 3 values, got 2\n");
  CHECK(answer("1 2 3 4 5\n") == "ERROR: expected 3 values, got 5\n");
  CHECK(answer("1,,3\n") == "ERROR: value 2 is empty\n");
  CHECK(answer(",1,3\n") == "ERROR: value 1 is empty\n");
  CHECK(answer("1,3,\n") == "ERROR: value 3 is empty\n");
  CHECK(answer("1 nan 3\n") == "ERROR: value 2 is not finite: 'nan'\n");
  CHECK(answer("1 2 -inf\n") == "ERROR: value 3 is not finite: '-inf'\n");
  CHECK(answer("1 2 1e39\n") == "ERROR: value 3 is outside float32's range: '1e39'\n");
  CHECK(answer("1 2 1e999\n") == "ERROR: value 3 is outside float32's range: '1e999'\n");
  CHECK(answer("1 2 1e-50\n") == "OK\n");   // Its nearest float32 is zero.
  CHECK(answer("1 2 1e-400\n") == "OK\n");  // So is this one's, although no double holds it either.
  CHECK(answer("007 +.5 2.\n") == "OK\n");
  CHECK(answer("1 2 0x10\n") == "ERROR: value 3 is not a number: '0x10'\n");
  CHECK(answer("1 2 3;\n") == "ERROR: value 3 is not a number: '3;'\n");
  CHECK(answer("1 2 +-3\n") == "ERROR: value 3 is not a number: '+-3'\n");
  CHECK(answer(std::string("1 2 \0\n", 6)) == "ERROR: value 3 is not a number: '?'\n");
  // Escaped, or the question marks and the quote would be a trigraph.
  CHECK(answer("1 2 \xff\xfe\x01\n") == "ERROR: value 3 is not a number: '\?\?\?'\n");
  CHECK(answer("1 2 " + std::string(100, 'y') + "\n") ==
        "ERROR: value 3 is not a number: '" + std::string(32, 'y') + "...'\n");
}

void an_over_long_line_is_answered_and_ends_the_session() {
  const LineLimits limits{.max_line_bytes = 8, .max_batch_rows = 100};
  const std::string expected = "OK\nERROR: line longer than 8 bytes\n";
  for (const char* rest : {"1234567 9 9\n1 1 1\n", "123456789"}) {
    const Server server;
    LineSession session = server.open(limits);
    std::string replies;
    session.feed("1 2 3\n" + std::string(rest), replies);
    CHECK(replies == expected);
    CHECK(session.closed());
    session.feed("1 2 3\n", replies);
    session.finish(replies);
    CHECK(replies == expected);
  }
  CHECK(answer("1 2 3  \n", {.max_line_bytes = 7, .max_batch_rows = 100}) == "OK\n");
}

void lines_that_have_begun_share_the_memory() {
  const Server server(serving(make_scorer()),
                      {.max_inline_us = 1e9, .max_memory_bytes = std::size_t{2} << 20});
  const MemoryBudget& memory = *server.service->memory();
  const std::string full = "ERROR: the server's memory for requests is full, try again later\n";
  {
    std::vector<std::unique_ptr<LineSession>> sessions;
    std::size_t refused = 0;
    for (std::size_t i = 0; i < 100; ++i) {
      auto session = std::make_unique<LineSession>(server.service, server.counts, LineLimits{});
      std::string replies;
      for (std::size_t part = 0; part < 20 && !session->closed(); ++part) {
        session->feed(std::string(10'000, '1'), replies);
      }
      CHECK(replies == (session->closed() ? full : ""));
      refused += session->closed() ? 1 : 0;
      sessions.push_back(std::move(session));
    }
    CHECK(refused > 80 && refused < 100);
    CHECK(memory.used() > std::size_t{1} << 19);
    CHECK(memory.used() <= std::size_t{2} << 20);
    // Lines of usual lengths are answered all the same.
    LineSession other = server.open();
    CHECK(feed(other, "1 2 3\n" + std::string(60'000, ' ') + "\n4 5 6\n") == "OK\nANOMALY\n");
  }
  CHECK(memory.used() == 0);
}

void slices_large_batches() {
  std::string bytes;
  std::string expected;
  for (int i = 0; i < 1000; ++i) {
    bytes += i % 3 == 0 ? "9 9 9\n" : (i % 3 == 1 ? "1 1 1\n" : "1 1\n");
    expected += i % 3 == 0 ? "ANOMALY\n" : (i % 3 == 1 ? "OK\n" : "ERROR: expected 3 values, got 2\n");
  }
  CHECK(answer(bytes, {.max_line_bytes = 100, .max_batch_rows = 7}) == expected);
}

void answers_alike_however_the_bytes_are_cut() {
  const std::string bytes = "1 2 3\r\n9,9,9\n\n 1 2\nnan 1 2\n4 5 6\n7 7";
  const std::string expected = answer(bytes);
  std::mt19937 random(0);
  for (int trial = 0; trial < 200; ++trial) {
    const Server server;
    LineSession session = server.open();
    std::string replies;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t size = 1 + random() % 9;
      session.feed(std::string_view(bytes).substr(at, size), replies);
      at += size;
    }
    session.finish(replies);
    CHECK(replies == expected);
    const RequestCounts::Values counts = server.counts->take();
    CHECK(counts.requests == 6 && counts.rows == 3 && counts.anomalies == 2);
    CHECK(counts.errors ==
          (std::map<int, std::uint64_t>{{static_cast<int>(ErrorCode::invalid_argument), 3}}));
  }
}

void answers_any_bytes_with_one_reply_a_line() {
  std::mt19937 random(1);
  const std::string alphabet = "0123456789+-.eE, \t\r\nnaif\xff";
  for (int trial = 0; trial < 2000; ++trial) {
    std::string bytes;
    for (int i = 0; i < 200; ++i) bytes += alphabet[random() % alphabet.size()];
    const Server server;
    LineSession session = server.open();
    std::string replies = feed(session, bytes);
    session.finish(replies);
    std::size_t count = 0;
    for (const char c : replies) count += c == '\n' ? 1 : 0;
    CHECK(count == server.counts->take().requests);
  }
}

class FailingSession final : public Session {
 public:
  [[nodiscard]] std::size_t input_dim() const noexcept override { return 3; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "failing"; }
  [[nodiscard]] Facts facts() const override { return {}; }
  void run(ConstRows, Outputs) override { throw Error(ErrorCode::backend_failure, "device\nlost"); }
};

void a_failing_backend_answers_every_line() {
  const Server server(serving(std::make_shared<Scorer>(std::make_shared<FailingSession>(), 1.0)));
  LineSession session = server.open();
  const std::string replies = feed(session, "1 2 3\nx\n4 5 6\n");
  CHECK(replies == "ERROR: device lost\nERROR: value 1 is not a number: 'x'\nERROR: device lost\n");
  CHECK(!session.closed());
  CHECK(session.take_failures() == (std::pair<std::uint64_t, std::string>(2, "device lost")));
  CHECK(!session.needs_attention());
}

void a_new_version_takes_effect_on_an_open_connection() {
  const auto models = serving(make_scorer(10.0));
  const Server server(models);
  LineSession session = server.open();
  const auto fed = [&](std::string_view bytes) { return feed(session, bytes); };
  CHECK(fed("5 5 5\n5 5") == "ANOMALY\n");
  models->put("sum", "2", make_scorer(100.0));
  CHECK(fed(" 5\n") == "OK\n");
  models->put("sum", "3", make_scorer(1.0, 2));
  CHECK(fed("5 5 5\n5 5\n") == "ERROR: expected 2 values, got 3\nANOMALY\n");
  CHECK(models->remove("sum", "3"));
  CHECK(fed("5 5 5\n") == "OK\n");
  CHECK(models->remove("sum", "2") && models->remove("sum", "1"));
  CHECK(fed("5 5 5\n") == "ERROR: no model is being served\n");
}

void a_turn_ends_and_the_next_one_goes_on() {
  const Server server;
  LineSession session = server.open({.turn = std::chrono::microseconds(0)});
  std::string lines;
  std::string expected;
  for (int i = 0; i < 10000; ++i) {
    lines += i % 3 == 0 ? "9 9 9\n" : "1 2 3\n";
    expected += i % 3 == 0 ? "ANOMALY\n" : "OK\n";
  }
  lines += "4 5";
  std::string replies;
  session.feed(lines, replies);
  CHECK(session.unfinished() && !session.mid_message());
  CHECK(!replies.empty() && replies.size() < expected.size() / 10);
  while (session.unfinished()) session.feed({}, replies);
  CHECK(replies == expected);
  CHECK(session.mid_message());
  session.feed(" 6\n", replies);
  CHECK(replies == expected + "ANOMALY\n");
}

void long_work_is_done_off_the_loop_and_answered_in_order() {
  Server server(serving(make_scorer()), {.max_inline_us = -1});
  LineSession session = server.open();
  std::string replies;
  session.feed("1 2 3\nx\n9 9 9\n", replies);
  CHECK(session.waiting() && replies.empty() && !session.closed());
  session.feed("4 5 6\n", replies);  // What comes meanwhile waits.
  CHECK(replies.empty());
  CHECK(server.collect() == std::vector<std::uint64_t>{session.number()});
  session.feed({}, replies);
  CHECK(replies == "OK\nERROR: value 1 is not a number: 'x'\nANOMALY\n");
  CHECK(session.waiting());
  static_cast<void>(server.collect());
  CHECK(!session.waiting());
  session.finish(replies);  // Nothing is left to say, and what is due comes with the next turn.
  CHECK(session.closed());
  session.feed({}, replies);
  CHECK(replies.ends_with("ANOMALY\nANOMALY\n"));
}

void a_full_queue_keeps_lines_waiting_and_refuses_none() {
  Server server(serving(make_scorer()), {.max_inline_us = -1}, {.max_rows = 1});
  std::vector<std::unique_ptr<LineSession>> sessions;
  std::vector<std::string> replies(20);
  for (auto& text : replies) {
    sessions.push_back(std::make_unique<LineSession>(server.service, server.counts, LineLimits{}));
    sessions.back()->feed("1 2 3\n9 9 9\n", text);
  }
  sessions[7].reset();  // Who hangs up meanwhile is in nobody's way.
  while (server.counts->take().requests == 0 || server.service->queue().depth_rows() != 0) {
    static_cast<void>(server.collect());
  }
  for (std::size_t i = 0; i < replies.size(); ++i) {
    if (i == 7) continue;
    while (sessions[i]->waiting()) static_cast<void>(server.collect());
    sessions[i]->feed({}, replies[i]);
    CHECK(replies[i] == "OK\nANOMALY\n");
  }
}

/// A model with memory: an anomaly is more than 5 above the mean of its stream so far, whose first 3 rows
/// warm it up.
std::shared_ptr<ModelTable> serving_memory(const std::shared_ptr<StateStore>& states,
                                           StreamRules rules = {}) {
  auto models = std::make_shared<ModelTable>();
  const auto scorer =
      std::make_shared<Scorer>(std::make_shared<RunningMeanSession>(1), 5.0, std::vector<std::string>(),
                               std::nullopt, std::vector<IntervalCounts>(), 3);
  models->put("mean", "1", scorer, {.states = states, .rules = std::move(rules)});
  return models;
}

void a_connection_is_a_stream_unless_lines_name_others() {
  const auto states = std::make_shared<StateStore>(2, 0, StateLimits{});
  const Server server(serving_memory(states));
  {
    LineSession session = server.open();
    CHECK(feed(session, "1\n1\n99\n30\n50\n1\n") == "WARMING\nWARMING\nWARMING\nOK\nANOMALY\nOK\n");
    CHECK(feed(session, "@a 1\n@b 1\n@a 1\n2\n@b 1\n@a 1\n@a 9\n@b 1\n@b,9\n@b\t9\n") ==
          "WARMING\nWARMING\nWARMING\nOK\nWARMING\nWARMING\nANOMALY\nWARMING\n"
          "ERROR: expected 1 values, got 0\nANOMALY\n");
    LineSession other = server.open();
    CHECK(feed(other, "@a 9\n9\n") == "ANOMALY\nWARMING\n");
    CHECK(states->size() == 4);
    CHECK(server.counts->take().anomalies == 4);
  }
  CHECK(states->size() == 2 && states->contains("a") && states->contains("b"));
}

void a_line_names_its_stream_well() {
  const std::string rest = std::string(256, 'x');
  const auto states = std::make_shared<StateStore>(2, 0, StateLimits{});
  const Server server(serving_memory(states));
  LineSession session = server.open();
  CHECK(feed(session, "@ 1\n") == "ERROR: expected a stream's id after '@'\n");
  CHECK(feed(session, "@" + rest + "x 1\n") == "ERROR: a stream's id has at most 256 bytes, got 257\n");
  CHECK(feed(session, "@" + rest + " 1\n") == "WARMING\n");
  CHECK(feed(session, "@a\x01 1\n") == "ERROR: a stream's id is UTF-8 text without control characters\n");
  CHECK(feed(session, "@a\xFF 1\n") == "ERROR: a stream's id is UTF-8 text without control characters\n");
  CHECK(feed(session, "@a one\n") == "ERROR: value 1 is not a number: 'one'\n");
  CHECK(!states->contains("a") && states->size() == 1);
  // A model without memory does not mind.
  CHECK(answer("@pump-7 1 2 3\n@pump-7\t9,9,9\n") == "OK\nANOMALY\n");
}

void lines_tell_times_and_may_lack_values() {
  const StreamRules rules{.gap_s = 10, .carry = {.first = {7}, .stale_rows = 2}};
  const auto states = std::make_shared<StateStore>(2, rules.carry.size(), StateLimits{});
  const Server server(serving_memory(states, rules));
  LineSession session = server.open();
  CHECK(feed(session, "@a t=100 1\n@a t=105.5 1\n@a\tt=106\tnan\n@a NAN\n@a t=107 9\n") ==
        "WARMING\nWARMING\nWARMING\nOK\nANOMALY\n");
  float state[2];
  states->read("a", state);
  CHECK(state[0] == 13 && state[1] == 5);
  CHECK(feed(session, "@a t=118 nan\n") == "WARMING\n");  // After a gap.
  states->read("a", state);
  CHECK(state[0] == 7 && state[1] == 1);
  CHECK(feed(session, "t=1 nan\nt=2 nan\nt=3 nan\n") == "WARMING\nWARMING\nWARMING\n");
  CHECK(states->stale() == 1 && states->stale_rows() == 1);
  CHECK(feed(session, "t= 1\nt=x 1\nt=1e99 1\n@a t=inf 1\n") ==
        "ERROR: the timestamp is '', not seconds since 1970\n"
        "ERROR: the timestamp is 'x', not seconds since 1970\n"
        "ERROR: the timestamp is '1e99', not seconds since 1970\n"
        "ERROR: the timestamp is 'inf', not seconds since 1970\n");
  CHECK(feed(session, "@b inf\n@b nanny\n@b\n") ==
        "ERROR: value 1 is not finite: 'inf'\nERROR: value 1 is not a number: 'nanny'\n"
        "ERROR: expected 1 values, got 0\n");
  // A model that takes whole rows only refuses.
  CHECK(answer("1 nan 3\n1,,3\n") == "ERROR: value 2 is not finite: 'nan'\nERROR: value 2 is empty\n");
}

void lines_of_a_stream_keep_their_order_through_the_queue() {
  const auto states = std::make_shared<StateStore>(2, 0, StateLimits{});
  Server server(serving_memory(states), {.max_inline_us = -1});
  LineSession session = server.open();
  std::string replies;
  for (int i = 0; i < 200; ++i) {
    session.feed("@a " + std::to_string(i % 10) + "\n@b 1\n", replies);
    while (session.waiting()) static_cast<void>(server.collect());
    session.feed({}, replies);
  }
  float state[2];
  states->read("a", state);
  CHECK(state[0] == 900 && state[1] == 200);
  CHECK(std::ranges::count(replies, '\n') == 400 && replies.find("ERROR") == std::string::npos);
  CHECK(!states->has_work());
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  answers_each_line_in_order();
  ignores_blank_lines_and_answers_an_unended_last_one();
  names_what_is_wrong_with_a_line();
  an_over_long_line_is_answered_and_ends_the_session();
  lines_that_have_begun_share_the_memory();
  slices_large_batches();
  answers_alike_however_the_bytes_are_cut();
  answers_any_bytes_with_one_reply_a_line();
  a_failing_backend_answers_every_line();
  a_new_version_takes_effect_on_an_open_connection();
  a_turn_ends_and_the_next_one_goes_on();
  long_work_is_done_off_the_loop_and_answered_in_order();
  a_full_queue_keeps_lines_waiting_and_refuses_none();
  a_connection_is_a_stream_unless_lines_name_others();
  a_line_names_its_stream_well();
  lines_tell_times_and_may_lack_values();
  lines_of_a_stream_keep_their_order_through_the_queue();
  return check::result();
}
