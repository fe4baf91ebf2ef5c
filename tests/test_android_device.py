"""Runs on the phone of `adb_device`: the agent in its environment, and ExecuTorch in the demo app."""

import sys
import time

import pytest
from adb_device import FakePhone, android_tools
from bundles import small_bundle
from demo_app import HERE, PACKAGE, PRIVATE, SHARED, install

from benchmarks.protocol import benchmark
from runtimes.devices.adb import ROOT, AdbShell
from runtimes.devices.android import AndroidDevice
from runtimes.plan import Plan
from toolkit.errors import DeviceError

PTE = {"model.pte": 200_000, "tokenizer.json": 5_000, "adapters/maud.json": 90}


@pytest.fixture
def device(phone):
    return AndroidDevice(AdbShell(f"adb:{phone.serial}"), timeout=60)


@pytest.fixture
def bundle(tmp_path):
    return small_bundle(tmp_path / "bundle", PTE, runtime="executorch")


def plan(folder, **options):
    return Plan(
        **{"bundle": folder, "prompt_tokens": 8, "decode_tokens": 3, "repeats": 1, "depths": (0,), **options}
    )


def prepare(phone: FakePhone, runtime: str, fault: str = "") -> None:
    """An environment whose launcher runs the agent's code with the fake engine."""
    environment = phone.root / ROOT.lstrip("/") / "environments" / runtime
    environment.mkdir(parents=True)
    (environment / "python").write_text(
        f"export PYTHONPATH='{HERE.parent}'\n"
        f"exec '{sys.executable}' '{HERE}/fake_engine.py' '{fault}' \"$2\"\n"
    )


def test_an_onnx_bundle_is_pushed_and_run_by_the_agent(phone, device, tmp_path):
    prepare(phone, "onnxruntime-genai")
    folder = device.place(small_bundle(tmp_path / "bundle"))
    assert folder.startswith(f"{ROOT}/bundles/")
    seen = []
    samples = device.run(plan(folder), seen.append)
    assert samples == seen
    assert samples[-1]["kind"] == "done"


def test_a_push_that_was_cut_goes_on_where_it_stopped(phone, device, tmp_path):
    bundle = small_bundle(tmp_path / "bundle", {"model.onnx": 9_000_000, "tokenizer.json": 5_000})
    device.shell.connect()
    phone.cut_input = 5_000_000
    with pytest.raises(DeviceError, match=f"device adb:{phone.serial}, step push: the connection was cut"):
        device.place(bundle)
    part = next((phone.root / ROOT.lstrip("/") / "incoming").glob("*.part"))
    assert 4_000_000 < part.stat().st_size < 6_000_000
    assert not list((phone.root / ROOT.lstrip("/") / "bundles").iterdir())
    phone.cut_input = 6_000_000  # enough for what is left only
    again = AndroidDevice(AdbShell(f"adb:{phone.serial}"))
    assert (phone.path(again.place(bundle)) / "model.onnx").read_bytes() == (
        bundle / "model.onnx"
    ).read_bytes()


@pytest.mark.parametrize("debug", [True, False], ids=["debug", "release"])
def test_an_executorch_bundle_runs_in_the_app(phone, device, bundle, debug):
    install(phone, debug=debug)
    folder = device.place(bundle)
    home = PRIVATE if debug else SHARED
    assert folder.startswith(f"{home}/bundles/maud-")
    for name in PTE:
        assert (phone.path(folder) / name).read_bytes() == (bundle / name).read_bytes()
    seen = []
    samples = device.run(plan(folder), seen.append)
    assert samples == seen
    assert samples[-1]["kind"] == "done"
    assert {sample["kind"] for sample in samples} >= {"hello", "load", "prefill", "decode", "memory"}
    assert f"-n {PACKAGE}/.phone.BenchActivity" in (phone.root / "am.log").read_text()
    # Nothing of the run stays behind, and the app is not ended: its screen shows the figures.
    assert not list(phone.path(f"{home}/results").iterdir())
    assert not list(phone.path(f"{home}/plans").iterdir())
    assert "force-stop" not in (phone.root / "am.log").read_text()


def test_a_second_run_pushes_and_copies_nothing(phone, device, bundle):
    install(phone)
    folder = device.place(bundle)
    before = (phone.path(folder) / "model.pte").stat()
    assert device.place(bundle) == folder
    assert (phone.path(folder) / "model.pte").stat() == before


def test_a_damaged_file_in_the_app_is_mended(phone, device, bundle):
    install(phone)
    folder = device.place(bundle)
    (phone.path(folder) / "model.pte").write_bytes(b"damaged")
    assert device.place(bundle) == folder
    assert (phone.path(folder) / "model.pte").read_bytes() == (bundle / "model.pte").read_bytes()


def test_the_whole_benchmark_judges_the_app_as_any_device(phone, device, bundle):
    install(phone)
    result = benchmark(
        bundle, device, prompt_tokens=8, decode_tokens=3, repeats=3, depths=(0,), settle_seconds=0
    )
    assert len(result.statistics["decode_rate_at_0"].values) == 3
    assert result.environment.device == f"adb:{phone.serial}"
    assert result.environment.bundle.runtime == "executorch"


def test_prompts_reach_the_app_whatever_their_length(phone, device, bundle):
    install(phone)
    prompts = tuple((number % 50, *range(40)) for number in range(2000))
    samples = device.run(plan(device.place(bundle), repeats=0, prompts_ids=prompts, max_new_tokens=2))
    answers = [sample["ids"] for sample in samples if sample["kind"] == "answer"]
    assert len(answers) == 2000
    assert answers[0] == [40, 41]


