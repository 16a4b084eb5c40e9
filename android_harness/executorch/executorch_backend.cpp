#include "executorch_backend.h"

#include <executorch/extension/threadpool/threadpool.h>
#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/core/memory_allocator.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

#include "s2p/error.h"
#include "s2p/mapped_file.h"

namespace s2p {
namespace {

namespace et = executorch::runtime;
using exec_aten_type = executorch::aten::ScalarType;

// Of a program that has a method for each picture size, that of the first.
constexpr const char* kFirstMethod = "forward";
// ExecuTorch and its delegates ask for aligned memory; XNNPACK reads a little past the end of its inputs.
constexpr std::size_t kAlignment = 64;

[[noreturn]] void fail(const std::string& name, const std::string& action, et::Error error) {
  std::string reason = std::string(et::to_string(error));
  if (error == et::Error::NotFound || error == et::Error::OperatorMissing) reason += ", a backend or operator is not linked";
  throw Error(ErrorKind::backend, "ExecuTorch could not " + action + " component " + name + " (" + reason +
                                      "); convert the model with the ExecuTorch version of this runner");
}

/// Hands out pieces of a mapped file. The file outlives every buffer, so nothing is freed.
class MappedLoader : public et::DataLoader {
 public:
  explicit MappedLoader(const std::filesystem::path& path) : file_(path) {}

  et::Result<et::FreeableBuffer> load(std::size_t offset, std::size_t size, const SegmentInfo&) const override {
    if (offset > file_.size() || size > file_.size() - offset) return et::Error::InvalidArgument;
    return et::FreeableBuffer(file_.data() + offset, size, nullptr);
  }

  et::Error load_into(std::size_t offset, std::size_t size, const SegmentInfo&, void* buffer) const override {
    if (offset > file_.size() || size > file_.size() - offset) return et::Error::InvalidArgument;
    std::memcpy(buffer, file_.data() + offset, size);
    return et::Error::Ok;
  }

  et::Result<std::size_t> size() const override { return file_.size(); }

 private:
  MappedFile file_;
};

/// A memory allocator without a bound, for the runtime's own structures. Everything is freed together.
class GrowingAllocator : public et::MemoryAllocator {
 public:
  GrowingAllocator() : et::MemoryAllocator(0, nullptr) {}
  ~GrowingAllocator() override { release(); }

  void* allocate(std::size_t size, std::size_t alignment = kDefaultAlignment) override {
    const std::size_t aligned = std::max(alignment, alignof(std::max_align_t));
    void* block = nullptr;
    if (posix_memalign(&block, aligned, std::max<std::size_t>(size, 1)) != 0) return nullptr;
    blocks_.push_back(block);
    return block;
  }

  void reset() override { release(); }

 private:
  void release() {
    for (void* block : blocks_) std::free(block);
    blocks_.clear();
  }

  std::vector<void*> blocks_;
};

struct Free {
  void operator()(std::uint8_t* block) const { std::free(block); }
};
using AlignedBlock = std::unique_ptr<std::uint8_t, Free>;

AlignedBlock aligned_block(std::size_t size) {
  void* block = nullptr;
  if (posix_memalign(&block, kAlignment, std::max<std::size_t>(size, 1)) != 0) throw std::bad_alloc();
  return AlignedBlock(static_cast<std::uint8_t*>(block));
}

exec_aten_type scalar_type(DType dtype) {
  switch (dtype) {
    case DType::float16: return exec_aten_type::Half;
    case DType::float32: return exec_aten_type::Float;
    case DType::int32: return exec_aten_type::Int;
    case DType::int64: return exec_aten_type::Long;
  }
  return exec_aten_type::Undefined;
}

class ExecuTorchProgram : public Program {
 public:
  ExecuTorchProgram(const std::string& name, const std::filesystem::path& file, const std::optional<std::string>& asked)
      : name_(name), loader_(file) {
    // The whole structure is checked before anything of it is followed: a damaged file may have a right checksum.
    et::Result<et::Program> program = et::Program::load(&loader_, et::Program::Verification::InternalConsistency);
    if (!program.ok()) fail(name_, "read", program.error());
    program_ = std::make_unique<et::Program>(std::move(*program));
    const std::string name_of_method = asked ? *asked : own_method();
    plan_memory(name_of_method.c_str());
    et::Result<et::Method> method = program_->load_method(name_of_method.c_str(), manager_.get());
    if (!method.ok()) fail(name_, "load", method.error());
    method_ = std::make_unique<et::Method>(std::move(*method));
  }

  std::vector<float> run(const std::vector<TensorView>& inputs) override {
    execute(inputs);
    return output(0);
  }

  std::vector<std::vector<float>> run_all(const std::vector<TensorView>& inputs) override {
    execute(inputs);
    std::vector<std::vector<float>> outputs;
    for (std::size_t i = 0; i < method_->outputs_size(); ++i) outputs.push_back(output(i));
    return outputs;
  }

