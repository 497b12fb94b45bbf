# Warnings and sanitizers, as one interface target that every target of ours links.
add_library(datasentinel_options INTERFACE)
target_include_directories(datasentinel_options INTERFACE "${PROJECT_SOURCE_DIR}/csrc")
target_compile_options(datasentinel_options INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
if(DATASENTINEL_WERROR)
  target_compile_options(datasentinel_options INTERFACE -Werror)
endif()
if(DATASENTINEL_SANITIZE)
  target_compile_options(datasentinel_options INTERFACE -fsanitize=address,undefined
                                                       -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(datasentinel_options INTERFACE -fsanitize=address,undefined)
endif()
