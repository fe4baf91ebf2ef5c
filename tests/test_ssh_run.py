"""Runs of the agent on a device behind a real sshd on loopback."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundles import small_bundle
from sshd import HERE, Sshd, descendants, needs_sshd

from runtimes.devices.remote import RemoteDevice
from runtimes.devices.store import Store
from runtimes.plan import Plan
from toolkit.errors import DeviceError

pytestmark = needs_sshd


def plan(folder: str) -> Plan:
    return Plan(bundle=folder, prompt_tokens=8, decode_tokens=3, repeats=1, depths=(0,))


@pytest.fixture
def folder(sshd: Sshd, device: RemoteDevice, tmp_path: Path) -> str:
    """A bundle that is placed."""
    return device.place(small_bundle(tmp_path / "bundle"))


def agents(sshd: Sshd) -> list[int]:
    """The agents that run on the device."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            if b"fake_engine.py" in words and os.fsencode(sshd.home) in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def test_a_bundle_is_placed_and_run(sshd, device, folder):
    sshd.prepare("onnxruntime-genai")
    seen = []
    samples = device.run(plan(folder), seen.append)
    assert samples == seen
    assert samples[-1]["kind"] == "done"
    assert {sample["kind"] for sample in samples} >= {"hello", "load", "prefill", "decode", "memory"}
    assert [path.suffix for path in (sshd.home / ".edgeplm/agents").iterdir()] == [".pyz"]
    # The lock is free again, and nothing runs on.
    assert device.run(plan(folder))[-1]["kind"] == "done"
    assert not agents(sshd)


def test_a_damaged_agent_is_sent_again(sshd, device, folder):
    sshd.prepare("onnxruntime-genai")
    device.run(plan(folder))
    agent = next((sshd.home / ".edgeplm/agents").iterdir())
    agent.write_bytes(agent.read_bytes()[:-100])
    assert device.run(plan(folder))[-1]["kind"] == "done"


def test_garbage_between_the_samples_is_kept_as_noise(sshd, device, folder):
    sshd.prepare("onnxruntime-genai", "noise")
    samples = device.run(plan(folder))
    noise = [sample["text"] for sample in samples if sample["kind"] == "noise"]
    assert noise[0].startswith("WARNING: loaded by process")
    assert noise[1] == '{"no": "kind"}'
    assert samples[-1]["kind"] == "done"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("bundle", "step load: model.onnx: has no model. Export the bundle again"),
        ("bug", "step load: RuntimeError: a bug in the runtime"),
        ("exit", "step load: the agent exited with status 5; its last lines:\n  native library gives up"),
        ("killed", "was ended by SIGKILL; its last lines:\n  about to use too much memory"),
    ],
)
def test_what_ends_a_run_names_device_and_step(sshd, device, folder, fault, said):
    sshd.prepare("onnxruntime-genai", fault)
    with pytest.raises(DeviceError) as caught:
        device.run(plan(folder))
    assert str(caught.value).startswith(f"device {sshd.name}, step load: ")
    assert said in str(caught.value)
    assert ("ran out of memory: try a smaller bundle" in str(caught.value)) == (fault == "killed")


def test_a_device_that_is_not_prepared_says_how_to_do_it(sshd, device, folder):
    with pytest.raises(DeviceError) as caught:
        device.run(plan(folder))
    assert str(caught.value) == (
        f"device {sshd.name}, step start: is not prepared for onnxruntime-genai. "
        f"Prepare it: `edgeplm devices prepare {sshd.name}`"
    )


def test_an_environment_for_another_processor_is_told_apart(sshd, device, folder):
    environment = sshd.prepare("onnxruntime-genai")
    # The head of a program for s390x.
    (environment / "program").write_bytes(
        bytes.fromhex("7f454c4602020100") + bytes(8) + b"\0\2\0\x16" + bytes(40)
    )
    (environment / "program").chmod(0o755)
    (environment / "python").write_text('exec "${0%/*}/program" "$@"\n')
    with pytest.raises(
        DeviceError, match=r"step start: its environment for onnxruntime-genai is made for another"
    ):
        device.run(plan(folder))


def test_a_bundle_that_was_never_placed(device):
    with pytest.raises(DeviceError, match=r"step look: has no bundle '/no/such'"):
        device.run(plan("/no/such"))


def test_a_run_that_hangs_ends_at_the_timeout(sshd, device, folder):
    sshd.prepare("onnxruntime-genai", "hang")
    device.timeout = 6
    with pytest.raises(DeviceError, match=r"step \w+: no end within 6 s"):
        device.run(plan(folder))
    until(lambda: not agents(sshd))


def test_an_interrupt_ends_the_agent_on_the_device(sshd, device, folder):
    sshd.prepare("onnxruntime-genai", "hang")

    def interrupt(sample):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.run(plan(folder), interrupt)
    until(lambda: not agents(sshd))


def test_a_cut_connection_is_an_error_and_leaves_no_agent(sshd, device, folder):
    sshd.prepare("onnxruntime-genai", "hang")

    def cut(sample):
        if sample.get("name") == "load":
            assert agents(sshd)
            sshd.cut()

    with pytest.raises(
        DeviceError, match=r"step [a-z ]+: the connection was cut\. Look at its power"
    ) as caught:
        device.run(plan(folder), cut)
    assert str(caught.value).startswith(f"device {sshd.name}, ")
    until(lambda: not agents(sshd))
    # The device is well again: the same object connects anew.
    sshd.start()
    sshd.prepare("onnxruntime-genai")
    assert device.run(plan(folder))[-1]["kind"] == "done"


def test_a_killed_host_leaves_neither_agent_nor_connection(sshd, device, folder):
    sshd.prepare("onnxruntime-genai", "hang")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from runtimes.devices.remote import RemoteDevice\n"
        "from runtimes.devices.ssh import SshShell\n"
        "from runtimes.plan import Plan\n"
        "device = RemoteDevice(SshShell(sys.argv[1], config=Path(sys.argv[2])))\n"
        "device.run(Plan(bundle=sys.argv[3]), lambda sample: print(sample['kind'], flush=True))\n"
    )
    command = [sys.executable, "-c", program, sshd.name, str(sshd.config), folder]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=HERE.parent)
    assert host.stdout is not None
    host.stdout.readline()
    clients = descendants(host.pid)
    assert len(clients) >= 2
    assert agents(sshd)
    host.kill()
    host.wait()
    host.stdout.close()
    until(lambda: not agents(sshd))
    until(lambda: not any(alive(pid) for pid in clients))


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_busy_device_says_who_has_it(sshd, device, folder):
    sshd.prepare("onnxruntime-genai")
    with Store(device.shell, device.root).held():
        for work in (lambda: device.run(plan(folder)), lambda: device.place(Path(folder))):
            with pytest.raises(
                DeviceError, match=r"step lock: it is in use by \w+ on \S+ since .*\. Wait for its end"
            ):
                work()
    assert device.run(plan(folder))[-1]["kind"] == "done"


def test_close_leaves_no_process_and_no_folder(sshd, device, folder, monkeypatch):
    before = set(descendants(os.getpid()))
    assert before
    socket_folder = device.shell._master.socket.parent
    assert socket_folder.stat().st_mode & 0o777 == 0o700
    device.close()
    assert not socket_folder.exists()
    assert not [
        pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh"
    ]
