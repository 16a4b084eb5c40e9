"""Core AI: the framework after Core ML, in macOS 27 and iOS 27."""
