"""Reports side by side: what the page holds, that it loads nothing, and that hostile reports stay text."""

from __future__ import annotations

import base64
import io
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from scipy.stats import ecdf

from s2p_mobile.cli.app import run
from s2p_mobile.judge.reports.charts import Series, distribution, line_chart, thin

FIXTURES = Path(__file__).parents[2] / "fixtures"
Fails = Callable[..., str]
Change = Callable[[dict[str, Any]], None]


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def pictures(self) -> dict[str, np.ndarray]:
        """Decoded pictures by their captions, of one golden run."""
        found = {}
        for tag, attributes in self.tags:
            if tag == "img":
                source = str(attributes["src"])
                assert source.startswith("data:image/png;base64,")
                data = base64.b64decode(source.partition(",")[2])
                found[str(attributes["alt"])] = np.asarray(Image.open(io.BytesIO(data)))
        return found


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def write(place: Path) -> Callable[..., Path]:
    """``write("b.json", change)`` writes the fixture's report after ``change``."""

    def make(name: str, change: Change = lambda report: None) -> Path:
        report = json.loads((FIXTURES / "report.json").read_text())
        change(report)
        (place / name).write_text(json.dumps(report))
        return place / name

    return make


def slower(report: dict[str, Any]) -> None:
    report["summary_ms"]["unet_call"]["p50"] *= 3
    report["memory"]["peak_bytes"] = 650_000_000
    report["timings_ms"]["load"] = {"unet": 100.0}
    report["validity"].update(fidelity_ok=False, unplugged=False)
    report["fidelity"][0].update(latent_psnr_db=12.25)
    report.update(harness="android", target="executorch", bundle_name="other", bundle_sha256="1" * 64)


def emptied(report: dict[str, Any]) -> None:
    """Everything that a harness may leave out."""
    report["device"].update(soc=None, memory_bytes=None, cores=None)
    report["memory"].update(baseline_bytes=None, peak_bytes=None, samples=[])
    report.update(thermal=[], energy=[], fidelity=[], summary_ms={}, backend={}, missing={"memory.samples": "not Linux"})
    report["timings_ms"] = {"load": {}, "text_encoder": [], "unet_call": [], "vae_decoder": [], "image": []}


def test_two_reports_side_by_side(write: Callable[..., Path], capfd: pytest.CaptureFixture[str], place: Path) -> None:
    write("first.json")
    write("second.json", slower)
    assert run(["report", "first.json", "second.json", "--json", "figures.json"]) == 0
    table = capfd.readouterr().out
    first, second = json.loads((place / "figures.json").read_text())["reports"]
    assert (first["label"], second["label"]) == ("first", "second")
    assert second["p50_ratio_to_first"] == {"text_encoder": 1, "unet_call": 3, "vae_decoder": 1, "image": 1}
    # 650 MB less the baseline of 50 MB, twice the first report's 300 MB.
    assert (first["growth_bytes"], second["growth_bytes"]) == (300_000_000, 600_000_000)
    assert second["notes"] == ["not the golden picture", "plugged in"] and not second["fidelity_ok"]
    page = Page(place / "report.html")
    for shown in (
        "first",
        "second",
        "iPhone16,1",
        "20.2",
        "60.8",
        "3.00x",
        "600.0",
        "2.00x",
        "12.2 dB",
        "not the golden picture",
    ):
        assert shown in table and shown in page.text, shown
    measured = json.loads((place / "first.json").read_text())["bundle_sha256"][:12]
    assert f"different bundles: replay {measured}; other 111111111111" in table
    assert "different harnesses" in page.text and "different machines" not in page.text


