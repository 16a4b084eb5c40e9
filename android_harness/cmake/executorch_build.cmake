# An ExecuTorch build that was installed with `cmake --install`: -DCMAKE_PREFIX_PATH (or, for a cross build,
# -DCMAKE_FIND_ROOT_PATH) names its prefix. docs/devices-android.md has the commands.
find_package(executorch CONFIG REQUIRED)

add_library(executorch_runtime INTERFACE)
# Kernels and backends register themselves when they are loaded: a linker that drops what nobody calls would drop them.
target_link_libraries(executorch_runtime INTERFACE executorch extension_threadpool)
foreach(registering optimized_native_cpu_ops_lib portable_ops_lib quantized_ops_lib xnnpack_backend)
  if(TARGET ${registering} AND NOT (registering STREQUAL "portable_ops_lib" AND TARGET optimized_native_cpu_ops_lib))
    target_link_libraries(executorch_runtime INTERFACE
      "-Wl,--whole-archive,$<TARGET_FILE:${registering}>,--no-whole-archive" ${registering})
  endif()
endforeach()
