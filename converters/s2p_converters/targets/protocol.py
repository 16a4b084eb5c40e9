"""What a target has to offer; :mod:`s2p_converters.targets.conversion` does all the rest.

A target is a folder here (or a package elsewhere) with a subclass of :class:`Target`, a line in
:mod:`s2p_converters.targets.registry` (or an entry point), and a :class:`s2p_runtime.hosts.Host` under the same name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from s2p_converters.targets.options import TargetOptions
from s2p_runtime.bundle import Bundle, LayerSummary
from s2p_runtime.component import Component
from s2p_runtime.errors import S2PError
from s2p_runtime.files import list_files
from s2p_runtime.hosts import HOSTS, Host
from s2p_runtime.residency import Residency
from s2p_runtime.workload import Workload

if TYPE_CHECKING:  # torch takes seconds, and the command line asks every target for its options
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.graph import StepUNet
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.float_components import FloatComponent

Options = TypeVar("Options", bound=TargetOptions)
LatentShapes = Mapping[str, tuple[int, int]]
"""Latent height and width by method (or function), the checkpoint's own first."""


@dataclass(frozen=True)
class ConvertedUNet:
    """The written U-Net.

    Attributes:
        components: its programs' manifest entries by name, in the order in which they run: ``unet``, or ``unet_1`` and so on.
        layers: how each layer rests, in the order in which they run.
    """

    components: dict[str, Component]
    layers: tuple[LayerSummary, ...]


@dataclass(frozen=True)
class Notes:
    """What a user should know of a conversion.

    Attributes:
        before: lines to be read while it runs.
        after: lines about the use of the bundle.
        figures: the same for programs, JSON-able.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection:
    """What a bundle's programs hold, read from them and not from the manifest.

    Attributes:
        facts: for people, by title.
        detail: the same and more for programs, JSON-able.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


class Archive(ABC):
    """How a target's bundles become one file to download."""

    @abstractmethod
    def unet_bytes(self, folder: Path, unet: ConvertedUNet) -> int:
        """Bytes of the U-Net's programs below ``folder`` in the download form."""

    @abstractmethod
    def write(self, bundle: Bundle, path: Path, *, force: bool = False) -> None:
        """Write the download form of a bundle as one file.

        Raises:
            S2PError: ``path`` exists and ``force`` is false.
        """


class PlainArchive(Archive):
    """The files as they are. Nothing is compressed: packed weights do not shrink, and a phone unpacks the faster."""

    def unet_bytes(self, folder: Path, unet: ConvertedUNet) -> int:
        """See :class:`Archive`."""
        places = [folder / part.path for part in unet.components.values()]
        return sum(place.stat().st_size for root in places for place in (root, *root.rglob("*")) if place.is_file())

    def write(self, bundle: Bundle, path: Path, *, force: bool = False) -> None:
        """See :class:`Archive`."""
        from s2p_converters.targets.archives import write_members

        members = ((name, (bundle.folder / name).read_bytes()) for name in list_files(bundle.folder))
        write_members(path, members, {}, deflated=False, force=force)


