#if os(iOS)
import Charts
import S2PBench
import S2PMobile
import SwiftUI

/// The one screen: choose a bundle, run, watch, compare, share.
struct BenchScreen: View {
    @Bindable var model: BenchModel

    var body: some View {
        NavigationStack {
            List {
                bundleSection
                if !model.charts.calls.isEmpty { latencySection }
                if !model.charts.memory.isEmpty { memorySection }
                if !model.charts.thermal.isEmpty { thermalSection }
                if let comparison = model.comparison { pictureSection(comparison) }
                if let report = model.report { reportSection(report) }
            }
            .navigationTitle("S2P Bench")
            .refreshable { await model.refresh() }
            .onAppear { model.refresh() }
        }
    }

    private var bundleSection: some View {
        Section {
            if model.bundles.isEmpty {
                Text("Copy a .s2pmobile folder into this app's folder in the Files app, then pull to refresh.")
            } else {
                Picker("Bundle", selection: $model.selected) {
                    ForEach(model.bundles, id: \.self) { Text($0).tag(Optional($0)) }
                }
                Picker("Compute units", selection: $model.unit) {
                    Text("as the bundle says").tag(ComputeUnit?.none)
                    ForEach(ComputeUnit.allCases, id: \.self) { Text($0.rawValue).tag(Optional($0)) }
                }
                .disabled(model.isRunning)
                Button(model.isRunning ? "Stop" : "Run") { model.isRunning ? model.stop() : model.start() }
            }
            if let phase = model.phase { LabeledContent("Phase", value: phase.rawValue) }
            if model.phase == .timing { Text("Measuring: the charts stand still, keep the app open.") }
            if let problem = model.problem { Text(problem).foregroundStyle(.red) }
        }
    }

    private var latencySection: some View {
        Section("U-Net call, ms") {
            Chart(model.charts.calls) { LineMark(x: .value("Call", $0.x), y: .value("Milliseconds", $0.y)) }
                .frame(height: 140)
        }
    }

    private var memorySection: some View {
        Section("Memory, MB") {
            Chart(model.charts.memory) { LineMark(x: .value("Seconds", $0.x), y: .value("Megabytes", $0.y)) }
                .frame(height: 140)
        }
    }

    private var thermalSection: some View {
        Section("Thermal state") {
            Chart(Array(model.charts.thermal.enumerated()), id: \.offset) { _, sample in
                LineMark(x: .value("Seconds", sample.seconds), y: .value("State", sample.state ?? "unknown"))
                    .interpolationMethod(.stepEnd)
            }
            .frame(height: 110)
        }
    }

    private func pictureSection(_ comparison: BenchModel.Comparison) -> some View {
        Section("This device, and the golden run") {
            HStack {
                picture(comparison.drawn)
                picture(comparison.golden)
            }
            LabeledContent("Latents", value: decibels(comparison.fidelity.latentPSNR))
            LabeledContent("Picture", value: decibels(comparison.fidelity.imagePSNR))
        }
    }

    private func reportSection(_ report: BenchReport) -> some View {
        Section("Report") {
            ForEach(report.summaryMS.sorted { $0.key < $1.key }, id: \.key) { name, summary in
                LabeledContent(name, value: String(format: "p50 %.1f, p90 %.1f ms", summary.p50, summary.p90))
            }
            ForEach(report.computeUnits.sorted { $0.key < $1.key }, id: \.key) { name, unit in
                LabeledContent("\(name) runs on", value: unit)
            }
            if let shares = operatorShares(report.placement) { LabeledContent("Operators", value: shares) }
            if let peak = report.memory.peakBytes { LabeledContent("Peak memory", value: "\(peak / 1_000_000) MB") }
            ShareLink("Share report.json", item: model.reportURL)
        }
    }

    @ViewBuilder
    private func picture(_ image: UIImage?) -> some View {
        if let image {
            Image(uiImage: image).resizable().interpolation(.none).scaledToFit()
        }
    }

    private func decibels(_ value: Double?) -> String {
        value.map { String(format: "%.1f dB", $0) } ?? "identical"
    }
}
#endif
