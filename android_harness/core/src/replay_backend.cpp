#include "s2p/replay_backend.h"

#include <algorithm>
#include <cstring>

#include "s2p/error.h"
#include "s2p/picture.h"
#include "s2p/safetensors.h"

namespace s2p {

struct ReplayBackend::Recording {
  std::string golden_id;
  std::vector<std::int32_t> token_ids;
  std::vector<std::int32_t> second_token_ids;  ///< empty with one text encoder
  std::vector<float> text_embeddings;
  std::vector<float> pooled_text;  ///< of this and the next two: empty where one time table serves all prompts
  std::vector<float> time_ids;
  std::vector<float> time_table;
  std::vector<float> noise_pred;
  std::vector<float> image;
  std::vector<float> encoder_input;  ///< of this and the next: empty where the run's picture was not encoded
  std::vector<float> moments;
  std::size_t calls;
  std::size_t batch;
  std::vector<std::string> chunks;
  std::optional<std::string> method;  ///< of programs that know sizes, at the size of golden runs
};

namespace {

/// Part `index` of `parts` equal parts.
std::vector<float> part(const std::vector<float>& all, std::size_t index, std::size_t parts) {
  const std::size_t size = all.size() / parts;
  const auto first = all.begin() + static_cast<std::ptrdiff_t>(index * size);
  return {first, first + static_cast<std::ptrdiff_t>(size)};
}

/// Whether an input holds exactly these values.
bool holds(const TensorView& input, const std::vector<float>& values) {
  return input.dtype == DType::float32 && std::memcmp(input.data, values.data(), values.size() * sizeof(float)) == 0;
}

/// A program whose outputs are several.
template <typename Answer>
class ReplayOutputs : public Program {
 public:
  explicit ReplayOutputs(Answer answer) : answer_(std::move(answer)) {}
  std::vector<float> run(const std::vector<TensorView>& inputs) override { return run_all(inputs).front(); }
  std::vector<std::vector<float>> run_all(const std::vector<TensorView>& inputs) override { return answer_(inputs); }

 private:
  Answer answer_;
};

template <typename Answer>
std::unique_ptr<Program> outputs(Answer answer) {
  return std::make_unique<ReplayOutputs<Answer>>(std::move(answer));
}

template <typename Answer>
class ReplayProgram : public Program {
 public:
  explicit ReplayProgram(Answer answer) : answer_(std::move(answer)) {}
  std::vector<float> run(const std::vector<TensorView>& inputs) override { return answer_(inputs); }

 private:
  Answer answer_;
};

template <typename Answer>
std::unique_ptr<Program> program(Answer answer) {
  return std::make_unique<ReplayProgram<Answer>>(std::move(answer));
}

/// A program of a U-Net in several that is not the last: what it gives is not recorded, and nobody looks at it.
class ZeroProgram : public Program {
 public:
  explicit ZeroProgram(std::vector<TensorSpec> outputs) : outputs_(std::move(outputs)) {}
  std::vector<float> run(const std::vector<TensorView>& inputs) override { return run_all(inputs).front(); }
  std::vector<std::vector<float>> run_all(const std::vector<TensorView>&) override {
    std::vector<std::vector<float>> zeros;
    for (const TensorSpec& output : outputs_) zeros.emplace_back(element_count(output.shape), 0.0f);
    return zeros;
  }