class Target(ABC, Generic[Options]):
    """One target: how a checkpoint becomes programs. Everything takes (checkpoint, options, folder, ...) in this order.

    The module that holds it is imported to know the options; it imports its converter inside of methods.

    Attributes:
        name: as users and manifests call it.
        title: for people.
        options: its model.
        step: type of the call's index at the U-Net's interface.
        archive: the download form.
        keeps_programs: conversions may take a float component's program that :meth:`lower` wrote for an earlier one, where the
            component, the checkpoint's tokenizers and conditioning, and what the options say beside the U-Net are as they were:
            nothing else is in it. See :mod:`s2p_converters.targets.kept_programs`.
        lowers_here: :meth:`lower` works in the process that calls it, so that another process beside it saves time; see
            :mod:`s2p_converters.targets.beside`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    options: type[Options]
    step: ClassVar[Literal["int32", "int64"]] = "int32"
    archive: ClassVar[Archive] = PlainArchive()
    keeps_programs: ClassVar[bool] = False
    lowers_here: ClassVar[bool] = True

    @property
    def host(self) -> Host:
        """What runs the bundles here.

        Raises:
            S2PError: it is not registered, or lacks its engine.
        """
        return HOSTS.get(self.name)

    def describe(self, options: Options) -> str:
        """Target and options in a few words."""
        return self.title

    def prepare(self) -> None:
        """Start what takes long to start. This is called before the checkpoint is opened, and must neither fail nor wait."""

    def check(self, checkpoint: Checkpoint, options: Options) -> None:
        """Refuse at once what would fail later.

        Raises:
            S2PError: the target cannot have this checkpoint, or not with these options.
        """

    def notes(self, checkpoint: Checkpoint, options: Options) -> Notes:
        """What a user should know of this conversion."""
        return Notes()

    @abstractmethod
    def memory(self, checkpoint: Checkpoint, options: Options) -> int:
        """Peak memory in bytes of the conversion, its checks included."""

    @abstractmethod
    def disk(self, checkpoint: Checkpoint, options: Options) -> int:
        """Bytes of the bundle at most, golden runs aside."""

    @abstractmethod
    def lower(self, checkpoint: Checkpoint, options: Options, folder: Path, methods: Mapping[str, FloatComponent]) -> Component:
        """Write a float component as a program into a bundle's folder.

        Args:
            methods: method -> the component; several, the own size first, where it is there for several picture sizes.

        Raises:
            S2PError: it cannot be lowered.
        """

    @abstractmethod
    def lower_unet(self, checkpoint: Checkpoint, options: Options, folder: Path, shapes: LatentShapes) -> ConvertedUNet:
        """Write the quantized U-Net as one program with a method for each shape, and check what can be read back from the file.

        Raises:
            S2PError: it cannot be lowered.
            CheckFailed: the file does not hold what it should.
        """

    def lower_chunks(self, checkpoint: Checkpoint, options: Options, folder: Path) -> ConvertedUNet:
        """:meth:`lower_unet` as ``options.chunks`` programs that run one after the other.

        Raises:
            S2PError: also where the target knows no such form.
        """
        raise S2PError(f"`chunks`: the target {self.name} takes the U-Net whole", "leave it out", "chunks")

    @abstractmethod
    def constants(self, options: Options) -> Constants:
        """How the U-Net's program stores real numbers."""

    def reference(self, checkpoint: Checkpoint, options: Options) -> StepUNet:
        """The function that the U-Net's program must compute, in float64."""
        from s2p_converters.core.reference import streamed_reference_unet

        return streamed_reference_unet(checkpoint, self.constants(options))

    @abstractmethod
    def self_check_tolerance(self, options: Options, component: str) -> float | None:
        """Largest relative error of a component's program on this host when it is made; None: it is not run then.

        Float components are compared with the source's float32 networks, the U-Net and what ``needs_float32`` with float64.
        """

    def runs_here(self, checkpoint: Checkpoint, options: Options, component: str) -> bool:
        """Whether a component's program runs on this host in a time that a conversion may take. Where it does not, the target checks
        the program in another way when it is made."""
        return True

    def tokenizer_folder(self, options: Options) -> str:
        """Place of vocabulary and merges in the bundle."""
        return "tokenizer"

    def inspect(self, bundle: Bundle) -> Inspection:
        """Take a bundle's programs apart.

        Raises:
            S2PError: a program is unreadable, or does not fit the manifest.
        """
        return Inspection()

    def residency(self, bundle: Bundle) -> Residency | None:
        """Which operators of a bundle's programs are expected on the device's accelerator; None: the target has no rules for that.

        Raises:
            S2PError: a program is unreadable.
        """
        return None

    def workload(self, bundle: Bundle) -> tuple[Workload, ...] | None:
        """Arithmetic and bytes of a call of each of a bundle's programs, the U-Net's first; None: the target does not count them.

        Raises:
            S2PError: a program is unreadable.
        """
        return None
