// Our declarations of TensorRT's C++ ABI against the official headers, for tests/unit/test_tensorrt_abi.py,
// which compiles and runs it where the headers are. Prints what differs, and at the end how much was
// compared.

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <cstdio>
#include <cstring>
#include <type_traits>

#include "backends/tensorrt/api.h"

namespace {

namespace ours = datasentinel::tensorrt::abi;
namespace theirs = nvinfer1;

int compared = 0;
int different = 0;

/// The place in its table of a virtual function; the Itanium C++ ABI puts it into the pointer to the member.
template <typename Method>
long slot_of(Method method) {
  std::ptrdiff_t representation[2];
  static_assert(sizeof method == sizeof representation);
  std::memcpy(representation, &method, sizeof method);
  const bool is_virtual = (representation[0] & 1) != 0;
  return is_virtual ? (representation[0] - 1) / static_cast<long>(sizeof(void*)) : -1;
}

/// Whether two types are passed alike. Classes are TensorRT's own, by value only if their sizes are equal.
template <typename Ours, typename Theirs>
constexpr bool alike() {
  if constexpr (std::is_same_v<Ours, Theirs>) {
    return true;
  } else if constexpr (std::is_enum_v<Ours> || std::is_enum_v<Theirs>) {
    return std::is_integral_v<Ours> || std::is_enum_v<Ours> ? sizeof(Ours) == sizeof(Theirs) : false;
  } else if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using O = std::remove_pointer_t<Ours>;
    using T = std::remove_pointer_t<Theirs>;
    if constexpr (std::is_void_v<O>)
      return std::is_class_v<T>;  // cudaStream_t
    else
      return std::is_const_v<O> == std::is_const_v<T> && alike<std::remove_cv_t<O>, std::remove_cv_t<T>>();
  } else if constexpr (std::is_lvalue_reference_v<Ours> && std::is_lvalue_reference_v<Theirs>) {
    using O = std::remove_reference_t<Ours>;
    using T = std::remove_reference_t<Theirs>;
    return std::is_const_v<O> == std::is_const_v<T> && alike<std::remove_cv_t<O>, std::remove_cv_t<T>>();
  } else if constexpr (std::is_class_v<Ours> && std::is_class_v<Theirs>) {
    return sizeof(Ours) == sizeof(Theirs) && alignof(Ours) == alignof(Theirs);
  } else {
    return false;
  }
}

template <typename... T>
struct List {};
template <typename T>
struct Signature;
template <typename R, typename C, typename... A>
struct Signature<R (C::*)(A...)> {
  using Types = List<R, A...>;
};
template <typename R, typename C, typename... A>
struct Signature<R (C::*)(A...) const> : Signature<R (C::*)(A...)> {};
template <typename R, typename C, typename... A>
struct Signature<R (C::*)(A...) noexcept> : Signature<R (C::*)(A...)> {};
template <typename R, typename C, typename... A>
struct Signature<R (C::*)(A...) const noexcept> : Signature<R (C::*)(A...)> {};

template <typename... O, typename... T>
constexpr bool all_alike(List<O...>, List<T...>) {
  if constexpr (sizeof...(O) != sizeof...(T))
    return false;
  else
    return (alike<O, T>() && ...);
}

template <typename Ours, typename Theirs>
void compare(const char* name, Ours our, Theirs their) {
  ++compared;
  if (slot_of(our) != slot_of(their)) {
    std::printf("%s: ours is number %ld, theirs %ld\n", name, slot_of(our), slot_of(their));
    ++different;
  }
  if (!all_alike(typename Signature<Ours>::Types(), typename Signature<Theirs>::Types())) {
    std::printf("%s: the parameters or results differ\n", name);
    ++different;
  }
}

/// What only TensorRT for RTX has; a template, so that other headers compile.
template <typename Config>
void compare_rtx() {
  if constexpr (requires { &Config::setComputeCapability; }) {
    compare("setNbComputeCapabilities", &ours::VRtxBuilderConfig::setNbComputeCapabilities,
            &Config::setNbComputeCapabilities);
    compare("setComputeCapability", &ours::VRtxBuilderConfig::setComputeCapability,
            &Config::setComputeCapability);
  }
}

