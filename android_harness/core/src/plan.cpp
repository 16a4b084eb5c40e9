#include "s2p/plan.h"

#include <map>

#include "s2p/noise.h"

namespace s2p {
namespace {

std::vector<Term> read_terms(const Json& list, const std::string& path, std::size_t call) {
  std::vector<Term> terms;
  for (const Json& pair : list) {
    if (!pair.is_array() || pair.size() != 2) invalid(path, "not a list of [index, coefficient]");
    const std::int64_t index = whole_number(pair[0], path, 0, static_cast<std::int64_t>(call));
    terms.push_back({static_cast<std::size_t>(index), finite_number(pair[1], path)});
  }
  return terms;
}

using History = std::map<std::size_t, std::vector<float>>;

void add(std::vector<double>& total, double factor, const std::vector<float>& values) {
  for (std::size_t i = 0; i < total.size(); ++i) total[i] += factor * static_cast<double>(values[i]);
}

/// Index of the last call whose row uses entry k, for each k of one kind.
std::vector<std::size_t> last_uses(const SamplingPlan& plan, std::vector<Term> PlanCall::* terms) {
  std::vector<std::size_t> last(plan.calls.size() + 1, 0);
  for (std::size_t i = 0; i < plan.calls.size(); ++i) {
    for (const Term& term : plan.calls[i].*terms) last[term.index] = i;
  }
  return last;
}

/// Forgets what no later row uses. x_{i+1} is the next call's input and stays.
void forget(History& history, const std::vector<std::size_t>& last, std::size_t call) {
  for (auto entry = history.begin(); entry != history.end();) {
    entry = entry->first <= call && last[entry->first] <= call ? history.erase(entry) : std::next(entry);
  }
}

}  // namespace

PlanCall PlanCall::read(Fields fields, std::size_t index) {
  PlanCall call;
  call.timestep = fields.number("timestep");
  call.input_scale = fields.number("input_scale");
  call.states = read_terms(fields.array("states"), fields.path_of("states"), index);
  call.outputs = read_terms(fields.array("outputs"), fields.path_of("outputs"), index);
  call.noise = fields.number("noise");
  fields.finish();
  return call;
}

SamplingPlan SamplingPlan::read(Fields fields) {
  SamplingPlan plan;
  plan.scheduler = fields.text("scheduler");
  plan.steps = fields.integer("steps", 1);
  plan.prediction_type = fields.text("prediction_type");
  plan.initial_scale = fields.positive("initial_scale");
  const Json& calls = fields.array("calls");
  if (calls.empty()) invalid(fields.path_of("calls"), "empty");
  for (std::size_t i = 0; i < calls.size(); ++i) {
    plan.calls.push_back(PlanCall::read(Fields(calls[i], fields.path_of("calls." + std::to_string(i))), i));
  }
  fields.finish();
  return plan;
}

std::vector<float> guide(const std::vector<float>& outputs, std::size_t count, double guidance) {
  if (outputs.size() == count) return outputs;
  const auto factor = static_cast<float>(guidance);
  std::vector<float> guided(count);
  for (std::size_t i = 0; i < count; ++i) {
    guided[i] = outputs[i] + factor * (outputs[count + i] - outputs[i]);
  }
  return guided;
}

std::vector<float> initial_latents(const SamplingPlan& plan, std::uint64_t seed, std::size_t count) {
  std::vector<float> latents = gaussian(seed, count);
  const auto scale = static_cast<float>(plan.initial_scale);
  for (float& value : latents) value *= scale;
  return latents;
}

std::vector<float> denoise(const SamplingPlan& plan, const Predict& predict, std::vector<float> latents, std::uint64_t seed,
                           const OnState& on_state, std::size_t first) {
  const auto last_state = last_uses(plan, &PlanCall::states);
  const auto last_output = last_uses(plan, &PlanCall::outputs);
  const std::size_t count = latents.size();
  History states;
  History outputs;
  states[first] = std::move(latents);
  std::vector<float> scaled(count);
  for (std::size_t i = first; i < plan.calls.size(); ++i) {
    const PlanCall& call = plan.calls[i];
    const auto scale = static_cast<float>(call.input_scale);
    for (std::size_t n = 0; n < count; ++n) scaled[n] = scale * states[i][n];
    outputs[i] = predict(scaled, i);

    std::vector<double> total(count, 0.0);
    for (const Term& term : call.states) add(total, term.coefficient, states.at(term.index));
    for (const Term& term : call.outputs) add(total, term.coefficient, outputs.at(term.index));
    if (call.noise != 0.0) add(total, call.noise, gaussian(seed, count, static_cast<std::uint32_t>(i + 1)));
    states[i + 1].assign(total.begin(), total.end());
    if (on_state) on_state(i, states[i + 1]);
    forget(states, last_state, i);
    forget(outputs, last_output, i);
  }
  return std::move(states.at(plan.calls.size()));
}

}  // namespace s2p
