/// The reason for every figure of `report` that is nil or empty, by dotted path. `known` holds what the probes say about
/// their device; where they say nothing the general reason stands.
func missingReasons(_ report: BenchReport, known: [String: String]) -> [String: String] {
    var reasons: [String: String] = [:]
    func note(_ path: String, absent: Bool, _ general: String) {
        if absent { reasons[path] = known[path] ?? general }
    }
    note("device.soc", absent: report.device.soc == nil, "the system does not name the chip")
    note("device.memory_bytes", absent: report.device.memoryBytes == nil, "the system does not tell")
    note("device.cores", absent: report.device.cores == nil, "the system does not tell")
    note("compute_units", absent: report.computeUnits.isEmpty, "this engine has no such choice")
    note("placement", absent: report.placement.isEmpty, "this engine does not tell where operators run")
    note("protocol.threads", absent: report.protocol.threads == nil, "the backend chooses its own threads")
    note("memory.baseline_bytes", absent: report.memory.baselineBytes == nil, "the system does not tell")
    note("memory.peak_bytes", absent: report.memory.peakBytes == nil, "the system does not tell")
    note("memory.samples", absent: report.memory.samples.isEmpty, "the system does not tell")
    note("thermal", absent: report.thermal.isEmpty, "no thermal reading on this device")
    note("energy", absent: report.energy.isEmpty, "no battery reading on this device")
    let milliwatts = report.energy.contains { $0.milliwatts != nil }
    note("energy.milliwatts", absent: !report.energy.isEmpty && !milliwatts, "the system gives the charge level only")
    note("validity.unplugged", absent: report.validity.unplugged == nil, "no battery reading on this device")
    note("validity.low_power_mode_off", absent: report.validity.lowPowerModeOff == nil, "the system does not tell")
    note("validity.thermal_nominal_at_start", absent: report.validity.thermalNominalAtStart == nil, "no thermal reading")
    for (name, phases) in report.timingsMS.loadPhases ?? [:] {
        note("timings_ms.load_phases.\(name).compile", absent: phases["compile"] == nil, "this engine compiles nothing, or did so unseen")
        note("timings_ms.load_phases.\(name).specialise", absent: phases["specialise"] == nil, "this engine does it inside of the first load")
        note("timings_ms.load_phases.\(name).first", absent: phases["first"] == nil, "an earlier launch loaded it first, unseen")
    }
    for (index, fidelity) in report.fidelity.enumerated() {
        note("fidelity.\(index).latent_psnr_db", absent: fidelity.latentPSNR == nil, "identical to the golden run")
        note("fidelity.\(index).image_psnr_db", absent: fidelity.imagePSNR == nil, "identical to the golden run")
    }
    return reasons
}
