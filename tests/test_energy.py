import threading
import time

import pytest
from fake_engine import FakeEngine
from fake_root import program, put

from benchmarks.energy import energy
from benchmarks.results import derive
from runtimes.energy import WINDOWS, announce, idle_energy, work_energy
from runtimes.plan import Plan
from runtimes.power import counted, find_source, joules_between

RAPL, HWMON, SUPPLY = "sys/class/powercap", "sys/class/hwmon", "sys/class/power_supply"
PMIC = """\
     3V7_WL_SW_A current(0)=0.10000000A
     VDD_CORE_A current(7)=2.00000000A
     3V7_WL_SW_V volt(8)=3.70000000V
     VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.10000000V
"""


def test_no_source_is_none(tmp_path):
    assert find_source(tmp_path) is None
    put(tmp_path, **{f"{HWMON}/hwmon0/name": "amdgpu", f"{HWMON}/hwmon0/power1_input": "9000000"})
    put(tmp_path, **{f"{HWMON}/hwmon1/name": "BAT0", f"{HWMON}/hwmon1/device/type": "Battery"})
    put(tmp_path, **{f"{HWMON}/hwmon1/power1_input": "9000000"})
    assert find_source(tmp_path) is None


def test_rapl_counts_packages_once_and_wraps_around(tmp_path):
    put(
        tmp_path,
        **{
            f"{RAPL}/intel-rapl:0/name": "package-0",
            f"{RAPL}/intel-rapl:0/energy_uj": "9000000",
            f"{RAPL}/intel-rapl:0/max_energy_range_uj": "10000000",
            f"{RAPL}/intel-rapl:1/name": "package-1",
            f"{RAPL}/intel-rapl:1/energy_uj": "500000",
            f"{RAPL}/intel-rapl:1/max_energy_range_uj": "10000000",
            f"{RAPL}/intel-rapl:0:0/name": "core",
            f"{RAPL}/intel-rapl:0:0/energy_uj": "700000",
            f"{RAPL}/intel-rapl:2/name": "psys",
            f"{RAPL}/intel-rapl:2/energy_uj": "1",
            f"{RAPL}/intel-rapl-mmio:0/name": "package-0",
            f"{RAPL}/intel-rapl-mmio:0/energy_uj": "1",
        },
    )
    source = find_source(tmp_path)
    assert (source.name, source.scope) == ("powercap RAPL", "processor package")
    before = counted(source)
    assert before == [9000000, 500000]
    put(tmp_path, **{f"{RAPL}/intel-rapl:0/energy_uj": "1000000", f"{RAPL}/intel-rapl:1/energy_uj": "800000"})
    assert joules_between(source, before, counted(source)) == pytest.approx(2.0 + 0.3)
    (tmp_path / RAPL / "intel-rapl:1/energy_uj").unlink()
    assert counted(source) is None


def test_amd_energy_counts_sockets_not_their_cores_again(tmp_path):
    chip = f"{HWMON}/hwmon3"
    put(tmp_path, **{f"{chip}/name": "amd_energy"})
    for number, label in enumerate(("Ecore000", "Ecore001", "Esocket0"), 1):
        put(tmp_path, **{f"{chip}/energy{number}_label": label, f"{chip}/energy{number}_input": "5"})
    source = find_source(tmp_path)
    assert (source.name, source.scope) == ("hwmon amd_energy", "processor socket")
    assert [path.name for path, _ in source.counters] == ["energy3_input"]


def test_an_ina_sensor_gives_power_or_its_factors(tmp_path):
    chip = f"{HWMON}/hwmon0"
    put(tmp_path, **{f"{chip}/name": "ina219", f"{chip}/power1_input": "2500000"})
    source = find_source(tmp_path)
    assert (source.name, source.watts()) == ("hwmon ina219 power1", 2.5)
    three = f"{HWMON}/hwmon1"
    put(tmp_path, **{f"{three}/name": "ina3221"})
    for channel, label, volt, ampere in ((1, "VDD_IN", 5000, 900), (2, "VDD_GPU", 19000, 4000)):
        put(
            tmp_path,
            **{
                f"{three}/in{channel}_label": label,
                f"{three}/in{channel}_input": str(volt),
                f"{three}/curr{channel}_input": str(ampere),
            },
        )
    source = find_source(tmp_path)
    assert (source.name, source.scope, source.watts()) == ("hwmon ina3221 VDD_IN", "whole board", 4.5)


def test_of_unlabelled_rails_the_strongest_is_taken_and_named(tmp_path):
    for chip, microwatts in (("hwmon0", "1000000"), ("hwmon1", "6000000")):
        put(tmp_path, **{f"{HWMON}/{chip}/name": "ina226", f"{HWMON}/{chip}/power1_input": microwatts})
    source = find_source(tmp_path)
    assert (source.scope, source.watts()) == ("rail ina226 power1", 6.0)


