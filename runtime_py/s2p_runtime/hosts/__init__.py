"""What runs a target's bundles on this machine: a host for each target."""

from s2p_runtime.hosts.protocol import Host
from s2p_runtime.hosts.registry import HOSTS, host_of

__all__ = ["HOSTS", "Host", "host_of"]
