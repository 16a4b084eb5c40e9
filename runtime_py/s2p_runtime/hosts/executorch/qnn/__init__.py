"""Programs for Snapdragon's NPU (Hexagon) through Qualcomm's own compiler and emulator."""
