package mobile.s2p.archive

import mobile.s2p.S2PException

/**
 * Reads JSON (RFC 8259) into maps, lists, texts, numbers (Long where it is a whole one, else Double), booleans and null. Android's own
 * reader is not there where archives are tested; this one knows no leniency: one value, each key of an object once, a bounded depth.
 */
internal class Json private constructor(private val text: String, private val source: String) {
    private var at = 0

    private fun document(): Any? {
        val value = value(0)
        space()
        if (at != text.length) fail()
        return value
    }

    private fun fail(): Nothing = throw S2PException("$source is not readable JSON; get the archive again")

    private fun space() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail()

    private fun take(expected: Char) {
        if (peek() != expected) fail()
        at++
    }

    private fun value(depth: Int): Any? {
        if (depth > MAX_DEPTH) fail()
        space()
        return when (peek()) {
            '{' -> objectValue(depth)
            '[' -> list(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) fail()
        at += word.length
        return value
    }

    private fun objectValue(depth: Int): Map<String, Any?> {
        val fields = LinkedHashMap<String, Any?>()
        elements('{', '}') {
            val key = string()
            space()
            take(':')
            if (fields.containsKey(key)) fail()
            fields[key] = value(depth + 1)
        }
        return fields
    }

    private fun list(depth: Int): List<Any?> {
        val values = ArrayList<Any?>()
        elements('[', ']') { values += value(depth + 1) }
        return values
    }

    private inline fun elements(open: Char, close: Char, element: () -> Unit) {
        take(open)
        space()
        if (peek() == close) {
            at++
            return
        }
        while (true) {
            space()
            element()
            space()
            if (peek() == close) break
            take(',')
        }
        at++
    }

    private fun string(): String {
        take('"')
        val result = StringBuilder()
        while (true) {
            val c = peek()
            at++
            when {
                c == '"' -> return result.toString()
                c < ' ' -> fail()
                c != '\\' -> result.append(c)
                else -> result.append(escaped())
            }
        }
    }

    private fun escaped(): Char {
        val c = peek()
        at++
        return when (c) {
            '"', '\\', '/' -> c
            'b' -> '\b'
            'f' -> '\u000C'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> {
                if (at + 4 > text.length) fail()
                val digits = text.substring(at, at + 4)
                at += 4
                if (!digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) fail()
                digits.toInt(16).toChar()
            }
            else -> fail()
        }
    }

    private fun number(): Number {
        val found = NUMBER.matchAt(text, at)?.value ?: fail()
        at += found.length
        return found.toLongOrNull() ?: found.toDouble()
    }

    companion object {
        private const val MAX_DEPTH = 64
        private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")

        /** @throws S2PException it is no JSON; [source] is what the message calls it. */
        fun parse(text: String, source: String): Any? = Json(text, source).document()
    }
}