def test_page_loads_nothing_and_its_charts_are_well_formed(write: Callable[..., Path], place: Path) -> None:
    write("a.json")
    assert run(["report", "a.json", "--out", "page.html"]) == 0
    page = Page(place / "page.html")
    loading = {"script", "link", "iframe", "object", "embed", "video", "audio", "base", "form", "a"}
    assert not loading & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"href", "xlink:href", "srcset", "onload", "onerror"} & attributes.keys()
    assert "url(" not in page.source and "@import" not in page.source
    assert page.source.count("http") == page.source.count('xmlns="http://www.w3.org/2000/svg"') + page.source.count(
        "http-equiv"
    )
    policy = next(tag["content"] for _, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    charts = page.source.split("<svg")[1:]
    # Calls, pictures, course of the calls, memory, temperature, power.
    assert len(charts) == 6
    for chart in charts:
        ElementTree.fromstring("<svg" + chart.split("</svg>")[0] + "</svg>")


def test_hostile_texts_stay_texts(write: Callable[..., Path], place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x' [red] \x1b[2J \u202e"

    def hostile(report: dict[str, Any]) -> None:
        report.update(bundle_name=attack, harness_version=attack, created=attack, backend={attack: attack})
        report["device"].update(model=attack, os=attack, soc=attack)
        report["memory"]["method"] = attack
        report["thermal"][1]["celsius"] = {attack: 40.0}
        report["fidelity"][0]["golden_id"] = attack
        report["timings_ms"]["load"] = {attack: 1.0}
        report["missing"] = {attack: attack}

    write("a.json", hostile)
    assert run(["report", "a.json", "--label", attack]) == 0
    terminal = capfd.readouterr().out
    assert "\x1b[2J" not in terminal and "\u202e" not in terminal and "[red]" in terminal
    page = Page(place / "report.html")
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "\x1b" not in page.source and "\u202e" not in page.source
    assert page.text.count("<script>alert(1)</script>") >= 10


def test_report_that_measured_nothing(write: Callable[..., Path], place: Path) -> None:
    write("a.json", emptied)
    assert run(["report", "a.json"]) == 0
    page = Page(place / "report.html")
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "No readings: not Linux." in page.text
    write("b.json")
    assert run(["report", "a.json", "b.json", "--force"]) == 0


def test_pictures_of_harness_and_bundle(write: Callable[..., Path], place: Path) -> None:
    recorded = load_file(FIXTURES / "replay.s2pmobile" / "golden" / "first.safetensors")
    expected = {
        name: np.rint(np.clip(recorded[tensor][0] / 2 + 0.5, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        for name, tensor in (("floating point", "fp_image"), ("golden, quantized", "image"))
    }
    write("phone.json")
    drawn = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(drawn).save(place / "phone-first.png")
    write("other.json", slower)
    (place / "other-first.png").write_text("no picture")
    assert run(["report", "phone.json", "other.json"]) == 0
    assert Page(place / "report.html").pictures().keys() == {"phone"}
    bundle = FIXTURES / "replay.s2pmobile"
    assert run(["report", "phone.json", "other.json", "--bundle", str(bundle), "--force"]) == 0
    shown = Page(place / "report.html").pictures()
    assert shown.keys() == {"phone", *expected}
    for name, picture in (*expected.items(), ("phone", drawn)):
        np.testing.assert_array_equal(shown[name], picture)
    # A bundle that lies beside the reports is found.
    shutil.copytree(bundle, place / "replay.s2pmobile")
    assert run(["report", "phone.json", "--force"]) == 0
    assert Page(place / "report.html").pictures().keys() == {"phone", *expected}


def test_bad_input(fails: Fails, write: Callable[..., Path], place: Path) -> None:
    write("a.json")
    write("new.json", lambda report: report.update(version=3))
    write("broken.json", lambda report: report["protocol"].update(runs="many"))
    (place / "text.json").write_text("hello")
    (place / "sub").mkdir()
    shutil.copyfile(place / "a.json", place / "sub" / "a.json")
    shutil.copytree(FIXTURES / "ancestral.s2pmobile", place / "elsewhere" / "b.s2pmobile")
    assert "does not exist" in fails("report", "none.json")
    assert "not readable JSON" in fails("report", "text.json")
    assert "not of format" in fails("report", FIXTURES / "replay.s2pmobile" / "manifest.json")
    assert "format version 3" in fails("report", "new.json")
    assert "protocol.runs" in fails("report", "a.json", "broken.json")
    assert "two reports are called 'a'" in fails("report", "a.json", "sub/a.json")
    assert "two reports are called 'x'" in fails("report", "a.json", "sub/a.json", "--label", "x", "--label", "x")
    assert "2 reports and 1 labels" in fails("report", "a.json", "sub/a.json", "--label", "x")
    assert "none of the reports is about" in fails("report", "a.json", "--bundle", "elsewhere/b.s2pmobile")
    assert "is no bundle" in fails("report", "a.json", "--bundle", "sub")
    (place / "report.html").write_text("mine")
    assert "exists" in fails("report", "a.json")
    assert (place / "report.html").read_text() == "mine"


def test_labels_part_reports_of_the_same_name(write: Callable[..., Path], place: Path) -> None:
    write("a.json")
    assert run(["report", "a.json", "a.json", "--label", "one", "--label", "two"]) == 0
    assert "one" in Page(place / "report.html").text


def test_damaged_golden_run_beside_the_report(fails: Fails, write: Callable[..., Path], place: Path) -> None:
    bundle = Path(shutil.copytree(FIXTURES / "replay.s2pmobile", place / "b.s2pmobile"))
    write("a.json")
    golden = bundle / "golden" / "first.safetensors"
    golden.write_bytes(golden.read_bytes()[:-1])
    assert "bytes instead of" in fails("report", "a.json")


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_distribution_is_scipys(count: int) -> None:
    samples = np.random.default_rng(count).integers(0, 20, count).astype(float)
    reference = ecdf(samples).cdf
    reached = dict(distribution("x", samples.tolist()).points)
    for value, probability in zip(reference.quantiles, reference.probabilities, strict=True):
        assert reached[value] == pytest.approx(100 * probability)


def test_thinning_keeps_peaks() -> None:
    values = np.random.default_rng(0).normal(size=25_000)
    kept = thin(list(enumerate(values.tolist())), 500)
    assert len(kept) <= 500 and kept == sorted(kept)
    assert {values.max(), values.min()} <= {y for _, y in kept}


def test_lines_are_where_the_ticks_say() -> None:
    points = ((0.0, 0.0), (10.0, 4.0), (20.0, 2.0))
    chart = ElementTree.fromstring(line_chart([Series("a & b", points)], "s", "MB"))
    name = "{http://www.w3.org/2000/svg}"
    line = next(chart.iter(f"{name}polyline"))
    places = [tuple(float(part) for part in pair.split(",")) for pair in line.attrib["points"].split()]
    texts = [(text.text, text.attrib) for text in chart.iter(f"{name}text")]
    x_of = {
        float(text or "nan"): float(at["x"]) for text, at in texts if at["text-anchor"] == "middle" and (text or "").isdigit()
    }
    y_of = {float(text or "nan"): float(at["y"]) - 4 for text, at in texts if at["text-anchor"] == "end"}
    for (x, y), (across, down) in zip(points, places, strict=True):
        # Coordinates are written to a tenth.
        assert across == pytest.approx(x_of[x], abs=0.11) and down == pytest.approx(y_of[y], abs=0.11)
    assert next(chart.iter(f"{name}title")).text == "a & b"
