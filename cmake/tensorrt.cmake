# Finds what the tensorrt backend is built with: NVIDIA's headers (TensorRT's and CUDA's) and the static CUDA
# runtime. libnvinfer, the ONNX parser and the CUDA driver are opened at run time and never linked.
#
# Sets DATASENTINEL_TENSORRT_FOUND and makes the target datasentinel_tensorrt_headers, or sets
# DATASENTINEL_TENSORRT_PROBLEM to what is missing.

set(DATASENTINEL_TENSORRT AUTO CACHE STRING "Build the tensorrt backend: AUTO (when its headers are found), ON, OFF")
set_property(CACHE DATASENTINEL_TENSORRT PROPERTY STRINGS AUTO ON OFF)
option(DATASENTINEL_FETCH_TENSORRT_HEADERS "Fetch NVIDIA's header directory when no TensorRT is installed" OFF)
set(DATASENTINEL_TENSORRT_REPOSITORY "https://github.com/NVIDIA/TensorRT.git"
    CACHE STRING "Git repository to fetch the headers from")
set(DATASENTINEL_TENSORRT_COMMIT "82d1dca801c8318a5605399d5240780d0679e4e1"
    CACHE STRING "The commit to fetch; the default is TensorRT 11.1")

# Fetches `include/` of one commit and nothing else. A commit's name is the digest of its content.
function(_datasentinel_fetch_tensorrt folder)
  if(EXISTS "${folder}/include/NvInfer.h")
    return()
  endif()
  find_package(Git REQUIRED)
  message(STATUS "Fetching TensorRT's headers from ${DATASENTINEL_TENSORRT_REPOSITORY}")
  file(REMOVE_RECURSE "${folder}")
  file(MAKE_DIRECTORY "${folder}")
  foreach(
    step
    "init --quiet"
    "sparse-checkout set include"
    "fetch --quiet --depth 1 --filter=blob:none ${DATASENTINEL_TENSORRT_REPOSITORY} ${DATASENTINEL_TENSORRT_COMMIT}"
    "-c advice.detachedHead=false checkout --quiet FETCH_HEAD")
    separate_arguments(arguments UNIX_COMMAND "${step}")
    execute_process(COMMAND "${GIT_EXECUTABLE}" ${arguments} WORKING_DIRECTORY "${folder}"
                    COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
endfunction()

# The include folders of NVIDIA's wheels (nvidia-cuda-runtime, nvidia-cuda-crt), as Python finds them.
function(_datasentinel_cuda_wheel_folders result)
  find_package(Python 3.11 COMPONENTS Interpreter QUIET)
  set(folders "")
  if(Python_FOUND)
    execute_process(
      COMMAND
        "${Python_EXECUTABLE}" -c
        "import importlib.util, pathlib\nspec = importlib.util.find_spec('nvidia')\nprint(';'.join(str(p) for root in (spec.submodule_search_locations if spec else ()) for p in sorted(pathlib.Path(root).glob('*'), reverse=True)))"
      OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(${result} "${folders}" PARENT_SCOPE)
endfunction()

set(DATASENTINEL_TENSORRT_FOUND OFF)
if(NOT DATASENTINEL_TENSORRT)
  set(DATASENTINEL_TENSORRT_PROBLEM "it was switched off with DATASENTINEL_TENSORRT=OFF")
  return()
endif()

set(_tensorrt_prefixes "${TensorRT_ROOT}" "$ENV{TensorRT_ROOT}" /usr/local/tensorrt /opt/tensorrt)
if(DATASENTINEL_FETCH_TENSORRT_HEADERS)
  _datasentinel_fetch_tensorrt("${PROJECT_BINARY_DIR}/tensorrt-headers")
  list(PREPEND _tensorrt_prefixes "${PROJECT_BINARY_DIR}/tensorrt-headers")
endif()
# Not cached, so that a TensorRT installed later is found by the next configuration.
unset(_tensorrt_include CACHE)
find_path(_tensorrt_include NvOnnxParser.h NO_CACHE HINTS ${_tensorrt_prefixes}
          PATH_SUFFIXES include include/x86_64-linux-gnu include/aarch64-linux-gnu
                        targets/x86_64-linux-gnu/include)

_datasentinel_cuda_wheel_folders(_cuda_wheels)
set(_cuda_prefixes "$ENV{CUDA_HOME}" "$ENV{CUDA_PATH}" /usr/local/cuda ${_cuda_wheels})
find_path(_cuda_include cuda_runtime_api.h NO_CACHE HINTS ${_cuda_prefixes} PATH_SUFFIXES include)
find_path(_cuda_crt_include crt/host_defines.h NO_CACHE HINTS ${_cuda_include} ${_cuda_prefixes}
          PATH_SUFFIXES include)
find_library(_cudart_static NAMES libcudart_static.a NO_CACHE HINTS ${_cuda_prefixes}
             PATH_SUFFIXES lib lib64 targets/x86_64-linux/lib)

set(_missing "")
if(NOT _tensorrt_include)
  list(APPEND _missing "TensorRT's headers (NvOnnxParser.h)")
endif()
if(NOT _cuda_include)
  list(APPEND _missing "CUDA's headers (cuda_runtime_api.h)")
elseif(NOT _cuda_crt_include)
  list(APPEND _missing "CUDA's crt/host_defines.h (in the wheel nvidia-cuda-crt)")
endif()
if(NOT _cudart_static)
  list(APPEND _missing "libcudart_static.a")
endif()
if(_missing)
  list(JOIN _missing ", " _missing)
  set(DATASENTINEL_TENSORRT_PROBLEM "it was built without ${_missing}")
  if(NOT DATASENTINEL_TENSORRT STREQUAL "AUTO")
    message(FATAL_ERROR "DATASENTINEL_TENSORRT=${DATASENTINEL_TENSORRT}, but not found: ${_missing}")
  endif()
  message(STATUS "tensorrt backend: not built; not found: ${_missing}")
  return()
endif()

find_package(Threads REQUIRED)
add_library(datasentinel_tensorrt_headers INTERFACE)
target_include_directories(datasentinel_tensorrt_headers SYSTEM INTERFACE
                           "${_tensorrt_include}" "${_cuda_include}" "${_cuda_crt_include}")
target_link_libraries(datasentinel_tensorrt_headers INTERFACE "${_cudart_static}" Threads::Threads
                                                              ${CMAKE_DL_LIBS} rt)
# Our copy of the CUDA runtime stays our own: another one may live in the same process.
target_link_options(datasentinel_tensorrt_headers INTERFACE -Wl,--exclude-libs,libcudart_static.a)
set(DATASENTINEL_TENSORRT_FOUND ON)
message(STATUS "tensorrt backend: headers in ${_tensorrt_include}, CUDA's in ${_cuda_include}")
