#include "core/backend.h"

#include <string>

#include "core/error.h"

namespace datasentinel {

void Session::step(ConstRows /*rows*/, States /*states*/, Outputs /*outputs*/) {
  throw Error(ErrorCode::unsupported_model,
              "this model keeps no state of streams on the backend " + std::string(backend()));
}

}  // namespace datasentinel
