import time

import pytest
from fake_root import phone, program, put

from runtimes import programs
from runtimes.battery import battery
from runtimes.facts import parse_core_list
from runtimes.sensors import frequency_seconds, hottest, sensors, time_in_state
from runtimes.settle import cool, settle

SUPPLY = "sys/class/power_supply"


def test_vcgencmd_tells_the_throttling_with_its_sticky_bits(tmp_path):
    put(tmp_path, **{"sys/devices/platform/soc@1/soc@1:firmware/get_throttled": "0\n"})
    assert sensors(tmp_path)["throttle_flags"] == 0
    program(tmp_path, "usr/bin/vcgencmd", 'test "$1" = get_throttled && echo throttled=0x50005')
    assert sensors(tmp_path)["throttle_flags"] == 0x50005


def test_a_program_that_fails_or_hangs_is_asked_once(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_TIMEOUT", 0.3)
    count = tmp_path / "count"
    program(tmp_path, "usr/bin/vcgencmd", f"echo x >> {count}; echo 'VCHI initialization failed'; exit 255")
    assert sensors(tmp_path)["throttle_flags"] is None
    assert sensors(tmp_path)["throttle_flags"] is None
    assert count.read_text() == "x\n"
    program(tmp_path, "system/bin/dumpsys", "exec sleep 30")
    started = time.monotonic()
    assert sensors(tmp_path)["thermal_status"] is None
    assert sensors(tmp_path)["battery"] is None
    assert time.monotonic() - started < 5


def test_a_program_gets_neither_our_input_nor_our_library_path(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/ours")
    monkeypatch.setenv("ANDROID_ROOT", "/system")
    program(tmp_path, "x", 'echo "$1/$LD_LIBRARY_PATH/$ANDROID_ROOT/$(cat)"')
    assert programs.ask(tmp_path, ["missing", "x"], "a; b") == "a; b///system/\n"


def test_an_android_phone_tells_its_heat_and_its_battery(tmp_path):
    phone(tmp_path, status=3)
    reading = sensors(tmp_path)
    assert reading["thermal_status"] == 3
    assert reading["temperatures"] == {
        "CPU CPU0": {"celsius": 41.6, "limit": None},
        "skin SKIN": {"celsius": 30.5, "limit": None},
    }
    assert hottest(reading) == 41.6
    assert reading["battery"] == {
        "level": 88, "status": "Charging", "charging": True, "volts": 4.123, "amperes": None, "celsius": 29.1,
    }  # fmt: skip
    phone(tmp_path, usb="false", battery_status=3)
    assert sensors(tmp_path)["battery"]["charging"] is False


def waited_for(reading):
    clock = iter(range(9))
    return settle(2.0, 2, read=lambda: reading, pause=lambda _: None, clock=lambda: float(next(clock)))[
        "waiting_for"
    ]


def test_a_hot_phone_and_a_throttled_board_are_waited_for(tmp_path):
    phone(tmp_path, status=2)
    assert waited_for(sensors(tmp_path)) == "Android's thermal status, which is 2"
    phone(tmp_path, status=1)
    cool_phone = sensors(tmp_path)
    assert waited_for(cool_phone) is None
    assert waited_for(cool_phone | {"throttle_flags": 0x50000}) is None
    assert waited_for(cool_phone | {"throttle_flags": 0x50004}).startswith("the firmware, which throttles")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"current_now": "-412000", "voltage_now": "3850000", "status": "Discharging"},
            {"volts": 3.85, "amperes": 0.412, "charging": False},
        ),
        (
            {"current_now": "412000", "voltage_now": "3850", "status": "Charging"},
            {"volts": 3.85, "amperes": 0.412, "charging": True},
        ),
        ({"status": "Discharging", "temp": "305"}, {"volts": None, "amperes": None, "celsius": 30.5}),
    ],
)
def test_a_battery_of_sysfs(tmp_path, files, expected):
    own = {f"{SUPPLY}/BAT0/{name}": text for name, text in files.items()}
    mouse = {f"{SUPPLY}/A_mouse/type": "Battery", f"{SUPPLY}/A_mouse/scope": "Device"}
    put(tmp_path, **{f"{SUPPLY}/BAT0/type": "Battery", f"{SUPPLY}/BAT0/capacity": "61"}, **own, **mouse)
    found = battery(tmp_path)
    assert found is not None
    assert found["level"] == 61
    assert expected.items() <= found.items()


def test_a_full_battery_on_a_plugged_charger_is_charging(tmp_path):
    put(tmp_path, **{f"{SUPPLY}/BAT0/type": "Battery", f"{SUPPLY}/BAT0/status": "Full"})
    assert battery(tmp_path)["charging"] is False
    put(tmp_path, **{f"{SUPPLY}/AC/type": "Mains", f"{SUPPLY}/AC/online": "1"})
    assert battery(tmp_path)["charging"] is True


def test_time_in_state_by_policy(tmp_path):
    cpu = "sys/devices/system/cpu"
    put(
        tmp_path,
        **{
            f"{cpu}/online": "0-2,5\n",
            f"{cpu}/cpufreq/policy0/stats/time_in_state": "600000 100\n1800000 50\n",
            f"{cpu}/cpufreq/policy0/related_cpus": "0 1 2 3\n",
            f"{cpu}/cpufreq/policy4/stats/time_in_state": "2400000 7\nbroken\n",
        },
    )
    before = time_in_state(tmp_path)
    assert before == {
        "policy0": {"cores": [0, 1, 2, 3], "seconds": {"600": 1.0, "1800": 0.5}},
        "policy4": {"cores": None, "seconds": {"2400": 0.07}},
    }
    assert sensors(tmp_path)["online_cores"] == [0, 1, 2, 5]
    put(tmp_path, **{f"{cpu}/cpufreq/policy0/stats/time_in_state": "600000 100\n1800000 350\n"})
    assert frequency_seconds(before, time_in_state(tmp_path)) == {"policy0": {"1800": 3.0}, "policy4": {}}
    assert frequency_seconds(None, before) is None


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0-3,6", [0, 1, 2, 3, 6]), ("0 1", [0, 1]), ("7", [7]), ("", None), (None, None), ("0-x", None)],
)
def test_core_lists(text, cores):
    assert parse_core_list(text) == cores


def test_cooling_waits_for_the_temperature_and_gives_up(tmp_path):
    zone = "sys/class/thermal/thermal_zone0"
    put(tmp_path, **{f"{zone}/type": "cpu", f"{zone}/temp": "60000"})
    left = [57000, 51900, 40000]

    def pause(_):
        put(tmp_path, **{f"{zone}/temp": str(left.pop(0))})

    cooled = cool(50.0, 60.0, root=tmp_path, pause=pause)
    assert (cooled["reached"], cooled["celsius"], left) == (True, 51.9, [40000])
    put(tmp_path, **{f"{zone}/temp": "60000"})
    clock = iter([0.0, 1.0, 99.0, 99.0])
    stuck = cool(50.0, 30.0, root=tmp_path, pause=lambda _: None, clock=lambda: next(clock))
    assert (stuck["reached"], stuck["celsius"]) == (False, 60.0)
    nowhere = cool(50.0, 30.0, root=tmp_path / "nowhere")
    assert nowhere["reached"]
