"""Virtual devices for the tests: `python tests/devices/virtual.py up | status | down`, see CONTRIBUTING.md.

Exit status 77 means that they cannot be had on this machine (no root, no packages), 1 that something is
wrong.
"""

import argparse
import fcntl
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import emulator
import virtual_android
import virtual_pi
from packages import Archive, codename, needed_programs
from state import (
    Process,
    State,
    UnavailableError,
    VirtualDeviceError,
    become_root,
    free_port,
    home,
    load,
    save,
    start,
)
from tools import Tools

PROGRAMS = (
    "apt-get:apt",
    "dpkg-deb:dpkg",
    "cc:gcc",
    "unshare:util-linux",
    "ssh:openssh-client",
    "sshd:openssh-server",
    "adb",
    "qemu-aarch64-static:qemu-user-static",
)
DEVICES = {"pi": "virtual Raspberry Pi", "android": "virtual Android"}
_INIT = Path(__file__).with_name("init.py")


def say(text: str) -> None:
    """One line for the person who waits."""
    print(text, flush=True)


def up(folder: Path) -> None:
    """Build and start what is not up yet. A device that fails is taken away again, the other one stays."""
    become_root()
    needed_programs(PROGRAMS)
    folder.mkdir(parents=True, exist_ok=True)
    faults: list[VirtualDeviceError] = []
    with _kept(folder):
        state = load(folder)
        emulator.enable(folder)
        for name, bring_up in (("pi", _bring_up_pi), ("android", _bring_up_android)):
            began = time.monotonic()
            try:
                machine = bring_up(folder, state)
            except VirtualDeviceError as fault:
                faults.append(fault)
                _take_down(name, folder, state)
                say(f"The {DEVICES[name]} is not up: {fault}")
            else:
                say(f"{DEVICES[name]}: {state.devices[name]} ({machine}, {time.monotonic() - began:.0f} s)")
            finally:
                save(state, folder)
        _write_environment(folder, state)
        if not state.devices:
            emulator.disable(folder)
    if state.devices:
        say(f"For the programs that are to reach them: . {shlex.quote(str(folder / 'environment'))}")
    broken = [fault for fault in faults if not isinstance(fault, UnavailableError)]
    if broken or not state.devices:
        raise (broken or faults)[0]


def down(folder: Path) -> None:
    """Stop and remove everything but the fetched packages."""
    if not folder.exists():
        return
    become_root()
    with _kept(folder):
        state = load(folder)
        for name in DEVICES:
            _take_down(name, folder, state)
        emulator.disable(folder)
        for name in ("state.json", "environment"):
            (folder / name).unlink(missing_ok=True)


def status(folder: Path) -> None:
    """Say what is up; VirtualDeviceError if nothing is."""
    state = load(folder)
    for name, device in state.devices.items():
        alive = all(process.alive for process in _of(name, state).values())
        say(f"{DEVICES[name]}: {device} ({'up' if alive else 'dead: make devices-up'})")
    if not state.devices:
        raise VirtualDeviceError("no virtual device is up; type: make devices-up")


def _bring_up_pi(folder: Path, state: State) -> str:
    own = folder / "pi"
    archive = Archive(folder / "packages", codename(), "arm64")
    _built(own, lambda fresh: virtual_pi.build(fresh, archive, _tools(folder)))
    if not _up("pi", state):
        state.ports["pi"] = free_port()
        virtual_pi.configure(own, state.ports["pi"])
        _start_init("pi", own, state)
    machine = virtual_pi.answer(own, state.processes["pi"])
    state.devices["pi"] = f"ssh://{virtual_pi.HOST}"
    state.environment["EDGEPLM_SSH_CONFIG"] = str(own / "ssh_config")
    return machine


def _bring_up_android(folder: Path, state: State) -> str:
    own = folder / "android"
    archive = Archive(folder / "packages", virtual_android.RELEASE, "arm64")
    _built(own, lambda fresh: virtual_android.build(fresh, archive, _tools(folder)))
    if not _up("android", state):
        state.ports["android"], state.ports["android-server"] = free_port(), free_port()
        virtual_android.configure(own, state.ports["android"])
        _start_init("android", own, state)
        server = virtual_android.server_environment(own, state.ports["android-server"])
        state.processes["android-server"] = start(["adb", "nodaemon", "server"], own / "server.log", server)
    environment = {"ANDROID_ADB_SERVER_PORT": str(state.ports["android-server"])}
    machine = virtual_android.answer(own, state.ports["android"], environment, state.processes["android"])
    state.devices["android"] = f"adb:127.0.0.1:{state.ports['android']}"
    state.environment |= environment
    return machine


def _tools(folder: Path) -> Tools:
    return Tools(folder / "tools", folder / "packages")


def _start_init(name: str, own: Path, state: State) -> None:
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    command = [*namespaces, sys.executable, str(_INIT), str(own / "init.json")]
    state.processes[name] = start(command, own / "log")


def _built(own: Path, build: Callable[[Path], None]) -> None:
    """Build a device's folder aside and give it its name once it is complete."""
    if own.exists():
        return
    fresh = own.with_name(f"{own.name}.building")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    say(f"Building the {DEVICES[own.name]}: fetching and unpacking packages, about half a minute ...")
    try:
        build(fresh)
        fresh.rename(own)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _of(name: str, state: State) -> dict[str, Process]:
    return {key: process for key, process in state.processes.items() if key.split("-")[0] == name}


def _up(name: str, state: State) -> bool:
    """Whether all processes of a device run; if only some do, they are stopped."""
    processes = _of(name, state)
    if processes and all(process.alive for process in processes.values()):
        return True
    for key, process in processes.items():
        process.stop()
        del state.processes[key]
    return False


def _take_down(name: str, folder: Path, state: State) -> None:
    # A mount is seen by the device's processes only, so with these the mounts are gone.
    for key, process in _of(name, state).items():
        process.stop()
        del state.processes[key]
    state.devices.pop(name, None)
    for own in (folder / name, folder / f"{name}.building"):
        if own.exists():
            shutil.rmtree(own)


def _write_environment(folder: Path, state: State) -> None:
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in state.environment.items()]
    (folder / "environment").write_text("".join(lines), encoding="utf-8")


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Keep `folder` to this process."""
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Run the command that was asked for."""
    commands = {"up": up, "down": down, "status": status}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=commands)
    folder = home()
    try:
        commands[parser.parse_args().command](folder)
    except UnavailableError as fault:
        say(f"Virtual devices: {fault}")
        return 77
    except VirtualDeviceError as fault:
        say(f"Virtual devices: {fault}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
