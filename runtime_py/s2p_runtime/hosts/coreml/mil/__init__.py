"""Reference interpreter for Core ML packages (ML programs), see :mod:`s2p_runtime.hosts.coreml.mil.program`.

Example:
    >>> program = load_program("Unet.mlpackage")
    >>> eps = program.run({"sample": x, "step": step, "encoder_hidden_states": text}, compute="float64")["noise_pred"]
"""

from s2p_runtime.hosts.coreml.mil.constants import Constant, Weight
from s2p_runtime.hosts.coreml.mil.graph import Function
from s2p_runtime.hosts.coreml.mil.operations import NamedType, Operation
from s2p_runtime.hosts.coreml.mil.program import Program, load_program
from s2p_runtime.hosts.coreml.mil.types import ElementType, TensorType

__all__ = ["Constant", "ElementType", "Function", "NamedType", "Operation", "Program", "TensorType", "Weight", "load_program"]
