"""Does a quantized model make the same of a picture as the floating-point one? Both start from the same picture, with the same noise.

    python benchmarks/image_to_image.py [SOURCE] [--count 64] [--strengths 0.4 0.7 1.0] [--threads 1]

SOURCE is a checkpoint or a bundle with a VAE encoder, of the demo model; its own checkpoint without it. Picture k is what the
floating-point model draws of held-out caption k; both then draw caption k + 1 from it, from seed ``k``. A row a strength: PSNR
between both, in dB, over ``--count`` pictures.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from result_tables import markdown_table
from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_mobile.judge.artist import open_artist
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.default_prompts import held_out_prompts
from s2p_mobile.sources.open_source import open_source
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.session import open_session
from s2p_runtime.artist import Artist, FromPicture, draw, image_start
from s2p_runtime.bundle import Bundle
from s2p_runtime.pictures import psnr_db

_HEADS = ("strength", "calls", "PSNR median", "PSNR mean")


def psnrs(
    fp: Artist, quantized: Artist, prompts: tuple[str, ...], pictures: list[NDArray[np.uint8]], strength: float
) -> list[float]:
    """PSNR of each picture in dB, 255 the peak; infinite ones are left out."""
    found = []
    for k, picture in enumerate(pictures):
        start, caption = FromPicture(picture, strength), prompts[(k + 1) % len(prompts)]
        drawn = [draw(artist, caption, k, image=start).picture for artist in (fp, quantized)]
        psnr = psnr_db(drawn[1], drawn[0], peak=255.0)
        found += [] if psnr is None else [psnr]
    return found


@contextmanager
def opened(source: Path | None) -> Iterator[Checkpoint | Bundle]:
    """What is compared; the demo model's own checkpoint when None."""
    if source is None:
        with default_checkpoint(open_model(None)) as folder:
            yield open_checkpoint(folder)
    else:
        found = open_source(source)
        assert isinstance(found, Checkpoint | Bundle), "give a checkpoint or a bundle"
        yield found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.4, 0.7, 1.0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    session = open_session(None, device="cpu")
    fp, prompts = open_artist(session, session.device), tuple(held_out_prompts(session.model, None))
    with opened(options.source) as source:
        quantized = open_artist(source, torch.device("cpu"))
        pictures = [draw(fp, prompts[k % len(prompts)], k).picture for k in range(options.count)]
        rows = []
        for strength in options.strengths:
            found = psnrs(fp, quantized, prompts, pictures, strength)
            calls = len(fp.plan.calls) - image_start(fp, strength).call
            rows.append((f"{strength:g}", str(calls), f"{statistics.median(found):.1f} dB", f"{statistics.mean(found):.1f} dB"))
            print(*rows[-1], sep="  ", flush=True)
    print(markdown_table(_HEADS, rows))


if __name__ == "__main__":
    main()
