"""COCO captions, Stable-Diffusion-Prompts and the rule of subsets."""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path

import pytest

from s2p_mobile.sources.prompts import read_prompts
from s2p_runtime.errors import S2PError

EXPECTED = [60, 23, 93]
COCO = {
    "info": {"year": 2014},
    "images": [
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg"},
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
    ],
    "annotations": [
        {"image_id": 42, "id": 9, "caption": "Another caption of it."},
        {"image_id": 42, "id": 5, "caption": "A small dog is curled up on top of the shoes \n"},
        {"image_id": 7, "id": 6, "caption": "A clock."},
    ],
}


def test_coco_gives_the_first_caption_of_each_image_by_image(tmp_path: Path) -> None:
    path = tmp_path / "captions_val2014.json"
    path.write_text(json.dumps(COCO))
    assert read_prompts(path) == ["A clock.", "A small dog is curled up on top of the shoes"]


def test_csv_as_pythons_writer_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    texts = ['a cat, "detailed"', "two\nlines", "ein Käse"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "Prompt"], *([str(i), text] for i, text in enumerate(texts)), ["9", ""]])
    assert read_prompts(path) == texts


def test_parquet_or_one_line_that_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(S2PError, match="pip install pyarrow"):
        read_prompts(path)
    monkeypatch.undo()
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.table({"Prompt": ["a cat", None, "a dog"]}), path)
    assert read_prompts(path) == ["a cat", "a dog"]


def test_subset_rule(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"prompt {i}" for i in range(100)))
    assert read_prompts(path, 3) == ["prompt 0", "prompt 1", "prompt 2"]
    # What CPython's Mersenne Twister gave when the rule was written down: a published table depends on it.
    assert random.Random(2024).sample(range(100), 3) == EXPECTED
    assert read_prompts(path, 3, 2024) == [f"prompt {i}" for i in EXPECTED]
    with pytest.raises(S2PError, match="101 prompts were asked for but there are 100; lower `count`"):
        read_prompts(path, 101)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", '{"annotations": [{"caption": "x"}]}', "neither COCO"),
        ("a.json", "[1, 2]", "neither COCO"),
        ("a.json", "[]", "is empty"),
        ("a.csv", "", "has no column prompt or caption or text; it has none"),
        ("a.csv", "id,words\n1,x\n", "it has id, words"),
    ],
)
def test_bad_prompt_sets(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(S2PError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)
