import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtimes.devices import parse_device
from runtimes.devices.local import LocalDevice
from runtimes.plan import Plan
from toolkit.errors import DeviceError

FAKE = str(Path(__file__).with_name("fake_engine.py"))
PLAN = Plan(bundle="b", prompt_tokens=8, decode_tokens=3, repeats=1, depths=(0,))


def device(fault="", **options):
    return LocalDevice(agent=[sys.executable, FAKE, fault], **options)


def kinds(samples):
    return {sample["kind"] for sample in samples}


def test_local_is_known_and_tells_its_facts():
    facts = parse_device("local").facts()
    assert facts.cores_logical == os.cpu_count()
    assert facts.machine
    assert set(facts.as_dict()) >= {
        "cpu",
        "board",
        "cores_physical",
        "max_mhz",
        "memory_bytes",
        "kernel",
        "os",
    }


def test_ssh_devices_are_recognised():
    assert parse_device("ssh://pi@board:2222").name == "ssh://pi@board:2222"


def test_a_phone_is_recognised_before_it_is_connected():
    assert parse_device("adb:SERIAL").name == "adb:SERIAL"
    with pytest.raises(DeviceError, match="not a device of adb"):
        parse_device("adb:SERIAL; reboot")


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(DeviceError, match=r"device 'pi': unknown device\. Known: local, ssh://\[user@\]host"):
        parse_device("pi")


def test_a_run_returns_every_sample_and_shows_each_as_it_comes():
    seen = []
    samples = device().run(PLAN, seen.append)
    assert samples == seen
    assert samples[-1]["kind"] == "done"
    assert kinds(samples) >= {"hello", "load", "prefill", "decode", "memory", "sensors"}


def test_chatter_of_the_runtime_never_mixes_with_the_samples():
    samples = device("chatter").run(PLAN)
    assert "native chatter" not in kinds(samples)
    assert "noise" not in kinds(samples)


def test_lines_that_are_no_samples_are_kept_as_noise():
    samples = device("noise").run(PLAN)
    noise = [sample["text"] for sample in samples if sample["kind"] == "noise"]
    assert noise[0].startswith("WARNING: loaded by process")
    assert noise[1:] == ['{"no": "kind"}']
    assert samples[-1]["kind"] == "done"


def test_an_error_of_the_bundle_names_device_and_step():
    with pytest.raises(DeviceError) as caught:
        device("bundle").run(PLAN)
    assert str(caught.value) == ("device local, step load: model.onnx: has no model. Export the bundle again")


def test_a_bug_in_the_runtime_names_device_and_step():
    with pytest.raises(DeviceError, match="device local, step load: RuntimeError: a bug in the runtime"):
        device("bug").run(PLAN)


def test_a_crash_shows_the_last_lines_of_standard_error():
    with pytest.raises(DeviceError) as caught:
        device("exit").run(PLAN)
    assert "device local, step load: the agent exited with status 5" in str(caught.value)
    assert "native library gives up" in str(caught.value)


def test_a_kill_suggests_that_memory_ran_out():
    with pytest.raises(DeviceError) as caught:
        device("killed").run(PLAN)
    assert "was ended by SIGKILL" in str(caught.value)
    assert "about to use too much memory" in str(caught.value)
    assert "try a smaller bundle" in str(caught.value)


def test_a_crash_after_the_end_is_only_noted():
    samples = device("late").run(PLAN)
    assert "done" in kinds(samples)
    assert samples[-1]["kind"] == "noise"
    assert "SIGSEGV" in samples[-1]["text"]


def test_a_run_that_hangs_ends_at_the_timeout():
    with pytest.raises(DeviceError, match=r"device local, step \w+: no end within 2 s"):
        device("hang", timeout=2).run(PLAN)


def test_an_interrupt_kills_the_agent():
    pids = []

    def interrupt(sample):
        if sample["kind"] == "noise":
            pids.append(int(sample["text"].split()[-1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device("noise").run(PLAN, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_an_agent_that_cannot_be_started_is_an_error_of_the_device():
    with pytest.raises(DeviceError, match="cannot start the agent"):
        LocalDevice(agent=["/no/such/program"]).run(PLAN)


def test_the_stock_agent_starts_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "runtimes").mkdir()
    (tmp_path / "runtimes" / "__init__.py").write_text("raise RuntimeError('a module of the user')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeviceError) as caught:
        parse_device("local").run(Plan(bundle=str(tmp_path / "nowhere"), repeats=1))
    assert "step load" in str(caught.value)
    assert "nowhere: no such folder" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("moment", ["while it starts", "while it waits"])
def test_the_agent_never_outlives_the_program_that_started_it(moment: str) -> None:
    """Killed with SIGKILL, a host cannot clean up: an agent left behind would eat the next run's memory."""
    program = (
        "import subprocess, sys, time\n"
        "from runtimes.devices.local import LocalDevice\n"
        "agent = subprocess.Popen(LocalDevice().agent, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "print(agent.pid, flush=True)\n"
        "time.sleep(120)\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    agent = Path("/proc") / host.stdout.readline().strip()
    if moment == "while it waits":
        time.sleep(2)
    assert agent.exists()
    host.kill()
    host.wait()
    host.stdout.close()
    deadline = time.monotonic() + 30
    while agent.exists() and "Z (zombie)" not in (agent / "status").read_text():
        assert time.monotonic() < deadline, "the agent is still there"
        time.sleep(0.05)
