// What a request costs on an empty grpc++ server: ModelInfer is answered at once with an empty message. The
// reference of benchmarks.bench_wire. `grpc_reference` listens on a free port and prints `ready PORT`.

#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>

#include "inference/grpc_predict_v2.grpc.pb.h"

namespace {

class EmptyService final : public inference::GRPCInferenceService::CallbackService {
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const inference::ModelInferRequest* /*request*/,
                                       inference::ModelInferResponse* /*response*/) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

}  // namespace

int main() {
  EmptyService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  std::printf("ready %d\n", port);
  std::fflush(stdout);
  server->Wait();
}
