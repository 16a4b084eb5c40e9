# The ExecuTorch runtime inside the pip package. Its Python extension holds the runtime, XNNPACK and the kernels; on x86-64
# the Qualcomm backend's library holds the platform layer and the backend registry; libpython and libtorch come along.
find_package(Python3 REQUIRED COMPONENTS Interpreter Development.Embed)
execute_process(
  COMMAND "${Python3_EXECUTABLE}" -I -c  # -I: this folder has an executorch of its own
          "import importlib.util as u; print(u.find_spec('executorch').submodule_search_locations[0]); print(u.find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE locations OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed ERROR_QUIET)
if(failed)
  message(FATAL_ERROR "${Python3_EXECUTABLE} has no executorch and torch; pass -DPython3_EXECUTABLE=PYTHON of an environment that has them")
endif()
string(REPLACE "\n" ";" locations "${locations}")
list(GET locations 0 executorch_folder)
list(GET locations 1 torch_folder)
file(GLOB runtime_libraries "${executorch_folder}/extension/pybindings/_portable_lib*.so")
file(GLOB platform_libraries "${executorch_folder}/backends/qualcomm/libqnn_executorch_backend.so")
if(NOT runtime_libraries)
  message(FATAL_ERROR "${executorch_folder} holds no runtime; install the executorch wheel of this platform")
endif()

add_library(executorch_runtime INTERFACE)
target_include_directories(executorch_runtime SYSTEM INTERFACE "${executorch_folder}/include"
  "${executorch_folder}/include/executorch/runtime/core/portable_type/c10" "${CMAKE_CURRENT_SOURCE_DIR}/executorch/wheel_headers")
target_compile_definitions(executorch_runtime INTERFACE C10_USING_CUSTOM_GENERATED_MACROS)
target_link_libraries(executorch_runtime INTERFACE ${runtime_libraries} ${platform_libraries} Python3::Python)
target_link_options(executorch_runtime INTERFACE -Wl,--allow-shlib-undefined
  "-Wl,-rpath,${torch_folder}/lib:${executorch_folder}/extension/pybindings:${executorch_folder}/backends/qualcomm")
