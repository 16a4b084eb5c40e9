#include "s2p/component_checks.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "s2p/error.h"

namespace s2p {
namespace {

struct Expected {
  const char* name;
  std::vector<DType> dtypes;
  std::vector<std::int64_t> shape;
};

void check_tensor(const std::string& component, const TensorSpec& spec, const Expected& expected) {
  bool fits = spec.name == expected.name && spec.shape == expected.shape;
  bool known = false;
  for (const DType dtype : expected.dtypes) known = known || spec.dtype == dtype;
  if (!fits || !known) {
    throw Error(ErrorKind::bad_input, "component " + component + " has a tensor '" + spec.name +
                                          "' that does not fit the bundle's latents and tokenizer; convert the model again");
  }
}

void check(const Component& component, const std::string& name, const std::vector<Expected>& inputs, const Expected& output) {
  if (component.inputs.size() != inputs.size() || component.outputs.empty()) {
    throw Error(ErrorKind::bad_input, "component " + name + " has another number of tensors; convert the model again");
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) check_tensor(name, component.inputs[i], inputs[i]);
  check_tensor(name, component.outputs.front(), output);
}

/// Dimension `axis` of a component's output, 0 where there is none.
std::int64_t output_size(const Component& component, std::size_t output, std::size_t axis) {
  if (component.outputs.size() <= output || component.outputs[output].shape.size() <= axis) return 0;
  return component.outputs[output].shape[axis];
}

}  // namespace

Component unet_interface(const Bundle& bundle) {
  const std::vector<std::string> names = bundle.manifest().unet_programs();
  Component whole = bundle.component(names.back());
  if (names.size() == 1) return whole;
  std::map<std::string, TensorSpec> own;
  for (const std::string& name : names) {
    for (const TensorSpec& input : bundle.component(name).inputs) own.emplace(input.name, input);
  }
  for (const std::string& name : names) {
    for (const TensorSpec& output : bundle.component(name).outputs) {
      if (output.dtype != DType::float32) {
        throw Error(ErrorKind::bad_input, "component " + name + " gives a tensor '" + output.name + "' that is not float32; convert the model again");
      }
      own.erase(output.name);
    }
  }
  whole.inputs.clear();
  for (const char* name : {"sample", "step", "encoder_hidden_states", "time_table"}) {
    const auto found = own.find(name);
    if (found != own.end()) whole.inputs.push_back(found->second);
    own.erase(name);
  }
  for (const auto& [name, input] : own) whole.inputs.push_back(input);
  return whole;
}

Component at_size(Component component, const PictureSize& size) {
  static const std::set<std::string> of_latents = {"sample", "noise_pred", "latents", "moments"};
  for (std::vector<TensorSpec>* tensors : {&component.inputs, &component.outputs}) {
    for (TensorSpec& spec : *tensors) {
      const bool is_picture = spec.name == "image";
      if (spec.shape.size() != 4 || (!is_picture && of_latents.count(spec.name) == 0)) continue;
      spec.shape[2] = is_picture ? size.height : size.latent_height;
      spec.shape[3] = is_picture ? size.width : size.latent_width;
      component.method = size.method;
    }
  }
  return component;
}

void check_components(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  const Component& text = bundle.component(kTextEncoder);
  const Component unet = unet_interface(bundle);
  const Component& vae = bundle.component(kVaeDecoder);
  const auto tokens = static_cast<std::int64_t>(manifest.tokenizer.max_length);
  const LatentSpec& latents = manifest.latents;
  const std::int64_t width = text.outputs.empty() || text.outputs[0].shape.size() != 3 ? 0 : text.outputs[0].shape[2];
  const std::int64_t batch = manifest.batch();
  const std::vector<std::int64_t> state = {batch, latents.channels, latents.height, latents.width};
  const std::vector<DType> f32 = {DType::float32};
  const std::vector<std::int64_t> picture = {1, 3, manifest.sizes.front().height, manifest.sizes.front().width};
  const Expected ids = {"input_ids", {DType::int32, DType::int64}, {1, tokens}};
  std::vector<Expected> unet_inputs = {{"sample", f32, state},
                                       {"step", {DType::int32, DType::int64}, {1}},
                                       {"encoder_hidden_states", f32, {batch, tokens, width}}};
  if (manifest.conditioning) {
    const Component& network = bundle.component(kTimeTable);
    const std::int64_t pooled = output_size(text, 1, 1);
    const Expected table = {"time_table", f32, {batch, static_cast<std::int64_t>(manifest.plan.calls.size()), output_size(network, 0, 2)}};
    check(text, kTextEncoder, {ids, {"second_input_ids", ids.dtypes, ids.shape}}, {"hidden_states", f32, {1, tokens, width}});
    if (text.outputs.size() < 2) throw Error(ErrorKind::bad_input, "component text_encoder gives no pooled text; convert the model again");
    check_tensor(kTextEncoder, text.outputs[1], {"pooled_text", f32, {1, pooled}});
    check(network, kTimeTable, {{"pooled_text", f32, {batch, pooled}}, {"time_ids", f32, {batch, 6}}}, table);
    unet_inputs.push_back(table);
  } else {
    check(text, kTextEncoder, {ids}, {"last_hidden_state", f32, {1, tokens, width}});
  }
  check(unet, kUnet, unet_inputs, {"noise_pred", f32, state});
  check(vae, kVaeDecoder, {{"latents", f32, {1, latents.channels, latents.height, latents.width}}},
        {"image", f32, picture});
  if (manifest.image_starts.empty()) return;
  check(bundle.component(kVaeEncoder), kVaeEncoder, {{"image", f32, picture}},
        {"moments", f32, {1, 2 * latents.channels, latents.height, latents.width}});
}

}  // namespace s2p
