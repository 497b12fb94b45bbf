// Any bytes as an HTTP/1.1 connection: answered alike however they are cut, and nothing stays held.

#include "fuzz/wire.h"
#include "wire/http/http_session.h"

namespace {

using namespace datasentinel;

std::shared_ptr<HttpService> make_service() {
  return std::make_shared<HttpService>(HttpService{
      .inference = fuzz::make_inference(),
      .counts = fuzz::make_counts(),
      .limits = {.max_header_bytes = 500, .max_body_bytes = 200'000, .max_other_body_bytes = 500},
      .server = "test",
      .authorize = [](std::optional<std::string_view> value) { return !value || *value != "wrong"; }});
}

/// Answers what the session leaves to its owner: a body comes back as if inflating had doubled it.
void attend(HttpSession& session) {
  const HttpEvent event = session.take_event();
  if (event.is_inference) {
    session.deliver(event.body, false);
    session.deliver(event.body, true);
  } else {
    session.respond(200, "A: b\r\n", event.method + " " + event.target + " " + event.body);
  }
}

std::string replies_to(std::string_view bytes, std::size_t piece,
                       const std::shared_ptr<HttpService>& service) {
  HttpSession session(service);
  std::string replies;
  const auto take_turns = [&] {
    while (session.unfinished() || session.has_event()) {
      if (session.has_event()) attend(session);
      session.feed({}, replies);
    }
  };
  fuzz::in_pieces(bytes, piece, [&](std::string_view part) {
    session.feed(part, replies);
    take_turns();
  });
  session.finish(replies);
  take_turns();
  fuzz::require(session.closed(), "a connection outlives its peer");
  fuzz::require(!session.needs_attention(), "a fault of ours", session.take_failure());
  return replies;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::shared_ptr<HttpService> service = make_service();
  const std::string_view bytes = fuzz::text_of(data, size);
  const std::string whole = replies_to(bytes, bytes.size(), service);
  const std::string cut = replies_to(bytes, 1 + size % 7, service);
  fuzz::require(whole == cut, "other replies to the same requests cut into pieces", whole, cut);
  fuzz::require(service->inference->memory()->used() == 0, "memory is still charged");
  return 0;
}
