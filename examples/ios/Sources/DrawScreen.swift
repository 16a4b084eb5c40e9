import PhotosUI
import S2PMobile
import SwiftUI

/// A prompt, a button, and the picture as it comes.
struct DrawScreen: View {
    @State private var model = DrawModel()
    @State private var item: PhotosPickerItem?

    var body: some View {
        @Bindable var model = model
        VStack(spacing: 16) {
            if let image = model.image {
                Image(decorative: image, scale: 1).resizable().interpolation(.medium).scaledToFit()
            }
            if let fraction = model.fraction { ProgressView(value: fraction) }
            Text(model.status)
            TextField("a red apple", text: $model.prompt)
            if model.takesPhotos {
                PhotosPicker("Start from a photo", selection: $item, matching: .images)
                if item != nil { Button("Start from noise") { item = nil } }
            }
            Button(model.isBusy ? "Stop" : "Draw") { model.isBusy ? model.stop() : model.draw() }
                .disabled(!model.isReady)
        }
        .padding()
        .task { await model.open() }
        .onChange(of: item) {
            Task { await model.start(from: try? await item?.loadTransferable(type: Data.self)) }
        }
    }
}
