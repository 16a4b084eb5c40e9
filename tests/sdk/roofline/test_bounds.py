"""Bounds by hand, and the tables behind them."""

from __future__ import annotations

import pytest

from s2p_mobile.judge.roofline import Roofline, make_roofline
from s2p_mobile.judge.roofline.tables import chip_table, published_table
from s2p_runtime.errors import S2PError
from s2p_runtime.workload import Workload


def work(**changes: int | bool | str) -> Workload:
    """Nothing at all, but for the changes."""
    nothing = {
        "program": "unet", "unet": True, "batch": 2, "integer_operations": 0, "palette_operations": 0, "float_operations": 0,
        "weight_bytes": 0, "activation_bytes": 0, "runs": 20,
    }  # fmt: skip
    return Workload.model_validate(nothing | changes)


def on(name: str, *works: Workload) -> Roofline:
    return make_roofline("test", works, [name])


def test_operations_over_the_peak() -> None:
    # 17.5 T in float16 and 35 T in int8 a second.
    (chip,) = on(
        "iphone15pro", work(float_operations=35 * 10**12, integer_operations=35 * 10**12, palette_operations=7 * 10**12)
    ).chips
    assert chip.fp16_seconds == pytest.approx(77 / 17.5)
    assert chip.compute_seconds == pytest.approx(2 + 1 + 0.2)
    assert (chip.bound, chip.call_seconds, chip.int8_doubles) == ("compute", chip.compute_seconds, True)


def test_an_older_chip_gains_nothing_from_integers() -> None:
    (chip,) = on("A16", work(integer_operations=17 * 10**12)).chips
    assert chip.fp16_seconds == chip.compute_seconds == pytest.approx(1.0) and not chip.int8_doubles


def test_bytes_over_the_bandwidth() -> None:
    (chip,) = on("m4", work(float_operations=19 * 10**9, weight_bytes=60 * 10**9, activation_bytes=60 * 10**9)).chips
    assert (chip.bound, chip.memory_seconds, chip.weight_seconds) == ("memory", pytest.approx(1.0), pytest.approx(0.5))
    # Activations may stay on the chip, weights are read in every call.
    assert chip.call_seconds == pytest.approx(0.5)


def test_a_picture_is_all_calls_of_all_programs() -> None:
    parts = [
        work(program="unet_1", float_operations=19 * 10**12, runs=3),
        work(program="unet_2", weight_bytes=240 * 10**9, activation_bytes=10**12, runs=3),
    ]
    (chip,) = on("m4", *parts, work(program="vae_decoder", unet=False, float_operations=38 * 10**12, runs=1)).chips
    assert chip.call_seconds == pytest.approx(1 + 2)
    assert chip.picture_seconds == pytest.approx(3 * (1 + 2) + 2)


def test_what_apple_s_own_run_reached() -> None:
    model = published_table().models["stable-diffusion-2-1-base"]
    (chip,) = on("iphone14promax", work(float_operations=model.operations)).chips
    # Apple's own model takes Apple's own time again: 2.69 calls a second.
    assert chip.likely_call_seconds == pytest.approx(1 / 2.69)
    assert {each.model[:4] for each in chip.published} == {"Stab", "SDXL"}
    assert all(0.2 < each.peak_share < 0.5 and each.call_seconds > chip.call_seconds for each in chip.published)


def test_devices_by_name() -> None:
    assert [chip.chip for chip in make_roofline("test", [], ["iPhone 15 Pro", "a17-pro", "IPHONE13"]).chips] == [
        "A17 Pro",
        "A15 Bionic",
    ]
    assert len(make_roofline("test", []).chips) == len(chip_table().chips)
    with pytest.raises(S2PError, match="no figures of 'nokia3310'") as caught:
        make_roofline("test", [], ["nokia3310"])
    assert caught.value.field == "device"


def test_every_figure_has_its_source_and_the_newer_ones_double() -> None:
    table = chip_table()
    assert len({chip.id for chip in table.chips}) == len(table.chips)
    assert all(source.address.startswith("https://") for source in table.sources.values())
    doubling = {chip.id for chip in table.chips if chip.int8_doubles}
    # Core ML Tools: from A17 Pro and M4 on.
    assert doubling == {"a17-pro", "a18", "a18-pro", "a19", "a19-pro", "m4", "m5"}
    for chip in table.chips:
        assert chip.int8_tops == (2 if chip.int8_doubles else 1) * chip.fp16_tops
        assert chip.stated_tops in (None, chip.int8_tops)
    names = [name for chip in table.chips for name in chip.devices]
    assert len(names) == len(set(names))


def test_published_rows_fit_the_chips() -> None:
    table = published_table()
    chips = {chip.id: chip for chip in chip_table().chips}
    for row in table.rows:
        assert row.device in chips[row.chip].devices and row.model in table.models
        # A picture takes its calls at least.
        assert row.picture_seconds > 0.98 * table.calls / row.calls_a_second
