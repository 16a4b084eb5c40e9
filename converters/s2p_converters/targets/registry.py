"""Every target by name, and its options from what a user gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import Target
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.registry import COREAI_MACHINES
from s2p_runtime.registry import BuiltIn, Registry

TARGETS: Registry[Target[Any]] = Registry(
    "target",
    "s2p_mobile.targets",
    {
        "coreml": BuiltIn("s2p_converters.targets.coreml.target:TARGET", "s2p-mobile[coreml]", ("coremltools",)),
        "executorch": BuiltIn("s2p_converters.targets.executorch.target:TARGET", "s2p-mobile[executorch]", ("executorch",)),
        "coreai": BuiltIn(
            "s2p_converters.targets.coreai.target:TARGET", "s2p-mobile[coreai]", ("coreai", "coreai_torch"), COREAI_MACHINES
        ),
    },
)


def read_options(target: Target[Any], given: Mapping[str, Any]) -> TargetOptions:
    """The options of a target.

    Args:
        given: by name; values may be words as they stand on a command line.

    Raises:
        S2PError: no option of this target (names one that has it), or a wrong value.
    """
    for name in given:
        if name not in target.options.model_fields:
            owners = [other.name for other in TARGETS.entries.values() if name in other.options.model_fields]
            if owners:
                raise S2PError(
                    f"`{name}` is an option of the target {' or '.join(owners)}", f"leave it out for {target.name}", name
                )
    options: TargetOptions = target.options(**given)
    return options