def test_the_pi_5_sums_the_rails_that_have_both_current_and_voltage(tmp_path):
    put(tmp_path, rails=PMIC)
    program(tmp_path, "usr/bin/vcgencmd", f'test "$1" = pmic_read_adc && cat {tmp_path}/rails')
    source = find_source(tmp_path)
    assert source.name == "vcgencmd pmic_read_adc"
    assert source.watts() == pytest.approx(0.1 * 3.7 + 2.0 * 0.8)


def battery(root, **files):
    usual = {"type": "Battery", "status": "Discharging", "voltage_now": "4000000", "current_now": "-500000"}
    put(root, **{f"{SUPPLY}/BAT0/{name}": text for name, text in (usual | files).items()})


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        ({}, 2.0),
        ({"current_now": "500000"}, 2.0),
        ({"current_now": "-500"}, 2.0),
        ({"voltage_now": "4000"}, 2.0),
        ({"power_now": "7500000"}, 7.5),
    ],
)
def test_a_battery_in_every_sign_and_unit(tmp_path, files, watts):
    battery(tmp_path, **files)
    source = find_source(tmp_path)
    assert (source.name, source.scope, source.void()) == ("battery BAT0", "whole device", None)
    assert source.watts() == pytest.approx(watts)


def test_charging_makes_a_battery_void(tmp_path):
    battery(tmp_path)
    source = find_source(tmp_path)
    put(tmp_path, **{f"{SUPPLY}/usb/type": "USB", f"{SUPPLY}/usb/online": "1"})
    assert source.void() == "it is on external power (usb)"
    put(tmp_path, **{f"{SUPPLY}/usb/online": "0"})
    battery(tmp_path, status="Charging")
    assert source.void() == "the battery's status is Charging, not Discharging"


class Slow(FakeEngine):
    def prefill(self, ids):
        time.sleep(0.002)
        return super().prefill(ids)

    def decode(self, token):
        time.sleep(0.001)
        return super().decode(token)


def measured(root, **fields):
    samples = []

    def emit(kind, **values):
        samples.append({"kind": kind, **values})

    source = find_source(root)
    source = type(source)(**{**vars(source), "least_seconds": 0.0, "interval": 0.02})
    plan = Plan(bundle="b", prompt_tokens=8, decode_tokens=4, energy_seconds=0.15, **fields)
    announce(source, emit)
    idle_energy(plan, source, emit)
    before = threading.active_count()
    work_energy(plan, Slow(None), list(range(9)), source, emit)
    assert threading.active_count() == before
    return samples


def test_a_steady_power_becomes_joules_of_a_token(tmp_path):
    battery(tmp_path)
    samples = measured(tmp_path)
    windows = [sample for sample in samples if sample["kind"] == "energy"]
    assert [w["phase"] for w in windows] == ["idle"] * WINDOWS + ["prefill", "decode"] * WINDOWS
    for window in windows:
        assert window["joules"] == pytest.approx(2.0 * window["seconds"], rel=1e-6)
        assert len(window["watts"]) > 3
        assert (window["tokens"] > 0) == (window["phase"] != "idle")
    found = derive(samples)
    assert found["power_idle"].median == pytest.approx(2.0)
    assert found["net_energy_decode"].median == pytest.approx(0.0, abs=1e-9)
    decode = [w for w in windows if w["phase"] == "decode"]
    assert found["energy_decode"].values == tuple(w["joules"] / w["tokens"] for w in decode)
    assert found["energy_decode"].unit == "J/token"
    assert all(window["tokens"] % 5 == 0 for window in decode)


def test_power_that_changes_is_integrated(tmp_path):
    battery(tmp_path)
    source = find_source(tmp_path)
    values = iter([1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0] + [3.0] * 999)
    source = type(source)(**{**vars(source), "least_seconds": 0.0, "interval": 0.05})
    source = type(source)(**{**vars(source), "watts": lambda: next(values)})
    samples = []
    plan = Plan(bundle="b", energy_seconds=0.4)
    idle_energy(plan, source, lambda kind, **fields: samples.append(fields))
    assert 2.0 < samples[0]["joules"] / samples[0]["seconds"] < 2.95
    assert samples[1]["joules"] / samples[1]["seconds"] == pytest.approx(3.0)


def test_void_windows_give_no_figure(tmp_path):
    battery(tmp_path, status="Charging")
    samples = measured(tmp_path)
    assert samples[0] == {
        "kind": "power",
        "source": "battery BAT0",
        "scope": "whole device",
        "void": "the battery's status is Charging, not Discharging",
    }
    assert derive(samples) == {}


def test_net_is_above_the_idle_power():
    def window(phase, tokens, joules, void=None):
        return {"phase": phase, "tokens": tokens, "joules": joules, "seconds": 2.0, "void": void}

    found = list(energy([window("idle", 0, 4.0), window("decode", 10, 9.0), window("decode", 10, None)]))
    assert found == [
        ("power_idle", "W", 2.0), ("energy_decode", "J/token", 0.9), ("net_energy_decode", "J/token", 0.5),
    ]  # fmt: skip
