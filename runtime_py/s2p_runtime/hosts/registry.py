"""Every host by the name of its target."""

from __future__ import annotations

from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.protocol import Host
from s2p_runtime.registry import BuiltIn, Registry

COREAI_MACHINES = "Apple's packages exist for Linux on x86_64 and for Macs with Apple's chip"

HOSTS: Registry[Host] = Registry(
    "host",
    "s2p_runtime.hosts",
    {
        "coreml": BuiltIn("s2p_runtime.hosts.coreml:HOST", "s2p-runtime[coreml]", ("torch", "coremltools")),
        "executorch": BuiltIn("s2p_runtime.hosts.executorch:HOST", "s2p-runtime[executorch]", ("torch", "executorch")),
        "coreai": BuiltIn("s2p_runtime.hosts.coreai:HOST", "s2p-runtime[coreai]", ("coreai",), COREAI_MACHINES),
    },
)


def host_of(bundle: Bundle) -> Host:
    """The host of a bundle's target.

    Raises:
        S2PError: nothing here runs bundles of that target, or its engine is not installed.
    """
    name = bundle.manifest.target
    if name not in HOSTS.names:
        raise S2PError(
            f"{bundle.folder.name} is a bundle for {name}, and this s2p-mobile runs {HOSTS.listing}",
            f"install the package that brings {name}, or convert the checkpoint for one of these",
        )
    try:
        return HOSTS.get(name)
    except S2PError as error:
        raise S2PError(
            f"{bundle.folder.name} is a bundle for {name}, which does not run here: {error.problem}", error.remedy
        ) from error
