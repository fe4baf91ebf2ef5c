"""What a phone tells through `getprop`, `dumpsys` and `pm`, in texts that follow AOSP's own formats.

Sources: the dump methods of AOSP's ThermalManagerService (Android 10 and later) and BatteryService.
"""

from pathlib import Path

import pytest
from demo_app import install

from runtimes.battery import battery
from runtimes.devices import parse_device
from runtimes.sensors import hottest, sensors
from runtimes.thermal import heat

PROPERTIES = """[ro.build.version.release]: [15]
[ro.build.version.sdk]: [35]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Fake]
[ro.product.model]: [Phone 9]
[ro.soc.manufacturer]: [QTI]
[ro.soc.model]: [SM8650]
"""
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
ThermalStatusListeners:
\tcallbacks: 1
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=40.1, mType=3, mName=skin, mStatus=2}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=71.5, mType=0, mName=cpu-1-0, mStatus=0}
\tTemperature{mValue=0.0, mType=1, mName=gpu, mStatus=0}
\tTemperature{mValue=41.3, mType=3, mName=skin, mStatus=2}
\tTemperature{mValue=3900.0, mType=6, mName=vbat, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=4, mType=2, mName=thermal-cpufreq-0}
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=3, mName=skin, mHotThrottlingThresholds=[NaN, 39.0, 41.0, 43.0, 45.0, 47.0, 55.0]}
"""  # noqa: E501 - as long as Android writes them
# Where the HAL is older than 2.0 the service has only what it was told last.
WITHOUT_HAL = THERMAL.partition("HAL Ready")[0] + "HAL Ready: false\n"
# Android 14 and later write more of the same before and after.
HEADROOM = (
    THERMAL.replace("IsStatusOverride", "Logical Thermal Listeners: none\nIsStatusOverride")
    + "Temperature headroom thresholds:\n\tSKIN, [NaN, 0.8, 0.9, 1.0]\n"
)
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  Charge counter: 3241000
  status: 2
  health: 2
  present: true
  level: 43
  scale: 50
  voltage: 4012
  temperature: 291
  technology: Li-ion
"""


def snapshot(root: Path, **said: str) -> Path:
    """A folder as `runtimes.devices.snapshot` lays it down."""
    (root / "edgeplm").mkdir()
    for name, text in said.items():
        (root / "edgeplm" / f"dumpsys-{name}").write_text(text)
    return root


@pytest.mark.parametrize("text", [THERMAL, HEADROOM], ids=["Android 10", "Android 14"])
def test_the_thermal_service_of_a_phone_with_a_hal(tmp_path, text):
    zones, status = heat(snapshot(tmp_path, thermalservice=text))
    assert status == 2
    assert {name: zone["celsius"] for name, zone in zones.items()} == {"CPU cpu-1-0": 71.5, "skin skin": 41.3}


def test_the_thermal_service_of_a_phone_without_a_hal(tmp_path):
    zones, status = heat(snapshot(tmp_path, thermalservice=WITHOUT_HAL))
    assert (status, zones) == (2, {"skin skin": {"celsius": 40.1, "limit": None}})


def test_a_thermal_service_that_says_nothing(tmp_path):
    assert heat(snapshot(tmp_path, thermalservice="Can't find service: thermalservice\n")) == ({}, None)


def test_the_battery_service(tmp_path):
    assert battery(snapshot(tmp_path, battery=BATTERY)) == {
        "level": 86,
        "status": "Charging",
        "charging": True,
        "volts": 4.012,
        "amperes": None,
        "celsius": 29.1,
    }


def test_a_snapshot_gives_the_readings_of_the_agent(tmp_path):
    reading = sensors(snapshot(tmp_path, thermalservice=THERMAL, battery=BATTERY))
    assert (hottest(reading), reading["thermal_status"], reading["battery"]["level"]) == (71.5, 2, 86)


def test_a_phone_tells_what_it_is(phone):
    phone.program("getprop", f"cat <<'END'\n{PROPERTIES}END")
    install(phone)
    phone.program("dumpsys", f"[ $1 = battery ] || cat <<'END'\n{THERMAL}END")
    device = parse_device("adb:")
    facts = device.facts()
    assert device.name == f"adb:{phone.serial}"
    assert (facts.board, facts.soc, facts.os) == ("Fake Phone 9", "QTI SM8650", "Android 15 (API 35)")
    assert facts.runtimes["executorch"] == "ready (app)"
    assert facts.free_bytes is not None
    assert facts.free_bytes > 0
    if not list(Path("/sys/class/thermal").glob("thermal_zone*")) and not list(
        Path("/sys/class/hwmon").glob("*")
    ):
        assert facts.temperature == 71.5  # the commands see this machine's own /sys