#define COMPARE(table, method) \
  compare(#table "::" #method, &ours::table::method, &theirs::apiv::table::method)

#define SAME_NUMBER(our, their) static_assert(static_cast<long>(our) == static_cast<long>(their), #our)
SAME_NUMBER(ours::kMajor, NV_TENSORRT_MAJOR);
SAME_NUMBER(ours::kOnnxParserVersion, NV_ONNX_PARSER_VERSION);
SAME_NUMBER(ours::kMaxDims, theirs::Dims::MAX_DIMS);
SAME_NUMBER(ours::DataType::kFLOAT, theirs::DataType::kFLOAT);
SAME_NUMBER(ours::TensorIOMode::kINPUT, theirs::TensorIOMode::kINPUT);
SAME_NUMBER(ours::TensorIOMode::kOUTPUT, theirs::TensorIOMode::kOUTPUT);
SAME_NUMBER(ours::OptProfileSelector::kMIN, theirs::OptProfileSelector::kMIN);
SAME_NUMBER(ours::OptProfileSelector::kOPT, theirs::OptProfileSelector::kOPT);
SAME_NUMBER(ours::OptProfileSelector::kMAX, theirs::OptProfileSelector::kMAX);
SAME_NUMBER(ours::BuilderFlag::kTF32, theirs::BuilderFlag::kTF32);
SAME_NUMBER(ours::BuilderFlag::kVERSION_COMPATIBLE, theirs::BuilderFlag::kVERSION_COMPATIBLE);
SAME_NUMBER(ours::MemoryPoolType::kWORKSPACE, theirs::MemoryPoolType::kWORKSPACE);
SAME_NUMBER(ours::HardwareCompatibilityLevel::kAMPERE_PLUS, theirs::HardwareCompatibilityLevel::kAMPERE_PLUS);
SAME_NUMBER(ours::ExecutionContextAllocationStrategy::kUSER_MANAGED,
            theirs::ExecutionContextAllocationStrategy::kUSER_MANAGED);
SAME_NUMBER(ours::Severity::kINTERNAL_ERROR, theirs::ILogger::Severity::kINTERNAL_ERROR);
SAME_NUMBER(ours::Severity::kERROR, theirs::ILogger::Severity::kERROR);
SAME_NUMBER(ours::APILanguage::kCPP, theirs::APILanguage::kCPP);
static_assert(ours::kVersion == 10000 * ours::kMajor + 100 * ours::kMinor);
static_assert(ours::kVersion <= NV_TENSORRT_VERSION, "the headers are older than what is declared");
static_assert(sizeof(ours::Dims) == sizeof(theirs::Dims));
static_assert(sizeof(ours::Object<ours::VBuilder>) == sizeof(theirs::IBuilder));
static_assert(sizeof(ours::ILogger) == sizeof(theirs::ILogger));
static_assert(sizeof(ours::IProgressMonitor) == sizeof(theirs::IProgressMonitor));

}  // namespace

int main() {
  COMPARE(VHostMemory, data);
  COMPARE(VHostMemory, size);
  COMPARE(VTensor, getName);
  COMPARE(VTensor, getDimensions);
  COMPARE(VOptimizationProfile, setDimensions);
  COMPARE(VTimingCache, serialize);
  COMPARE(VNetworkDefinition, getNbInputs);
  COMPARE(VNetworkDefinition, getInput);
  COMPARE(VBuilderConfig, clearFlag);
  COMPARE(VBuilderConfig, setFlag);
  COMPARE(VBuilderConfig, addOptimizationProfile);
  COMPARE(VBuilderConfig, createTimingCache);
  COMPARE(VBuilderConfig, setTimingCache);
  COMPARE(VBuilderConfig, setMemoryPoolLimit);
  COMPARE(VBuilderConfig, setBuilderOptimizationLevel);
  COMPARE(VBuilderConfig, setHardwareCompatibilityLevel);
  COMPARE(VBuilderConfig, setMaxAuxStreams);
  COMPARE(VBuilderConfig, setProgressMonitor);
  compare_rtx<theirs::apiv::VBuilderConfig>();
  COMPARE(VBuilder, createBuilderConfig);
  COMPARE(VBuilder, createNetworkV2);
  COMPARE(VBuilder, createOptimizationProfile);
  COMPARE(VBuilder, buildSerializedNetwork);
  COMPARE(VExecutionContext, setOptimizationProfileAsync);
  COMPARE(VExecutionContext, setInputShape);
  COMPARE(VExecutionContext, setTensorAddress);
  COMPARE(VExecutionContext, enqueueV3);
  COMPARE(VExecutionContext, setDeviceMemoryV2);
  COMPARE(VCudaEngine, createExecutionContext);
  COMPARE(VCudaEngine, getNbOptimizationProfiles);
  COMPARE(VCudaEngine, getTensorShape);
  COMPARE(VCudaEngine, getTensorDataType);
  COMPARE(VCudaEngine, getTensorIOMode);
  COMPARE(VCudaEngine, getNbIOTensors);
  COMPARE(VCudaEngine, getIOTensorName);
  COMPARE(VCudaEngine, getDeviceMemorySizeForProfileV2);
  COMPARE(VRuntime, deserializeCudaEngine);
  COMPARE(VRuntime, setEngineHostCodeAllowed);
#define COMPARE_CALLBACK(interface, method) \
  compare(#interface "::" #method, &ours::interface::method, &theirs::interface::method)
  COMPARE_CALLBACK(IVersionedInterface, getAPILanguage);
  COMPARE_CALLBACK(IVersionedInterface, getInterfaceInfo);
  COMPARE_CALLBACK(ILogger, getInterfaceInfo);
  COMPARE_CALLBACK(ILogger, log);
  COMPARE_CALLBACK(IProgressMonitor, getInterfaceInfo);
  COMPARE_CALLBACK(IProgressMonitor, phaseStart);
  COMPARE_CALLBACK(IProgressMonitor, stepComplete);
  COMPARE_CALLBACK(IProgressMonitor, phaseFinish);
#define COMPARE_PARSER(interface, method) \
  compare(#interface "::" #method, &ours::interface::method, &nvonnxparser::interface::method)
  COMPARE_PARSER(IParser, parse);
  COMPARE_PARSER(IParser, getNbErrors);
  COMPARE_PARSER(IParser, getError);
  COMPARE_PARSER(IParserError, desc);
  COMPARE_PARSER(IParserError, node);
  COMPARE_PARSER(IParserError, nodeOperator);
  std::printf("%d compared, %d different\n", compared, different);
  return different == 0 ? 0 : 1;
}
