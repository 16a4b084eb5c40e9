package mobile.s2p

/**
 * What went wrong with a bundle, a download or an engine, in one line: "what is wrong; what to do".
 */
public class S2PException(message: String) : RuntimeException(message)
