package mobile.s2p.harness

import android.content.Context
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.view.View

/** One series of numbers as a line, scaled from 0 to its largest value. */
class PlotView(context: Context, private val title: String) : View(context) {
    private val values = mutableListOf<Float>()
    private val density = resources.displayMetrics.density
    private val line = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        color = Color.rgb(0, 96, 192)
        strokeWidth = 2 * density
    }
    private val label = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        color = Color.DKGRAY
        textSize = 13 * density
    }

    /** Adds a point; one that is not finite is left out. */
    fun add(value: Double) {
        if (!value.isFinite()) return
        values += value.toFloat()
        invalidate()
    }

    fun clear() {
        values.clear()
        invalidate()
    }

    override fun onDraw(canvas: Canvas) {
        super.onDraw(canvas)
        val top = label.textSize * 1.5f
        val caption = if (values.isEmpty()) title else "$title: %.2f".format(values.last())
        canvas.drawText(caption, 0f, label.textSize, label)
        val largest = values.maxOrNull()?.takeIf { it > 0 } ?: return
        val step = width.toFloat() / maxOf(values.size - 1, 1)
        fun y(value: Float) = height - (height - top) * value / largest
        for (i in 1 until values.size) {
            canvas.drawLine((i - 1) * step, y(values[i - 1]), i * step, y(values[i]), line)
        }
    }
}