 private:
  void execute(const std::vector<TensorView>& inputs) {
    if (inputs.size() != method_->inputs_size()) fail(name_, "run", et::Error::InvalidArgument);
    // Every time, also when nothing changed: a program that plans its inputs reuses their memory while it runs.
    for (std::size_t i = 0; i < inputs.size(); ++i) set_input(inputs[i], i);
    const et::Error error = method_->execute();
    if (error != et::Error::Ok) fail(name_, "run", error);
  }

  std::vector<float> output(std::size_t index) {
    const et::EValue& output = method_->get_output(index);
    if (!output.isTensor() || output.toTensor().scalar_type() != exec_aten_type::Float) {
      fail(name_, "give float32 from", et::Error::InvalidType);
    }
    const auto tensor = output.toTensor();
    const float* values = tensor.const_data_ptr<float>();
    return {values, values + tensor.numel()};
  }

  void require_tensor(const et::Result<et::Tag>& tag) const {
    if (!tag.ok()) fail(name_, "read", tag.error());
    if (*tag != et::Tag::Tensor) fail(name_, "read", et::Error::InvalidProgram);
  }

  /// The one method that there is, whoever named it.
  std::string own_method() const {
    if (program_->num_methods() != 1) return kFirstMethod;
    const et::Result<const char*> only = program_->get_method_name(0);
    if (!only.ok()) fail(name_, "read", only.error());
    return *only;
  }

  void plan_memory(const char* method) {
    const et::Result<et::MethodMeta> meta = program_->method_meta(method);
    if (!meta.ok()) fail(name_, "find a method in", meta.error());
    // ExecuTorch ends the process for an input or output that is none of the method's values; asked for its kind, it only says so.
    for (std::size_t i = 0; i < meta->num_inputs(); ++i) require_tensor(meta->input_tag(i));
    for (std::size_t i = 0; i < meta->num_outputs(); ++i) require_tensor(meta->output_tag(i));
    for (std::size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
      const et::Result<std::int64_t> planned = meta->memory_planned_buffer_size(i);
      if (!planned.ok() || *planned < 0) fail(name_, "read", et::Error::InvalidProgram);
      const auto size = static_cast<std::size_t>(*planned);
      planned_.push_back(aligned_block(size));
      spans_.emplace_back(planned_.back().get(), size);
    }
    planned_allocator_ = std::make_unique<et::HierarchicalAllocator>(et::Span<et::Span<std::uint8_t>>(spans_.data(), spans_.size()));
    manager_ = std::make_unique<et::MemoryManager>(&method_allocator_, planned_allocator_.get(), &temporary_allocator_);
  }

  void set_input(const TensorView& view, std::size_t index) {
    std::vector<executorch::aten::SizesType> sizes(view.shape.begin(), view.shape.end());
    std::vector<executorch::aten::DimOrderType> order(sizes.size());
    std::iota(order.begin(), order.end(), executorch::aten::DimOrderType{0});
    std::vector<executorch::aten::StridesType> strides(sizes.size());
    executorch::aten::StridesType stride = 1;
    for (std::size_t d = sizes.size(); d-- > 0;) {
      strides[d] = stride;
      stride *= sizes[d];
    }
    // The tensor only lends its data for this call: the runtime copies it, or reads it before execute returns.
    executorch::aten::TensorImpl tensor(scalar_type(view.dtype), static_cast<ssize_t>(sizes.size()), sizes.data(),
                                        const_cast<void*>(view.data), order.data(), strides.data());
    const et::Error error = method_->set_input(et::EValue(executorch::aten::Tensor(&tensor)), index);
    if (error != et::Error::Ok) fail(name_, "take an input of", error);
  }

  // In the order of their lifetimes: the method uses all that stands above it.
  std::string name_;
  MappedLoader loader_;
  std::unique_ptr<et::Program> program_;
  GrowingAllocator method_allocator_;
  GrowingAllocator temporary_allocator_;
  std::vector<AlignedBlock> planned_;
  std::vector<et::Span<std::uint8_t>> spans_;
  std::unique_ptr<et::HierarchicalAllocator> planned_allocator_;
  std::unique_ptr<et::MemoryManager> manager_;
  std::unique_ptr<et::Method> method_;
};

}  // namespace

ExecuTorchBackend::ExecuTorchBackend(std::optional<std::int64_t> threads) {
  et::runtime_init();
  if (!threads) return;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  // The guard that the deprecation note recommends is per thread and cannot raise the count.
  const bool set = executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(static_cast<std::uint32_t>(*threads));
#pragma GCC diagnostic pop
  if (!set) throw Error(ErrorKind::backend, "ExecuTorch cannot run on " + std::to_string(*threads) + " threads; choose another --threads");
}

std::unique_ptr<Program> ExecuTorchBackend::load(const std::string& name, const Component& component,
                                                 const std::filesystem::path& file) {
  return std::make_unique<ExecuTorchProgram>(name, file, component.method);
}

std::string ExecuTorchBackend::describe(const Component& component) const { return "executorch " + component.backend; }

}  // namespace s2p
