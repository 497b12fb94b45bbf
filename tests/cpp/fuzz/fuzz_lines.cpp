// Any bytes as a connection of the line protocol: answered alike however they are cut, and nothing stays
// held.

#include "fuzz/wire.h"
#include "wire/lines/line_session.h"

namespace {

using namespace datasentinel;

std::string replies_to(std::string_view bytes, std::size_t piece,
                       const std::shared_ptr<InferenceService>& inference) {
  static const std::shared_ptr<RequestCounts> counts = fuzz::make_counts();
  LineSession session(inference, counts, LineLimits{.max_line_bytes = 200, .max_batch_rows = 4});
  std::string replies;
  const auto take_turns = [&] {
    while (session.unfinished()) session.feed({}, replies);
  };
  fuzz::in_pieces(bytes, piece, [&](std::string_view part) {
    session.feed(part, replies);
    take_turns();
  });
  session.finish(replies);
  take_turns();
  return replies;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::shared_ptr<InferenceService> inference = fuzz::make_inference();
  const std::string_view bytes = fuzz::text_of(data, size);
  const std::string whole = replies_to(bytes, bytes.size(), inference);
  const std::string cut = replies_to(bytes, 1 + size % 7, inference);
  fuzz::require(whole == cut, "other replies to the same lines cut into pieces", whole, cut);
  fuzz::require(inference->memory()->used() == 0, "memory is still charged");
  return 0;
}
