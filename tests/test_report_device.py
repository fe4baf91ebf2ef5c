from dataclasses import replace

from made_up import report, result
from test_report import Page

from benchmarks.report import render_report
from benchmarks.report_device import courses, run_facts


def board(**changes):
    """A run on a board that tells all, with energy and a sustained mode."""
    judged = result()
    found = []
    for sample in judged.samples:
        if sample["kind"] == "sensors" and sample["when"] == "during":
            sample = sample | {"frequency_seconds": {"policy0": {"600": 1.0, "2400": 3.0}, "policy4": {}}}
        found.append(sample)
    for minute, rate in enumerate((40.0, 31.0, 28.0, 27.8, 28.1), 1):
        found.append({
            "kind": "sustained", "tokens": rate * 60, "seconds": 60.0, "celsius": 50 + minute,
        })  # fmt: skip
    found.append({"kind": "sustained end", "minutes": 5, "settled": True})
    for window in range(3):
        for phase, tokens, joules in (
            ("idle", 0, 10.0),
            ("prefill", 900, 30.0),
            ("decode", 200, 30.0 + window),
        ):
            found.append(
                {"kind": "energy", "phase": phase, "window": window, "tokens": tokens, "joules": joules,
                 "seconds": 5.0, "void": None}
            )  # fmt: skip
    environment = replace(
        judged.environment,
        frequency_share={"policy0": {"600": 0.25, "2400": 0.75}},
        power_source="hwmon ina219 power1: rail ina219 power1",
        **changes,
    )
    validity = replace(judged.validity, notes=["governor schedutil: the clock follows <the> load"])
    setting = replace(judged.setting, cores=[4, 5])
    return replace(judged, samples=found, environment=environment, validity=validity, setting=setting)


def test_heat_clock_and_rate_are_drawn_over_time():
    heat, clock, sustained, warming = courses(board())
    assert heat.caption == "Temperature by repeat: 49.7 °C at first, 53.7 °C at last.".replace(
        " °C", "\u202f°C"
    )
    assert clock.caption.startswith("Clock by repeat: 1950\u202fMHz at first")
    assert sustained.caption.endswith("28.1\u202ftokens/s at last. It settled.")
    assert "minute 5" in sustained.plot
    assert "Temperature while decoding" in warming.caption


def test_a_machine_that_tells_nothing_has_no_courses():
    silent = result()
    blank = {"temperatures": None, "frequency_mhz": None}
    silent = replace(silent, samples=[s | blank if s["kind"] == "sensors" else s for s in silent.samples])
    assert courses(silent) == []
    assert run_facts(silent) == []


def test_an_emulated_device_has_no_courses():
    emulated = board(facts=result().environment.facts | {"emulated": True})
    assert courses(emulated) == []


def test_the_page_shows_energy_notes_and_facts():
    page = Page(render_report(report(benchmarks=(board(),))))
    for text in (
        "Energy of a decoded token", "Prompt token, above idle", "Power at rest", "Sustained decode",
        "governor schedutil: the clock follows <the> load", "hwmon ina219 power1", "4, 5",
        "600 MHz 25\u202f%, 2400 MHz 75\u202f%",
    ):  # fmt: skip
        assert text in page.text
    assert set(page.labels) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
