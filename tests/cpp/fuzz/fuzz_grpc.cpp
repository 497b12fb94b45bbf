// Any bytes as a gRPC connection: nothing breaks, however they are cut, and nothing stays held.

#include "fuzz/wire.h"
#include "http2_client.h"
#include "wire/grpc/grpc_session.h"

namespace {

using namespace datasentinel;

std::shared_ptr<GrpcService> make_service() {
  return std::make_shared<GrpcService>(
      test_nghttp2(), fuzz::make_inference(), fuzz::make_counts(),
      GrpcLimits{.max_message_bytes = 2000, .max_streams = 8, .max_header_bytes = 2000});
}

/// Answers what the session leaves to its owner: a message by itself, as if inflating had changed nothing.
void attend(GrpcSession& session) {
  for (const GrpcEvent& event : session.take_events()) {
    switch (event.kind) {
      case GrpcEvent::Kind::message: session.reply(event.call, event.text); break;
      case GrpcEvent::Kind::end: session.finish_call(event.call, 3, "done\n"); break;
      case GrpcEvent::Kind::inflate: session.deliver(event.call, event.text); break;
      case GrpcEvent::Kind::failure: fuzz::require(false, "a fault of ours", event.text); break;
      case GrpcEvent::Kind::call:
      case GrpcEvent::Kind::cancel: break;
    }
  }
}

void converse(std::string_view bytes, std::size_t piece, const std::shared_ptr<GrpcService>& service) {
  GrpcSession session(service);
  std::string replies;
  const auto take_turns = [&] {
    do {
      if (session.needs_attention()) attend(session);
      session.take_output(replies);
      if (session.unfinished()) session.feed({}, replies);
    } while (session.unfinished() && !session.closed());
  };
  fuzz::in_pieces(bytes, piece, [&](std::string_view part) {
    session.feed(part, replies);
    take_turns();
  });
  session.expire();
  session.drain();
  take_turns();
  session.finish(replies);
  take_turns();
  session.abandon_calls(14, "the server is draining");
  session.take_output(replies);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::shared_ptr<GrpcService> service = make_service();
  const std::string_view bytes = fuzz::text_of(data, size);
  for (const std::size_t piece : {size, 1 + size % 7}) {
    converse(bytes, piece, service);
    fuzz::require(service->inference()->memory()->used() == 0, "memory is still charged");
  }
  return 0;
}
