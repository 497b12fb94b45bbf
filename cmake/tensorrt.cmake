# Finds what the tensorrt backend is built with: NVIDIA's headers (TensorRT's and CUDA's) and the static CUDA
# runtime. libnvinfer, the ONNX parser and the CUDA driver are opened at run time and never linked.
#
# Sets DATASENTINEL_TENSORRT_FOUND to the major versions of TensorRT whose headers are there, and for each makes
# the target datasentinel_tensorrt<major>_headers and sets DATASENTINEL_TENSORRT_<major>_HEADERS to their version.
# Where there are none, sets DATASENTINEL_TENSORRT_PROBLEM to what is missing.

set(DATASENTINEL_TENSORRT AUTO CACHE STRING "Build the tensorrt backend: AUTO (when its headers are found), ON, OFF")
set_property(CACHE DATASENTINEL_TENSORRT PROPERTY STRINGS AUTO ON OFF)
option(DATASENTINEL_FETCH_TENSORRT_HEADERS "Fetch NVIDIA's header directory of each major version" OFF)
set(DATASENTINEL_TENSORRT_REPOSITORY "https://github.com/NVIDIA/TensorRT.git"
    CACHE STRING "Git repository to fetch the headers from")
set(DATASENTINEL_TENSORRT_10_COMMIT "52399f555c2f80cb690a4a558b604e1a5f227e7c"
    CACHE STRING "The commit to fetch for TensorRT 10; the default is v10.16")
set(DATASENTINEL_TENSORRT_11_COMMIT "82d1dca801c8318a5605399d5240780d0679e4e1"
    CACHE STRING "The commit to fetch for TensorRT 11; the default is v11.1")

# The major versions that the sources are written for.
set(_tensorrt_majors 10 11)

