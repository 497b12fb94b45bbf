// Inference over HTTP: numbers to the last bit, the session's answers however the bytes are cut, and what is
// left to its owner.

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "sum_session.h"
#include "wire/http/http_session.h"
#include "wire/http/json_reader.h"

namespace datasentinel {
namespace {

using Number = Decimal;

Number read(const std::string& text, float& value) { return JsonReader(text).read_float32(value); }

/// Compares with the C library, which rounds correctly; whatever follows the number.
void expect_rounded(const std::string& text) {
  static constexpr std::array<const char*, 6> kTails{
      "", ",99999999", "]\xFF\xFA 99999", "/99999999", ":99999999", "\xFA\xFF\xFF\xFF\xFF\xFF\xFF\xFF"};
  static std::size_t next_tail = 0;
  float value = 0;
  const float expected = std::strtof(text.c_str(), nullptr);
  const Number outcome = read(text + kTails[next_tail++ % kTails.size()], value);
  if (std::isinf(expected)) {
    if (outcome != Number::out_of_range) check::fail(__FILE__, __LINE__, "not out of range: " + text);
  } else if (outcome != Number::good || value != expected || std::signbit(value) != std::signbit(expected)) {
    check::fail(__FILE__, __LINE__, text + " was read as " + std::to_string(value));
  }
}

void rounds_numbers_correctly() {
  for (const char* text : {"0",
                           "-0",
                           "0.0",
                           "-0.0e5",
                           "1",
                           "-1.5",
                           "1e0",
                           "1E+2",
                           "0.1",
                           "16777217",
                           "16777219",
                           "33554433",
                           "3.4028235e38",
                           "3.4028235677973366e38",
                           "3.4028236e38",
                           "1e39",
                           "-1e39",
                           "1e999",
                           "1e-999",
                           "-1e-999",
                           "1.1754943508222875e-38",
                           "1.401298464324817e-45",
                           "7.006492321624085e-46",
                           "7.006492321624086e-46",
                           "0.00000000000000000000000000000000000000000000140129846432481707",
                           "123456789012345678901234567890",
                           "8388608.5",
                           "8388609.5",
                           "8388608.500000000000000000000000001",
                           "0.3000000119209289550781250",
                           "1.00000017881393421514957253748434595763683319091796875001",
                           "1.00000017881393432617187499",
                           "1.00000017881393432617187500",
                           "1.00000017881393432617187501"}) {
    expect_rounded(text);
  }
  expect_rounded("1" + std::string(400, '0'));
  expect_rounded("1" + std::string(400, '0') + "e-400");
  expect_rounded("0." + std::string(400, '0') + "1");
  expect_rounded("0." + std::string(400, '0') + "1e401");
  expect_rounded("-0." + std::string(400, '0') + "1e2147483648");

  std::mt19937_64 random(1);
  std::array<char, 64> text{};
  for (int i = 0; i < 300'000; ++i) {
    const std::uint64_t bits = random();
    float value = 0;
    const auto half = static_cast<std::uint32_t>(bits);
    std::memcpy(&value, &half, sizeof value);
    if (!std::isfinite(value)) continue;
    // As many digits as clients write, and the middles between neighbours with a digit more or less.
    const int digits = 1 + static_cast<int>((bits >> 32) % 21);
    std::snprintf(text.data(), text.size(), "%.*e", digits, static_cast<double>(value));
    expect_rounded(text.data());
    if (std::abs(value) < 1e15F) {
      std::snprintf(text.data(), text.size(), "%.*f", digits % 10, static_cast<double>(value));
      expect_rounded(text.data());
    }
    const float next = std::nextafter(value, std::numeric_limits<float>::infinity());
    if (std::isfinite(next)) {
      const double middle = (static_cast<double>(value) + static_cast<double>(next)) / 2;
      std::snprintf(text.data(), text.size(), "%.*e", 14 + digits, middle);
      expect_rounded(text.data());
    }
  }
}

void refuses_what_is_no_json_number() {
  for (const char* text : {"", "-", "+1", ".5", "1.", "1.e5", "1e", "1e+", "01", "-01", "nan", "NaN", "inf",
                           "Infinity", "\"1\"", "null", "--1", "- 1"}) {
    float value = 7;
    CHECK(read(text, value) == Number::not_a_number);
    CHECK(value == 7);
  }
}

void writes_numbers_that_read_back() {
  std::mt19937 random(2);
  for (int i = 0; i < 100'000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    std::string text;
    append_json_number(value, text);
    float back = 0;
    if (!std::isfinite(value)) {
      CHECK(text == "null");
    } else {
      CHECK(read(text, back) == Number::good);
      CHECK(back == value);
    }
  }
}

void reads_and_writes_strings() {
  const auto round_trip = [](const std::string& text) {
    std::string buffer;
    JsonReader reader(text);
    std::string written;
    append_json_string(reader.read_string(buffer), written);
    reader.expect_end();
    return written;
  };
  CHECK(round_trip(R"("plain")") == R"("plain")");
  CHECK(round_trip(R"("a\"b\\c\/d\u0041\n")") == R"("a\"b\\c/dA\u000a")");
  CHECK(round_trip(R"("\ud83d\ude00 \u00e9")") == "\"\xF0\x9F\x98\x80 \xC3\xA9\"");
  for (const char* text : {"\"", "\"\\\"", "\"\\x\"", "\"\\u12\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\n\"",
                           "\"\xff\"", "\"\\ud83d\\u0041\""}) {
    CHECK_THROWS_WITH(ErrorCode::invalid_argument, "not valid JSON", round_trip(text));
  }
}

void limits_nesting() {
  JsonReader deep(
      std::string_view("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "less nesting", deep.skip_value());
}

// ------------------------------------------------------------------------------------------------- session

/// A server of one model: three values a row; an anomaly when their sum is above 10.
struct Server {
  explicit Server(ServiceLimits limits = {.max_inline_us = 1e9}, QueueLimits queue = {}) {
    models->put("sum", "1", std::make_shared<Scorer>(std::make_shared<SumSession>(3), 10.0));
    service->inference =
        std::make_shared<InferenceService>(models, limits, queue, [this] { wakes.fetch_add(1); });
    service->limits = {.max_body_bytes = 10'000, .max_other_body_bytes = 1'000, .max_rows = 1'000};
  }

  HttpSession open() const { return HttpSession(service); }

  /// Waits for the queue to have scored something, and takes it.
  void collect() {
    while (wakes.load() == collected) std::this_thread::yield();
    collected = wakes.load();
    static_cast<void>(service->inference->collect());
  }

  std::atomic<int> wakes{0};
  int collected = 0;
  std::shared_ptr<ModelTable> models = std::make_shared<ModelTable>();
  std::shared_ptr<HttpService> service = std::make_shared<HttpService>(
      HttpService{.inference = nullptr,
                  .counts = std::make_shared<RequestCounts>(std::vector<double>{1.0}),
                  .server = "test"});
};

/// Feeds the bytes, and takes as many turns as it needs; the owner answers by what it was asked.
std::string feed(HttpSession& session, std::string_view bytes) {
  std::string out;
  session.feed(bytes, out);
  while (session.unfinished() || session.has_event()) {
    if (session.has_event()) {
      const HttpEvent event = session.take_event();
      session.respond(200, "", event.method + " " + event.target + " " + event.body);
    }
    session.feed({}, out);
  }
  return out;
}

std::string post(const std::string& body, const std::string& headers = "",
                 const std::string& path = "/v2/models/sum/infer") {
  return "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

std::string rows(const std::string& data, const std::string& shape) {
  return R"({"inputs":[{"name":"input","datatype":"FP32","shape":)" + shape + R"(,"data":)" + data + "}]}";
}

std::string reply_to(const std::string& request) {
  const Server server;
  HttpSession session = server.open();
  return feed(session, request);
}

/// The same request, with its body in chunks; an empty piece stands for a trailer field.
std::string chunked(const std::vector<std::string>& pieces) {
  std::string request =
      "POST http://x:80/v2/models/s%75m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  std::array<char, 16> size{};
  for (const std::string& piece : pieces) {
    if (piece.empty()) continue;
    const auto end = std::to_chars(size.data(), size.data() + size.size(), piece.size(), 16).ptr;
    request.append(size.data(), end).append(";x=y\r\n").append(piece).append("\r\n");
  }
  return request + "0\r\nTrailer: x\r\n\r\n";
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

void answers_json() {
  const std::string reply = reply_to(post(rows("[1,2,3, 4,5,6]", "[2,3]")));
  CHECK(reply.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(contains(reply, R"({"model_name":"sum","model_version":"1","outputs":[)"
                        R"({"name":"score","datatype":"FP32","shape":[2],"data":[6,15]},)"
                        R"({"name":"anomaly","datatype":"BOOL","shape":[2],"data":[false,true]}]})"));
  CHECK(contains(reply_to(post(rows("[[1,2,3],[4,5,6]]", "[2,3]"))), "[6,15]"));
  CHECK(contains(reply_to(post(rows("[]", "[0,3]"))), R"("data":[])"));
  CHECK(contains(reply_to(post(rows("[1,2,3]", "[1,3]"), "", "/v2/models/sum/versions/1/infer")), "200 OK"));
}

void names_what_is_wrong() {
  const auto error = [](const std::string& body) { return reply_to(post(body)); };
  CHECK(contains(error("{}"), "400 Bad Request"));
  CHECK(contains(error("{}"), R"({"error":"expected 1 input, 'input', got 0"})"));
  CHECK(contains(error(rows("[[1,2,3],[4,5]]", "[2,3]")), "expected 3 values per row, got 2 at row 1"));
  CHECK(contains(error(rows("[[1,2,3],4]", "[2,3]")), "mixes numbers and rows at row 1"));
  CHECK(contains(error(rows("[1,2,3,4,true,6]", "[2,3]")), "row 1, column 1 is not a number"));
  CHECK(contains(error(rows("[1,2,3,4,5,1e40]", "[2,3]")), "row 1, column 2 is outside float32's range"));
  CHECK(contains(error(rows("[1,2,3]", "[1001,3]")), "at most 1000 rows a request, got 1001"));
  CHECK(contains(reply_to(post("", "", "/v2/models/other/infer")), "404 Not Found"));
  CHECK(contains(reply_to(post("", "", "/v2/models/sum/versions/2/infer")),
                 "unknown model 'sum', version '2'"));
}

void carries_bytes() {
  const std::string json =
      R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":12}}],)"
      R"("outputs":[{"name":"output","parameters":{"binary_data":true}},{"name":"score"}]})";
  const std::array<float, 3> row{1.5F, -2.0F, 0.25F};
  const std::string bytes(reinterpret_cast<const char*>(row.data()), sizeof row);
  for (const std::string padding : {"", " ", "  ", "   "}) {  // The bytes may start anywhere.
    const std::string body = json + padding + bytes;
    const std::string header =
        "Inference-Header-Content-Length: " + std::to_string(json.size() + padding.size()) + "\r\n";
    const std::string reply = reply_to(post(body, header));
    CHECK(reply.ends_with(bytes));
    CHECK(contains(reply, "\r\nInference-Header-Content-Length: "));
    CHECK(contains(reply, R"("data":[-0.25])"));
    CHECK(contains(reply_to(post(body.substr(0, body.size() - 1), header)),
                   "expected 12 bytes behind the JSON"));
  }
  CHECK(contains(reply_to(post(json, "Inference-Header-Content-Length: 9999\r\n")), "the body has only"));
}

void gives_the_same_answers_however_the_bytes_are_cut() {
  std::string stream;
  for (int i = 0; i < 20; ++i) {
    stream += post(rows("[1,2," + std::to_string(i) + "]", "[1,3]"));
    stream += post(i % 2 == 0 ? "nonsense" : "{}");
    stream += "\r\nGET /x?y HTTP/1.1\nHost: x\n\n";
    stream += chunked({"{", "", "}"}) + post("body", "", "/other");
  }
  const std::string expected = reply_to(stream);
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const Server server;
    HttpSession session = server.open();
    std::string replies;
    for (std::size_t at = 0; at < stream.size();) {
      const std::size_t size = 1 + random() % (round % 10 == 0 ? 3 : 400);
      replies += feed(session, std::string_view(stream).substr(at, size));
      at += size;
    }
    CHECK(replies == expected);
    CHECK(!session.mid_message());
  }
}

void leaves_other_requests_to_its_owner() {
  CHECK(contains(reply_to("GET /v2?a=b HTTP/1.1\r\nHost: x\r\n\r\n"), "GET /v2?a=b "));
  CHECK(contains(reply_to("GET http://x:1/v2 HTTP/1.1\r\nHost: x\r\n\r\n"), "GET /v2 "));
  CHECK(contains(reply_to("GET https://x HTTP/1.1\r\nHost: x\r\n\r\n"), "GET / "));
  CHECK(contains(reply_to("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), "OPTIONS * "));
  CHECK(contains(reply_to(post("content", "", "/other")), "POST /other content"));
  {  // The target's host counts, and not the field's.
    const Server server;
    HttpSession session = server.open();
    std::string out;
    session.feed("GET http://y:1/v2 HTTP/1.1\r\nHost: x\r\n\r\n", out);
    CHECK(session.take_event().fields.front() == std::make_pair(std::string("host"), std::string("y:1")));
  }
  CHECK(reply_to("HEAD /v2 HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("\r\n\r\n"));

  const Server server;
  HttpSession session = server.open();
  std::string out;
  session.feed(post("squeezed", "Content-Encoding: gzip\r\nX: a\xE9\r\n") + post("{}"), out);
  CHECK(session.has_event() && session.waiting() && out.empty());
  const HttpEvent event = session.take_event();
  CHECK(event.is_inference && event.body == "squeezed" && !session.has_event());
  CHECK(std::ranges::find(event.fields, std::pair<std::string, std::string>("x", "a\xE9")) !=
        event.fields.end());
  session.deliver(rows("[1,2,3]", "[1,3]").substr(0, 9), false);
  session.deliver(rows("[1,2,3]", "[1,3]").substr(9), true);
  out += feed(session, {});
  CHECK(contains(out, "[6]") && contains(out, "expected 1 input"));

  for (const std::string_view field : {"Origin: x\r\n", "Sec-Fetch-Site: none\r\n"}) {  // A browser's.
    out.clear();
    session.feed(post(rows("[1,2,3]", "[1,3]"), std::string(field)), out);
    const HttpEvent asked = session.take_event();
    CHECK(asked.is_inference && asked.body.empty() && out.empty());  // The body has stayed.
    session.deliver(asked.body, true);
    CHECK(contains(feed(session, {}), "[6]"));
  }
}

void refuses_what_two_readers_could_understand_differently() {
  const std::string good = post(rows("[1,2,3]", "[1,3]"));
  const auto refused = [&](const std::string& request, std::string_view status) {
    const Server server;
    HttpSession session = server.open();
    const std::string reply = feed(session, good + request + good);
    const std::size_t second = reply.find("HTTP/1.1", 1);
    const bool ok = second != std::string::npos &&
                    reply.substr(second).starts_with("HTTP/1.1 " + std::string(status)) &&
                    contains(reply.substr(second), "\r\nConnection: close\r\n") && session.closed() &&
                    reply.find("HTTP/1.1 ", second + 1) == std::string::npos;
    if (!ok) check::fail(__FILE__, __LINE__, request.substr(0, 200) + " got " + reply);
  };
  const auto with = [](const std::string& fields) {
    return "POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n\r\n";
  };
  refused(with("Content-Length: 2\r\nTransfer-Encoding: chunked"), "400");
  refused(with("Content-Length: 2\r\nContent-Length: 3"), "400");
  refused(with("Content-Length: 2\r\nContent-Length: 2"), "400");
  refused(with("Content-Length: 0x2"), "400");
  refused(with("Content-Length: +2"), "400");
  refused(with("Content-Length: 2, 2"), "400");
  refused(with("Content-Length : 5"), "400");
  refused(with("Transfer-Encoding: gzip, chunked"), "501");
  refused(with("Transfer-Encoding: chunked, chunked"), "501");
  refused(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), "501");
  refused(with("Transfer-Encoding: chunked, gzip"), "400");
  refused(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip"), "400");
  refused(with("Transfer-Encoding: identity"), "400");
  refused(with("Transfer-Encoding:\x0b"
               "chunked"),
          "400");
  refused(with("Transfer-Encoding : chunked"), "400");
  const std::string_view framings[] = {"2\nab\r\n0\r\n\r\n",
                                       "2\r\nab\n0\r\n\r\n",
                                       "2\r\nab\r\n0\n\r\n",
                                       "2\r\nab\r\n0\r\n\n",
                                       "2;x\nab\r\n0\r\n\r\n",
                                       "2;x\r\r\nab\r\n0\r\n\r\n",
                                       " 2\r\nab\r\n0\r\n\r\n",
                                       "2 \r\nab\r\n0\r\n\r\n",
                                       "2\t;x\r\nab\r\n0\r\n\r\n",
                                       "+2\r\nab\r\n0\r\n\r\n",
                                       "0x2\r\nab\r\n0\r\n\r\n",
                                       "2\r\nab\r\n0\r\nno field\r\n\r\n",
                                       "2\r\nab\r\n0\r\na : b\r\n\r\n",
                                       "\r\n2\r\nab\r\n0\r\n\r\n"};
  for (const std::string_view framing : framings) {
    refused(with("Transfer-Encoding: chunked") + std::string(framing), "400");
  }
  refused(with("Transfer-Encoding: chunked") + "2;" + std::string(5000, 'x') + "\r\nab\r\n0\r\n\r\n", "400");
  refused(with("Transfer-Encoding: chunked") + "-2\r\nab\r\n0\r\n\r\n", "400");
  refused(with("Transfer-Encoding: chunked") + "1\r\nab\r\n0\r\n\r\n", "400");
  refused(with("Transfer-Encoding: chunked") + "fffffff\r\nab", "413");
  refused(with("Host: y"), "400");
  refused(with(" folded: x"), "400");
  refused(with("Bad Name: x"), "400");
  refused(with(": x"), "400");
  refused(with("No colon"), "400");
  refused(with("X: a\001b"), "400");
  refused(with("Content-Length: 10001"), "413");
  refused(with("Expect: the-unexpected"), "417");
  refused(with("Inference-Header-Content-Length: -1"), "400");
  refused("GET / HTTP/1.1\r\n\r\n", "400");
  refused("GET / HTTP/2.0\r\nHost: x\r\n\r\n", "505");
  refused("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", "501");
  refused("CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n", "501");
  refused("GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n", "400");
  refused("GET v2 HTTP/1.1\r\nHost: x\r\n\r\n", "400");
  refused("GET * HTTP/1.1\r\nHost: x\r\n\r\n", "400");
  refused("GET ftp://x/v2 HTTP/1.1\r\nHost: x\r\n\r\n", "400");
  refused("GET http:///v2 HTTP/1.1\r\nHost: x\r\n\r\n", "400");
  refused("GET http://a@x/v2 HTTP/1.1\r\nHost: x\r\n\r\n", "400");
  refused("GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", "400");
  refused("GET / HTTP/1.1\r\nHost: x y\r\n\r\n", "400");
  refused(std::string(100, '\n'), "400");
  refused("GET /\x80 HTTP/1.1\r\nHost: x\r\n\r\n", "400");
  refused("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", "413");
  refused("GET / HTTP/1.1\r\nX: " + std::string(20'000, 'x'), "431");
}

void keeps_to_what_the_client_says_of_the_connection() {
  const auto closes = [](const std::string& request) {
    const Server server;
    HttpSession session = server.open();
    const std::string reply = feed(session, request);
    return session.closed() && contains(reply, "\r\nConnection: close\r\n");
  };
  CHECK(!closes("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
  CHECK(closes("GET / HTTP/1.0\r\n\r\n"));
  CHECK(closes("GET / HTTP/1.1\r\nHost: x\r\nConnection: a, Close\r\n\r\n"));
  CHECK(contains(reply_to(post("ok", "Expect: 100-continue\r\n")), "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 "));

  const Server server;
  HttpSession session = server.open();
  session.drain();
  const std::string get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string replies = feed(session, get + get);
  CHECK(session.closed());
  CHECK(replies.find("Connection: close") > replies.rfind("HTTP/1.1 200"));  // The last one says so.
}

void half_a_request_is_refused_at_the_end() {
  const Server server;
  const std::string good = post(rows("[1,2,3]", "[1,3]"));
  for (const std::size_t size : {std::size_t{20}, good.size() - 5}) {
    HttpSession session = server.open();
    std::string out = feed(session, std::string_view(good).substr(0, size));
    CHECK(session.mid_message() && out.empty());
    session.finish(out);
    CHECK(out.starts_with("HTTP/1.1 400") && session.closed());
  }
  HttpSession session = server.open();
  std::string out;
  session.finish(out);
  CHECK(out.empty() && session.closed());
}

void takes_turns() {
  const Server server;
  server.service->limits.turn = std::chrono::microseconds(0);
  HttpSession session = server.open();
  std::string requests;
  for (int i = 0; i < 1000; ++i) requests += post("{}");
  std::string out;
  session.feed(requests, out);
  CHECK(session.unfinished() && out.size() < 1000);
  int turns = 1;
  for (; session.unfinished(); ++turns) session.feed({}, out);
  CHECK(turns > 1000);
  std::size_t answers = 0;
  for (std::size_t at = 0; (at = out.find("HTTP/1.1 400", at)) != std::string::npos; ++at) ++answers;
  CHECK(answers == 1000);
  // A request without a body is whole with its head, and a turn that ends there is not the last one.
  CHECK(contains(feed(session, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), "GET /healthz"));
}

void long_requests_are_answered_off_the_loop_and_in_order() {
  Server server({.max_inline_us = -1});
  HttpSession session = server.open();
  std::string out;
  session.feed(post(rows("[1,2,3]", "[1,3]")) + post("{") + post(rows("[4,5,6]", "[1,3]")), out);
  for (int i = 0; i < 3; ++i) {
    CHECK(session.waiting() && !session.unfinished());
    server.collect();
    session.feed({}, out);
  }
  CHECK(!session.waiting());
  CHECK(out.find("[6]") < out.find("HTTP/1.1 400") && out.find("HTTP/1.1 400") < out.find("[15]"));
  CHECK(server.service->counts->take().rows == 2);
}

void a_full_queue_refuses_at_once() {
  Server server({.max_inline_us = -1}, {.max_rows = 1, .max_delay = std::chrono::seconds(10)});
  HttpSession first = server.open();
  HttpSession second = server.open();
  std::string out;
  first.feed(post(rows("[1,2,3]", "[1,3]")), out);
  CHECK(out.empty() && first.waiting());
  second.feed(post(rows("[1,2,3]", "[1,3]")), out);
  CHECK(out.starts_with("HTTP/1.1 503 Service Unavailable") && contains(out, "\r\nRetry-After: 1\r\n"));
}

void a_long_reply_is_written_in_pieces() {
  Server server;
  server.service->limits.max_body_bytes = 1 << 20;
  server.service->limits.max_rows = 100'000;
  std::string data = "[1,2,3";
  for (int i = 1; i < 20'000; ++i) data += ",1,2,3";
  const std::string request =
      post(R"({"outputs":[{"name":"output"},{"name":"score"}],)" + rows(data + "]", "[20000,3]").substr(1));
  HttpSession session = server.open();
  const std::string reply = feed(session, request);
  CHECK(contains(reply, "\r\nTransfer-Encoding: chunked\r\n") && !contains(reply, "Content-Length"));
  std::string_view rest = std::string_view(reply).substr(reply.find("\r\n\r\n") + 4);
  std::string body;
  ChunkedBody chunks;
  CHECK(!chunks.read(rest, body) && chunks.done() && rest.empty());
  CHECK(body.starts_with(R"({"model_name":"sum","model_version":"1","outputs":[{"name":"output",)"));
  CHECK(std::ranges::count(body, '6') == 20'000);
  CHECK(body.ends_with("6,6]}]}"));
  CHECK(server.service->inference->memory()->used() == 0);
}

void memory_is_bounded_over_all_connections() {
  Server server({.max_inline_us = 1e9, .max_memory_bytes = 3'000'000});
  server.service->limits.max_body_bytes = 1 << 20;
  std::vector<std::unique_ptr<HttpSession>> sessions;
  const std::string half = post(std::string(1 << 20, ' ')).substr(0, (1 << 20) - 10);
  int refused = 0;
  for (int i = 0; i < 10; ++i) {
    sessions.push_back(std::make_unique<HttpSession>(server.service));
    std::string out;
    for (std::size_t at = 0; at < half.size(); at += 65536) {
      sessions.back()->feed(std::string_view(half).substr(at, 65536), out);
    }
    refused += out.starts_with("HTTP/1.1 503") ? 1 : 0;
  }
  CHECK(refused >= 7 && refused < 10);
  sessions.clear();
  CHECK(server.service->inference->memory()->used() == 0);
}

void carries_severities_and_raw_requests() {
  const std::string asked = R"({"outputs":[{"name":"severity"}],)";
  CHECK(contains(reply_to(post(asked + rows("[5,5,15,1,2,2]", "[2,3]").substr(1))), R"("data":[2.5,0.5])"));
  Server server;
  const auto infer_at = [&](double threshold) {
    server.models->put("sum", "1", std::make_shared<Scorer>(std::make_shared<SumSession>(3), threshold));
    HttpSession session = server.open();
    return feed(session, post(asked + rows("[4,5,6]", "[1,3]").substr(1)));
  };
  CHECK(contains(infer_at(14.9999999), R"("data":[1.0000001])"));  // An anomaly, whatever the rounding.
  CHECK(contains(infer_at(15), R"("data":[1])"));
  CHECK(contains(infer_at(15.0000001), R"("data":[1])"));
  CHECK(contains(infer_at(0), "400 Bad Request") &&
        contains(infer_at(-1), "output 'severity' is the score over"));
  const std::array<float, 6> values{1, 2, 3, 4, 5, 6};
  const std::string bytes(reinterpret_cast<const char*>(values.data()), sizeof values);
  const std::string raw = "Inference-Header-Content-Length: 0\r\n";
  CHECK(contains(reply_to(post(bytes, raw)), R"("shape":[2],"data":[6,15])"));
  CHECK(contains(reply_to(post(bytes.substr(1), raw)), "not a multiple of 12"));
}

void asks_who_may_pass() {
  const std::string body = rows("[1,2,3]", "[1,3]");
  Server server;
  server.service->authorize = [](std::optional<std::string_view> header) { return header == "Bearer yes"; };
  HttpSession session = server.open();
  CHECK(contains(feed(session, post(body, "Authorization: Bearer yes\r\n")), "[6]"));
  // Who may not is left to the owner, without the body.
  CHECK(feed(session, post(body, "Authorization: Bearer no\r\n")).ends_with("POST /v2/models/sum/infer "));
  CHECK(feed(session, post(body)).ends_with("POST /v2/models/sum/infer "));
  CHECK(contains(feed(session, post(body, "Authorization: Bearer yes\r\n")), "[6]"));
}

/// Whatever the bytes, each request gets an answer (run it under the sanitizers).
void survives_damage() {
  const std::string good =
      post(rows("[[1,2,3],[4,5,6e-1]]", "[2,3]"), "Inference-Header-Content-Length: 86\r\n");
  const Server server;
  std::mt19937 random(4);
  for (int round = 0; round < 20'000; ++round) {
    std::string damaged = round % 3 == 0 ? chunked({"{}", "[1, 2]"}) : good;
    for (auto changes = 1 + random() % 4; changes > 0; --changes) {
      const std::size_t at = random() % damaged.size();
      switch (random() % 3) {
        case 0: damaged[at] = static_cast<char>(random()); break;
        case 1: damaged.erase(at, 1 + random() % 8); break;
        default: damaged.insert(at, damaged.substr(random() % damaged.size(), random() % 16)); break;
      }
      if (damaged.empty()) damaged = "x";
    }
    HttpSession session = server.open();
    std::string replies = feed(session, damaged + good);
    session.finish(replies);
    replies += feed(session, {});
    CHECK(replies.starts_with("HTTP/1.1 "));
    CHECK(session.closed());
  }
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  rounds_numbers_correctly();
  refuses_what_is_no_json_number();
  writes_numbers_that_read_back();
  reads_and_writes_strings();
  limits_nesting();
  answers_json();
  names_what_is_wrong();
  carries_bytes();
  carries_severities_and_raw_requests();
  gives_the_same_answers_however_the_bytes_are_cut();
  leaves_other_requests_to_its_owner();
  refuses_what_two_readers_could_understand_differently();
  keeps_to_what_the_client_says_of_the_connection();
  half_a_request_is_refused_at_the_end();
  takes_turns();
  long_requests_are_answered_off_the_loop_and_in_order();
  a_full_queue_refuses_at_once();
  a_long_reply_is_written_in_pieces();
  memory_is_bounded_over_all_connections();
  asks_who_may_pass();
  survives_damage();
  return check::result();
}
