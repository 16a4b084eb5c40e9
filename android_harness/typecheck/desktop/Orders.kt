@file:OptIn(mobile.s2p.bench.BenchApi::class)

package mobile.s2p

import android.content.Intent
import java.io.File
import mobile.s2p.bench.BenchSettings

/** What the app on the phone makes of the words of `am start`. The app's module is not on this one's path: it is found by name. */
fun orders() {
    val type = Class.forName("mobile.s2p.harness.RunOrder")
    val companion = type.getField("Companion").get(null)
    val read = companion.javaClass.getMethod("read", Intent::class.java, File::class.java)
    fun order(vararg words: Pair<String, String>): Result<Any> = runCatching {
        read.invoke(companion, Intent().apply { words.forEach { putExtra(it.first, it.second) } }, File("/runs"))
    }
    fun folder(order: Any) = type.getMethod("getFolder").invoke(order) as File
    val plain = order("bundle" to "/data/local/tmp/a.s2pmobile", "out" to "r-1", "runs" to "3", "pass" to "memory").getOrThrow()
    check(folder(plain) == File("/runs/r-1")) { "${folder(plain)}" }
    check(type.getMethod("getMemoryOnly").invoke(plain) == true)
    fun cool(order: Any) = (type.getMethod("getSettings").invoke(order) as BenchSettings).cool
    check(cool(plain) == 600.0 && BenchSettings().cool == 600.0) { "a hot phone is measured unless the driver says otherwise" }
    check(cool(order("bundle" to "/b", "cool" to "0").getOrThrow()) == 0.0)
    val wrong = mapOf(
        "out '../x' is no name" to order("bundle" to "/b", "out" to "../x"),
        "no bundle" to order("out" to "r"),
        "unknown word colour" to order("bundle" to "/b", "colour" to "red"),
        "runs '0' is no number of at least 1.0" to order("bundle" to "/b", "runs" to "0"),
        "cooldown 'NaN' is no number" to order("bundle" to "/b", "cooldown" to "NaN"),
        "pass 'all' is neither" to order("bundle" to "/b", "pass" to "all"),
    )
    for ((message, result) in wrong) {
        val error = (result.exceptionOrNull() as? java.lang.reflect.InvocationTargetException)?.targetException
        check(error is IllegalArgumentException && message in error.message!!) { "$message: $error" }
    }
}