def test_without_the_app_it_says_where_it_comes_from(phone, device, bundle):
    phone.program("pm", "exit 1")
    with pytest.raises(DeviceError) as caught:
        device.place(bundle)
    assert str(caught.value) == (
        f"device adb:{phone.serial}, step find the app: ExecuTorch runs in the demo app, and "
        "org.edgeplm.demo is not installed. Install it: `make android-app`, then as docs/android.md says"
    )


def test_an_environment_for_executorch_goes_before_the_app(phone, device, bundle):
    prepare(phone, "executorch")
    folder = device.place(bundle)
    assert folder.startswith(f"{ROOT}/bundles/")
    assert device.run(plan(folder))[-1]["kind"] == "done"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("bundle", "step load: model.onnx: has no model. Export the bundle again"),
        ("killed", "step load: the app ended before its run did. Most likely the phone ran out of memory"),
    ],
)
def test_what_goes_wrong_in_the_app_names_device_and_step(phone, device, bundle, fault, said):
    install(phone, fault=fault)
    folder = device.place(bundle)
    with pytest.raises(DeviceError) as caught:
        device.run(plan(folder))
    assert f"device adb:{phone.serial}, {said}" in str(caught.value)


def test_a_bundle_that_the_app_has_not_is_told(phone, device, bundle):
    install(phone)
    device.place(bundle)
    with pytest.raises(DeviceError, match=r"step start: .*another"):
        device.run(plan(f"{PRIVATE}/bundles/another"))


def test_a_locked_phone(phone, device, bundle):
    install(phone)
    folder = device.place(bundle)
    line = 'User "Owner" (id=0, flags=0x13) (current): trusted=0, trustManaged=0, deviceLocked=1, strong=0x1'
    phone.program("dumpsys", f"echo ' {line}'")
    with pytest.raises(DeviceError, match=r"step start: the phone is locked\. Unlock it"):
        device.run(plan(folder))
    assert not (phone.root / "am.log").exists()


def test_an_app_without_the_benchmark(phone, device, bundle):
    install(phone)
    folder = device.place(bundle)
    phone.program("am", 'echo "Error type 3"; echo "Error: Activity class {x/y} does not exist."')
    with pytest.raises(DeviceError, match=r"the app cannot be started \(Error type 3 Error: Activity class"):
        device.run(plan(folder))


def test_a_run_that_hangs_ends_at_the_timeout_and_in_the_app(phone, device, bundle):
    install(phone, fault="hang")
    folder = device.place(bundle)
    device.timeout = 5
    with pytest.raises(DeviceError, match=r"step load: no end within 5 s"):
        device.run(plan(folder))
    ended_in_the_app(phone)


def test_an_interrupt_ends_the_app(phone, device, bundle):
    install(phone, fault="hang")
    folder = device.place(bundle)

    def interrupt(sample):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.run(plan(folder), interrupt)
    ended_in_the_app(phone)


def test_unplugged_while_the_app_runs(phone, device, bundle):
    install(phone, fault="hang")
    folder = device.place(bundle)

    def unplug(sample):
        if sample["kind"] == "load" or sample["kind"] == "step":
            phone.unplug()

    with pytest.raises(DeviceError, match=f"device adb:{phone.serial}, step load: the connection was cut"):
        device.run(plan(folder), unplug)
    ended_in_the_app(phone)
    goes_again(phone, folder)


def test_unplugged_before_the_app_was_seen_to_run(phone, device, bundle):
    """What it wrote says that it was there: the lock is not kept waiting for it."""
    install(phone, fault="hang")
    pidof = phone.programs / "pidof"
    pidof.write_text(pidof.read_text().replace("\n", "\nsleep 2\n", 1))
    folder = device.place(bundle)
    with pytest.raises(DeviceError, match="step load: the connection was cut"):
        device.run(plan(folder), lambda sample: phone.unplug() if sample["kind"] == "step" else None)
    ended_in_the_app(phone)
    goes_again(phone, folder)


def test_all_of_it_with_the_programs_that_android_has(adb, bundle, tmp_path):
    tools = android_tools(tmp_path / "tools")
    if tools is None:
        pytest.skip("no toybox and mksh here (Debian: apt install toybox mksh)")
    phone = FakePhone(tmp_path / "phone", **tools)
    adb.client("connect", phone.serial)
    install(phone, fault="hang")
    device = AndroidDevice(AdbShell(f"adb:{phone.serial}"), timeout=60)
    folder = device.place(bundle)
    with pytest.raises(DeviceError, match=f"device adb:{phone.serial}, step load: the connection was cut"):
        device.run(plan(folder), lambda sample: phone.unplug() if sample["kind"] == "step" else None)
    ended_in_the_app(phone)
    goes_again(phone, folder)
    assert device.facts().runtimes["executorch"] == "ready (app)"
    phone.close()


def goes_again(phone, folder):
    """The phone is well, once what followed the app there sees that it is gone and lets go of the lock."""
    install(phone)
    deadline = time.monotonic() + 30
    while True:
        try:
            samples = AndroidDevice(AdbShell(f"adb:{phone.serial}"), timeout=60).run(plan(folder))
        except DeviceError as fault:
            assert "in use by" in str(fault)
            assert time.monotonic() < deadline
        else:
            break
    assert samples[-1]["kind"] == "done"


def test_a_busy_phone_says_who_has_it(phone, device, bundle):
    install(phone)
    folder = device.place(bundle)
    with (
        device.store.held(),
        pytest.raises(DeviceError, match=r"step lock: it is in use by \w+ on \S+ since"),
    ):
        device.run(plan(folder))


def ended_in_the_app(phone):
    deadline = time.monotonic() + 30
    while (phone.root / "app.pid").exists():
        assert time.monotonic() < deadline, "the app was not ended"
        time.sleep(0.1)
    assert "force-stop" in (phone.root / "am.log").read_text()
