"""The demo model's captions: the hold-out rule, the prompt files, the names, the shipped tokenizer."""

from __future__ import annotations

import binascii
import re
from collections import Counter

import pytest
from transformers import CLIPTokenizer

from demo_training.captions import all_captions, calibration_captions, held_out_captions, objects, training_captions
from s2p_mobile.demo import CALIBRATION_PROMPTS, DEMO_MODEL, HELD_OUT_PROMPTS

SHAPE = re.compile(r"(?:(?:an?) )?(small )?(.+) on a (white|black|red|green|blue|yellow|pink) background")


def parts(caption: str) -> tuple[str, str, bool]:
    match = SHAPE.fullmatch(caption)
    assert match, caption
    return match[2], match[3], match[1] is not None


def test_the_two_halves_are_all_captions() -> None:
    training, held_out = training_captions(), held_out_captions()
    assert len(training) + len(held_out) == 136 * 7 * 2
    assert len({parts(caption) for caption in training + held_out}) == 136 * 7 * 2


def test_held_out_pairs_follow_the_checksum_rule_in_both_sizes() -> None:
    for captions, held_out in ((training_captions(), False), (held_out_captions(), True)):
        for name, background, _ in map(parts, captions):
            assert (binascii.crc32(f"{name}|{background}".encode()) % 12 == 0) is held_out, (name, background)


@pytest.mark.parametrize(
    "caption",
    [
        "a red apple on a blue background",
        "a small fox on a black background",
        "an octopus on a pink background",
        "a small octopus on a pink background",
        "a unicorn on a white background",
        "an umbrella on a red background",
        "cherries on a green background",
        "small scissors on a yellow background",
    ],
)
def test_wording(caption: str) -> None:
    assert caption in training_captions() + held_out_captions()


def test_calibration_prompts_are_balanced_training_captions_of_distinct_objects() -> None:
    assert sorted(calibration_captions()) == sorted(training_captions())
    chosen = calibration_captions()[:64]
    assert len({name for name, _, _ in map(parts, chosen)}) == 64
    backgrounds = Counter(background for _, background, _ in map(parts, chosen))
    assert set(backgrounds.values()) == {9, 10}
    assert len(backgrounds) == 7
    assert sum(small for _, _, small in map(parts, chosen)) == 32


@pytest.mark.parametrize(
    ("path", "captions"), [(HELD_OUT_PROMPTS, held_out_captions), (CALIBRATION_PROMPTS, calibration_captions)]
)
def test_prompt_files_hold_the_captions(path, captions) -> None:
    assert path.read_text("utf-8") == "\n".join(captions()) + "\n"


def test_names_are_the_unicode_names() -> None:
    emoji = pytest.importorskip("emoji")
    shortened = {"open book": "book", "loudly crying face": "crying face"}
    for item in objects():
        official = emoji.demojize(item.text).strip(":").replace("_", " ").lower()
        assert item.name == shortened.get(official, official)


def test_shipped_tokenizer_knows_every_caption() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer", local_files_only=True)
    assert tokenizer.model_max_length == 16
    end = tokenizer.eos_token_id  # also its unknown token: none may stand among the words
    for caption in all_captions():
        ids = tokenizer(caption.text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids.index(end) == len(ids) - 1 < 16
        text = "".join(tokenizer.convert_ids_to_tokens(ids[1:-1])).replace("</w>", "")
        assert text == caption.text.replace(" ", "")
