package mobile.s2p

import android.graphics.Bitmap
import java.io.File
import kotlin.math.abs
import kotlin.math.sqrt
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.pytorch.executorch.StandIn

private fun expect(holds: Boolean, what: () -> String) {
    if (!holds) throw AssertionError(what())
}

private suspend fun refused(pipeline: Pipeline, image: Bitmap, strength: Double = 0.6, size: PictureSize? = null): String =
    try {
        pipeline.generate("x", image = image, strength = strength, size = size).toList()
        throw AssertionError("not refused")
    } catch (error: S2PException) {
        error.message!!
    }

private fun bitmap(width: Int, height: Int, color: (x: Int, y: Int) -> Int): Bitmap =
    Bitmap.createBitmap(IntArray(width * height) { color(it % width, it / width) }, width, height, Bitmap.Config.ARGB_8888)

/** A decoder output [3, height, width] in [-1, 1] as 8 bits. */
private fun bitmapOf(image: FloatArray, width: Int, height: Int): Bitmap = bitmap(width, height) { x, y ->
    (0..2).fold(0xFF) { color, channel ->
        val unit = (image[(channel * height + y) * width + x] / 2 + 0.5f).coerceIn(0f, 1f)
        color shl 8 or Math.rint((unit * 255).toDouble()).toInt()
    }
}

/** A bitmap as the VAE encoder takes it: [3, height, width] in [-1, 1]. */
private fun encoderInput(image: Bitmap): FloatArray {
    val plane = image.width * image.height
    return FloatArray(3 * plane) { i ->
        val color = image.getPixel(i % plane % image.width, i % plane / image.width)
        ((color shr (16 - 8 * (i / plane)) and 255) * 2.0 / 255 - 1).toFloat()
    }
}

private fun norm(values: FloatArray): Double = sqrt(values.sumOf { it.toDouble() * it })

/** A run from the golden run's own picture, three of its five steps, ends where it is recorded; and what is refused. */
fun fromPicture(bundle: File, without: File, golden: String, seed: Long, prompt: String): Unit = runBlocking {
    val replay = Replay(bundle, golden)
    replay.install()
    val pipeline = Pipeline.open(bundle)
    expect(pipeline.takesPictures) { "the bundle has an encoder" }
    pipeline.prewarm()
    expect(StandIn.loaded.none { "vae_encoder" in it.path }) { "an encoder is loaded that no picture needs" }
    val image = bitmapOf(replay.floats("image"), pipeline.width, pipeline.height)
    val steps = pipeline.generate(prompt, seed = seed, previewEvery = 2, image = image, strength = 0.6).toList()
    expect(replay.steps == listOf(2L, 3L, 4L, 5L)) { "${replay.steps}" }
    val progress = steps.filterIsInstance<Step.Progress>()
    expect(progress.map { it.call } == listOf(1, 2, 3, 4) && progress.all { it.calls == 4 }) { "${progress.map { it.call }}" }
    expect(progress.filter { it.preview != null }.map { it.call } == listOf(2)) { "previews" }
    expect(steps.last() is Step.Finished) { "$steps" }
    expect(replay.encoded.contentEquals(encoderInput(image))) { "the encoder is given another picture" }
    val end = replay.decoderInput(replay.floats("from_picture_latents"))
    expect(end.size == replay.decoded.size) { "${replay.decoded.size} latents" }
    val error = norm(FloatArray(end.size) { end[it] - replay.decoded[it] }) / norm(end)
    expect(error < 1e-6) { "latents are $error away" }

    for (strength in listOf(0.0, 1.1, Double.NaN)) {
        val message = refused(pipeline, image, strength)
        expect("out of range; give a number above 0, at most 1" in message) { message }
    }
    val little = refused(pipeline, image, 0.1)
    expect(little == "strength 0.1 leaves none of 5 steps; give 0.2 or more") { little }
    pipeline.unload()
    pipeline.close()
    Pipeline.open(without).use { plain ->
        expect(!plain.takesPictures) { "the bundle has no encoder" }
        val message = refused(plain, image)
        expect("has no VAE encoder, so it cannot start from a picture; convert with --image-to-image" in message) { message }
    }
    // A budget of one byte: the encoder goes, too, when it has run.
    Pipeline.open(bundle, PipelineOptions(memoryBudget = 1)).use { frugal ->
        val before = StandIn.loaded.size
        frugal.generate(prompt, seed = seed, image = image, strength = 1.0).toList()
        expect(StandIn.loaded.size == before + 4) { "${StandIn.loaded.size - before} loads" }
    }
    expect(StandIn.destroyed == StandIn.loaded.size) { "${StandIn.loaded.size} programs loaded, ${StandIn.destroyed} released" }
    fitting()
}

