#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace datasentinel::tensorrt::abi {

// The part of the C++ ABI of TensorRT 11 that is used here, which TensorRT for RTX has from 1.7 on. NVIDIA's
// wheels ship the libraries without headers, and the ABI is documented to grow at the end only within a major
// version: what a factory returns is an object with a pointer to a table of virtual functions, whose order
// never changes. Every class below is such a table up to the last function that is used; those that are not
// are named by their number. A test compares each position, parameter and number with the official headers.
//
// Never construct or copy one of these: TensorRT makes them, and `Owned` releases them.

// clang-format off
#define DATASENTINEL_TRT_UNUSED(number) virtual void unused_##number() noexcept = 0;
#define DATASENTINEL_TRT_UNUSED_2(a, b) DATASENTINEL_TRT_UNUSED(a) DATASENTINEL_TRT_UNUSED(b)
#define DATASENTINEL_TRT_UNUSED_3(a, b, c) DATASENTINEL_TRT_UNUSED_2(a, b) DATASENTINEL_TRT_UNUSED(c)
#define DATASENTINEL_TRT_UNUSED_4(a, b, c, d) DATASENTINEL_TRT_UNUSED_2(a, b) DATASENTINEL_TRT_UNUSED_2(c, d)
#define DATASENTINEL_TRT_UNUSED_5(a, b, c, d, e) DATASENTINEL_TRT_UNUSED_4(a, b, c, d) DATASENTINEL_TRT_UNUSED(e)
#define DATASENTINEL_TRT_UNUSED_6(a, b, c, d, e, f) \
  DATASENTINEL_TRT_UNUSED_4(a, b, c, d) DATASENTINEL_TRT_UNUSED_2(e, f)
// clang-format on

/// What the factories' `version` says of us: TensorRT 11.1.0.
inline constexpr std::int32_t kVersion = 110100;
inline constexpr int kMajor = 11;
inline constexpr int kMinor = 1;
inline constexpr int kOnnxParserVersion = 100;  // NV_ONNX_PARSER_VERSION

inline constexpr std::int32_t kCurrentDevice = 1;  // ComputeCapability::kCURRENT of TensorRT for RTX

inline constexpr std::int32_t kMaxDims = 8;  // Dims::MAX_DIMS

struct Dims {
  std::int32_t nbDims;
  std::int64_t d[kMaxDims];  // NOLINT(modernize-avoid-c-arrays): its layout is TensorRT's.
};

enum class DataType : std::int32_t { kFLOAT = 0 };
enum class TensorIOMode : std::int32_t { kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : std::int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class BuilderFlag : std::int32_t { kTF32 = 6, kVERSION_COMPATIBLE = 12 };
enum class MemoryPoolType : std::int32_t { kWORKSPACE = 0 };
enum class HardwareCompatibilityLevel : std::int32_t { kAMPERE_PLUS = 1 };
enum class ExecutionContextAllocationStrategy : std::int32_t { kUSER_MANAGED = 2 };
enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1 };  // ILogger::Severity
enum class APILanguage : std::int32_t { kCPP = 0 };

/// An object of TensorRT (`IBuilder` and so on): its own table knows how to destroy it, the one of `impl`
/// what it does.
template <typename Table>
class Object {
 public:
  virtual ~Object() = default;
  [[nodiscard]] Table* impl() const noexcept { return impl_; }

 private:
  Table* impl_ = nullptr;
};

/// Owns an object of TensorRT; `->` calls what it does.
template <typename Table>
class Owned {
 public:
  explicit Owned(Object<Table>* object = nullptr) noexcept : object_(object) {}
  Table* operator->() const noexcept { return object_->impl(); }
  Object<Table>& operator*() const noexcept { return *object_; }
  [[nodiscard]] Object<Table>* get() const noexcept { return object_.get(); }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  std::unique_ptr<Object<Table>> object_;
};

class VRoot {
 public:
  virtual ~VRoot() noexcept = default;
};

class VHostMemory : public VRoot {
 public:
  [[nodiscard]] virtual void* data() const noexcept = 0;
  [[nodiscard]] virtual std::size_t size() const noexcept = 0;
};

class VTensor : public VRoot {
 public:
  DATASENTINEL_TRT_UNUSED(0)
  [[nodiscard]] virtual const char* getName() const noexcept = 0;
  DATASENTINEL_TRT_UNUSED(2)
  [[nodiscard]] virtual Dims getDimensions() const noexcept = 0;
};

class VOptimizationProfile : public VRoot {
 public:
  virtual bool setDimensions(const char* input, OptProfileSelector selector, const Dims& dims) noexcept = 0;
};

