// Inference over HTTP: numbers to the last bit, the session's answers however the bytes are cut, and what is
// left to its owner.

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "sum_session.h"
#include "wire/http_session.h"
#include "wire/json_reader.h"

namespace datasentinel {
namespace {

using Number = JsonReader::Number;

Number read(const std::string& text, float& value) { return JsonReader(text).read_float32(value); }

/// Compares with the C library, which rounds correctly.
void expect_rounded(const std::string& text) {
  float value = 0;
  const float expected = std::strtof(text.c_str(), nullptr);
  const Number outcome = read(text, value);
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

/// Three values a row; an anomaly when their sum is above 10.
std::shared_ptr<RestInference> make_inference(double max_inline_us = 1e9) {
  auto models = std::make_shared<ModelTable>();
  models->put("sum", "1", std::make_shared<Scorer>(std::make_shared<SumSession>(3), 10.0));
  return std::make_shared<RestInference>(models, 1000, max_inline_us);
}

HttpSession make_session(Authorize authorize = {}) {
  return {make_inference(), {.max_body_bytes = 10'000}, "test", std::move(authorize)};
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
  HttpSession session = make_session();
  std::string replies;
  session.feed(request, replies);
  CHECK(!session.declined());
  return replies;
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
  }
  const std::string expected = reply_to(stream);
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    HttpSession session = make_session();
    std::string replies;
    for (std::size_t at = 0; at < stream.size();) {
      const std::size_t size = 1 + random() % (round % 10 == 0 ? 3 : 400);
      session.feed(std::string_view(stream).substr(at, size), replies);
      at += size;
    }
    CHECK(replies == expected);
    CHECK(!session.mid_message());
  }
}

void leaves_other_requests_to_its_owner() {
  const std::string good = post(rows("[1,2,3]", "[1,3]"));
  const auto is_declined = [&](const std::string& request) {
    HttpSession session = make_session();
    std::string replies;
    session.feed(good + request + "rest", replies);
    return session.declined() && session.take_declined() == request + "rest" && contains(replies, "200 OK") &&
           !session.declined();
  };
  CHECK(is_declined("GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"));
  CHECK(is_declined("POST /v2/models/sum/infer HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
  CHECK(is_declined("POST /v2/models/s%75m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
  CHECK(is_declined("POST /v2/models/sum/infer HTTP/1.1\r\nContent-Length: 0\r\n\r\n"));
  CHECK(is_declined("POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\n\r\n"));
  for (const char* header :
       {"Content-Length: 2", "Transfer-Encoding: chunked", "Expect: 100-continue", "Content-Encoding: gzip",
        "Connection: close", "Host: y", "Bad Name: x", ": x", "No colon", "Upgrade: h2c", "X: a\001b",
        " folded: x", "Inference-Header-Content-Length: -1", "Inference-Header-Content-Length: 0x1"}) {
    CHECK(is_declined("POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n" +
                      std::string(header) + "\r\n\r\n"));
  }
  CHECK(is_declined("POST /v2/models/sum/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n\r\n"));
  CHECK(is_declined("POST /v2/models/sum/infer HTTP/1.1\r\nX: " + std::string(20'000, 'x')));
  CHECK(is_declined("POST /v2/models/sum/infer HTTP/1.1\nHost: x\nContent-Length: 0\r\n\r\n"));

  HttpSession quick(make_inference(0), {}, "test");
  std::string replies;
  quick.feed(good, replies);  // Even this takes long for who has no time at all.
  CHECK(quick.declined() && quick.take_declined() == good && replies.empty());

  HttpSession session = make_session();
  session.feed(std::string_view(good).substr(0, 30), replies);
  CHECK(session.mid_message() && !session.declined());
  session.finish();
  CHECK(session.declined() && session.take_declined() == good.substr(0, 30));
}

void knows_what_takes_long() {
  const auto inference = make_inference(50);
  CHECK(!inference->is_long("sum", "", 100));
  CHECK(inference->is_long("sum", "", 1 << 20));  // A guess.
  CHECK(!inference->is_long("nobody", "", 1 << 20));
  for (int i = 0; i < 3; ++i) {
    CHECK(inference->answer({.model_name = "sum", .model_version = "", .body = rows("[1,2,3]", "[1,3]")})
              .status == 200);
  }
  CHECK(make_inference(0)->is_long("sum", "1", 1));
}

void asks_who_may_pass() {
  const std::string body = rows("[1,2,3]", "[1,3]");
  HttpSession session =
      make_session([](std::optional<std::string_view> header) { return header == "Bearer yes"; });
  std::string replies;
  session.feed(post(body, "Authorization: Bearer yes\r\n"), replies);
  CHECK(contains(replies, "200 OK"));
  session.feed(post(body, "Authorization: Bearer no\r\n"), replies);
  CHECK(session.declined());
  static_cast<void>(session.take_declined());
  session.feed(post(body), replies);
  CHECK(session.declined());
}

/// Whatever the bytes, the session answers or declines (run it under the sanitizers).
void survives_damage() {
  const std::string good =
      post(rows("[[1,2,3],[4,5,6e-1]]", "[2,3]"), "Inference-Header-Content-Length: 86\r\n");
  std::mt19937 random(4);
  for (int round = 0; round < 20'000; ++round) {
    std::string damaged = good;
    for (auto changes = 1 + random() % 4; changes > 0; --changes) {
      const std::size_t at = random() % damaged.size();
      switch (random() % 3) {
        case 0: damaged[at] = static_cast<char>(random()); break;
        case 1: damaged.erase(at, 1 + random() % 8); break;
        default: damaged.insert(at, damaged.substr(random() % damaged.size(), random() % 16)); break;
      }
      if (damaged.empty()) damaged = "x";
    }
    HttpSession session = make_session();
    std::string replies;
    session.feed(damaged + good, replies);
    session.finish();
    CHECK(replies.empty() || replies.starts_with("HTTP/1.1 "));
    if (session.declined()) CHECK(!session.take_declined().empty());
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
  gives_the_same_answers_however_the_bytes_are_cut();
  leaves_other_requests_to_its_owner();
  knows_what_takes_long();
  asks_who_may_pass();
  survives_damage();
  return check::result();
}