# Fetches `include/` of one commit and nothing else. A commit's name is the digest of its content.
function(_datasentinel_fetch_tensorrt folder commit)
  if(EXISTS "${folder}/include/NvInfer.h")
    return()
  endif()
  find_package(Git REQUIRED)
  message(STATUS "Fetching TensorRT's headers from ${DATASENTINEL_TENSORRT_REPOSITORY}, commit ${commit}")
  file(REMOVE_RECURSE "${folder}")
  file(MAKE_DIRECTORY "${folder}")
  foreach(
    step
    "init --quiet"
    "sparse-checkout set include"
    "fetch --quiet --depth 1 --filter=blob:none ${DATASENTINEL_TENSORRT_REPOSITORY} ${commit}"
    "-c advice.detachedHead=false checkout --quiet FETCH_HEAD")
    separate_arguments(arguments UNIX_COMMAND "${step}")
    execute_process(COMMAND "${GIT_EXECUTABLE}" ${arguments} WORKING_DIRECTORY "${folder}"
                    COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
endfunction()

# The folder of NvOnnxParser.h under `prefix`, or where CMake looks by itself if that is empty; and its version.
function(_datasentinel_find_tensorrt prefix include_result version_result)
  set(where "")
  if(prefix)
    set(where HINTS "${prefix}" NO_DEFAULT_PATH)
  endif()
  unset(include)
  # Not cached, so that a TensorRT installed later is found by the next configuration.
  find_path(include NvOnnxParser.h NO_CACHE ${where}
            PATH_SUFFIXES include include/x86_64-linux-gnu include/aarch64-linux-gnu
                          targets/x86_64-linux-gnu/include)
  set(version "")
  if(include AND EXISTS "${include}/NvInferVersion.h")
    foreach(part MAJOR MINOR)
      file(STRINGS "${include}/NvInferVersion.h" line LIMIT_COUNT 1
           REGEX "^#define (TRT_${part}_ENTERPRISE|NV_TENSORRT_${part}) [0-9]+")
      string(REGEX REPLACE "^#define [A-Z_]+ ([0-9]+).*" "\\1" line "${line}")
      list(APPEND version "${line}")
    endforeach()
  endif()
  list(JOIN version "." version)
  set(${include_result} "${include}" PARENT_SCOPE)
  set(${version_result} "${version}" PARENT_SCOPE)
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

set(DATASENTINEL_TENSORRT_FOUND "")
if(NOT DATASENTINEL_TENSORRT)
  set(DATASENTINEL_TENSORRT_PROBLEM "it was switched off with DATASENTINEL_TENSORRT=OFF")
  return()
endif()

set(_tensorrt_prefixes "")
if(DATASENTINEL_FETCH_TENSORRT_HEADERS)
  foreach(_major ${_tensorrt_majors})
    set(_commit "${DATASENTINEL_TENSORRT_${_major}_COMMIT}")
    _datasentinel_fetch_tensorrt("${PROJECT_BINARY_DIR}/tensorrt-headers/${_commit}" "${_commit}")
    list(APPEND _tensorrt_prefixes "${PROJECT_BINARY_DIR}/tensorrt-headers/${_commit}")
  endforeach()
endif()
cmake_path(CONVERT "$ENV{TensorRT_ROOT}" TO_CMAKE_PATH_LIST _tensorrt_environment)
list(APPEND _tensorrt_prefixes ${TensorRT_ROOT} ${_tensorrt_environment} /usr/local/tensorrt /opt/tensorrt)
# The first of each major version is taken. The last round is for CMake's own prefixes.
foreach(_prefix IN LISTS _tensorrt_prefixes ITEMS "")
  _datasentinel_find_tensorrt("${_prefix}" _include _version)
  string(REGEX MATCH "^[0-9]+" _major "${_version}")
  if(_major IN_LIST _tensorrt_majors AND NOT _major IN_LIST DATASENTINEL_TENSORRT_FOUND)
    list(APPEND DATASENTINEL_TENSORRT_FOUND ${_major})
    set(_tensorrt_${_major}_include "${_include}")
    set(DATASENTINEL_TENSORRT_${_major}_HEADERS "${_version}")
  endif()
endforeach()

_datasentinel_cuda_wheel_folders(_cuda_wheels)
set(_cuda_prefixes "$ENV{CUDA_HOME}" "$ENV{CUDA_PATH}" /usr/local/cuda ${_cuda_wheels})
find_path(_cuda_include cuda_runtime_api.h NO_CACHE HINTS ${_cuda_prefixes} PATH_SUFFIXES include)
find_path(_cuda_crt_include crt/host_defines.h NO_CACHE HINTS ${_cuda_include} ${_cuda_prefixes}
          PATH_SUFFIXES include)
find_library(_cudart_static NAMES libcudart_static.a NO_CACHE HINTS ${_cuda_prefixes}
             PATH_SUFFIXES lib lib64 targets/x86_64-linux/lib)

set(_missing "")
if(NOT DATASENTINEL_TENSORRT_FOUND)
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
  set(DATASENTINEL_TENSORRT_FOUND "")
  set(DATASENTINEL_TENSORRT_PROBLEM "it was built without ${_missing}")
  if(NOT DATASENTINEL_TENSORRT STREQUAL "AUTO")
    message(FATAL_ERROR "DATASENTINEL_TENSORRT=${DATASENTINEL_TENSORRT}, but not found: ${_missing}")
  endif()
  message(STATUS "tensorrt backend: not built; not found: ${_missing}")
  return()
endif()

find_package(Threads REQUIRED)
foreach(_major ${DATASENTINEL_TENSORRT_FOUND})
  add_library(datasentinel_tensorrt${_major}_headers INTERFACE)
  target_include_directories(datasentinel_tensorrt${_major}_headers SYSTEM INTERFACE
                             "${_tensorrt_${_major}_include}" "${_cuda_include}" "${_cuda_crt_include}")
  target_link_libraries(datasentinel_tensorrt${_major}_headers INTERFACE "${_cudart_static}" Threads::Threads
                                                                         ${CMAKE_DL_LIBS} rt)
  message(STATUS "tensorrt backend: headers of ${DATASENTINEL_TENSORRT_${_major}_HEADERS} in "
                 "${_tensorrt_${_major}_include}, CUDA's in ${_cuda_include}")
endforeach()
