package mobile.s2p

import java.io.File
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.IntBuffer
import java.nio.LongBuffer
import mobile.s2p.archive.Json
import org.pytorch.executorch.StandIn
import org.pytorch.executorch.Tensor

/** Float tensors of a safetensors file by name; https://github.com/huggingface/safetensors#format */
class TensorFile(file: File) {
    private val bytes = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN)
    private val headerBytes = bytes.getLong(0).toInt()
    private val header = Json.parse(String(bytes.array(), 8, headerBytes), file.name) as Map<*, *>

    fun floats(name: String): FloatArray {
        val (begin, end) = ((header[name] as Map<*, *>)["data_offsets"] as List<*>).map { (it as Long).toInt() + 8 + headerBytes }
        val floats = FloatArray((end - begin) / 4)
        bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN).position(begin).let { (it as ByteBuffer).slice().order(ByteOrder.LITTLE_ENDIAN) }
            .asFloatBuffer().get(floats)
        return floats
    }
}

/**
 * Answers ExecuTorch's calls with what a golden run of a bundle recorded, and looks at what it is given: the number of a call comes
 * through the core, JNI, the engine and the tensor's buffer.
 */
class Replay(bundle: File, golden: String, private vararg val methods: String = arrayOf("forward")) {
    private val recorded = TensorFile(File(bundle, "golden/$golden.safetensors"))
    private val noise = recorded.floats("noise_pred")
    private val manifest = Json.parse(File(bundle, "manifest.json").readText(), "manifest.json") as Map<*, *>
    private val calls = ((manifest["plan"] as Map<*, *>)["calls"] as List<*>).size
    private val guided = (manifest["guidance"] as Number).toDouble() > 1
    private var texts = 0
    val steps = ArrayList<Long>()

    /** What the VAE encoder and the decoder were given last. */
    var encoded: FloatArray = FloatArray(0)
    var decoded: FloatArray = FloatArray(0)

    /** Shape of the sample that the network was given last. */
    var sample: List<Long> = emptyList()

    /** What happens before a call is answered. */
    var beforeCall: (step: Long) -> Unit = {}

    fun floats(name: String): FloatArray = recorded.floats(name)

    /** Latents as the decoder takes them, by the manifest. */
    fun decoderInput(latents: FloatArray): FloatArray {
        val spec = manifest["latents"] as Map<*, *>
        fun number(name: String) = (spec[name] as Number).toFloat()
        fun ofChannel(name: String, i: Int, otherwise: Float): Float {
            val values = spec[name] as List<*>? ?: return otherwise
            return (values[i * values.size / latents.size] as Number).toFloat()
        }
        return FloatArray(latents.size) {
            latents[it] * ofChannel("std", it, 1f) / number("scaling_factor") + number("shift_factor") + ofChannel("mean", it, 0f)
        }
    }

    fun install() {
        StandIn.answer = ::answer
        StandIn.methods = { methods.toList() }
    }

    private fun answer(path: String, method: String, inputs: List<Tensor>): List<FloatArray> {
        check(method in methods) { method }
        return listOf(
            when (File(path).name.substringBefore('.')) {
                "text_encoder" -> text()
                "unet" -> call(first(inputs[1].getRawDataBuffer())).also { sample = inputs[0].shape().toList() }
                "vae_decoder" -> recorded.floats("image").also { decoded = inputs[0].dataAsFloatArray }
                "vae_encoder" -> recorded.floats("moments").also { encoded = inputs[0].dataAsFloatArray }
                else -> error("no program $path")
            },
        )
    }

    private fun text(): FloatArray {
        val all = recorded.floats("text_embeddings")
        if (!guided) return all
        val row = texts++ % 2
        return all.copyOfRange(row * all.size / 2, (row + 1) * all.size / 2)
    }

    private fun call(step: Long): FloatArray {
        beforeCall(step)
        steps += step
        val size = noise.size / calls
        return noise.copyOfRange(step.toInt() * size, (step.toInt() + 1) * size)
    }

    private fun first(data: Buffer): Long = if (data is IntBuffer) data.get(0).toLong() else (data as LongBuffer).get(0)
}