class VTimingCache : public VRoot {
 public:
  [[nodiscard]] virtual Object<VHostMemory>* serialize() const noexcept = 0;
};

class VNetworkDefinition : public VRoot {
 public:
  DATASENTINEL_TRT_UNUSED_6(0, 1, 2, 3, 4, 5)
  DATASENTINEL_TRT_UNUSED_6(6, 7, 8, 9, 10, 11)
  [[nodiscard]] virtual std::int32_t getNbInputs() const noexcept = 0;
  [[nodiscard]] virtual Object<VTensor>* getInput(std::int32_t index) const noexcept = 0;
};

/// Implemented by what TensorRT calls back.
class IVersionedInterface {
 public:
  struct InterfaceInfo {
    const char* kind;
    std::int32_t major;
    std::int32_t minor;
  };

  [[nodiscard]] virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
  [[nodiscard]] virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
  virtual ~IVersionedInterface() noexcept = default;
};

class ILogger : public IVersionedInterface {
 public:
  [[nodiscard]] InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
  virtual void log(Severity severity, const char* message) noexcept = 0;
};

class IProgressMonitor : public IVersionedInterface {
 public:
  [[nodiscard]] InterfaceInfo getInterfaceInfo() const noexcept override {
    return {"IProgressMonitor", 1, 0};
  }
  virtual void phaseStart(const char* phase, const char* parent, std::int32_t steps) noexcept = 0;
  /// False ends the build.
  virtual bool stepComplete(const char* phase, std::int32_t step) noexcept = 0;
  virtual void phaseFinish(const char* phase) noexcept = 0;
};

class VBuilderConfig : public VRoot {
 public:
  DATASENTINEL_TRT_UNUSED_6(0, 1, 2, 3, 4, 5)
  virtual void clearFlag(BuilderFlag flag) noexcept = 0;
  virtual void setFlag(BuilderFlag flag) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_6(8, 9, 10, 11, 12, 13)
  DATASENTINEL_TRT_UNUSED_6(14, 15, 16, 17, 18, 19)
  DATASENTINEL_TRT_UNUSED(20)
  virtual std::int32_t addOptimizationProfile(const Object<VOptimizationProfile>* profile) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_5(22, 23, 24, 25, 26)
  [[nodiscard]] virtual Object<VTimingCache>* createTimingCache(const void* blob,
                                                                std::size_t size) const noexcept = 0;
  virtual bool setTimingCache(const Object<VTimingCache>& cache, bool ignore_mismatch) noexcept = 0;
  DATASENTINEL_TRT_UNUSED(29)
  virtual void setMemoryPoolLimit(MemoryPoolType pool, std::size_t bytes) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_3(31, 32, 33)
  virtual void setBuilderOptimizationLevel(std::int32_t level) noexcept = 0;
  DATASENTINEL_TRT_UNUSED(35)
  virtual void setHardwareCompatibilityLevel(HardwareCompatibilityLevel level) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_4(37, 38, 39, 40)
  virtual bool setMaxAuxStreams(std::int32_t count) noexcept = 0;
  DATASENTINEL_TRT_UNUSED(42)
  virtual void setProgressMonitor(IProgressMonitor* monitor) noexcept = 0;
};

/// The same in TensorRT for RTX, which from its number 53 on goes another way than TensorRT 11. Its headers
/// are in no registry; the positions are those that NVIDIA's Python bindings of 1.7.1 call.
class VRtxBuilderConfig : public VBuilderConfig {
 public:
  DATASENTINEL_TRT_UNUSED_3(44, 45, 46)
  DATASENTINEL_TRT_UNUSED_6(47, 48, 49, 50, 51, 52)
  virtual bool setNbComputeCapabilities(std::int32_t count) noexcept = 0;
  DATASENTINEL_TRT_UNUSED(54)
  /// A compute capability is ten times the major plus the minor number, such as 89; kCurrentDevice is
  /// another.
  virtual bool setComputeCapability(std::int32_t capability, std::int32_t index) noexcept = 0;
};

class VBuilder : public VRoot {
 public:
  DATASENTINEL_TRT_UNUSED_3(0, 1, 2)
  virtual Object<VBuilderConfig>* createBuilderConfig() noexcept = 0;
  virtual Object<VNetworkDefinition>* createNetworkV2(std::uint32_t flags) noexcept = 0;
  virtual Object<VOptimizationProfile>* createOptimizationProfile() noexcept = 0;
  DATASENTINEL_TRT_UNUSED_3(6, 7, 8)
  virtual Object<VHostMemory>* buildSerializedNetwork(Object<VNetworkDefinition>& network,
                                                      Object<VBuilderConfig>& config) noexcept = 0;
};

