package mobile.s2p

/**
 * What went wrong with a bundle, a download or an engine, in one line: "what is wrong; what to do".
 */
public class S2PException(message: String) : RuntimeException(oneLine(message))

/** Names come from files and may hold anything: control characters become spaces. */
private fun oneLine(text: String): String = String(CharArray(text.length) { if (text[it].isISOControl()) ' ' else text[it] })