 private:
  std::vector<TensorSpec> outputs_;
};

std::int64_t read_step(const TensorView& step) {
  if (step.dtype == DType::int64) {
    std::int64_t value;
    std::memcpy(&value, step.data, sizeof value);
    return value;
  }
  std::int32_t value;
  std::memcpy(&value, step.data, sizeof value);
  return value;
}

}  // namespace

ReplayBackend::ReplayBackend(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  if (manifest.golden.empty()) throw Error(ErrorKind::bad_input, "the bundle has no golden run to replay; give another bundle");
  const TensorFile file(bundle.path(manifest.golden.front().path));
  auto recording = std::make_shared<Recording>();
  recording->golden_id = manifest.golden.front().id;
  recording->token_ids = file.integers("token_ids");
  recording->text_embeddings = file.floats("text_embeddings");
  recording->noise_pred = file.floats("noise_pred");
  recording->image = file.floats("image");
  recording->calls = manifest.plan.calls.size();
  recording->batch = static_cast<std::size_t>(manifest.batch());
  recording->chunks = manifest.chunks;
  recording->method = manifest.sizes.front().method;
  if (file.contains("moments")) {
    const auto& shape = file.shape("image");
    if (shape.size() != 4 || shape[0] != 1 || shape[1] != 3) {
      throw Error(ErrorKind::bad_tensors, "the image of golden run " + recording->golden_id + " is no picture; convert again");
    }
    recording->encoder_input =
        from_picture(to_picture(recording->image, static_cast<std::size_t>(shape[2]), static_cast<std::size_t>(shape[3])));
    recording->moments = file.floats("moments");
  }
  if (manifest.conditioning) {
    recording->pooled_text = file.floats("pooled_text");
    recording->time_ids = file.floats("time_ids");
    recording->time_table = file.floats("time_table");
    recording->second_token_ids = file.integers("second_token_ids");
    if (recording->second_token_ids.size() != recording->token_ids.size()) {
      const std::string run = "golden run " + recording->golden_id;
      throw Error(ErrorKind::bad_input, run + " has not as many second token ids as first ones; convert again");
    }
  }
  const std::size_t expected = recording->calls * recording->batch * manifest.latents.count();
  if (recording->noise_pred.size() != expected) {
    throw Error(ErrorKind::bad_input, "golden run " + manifest.golden.front().id + " lacks calls; give a bundle whose first run has all");
  }
  recording_ = std::move(recording);
}

ReplayBackend::~ReplayBackend() = default;

std::unique_ptr<Program> ReplayBackend::load(const std::string& name, const Component& component, const std::filesystem::path&) {
  const auto recording = recording_;
  if (component.method && component.method != recording->method) {
    throw Error(ErrorKind::backend, "the golden run is a picture of another size; replay draws only its own");
  }
  if (name == "text_encoder" && !recording->time_table.empty()) {
    return outputs([recording](const std::vector<TensorView>& inputs) -> std::vector<std::vector<float>> {
      const std::size_t length = recording->token_ids.size() / recording->batch;
      for (std::size_t row = 0; row < recording->batch; ++row) {
        const std::int32_t* ids = recording->token_ids.data() + row * length;
        const std::int32_t* second = recording->second_token_ids.data() + row * length;
        if (std::memcmp(ids, inputs.at(0).data, length * sizeof *ids) != 0) continue;
        if (std::memcmp(second, inputs.at(1).data, length * sizeof *second) != 0) {
          throw Error(ErrorKind::backend, "the golden run has other ids of this text for the second text encoder; check the tokenizers");
        }
        return {part(recording->text_embeddings, row, recording->batch), part(recording->pooled_text, row, recording->batch)};
      }
      throw Error(ErrorKind::backend, "the golden run has no such text; replay draws only its own prompt");
    });
  }
  if (name == "time_table") {
    return program([recording](const std::vector<TensorView>& inputs) {
      if (!holds(inputs.at(0), recording->pooled_text) || !holds(inputs.at(1), recording->time_ids)) {
        throw Error(ErrorKind::backend, "the golden run has no time table of this text and size; replay draws only its own");
      }
      return recording->time_table;
    });
  }
  if (name == "text_encoder") {
    return program([recording](const std::vector<TensorView>& inputs) {
      const std::size_t length = recording->token_ids.size() / recording->batch;
      for (std::size_t row = 0; row < recording->batch; ++row) {
        const std::int32_t* ids = recording->token_ids.data() + row * length;
        if (std::memcmp(ids, inputs.at(0).data, length * sizeof *ids) == 0) {
          return part(recording->text_embeddings, row, recording->batch);
        }
      }
      throw Error(ErrorKind::backend, "the golden run has no such text; replay draws only its own prompt");
    });
  }
  const bool is_chunk = std::find(recording->chunks.begin(), recording->chunks.end(), name) != recording->chunks.end();
  if (is_chunk && name != recording->chunks.back()) return std::make_unique<ZeroProgram>(component.outputs);
  if (name == "unet" || is_chunk) {
    const auto is_step = [](const TensorSpec& input) { return input.name == "step"; };
    const auto found = std::find_if(component.inputs.begin(), component.inputs.end(), is_step);
    if (found == component.inputs.end()) {
      throw Error(ErrorKind::backend, "component " + name + " is not told the call, so it cannot be replayed; use an engine");
    }
    const auto place = static_cast<std::size_t>(found - component.inputs.begin());
    const auto own = std::find_if(component.inputs.begin(), component.inputs.end(),
                                   [](const TensorSpec& input) { return input.name == "time_table"; });
    const auto table = static_cast<std::size_t>(own - component.inputs.begin());
    return program([recording, place, table](const std::vector<TensorView>& inputs) {
      if (table < inputs.size() && !holds(inputs[table], recording->time_table)) {
        throw Error(ErrorKind::backend, "the U-Net was told another time table than the recorded one; check the time ids");
      }
      const std::int64_t step = read_step(inputs.at(place));
      if (step < 0 || static_cast<std::size_t>(step) >= recording->calls) {
        throw Error(ErrorKind::backend, "the golden run has no call " + std::to_string(step) + "; check the plan");
      }
      return part(recording->noise_pred, static_cast<std::size_t>(step), recording->calls);
    });
  }
  if (name == "vae_decoder") {
    return program([recording](const std::vector<TensorView>&) { return recording->image; });
  }
  if (name == "vae_encoder" && !recording->moments.empty()) {
    return program([recording](const std::vector<TensorView>& inputs) {
      if (element_count(inputs.at(0).shape) != recording->encoder_input.size() || !holds(inputs.at(0), recording->encoder_input)) {
        throw Error(ErrorKind::backend, "the golden run has no latents of this picture; replay starts only from its own");
      }
      return recording->moments;
    });
  }
  throw Error(ErrorKind::backend, "the golden run has nothing for component " + name + "; use an engine");
}

std::string ReplayBackend::describe(const Component&) const { return "replay of a golden run"; }

bool ReplayBackend::can_draw(const GoldenRun& golden) const { return golden.id == recording_->golden_id; }

}  // namespace s2p
