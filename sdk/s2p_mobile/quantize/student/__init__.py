"""The quantized network as training sees it: built from a job at its starting point, and written out as quantized layers."""

from s2p_mobile.quantize.student.student import StudentSpec, build_student, quantized_unet, student_layers

__all__ = ["StudentSpec", "build_student", "quantized_unet", "student_layers"]
