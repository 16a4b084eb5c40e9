"""What runs bundles of the toy target: PyTorch itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from s2p_runtime.backends import Backend, Compute
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts import Host
from s2p_runtime.hosts.programs import Array, ProgramBackend

if TYPE_CHECKING:
    from torch import nn


class ToyHost(Host):
    """Runs programs that ``torch.export`` wrote, in float32."""

    target = "toy"
    title = "programs of torch.export"
    default_method = "forward"

    def open(self, bundle: Bundle, compute: Compute = "declared", release_chunks: bool = False) -> Backend:
        """See :class:`Host`."""
        return ToyBackend(bundle, self.default_method, release_chunks)

    def tolerance(self, manifest: BundleManifest, component: str) -> float:
        """See :class:`Host`. Float components differ by summation order. In the U-Net a difference of one unit in the last place
        flips some roundings of activations: torch in float32 is up to 3.9e-2 away from float64 over the calls of the demo model."""
        return 5e-2 if component == "unet" else 1e-4


class ToyBackend(ProgramBackend):
    """A program is a folder with a ``.pt2`` file for each method."""

    def __init__(self, bundle: Bundle, default_method: str, release_chunks: bool = False) -> None:
        """See :class:`ProgramBackend`."""
        super().__init__(bundle, default_method, release_chunks)
        self._modules: dict[tuple[str, str], nn.Module] = {}

    def start(self, threads: int | None = None) -> None:
        """See :class:`Backend`."""
        import torch

        if threads is not None:
            torch.set_num_threads(threads)

    def describe(self, component: str) -> str:
        """See :class:`Backend`."""
        return "torch.export"

    def _load(self, component: str, method: str) -> None:
        """
        Raises:
            S2PError: the file is no program.
        """
        if (component, method) not in self._modules:
            import torch

            path = self.bundle.component(component)[1] / f"{method}.pt2"
            try:
                self._modules[component, method] = torch.export.load(path).module()
            except Exception as error:  # whatever torch raises for a damaged file
                raise S2PError(f"{path} is no exported program ({error})", "convert the checkpoint again") from error

    def _call(self, component: str, method: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        spec, _ = self.bundle.component(component)
        with torch.no_grad():
            results = self._modules[component, method](*(torch.from_numpy(inputs[port.name]) for port in spec.inputs))
        results = results if isinstance(results, tuple) else (results,)
        return {port.name: result.numpy() for port, result in zip(spec.outputs, results, strict=True)}

    def _let_go(self, component: str) -> None:
        self._modules = {key: module for key, module in self._modules.items() if key[0] != component}


HOST = ToyHost()
