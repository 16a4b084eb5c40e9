package mobile.s2p

import android.graphics.Bitmap
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt

/** Where a pixel of the result looks: numbers from [first] on, and how much each counts. */
private class Taps(val first: Int, val weights: FloatArray)

/**
 * A bitmap as RGB bytes of a size: scaled until it covers it, and what stands over is cut off on both sides alike. Transparent parts
 * become white.
 *
 * Android's own scaling looks at four pixels, however many there are: a large photo made small would flicker. Here each pixel is a mean, by
 * a triangle as wide as what it stands for. Only a row of the bitmap is held at a time. A bitmap of this size comes out as it is.
 */
internal fun fitted(bitmap: Bitmap, width: Int, height: Int): ByteArray {
    // What lies in the graphics memory alone has no pixels to read.
    val readable = if (bitmap.config == Bitmap.Config.HARDWARE) bitmap.copy(Bitmap.Config.ARGB_8888, false) else bitmap
    val scale = min(readable.width / width.toDouble(), readable.height / height.toDouble())
    val columns = taps(readable.width, width, scale)
    val rows = taps(readable.height, height, scale)
    val sums = FloatArray(3 * width * height)
    val pixels = IntArray(readable.width)
    val line = FloatArray(3 * width)
    var next = 0
    for (y in rows.first().first until rows.last().run { first + weights.size }) {
        readable.getPixels(pixels, 0, readable.width, 0, y, readable.width, 1)
        narrow(pixels, columns, line)
        while (next < height && rows[next].run { first + weights.size } <= y) next++
        var row = next
        while (row < height && rows[row].first <= y) {
            val weight = rows[row].weights[y - rows[row].first]
            for (i in line.indices) sums[row * line.size + i] += weight * line[i]
            row++
        }
    }
    return ByteArray(sums.size) { sums[it].roundToInt().coerceIn(0, 255).toByte() }
}

/** For each of [count] pixels, which of [size] it is made of; [scale] of these stand for one, and the middle is taken. */
private fun taps(size: Int, count: Int, scale: Double): List<Taps> {
    val skipped = (size - count * scale) / 2
    val reach = max(scale, 1.0)
    return List(count) { i ->
        val middle = skipped + (i + 0.5) * scale
        val first = max(0, floor(middle - reach).toInt())
        val last = min(size - 1, ceil(middle + reach).toInt() - 1)
        val weights = FloatArray(last - first + 1) { max(0.0, 1 - abs(first + it + 0.5 - middle) / reach).toFloat() }
        val sum = weights.sum()
        Taps(first, FloatArray(weights.size) { weights[it] / sum })
    }
}

/** A row of pixels made as wide as [columns], red, green and blue from 0 to 255. */
private fun narrow(pixels: IntArray, columns: List<Taps>, line: FloatArray) {
    for ((i, taps) in columns.withIndex()) {
        var red = 0f
        var green = 0f
        var blue = 0f
        for ((k, weight) in taps.weights.withIndex()) {
            val pixel = pixels[taps.first + k]
            val alpha = (pixel ushr 24) / 255f
            red += weight * onWhite(pixel shr 16 and 255, alpha)
            green += weight * onWhite(pixel shr 8 and 255, alpha)
            blue += weight * onWhite(pixel and 255, alpha)
        }
        line[3 * i] = red
        line[3 * i + 1] = green
        line[3 * i + 2] = blue
    }
}

private fun onWhite(value: Int, alpha: Float): Float = alpha * value + (1 - alpha) * 255
