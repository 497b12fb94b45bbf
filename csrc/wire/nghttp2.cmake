# Makes the target datasentinel_nghttp2, if libnghttp2 is installed or may be built.
find_path(NGHTTP2_INCLUDE_DIR nghttp2/nghttp2.h)
find_library(NGHTTP2_LIBRARY nghttp2)

if(NGHTTP2_INCLUDE_DIR AND NGHTTP2_LIBRARY)
  add_library(datasentinel_nghttp2 INTERFACE)
  target_include_directories(datasentinel_nghttp2 SYSTEM INTERFACE "${NGHTTP2_INCLUDE_DIR}")
  target_link_libraries(datasentinel_nghttp2 INTERFACE "${NGHTTP2_LIBRARY}")
elseif(DATASENTINEL_FETCH_NGHTTP2)
  include(FetchContent)
  set(ENABLE_LIB_ONLY ON CACHE BOOL "" FORCE)
  set(BUILD_SHARED_LIBS OFF)
  set(BUILD_STATIC_LIBS ON CACHE BOOL "" FORCE)
  FetchContent_Declare(
    nghttp2
    GIT_REPOSITORY https://github.com/nghttp2/nghttp2.git
    GIT_TAG 6315808dc7d32d1d1aa4758f2cd58003502a3238)  # v1.64.0
  FetchContent_MakeAvailable(nghttp2)
  add_library(datasentinel_nghttp2 INTERFACE)
  target_link_libraries(datasentinel_nghttp2 INTERFACE nghttp2_static)
endif()
