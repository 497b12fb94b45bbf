#include "core/error.h"
#include "wire/grpc_session.h"

namespace datasentinel {

std::string grpc_library() { return {}; }

std::unique_ptr<GrpcSession> make_grpc_session(std::shared_ptr<GrpcService> /*service*/) {
  throw Error(ErrorCode::unavailable,
              "this build of datasentinel has no gRPC server of its own: libnghttp2 was not found; install "
              "libnghttp2-dev and build again");
}

}  // namespace datasentinel
