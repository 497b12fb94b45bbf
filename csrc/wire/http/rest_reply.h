#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "wire/http/rest_request.h"

namespace datasentinel {

/// Writes the body of the reply to a request that was scored, piece by piece: JSON, and then the bytes of the
/// outputs that were asked for in binary.
class RestReply {
 public:
  explicit RestReply(std::unique_ptr<RestRequest> request);

  /// How long the body is where that is known before it is written: it holds no more JSON than a piece.
  [[nodiscard]] std::optional<std::size_t> body_bytes() const noexcept { return body_bytes_; }
  /// How many bytes of it are JSON, where other bytes follow.
  [[nodiscard]] std::optional<std::size_t> json_bytes() const noexcept { return json_bytes_; }

  /// Appends the next piece; false when it was the last one.
  [[nodiscard]] bool write_piece(std::string& out);

  [[nodiscard]] const RestRequest& request() const noexcept { return *request_; }

  static constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

 private:
  /// Appends the JSON from where it was left, as far as a piece goes or to its end.
  void write_json(std::string& out, std::size_t max_bytes);
  void write_bytes(std::string& out);
  void begin_output(std::string& out) const;
  void write_value(ModelOutput output, std::size_t index, std::string& out) const;

  std::unique_ptr<RestRequest> request_;
  std::string json_;  ///< All of it, where its length has to be known first.
  std::optional<std::size_t> body_bytes_;
  std::optional<std::size_t> json_bytes_;
  bool in_json_ = true;
  bool begun_ = false;
  bool output_begun_ = false;
  std::size_t output_ = 0;  ///< The output at hand, and how much of it is written.
  std::size_t written_ = 0;
};

}  // namespace datasentinel
