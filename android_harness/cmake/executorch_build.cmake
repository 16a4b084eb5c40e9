# An ExecuTorch build that was installed with `cmake --install`: -DCMAKE_PREFIX_PATH (or, for a cross build,
# -DCMAKE_FIND_ROOT_PATH) names its prefix. docs/devices.md has the commands.
find_package(executorch CONFIG REQUIRED)

add_library(executorch_runtime INTERFACE)
target_link_libraries(executorch_runtime INTERFACE executorch extension_threadpool)
if(TARGET optimized_native_cpu_ops_lib)
  set(kernels optimized_native_cpu_ops_lib)  # holds the portable kernels, too; both would register the same names
else()
  set(kernels portable_ops_lib)
endif()
foreach(registering ${kernels} quantized_ops_lib xnnpack_backend)
  if(NOT TARGET ${registering})
    continue()
  endif()
  target_link_libraries(executorch_runtime INTERFACE ${registering})
  # Kernels and backends register themselves when they are loaded; a linker that drops what nobody calls would drop them.
  # Newer ExecuTorch packages bring the option along, and giving it twice would register everything twice.
  get_target_property(options ${registering} INTERFACE_LINK_OPTIONS)
  if(NOT options MATCHES "whole-archive|WHOLE_ARCHIVE")
    target_link_options(executorch_runtime INTERFACE
      "SHELL:-Wl,--whole-archive $<TARGET_FILE:${registering}> -Wl,--no-whole-archive")
  endif()
endforeach()