class VExecutionContext : public VRoot {
 public:
  DATASENTINEL_TRT_UNUSED_6(0, 1, 2, 3, 4, 5)
  DATASENTINEL_TRT_UNUSED_6(6, 7, 8, 9, 10, 11)
  DATASENTINEL_TRT_UNUSED_2(12, 13)
  virtual bool setOptimizationProfileAsync(std::int32_t profile, void* stream) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_3(15, 16, 17)
  virtual bool setInputShape(const char* tensor, const Dims& dims) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_2(19, 20)
  virtual bool setTensorAddress(const char* tensor, void* data) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_6(22, 23, 24, 25, 26, 27)
  DATASENTINEL_TRT_UNUSED_6(28, 29, 30, 31, 32, 33)
  virtual bool enqueueV3(void* stream) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_6(35, 36, 37, 38, 39, 40)
  DATASENTINEL_TRT_UNUSED_5(41, 42, 43, 44, 45)
  virtual void setDeviceMemoryV2(void* memory, std::int64_t bytes) noexcept = 0;
};

class VCudaEngine : public VRoot {
 public:
  DATASENTINEL_TRT_UNUSED_3(0, 1, 2)
  virtual Object<VExecutionContext>* createExecutionContext(
      ExecutionContextAllocationStrategy strategy) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_2(4, 5)
  [[nodiscard]] virtual std::int32_t getNbOptimizationProfiles() const noexcept = 0;
  DATASENTINEL_TRT_UNUSED_6(7, 8, 9, 10, 11, 12)
  [[nodiscard]] virtual Dims getTensorShape(const char* tensor) const noexcept = 0;
  [[nodiscard]] virtual DataType getTensorDataType(const char* tensor) const noexcept = 0;
  DATASENTINEL_TRT_UNUSED_2(15, 16)
  [[nodiscard]] virtual TensorIOMode getTensorIOMode(const char* tensor) const noexcept = 0;
  DATASENTINEL_TRT_UNUSED_6(18, 19, 20, 21, 22, 23)
  [[nodiscard]] virtual std::int32_t getNbIOTensors() const noexcept = 0;
  [[nodiscard]] virtual const char* getIOTensorName(std::int32_t index) const noexcept = 0;
  DATASENTINEL_TRT_UNUSED_6(26, 27, 28, 29, 30, 31)
  DATASENTINEL_TRT_UNUSED_6(32, 33, 34, 35, 36, 37)
  DATASENTINEL_TRT_UNUSED_5(38, 39, 40, 41, 42)
  [[nodiscard]] virtual std::int64_t getDeviceMemorySizeForProfileV2(std::int32_t profile) const noexcept = 0;
};

class VRuntime : public VRoot {
 public:
  DATASENTINEL_TRT_UNUSED(0)
  virtual Object<VCudaEngine>* deserializeCudaEngine(const void* blob, std::size_t size) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_6(2, 3, 4, 5, 6, 7)
  DATASENTINEL_TRT_UNUSED_6(8, 9, 10, 11, 12, 13)
  DATASENTINEL_TRT_UNUSED_4(14, 15, 16, 17)
  virtual void setEngineHostCodeAllowed(bool allowed) noexcept = 0;
};

// The ONNX parser's objects are their own tables.

class IParserError {
 public:
  DATASENTINEL_TRT_UNUSED(0)
  [[nodiscard]] virtual const char* desc() const = 0;
  DATASENTINEL_TRT_UNUSED_3(2, 3, 4)
  [[nodiscard]] virtual int node() const = 0;
  DATASENTINEL_TRT_UNUSED(6)
  [[nodiscard]] virtual const char* nodeOperator() const = 0;

 protected:
  ~IParserError() = default;
};

class IParser {
 public:
  virtual bool parse(const void* onnx, std::size_t size, const char* path) noexcept = 0;
  DATASENTINEL_TRT_UNUSED_2(1, 2)
  [[nodiscard]] virtual int getNbErrors() const noexcept = 0;
  [[nodiscard]] virtual const IParserError* getError(int index) const noexcept = 0;
  DATASENTINEL_TRT_UNUSED(5)
  virtual ~IParser() noexcept = default;
};

#undef DATASENTINEL_TRT_UNUSED_6
#undef DATASENTINEL_TRT_UNUSED_5
#undef DATASENTINEL_TRT_UNUSED_4
#undef DATASENTINEL_TRT_UNUSED_3
#undef DATASENTINEL_TRT_UNUSED_2
#undef DATASENTINEL_TRT_UNUSED

}  // namespace datasentinel::tensorrt::abi
