/// What a VAE encoder takes, [1, 3, H, W] in [-1, 1]: `byte * 2 / 255 - 1` in double, rounded to float32 once.
func encoderInput(_ picture: Picture) -> Tensor {
    let plane = picture.width * picture.height
    let data = (0..<3 * plane).map { Float(Double(picture.rgb[3 * ($0 % plane) + $0 / plane]) * 2 / 255 - 1) }
    return Tensor(shape: [1, 3, picture.height, picture.width], data: data)
}

/// What a VAE encoder gives, [1, 2 C, H, W] with means before log variances, as latents [1, C, H, W]:
/// `(mean - shift_factor - mean of the channel) / std * scaling_factor` in float32, from left to right.
///
/// The mean stands for the distribution, as diffusers' `latent_dist.mode()`: nothing is drawn.
///
/// - Throws: `shapeMismatch`.
func encodedLatents(_ moments: Tensor, _ spec: LatentSpec) throws(S2PError) -> Tensor {
    _ = try moments.checked("moments", shape: [1, 2 * spec.channels, spec.height, spec.width])
    let factor = Float(spec.scalingFactor)
    let shift = Float(spec.shiftFactor)
    let std = spec.std?.map { Float($0) }
    let mean = spec.mean?.map { Float($0) }
    let plane = spec.height * spec.width
    let data = moments.data.prefix(spec.channels * plane).enumerated().map { index, value in
        let channel = index / plane
        return (value - shift - (mean?[channel] ?? 0)) / (std?[channel] ?? 1) * factor
    }
    return Tensor(shape: spec.shape, data: data)
}

/// `latents * std / scaling_factor + shift_factor + mean` in float32, of latents [1, C, H, W].
func decoderInput(_ latents: Tensor, _ spec: LatentSpec) -> Tensor {
    let factor = Float(spec.scalingFactor)
    let shift = Float(spec.shiftFactor)
    let std = spec.std?.map { Float($0) }
    let mean = spec.mean?.map { Float($0) }
    let plane = latents.data.count / spec.channels
    let data = latents.data.enumerated().map { index, value in
        let channel = index / plane
        return value * (std?[channel] ?? 1) / factor + shift + (mean?[channel] ?? 0)
    }
    return Tensor(shape: latents.shape, data: data)
}