/** Pictures of a bundle's second size: methods, shapes, the bitmap to start from, and a size that the bundle lacks. */
fun sizes(bundle: File, golden: String, prompt: String): Unit = runBlocking {
    val replay = Replay(bundle, golden, "forward", "size_32x48")
    replay.install()
    val high = PictureSize(32, 48)
    Pipeline.open(bundle).use { pipeline ->
        expect(pipeline.sizes == listOf(PictureSize(48, 32), high)) { "${pipeline.sizes}" }
        pipeline.prewarm(high)
        expect(StandIn.prepared == listOf("forward", "size_32x48", "size_32x48")) { "${StandIn.prepared}" }
        val image = bitmap(32, 48) { x, y -> -0x1000000 or ((x * 7919 + y * 104729) and 0xFFFFFF) }
        val steps = pipeline.generate(prompt, previewEvery = 2, image = image, strength = 0.6, size = high).toList()
        val pictures = steps.filterIsInstance<Step.Progress>().mapNotNull { it.preview } + (steps.last() as Step.Finished).picture
        expect(pictures.size == 2 && pictures.all { it.width == 32 && it.height == 48 }) { "${pictures.map { "${it.width}x${it.height}" }}" }
        expect(replay.sample.takeLast(2) == listOf(6L, 4L)) { "${replay.sample}" }
        expect(replay.encoded.contentEquals(encoderInput(image))) { "the encoder is given another picture" }
        expect(StandIn.prepared.last() == "size_32x48" && StandIn.prepared.size == 4) { "${StandIn.prepared}" }
        // The first size's network and decoder take the place of the others.
        val own = (pipeline.generate(prompt).toList().last() as Step.Finished).picture
        expect(own.width == 48 && own.height == 32 && replay.sample.takeLast(2) == listOf(4L, 6L)) { "${own.width}x${own.height}" }
        expect(StandIn.prepared.drop(4) == listOf("forward", "forward")) { "${StandIn.prepared}" }
        expect(StandIn.loaded.size == 6 && StandIn.destroyed == 3) { "${StandIn.loaded.size} programs loaded, ${StandIn.destroyed} released" }
        val unknown = refused(pipeline, image, size = PictureSize(100_000, 100_000))
        val known = "the bundle draws 48x32, 32x48, not 100000x100000; choose one of these, or convert again with --size 100000x100000"
        expect(unknown == known) { unknown }
    }
}

/** How bitmaps of other sizes become the bundle's. */
private fun fitting() {
    fun grey(bytes: ByteArray) = bytes.filterIndexed { i, _ -> i % 3 == 0 }.map { it.toInt() and 255 }
    val noise = bitmap(7, 5) { x, y -> -0x1000000 or ((x * 7919 + y * 104729) and 0xFFFFFF) }
    val same = fitted(noise, 7, 5)
    val own = List(105) { noise.getPixel(it / 3 % 7, it / 21) shr (16 - 8 * (it % 3)) and 255 }
    expect(same.map { it.toInt() and 255 } == own) { "a bitmap of the size itself" }
    // Nine columns, of which the outer ones stand over.
    val wide = bitmap(9, 3) { x, _ -> if (x in 3..5) -0x1 else -0x1000000 }
    expect(grey(fitted(wide, 3, 3)) == List(9) { 255 }) { "wide: ${grey(fitted(wide, 3, 3))}" }
    val tall = bitmap(3, 9) { _, y -> if (y in 3..5) -0x1 else -0x1000000 }
    expect(grey(fitted(tall, 3, 3)) == List(9) { 255 }) { "tall: ${grey(fitted(tall, 3, 3))}" }
    // Made small, every pixel counts: of black and white columns that take turns, the middle is grey.
    val stripes = bitmap(96, 96) { x, _ -> if (x % 2 == 0) -0x1 else -0x1000000 }
    expect(grey(fitted(stripes, 4, 4)).all { abs(it - 127) <= 6 }) { "stripes: ${grey(fitted(stripes, 4, 4))}" }
    // Made large, it goes over from one to the other.
    val edge = grey(fitted(bitmap(2, 2) { x, _ -> if (x == 0) -0x1000000 else -0x1 }, 8, 8)).take(8)
    expect(edge == edge.sorted() && edge.first() == 0 && edge.last() == 255 && edge.distinct().size > 3) { "edge: $edge" }
    val clear = bitmap(4, 4) { x, _ -> if (x < 2) 0x00123456 else (0x80 shl 24) }
    expect(grey(fitted(clear, 4, 4)).take(4) == listOf(255, 255, 127, 127)) { "transparent: ${grey(fitted(clear, 4, 4)).take(4)}" }
}
