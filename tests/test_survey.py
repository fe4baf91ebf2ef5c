"""Facts of a device that may have no Python: dumped by its shell, read here."""

import os
import platform
from pathlib import Path

import pytest
from userlands import USERLANDS, userland

from runtimes.devices.snapshot import device_facts, snapshot
from runtimes.facts import Cluster
from runtimes.survey import survey_here, survey_snapshot


def lay(root: Path, files: dict[str, str]) -> Path:
    """Files below `root`, as a snapshot has them."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def arm(parts: list[int]) -> str:
    return "".join(
        f"processor\t: {n}\nCPU implementer\t: 0x41\nCPU part\t: {part:#x}\n\n"
        for n, part in enumerate(parts)
    )


def cpufreq(khz: list[int], governor: str) -> dict[str, str]:
    folder = "sys/devices/system/cpu"
    top = {f"{folder}/cpu{n}/cpufreq/cpuinfo_max_freq": f"{f}\n" for n, f in enumerate(khz)}
    return top | {f"{folder}/cpu{n}/cpufreq/scaling_governor": f"{governor}\n" for n in range(len(khz))}


def pi(root: Path) -> Path:
    return lay(
        root,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
            "proc/cpuinfo": arm([0xD0B] * 4),
            "proc/meminfo": "MemTotal:        8245440 kB\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48300\n",
            "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "edgeplm/machine": "aarch64\n",
            "edgeplm/bits": "64\n",
            "edgeplm/kernel": "Linux 6.6.31+rpt-rpi-2712\n",
            "edgeplm/environments/onnxruntime-genai": "prepared\n",
            **cpufreq([2_400_000] * 4, "ondemand"),
        },
    )


def test_a_raspberry_pi(tmp_path):
    facts = survey_snapshot(pi(tmp_path), 12_000_000_000)
    assert facts.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert (facts.soc, facts.machine, facts.kernel) == (
        "brcm bcm2712",
        "aarch64",
        "Linux 6.6.31+rpt-rpi-2712",
    )
    assert facts.os == "Debian GNU/Linux 12 (bookworm)"
    assert (facts.cores_logical, facts.clusters) == (4, [Cluster("Cortex-A76", 4, 2400.0)])
    assert facts.memory_bytes == 8245440 * 1024
    assert (facts.free_bytes, facts.temperature, facts.governors) == (12_000_000_000, 48.3, ["ondemand"])
    assert facts.runtimes == {"onnxruntime-genai": "ready", "executorch": "not prepared"}
    assert not facts.emulated
    assert facts.as_dict()["clusters"] == [{"cpu": "Cortex-A76", "cores": 4, "max_mhz": 2400.0}]


def test_a_phone_with_three_clusters(tmp_path):
    properties = {
        "ro.build.version.release": "14", "ro.build.version.sdk": "34", "ro.product.manufacturer": "Maker",
        "ro.product.model": "Phone [9]", "ro.soc.manufacturer": "Chips", "ro.soc.model": "C300",
    }  # fmt: skip
    root = lay(
        tmp_path,
        {
            "proc/cpuinfo": arm([0xD05] * 4 + [0xD41] * 3 + [0xD44]),
            "edgeplm/machine": "aarch64\n",
            "edgeplm/properties": "".join(f"[{name}]: [{value}]\n" for name, value in properties.items()),
            "edgeplm/app": "package:/data/app/base.apk\n",
            **cpufreq([1_800_000] * 4 + [2_400_000] * 3 + [2_840_000], "schedutil"),
        },
    )
    facts = survey_snapshot(root, None)
    assert (facts.os, facts.board, facts.soc) == ("Android 14 (API 34)", "Maker Phone [9]", "Chips C300")
    assert facts.clusters == [
        Cluster("Cortex-A55", 4, 1800.0), Cluster("Cortex-A78", 3, 2400.0), Cluster("Cortex-X1", 1, 2840.0),
    ]  # fmt: skip
    assert facts.cpu == "Cortex-A55 + Cortex-A78 + Cortex-X1"
    assert facts.runtimes == {"onnxruntime-genai": "not prepared", "executorch": "ready (app)"}


@pytest.mark.parametrize(("machine", "bits"), [("armv7l", "32"), ("aarch64", "32")])
def test_a_32_bit_system_can_run_none(tmp_path, machine, bits):
    """A Raspberry Pi may have a 64-bit kernel below 32-bit programs."""
    root = lay(tmp_path, {"edgeplm/machine": machine, "edgeplm/bits": bits})
    assert survey_snapshot(root, None).runtimes["executorch"] == (
        f"needs a 64-bit system, this is {machine} with 32 bits"
    )


@pytest.mark.parametrize(
    "files",
    [
        {"etc/edgeplm-emulated": ""},
        {"edgeplm/emulated": "yes\n"},
        {"proc/device-tree/compatible": "linux,dummy-virt\0"},
        {"sys/class/dmi/id/product_name": "QEMU Virtual Machine\n"},
        {"proc/cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n"},
        {"proc/cpuinfo": "processor\t: 0\nmodel name\t: QEMU Virtual CPU version 2.5+\n"},
        {"edgeplm/properties": "[ro.kernel.qemu]: [1]\n"},
    ],
)
def test_an_emulated_device_is_known(tmp_path, files):
    assert survey_snapshot(lay(pi(tmp_path), files), None).emulated


@pytest.mark.parametrize(
    "product", ["KVM Virtual Machine", "QEMU KVM Virtual Machine", "Standard PC (Q35 + ICH9, 2009)"]
)
def test_a_virtual_machine_on_its_hosts_own_processor_is_not_emulated(tmp_path, product):
    root = lay(tmp_path, {"edgeplm/machine": "aarch64\n", "proc/cpuinfo": arm([0xD0C])})
    lay(root, {"sys/class/dmi/id/product_name": product})
    assert not survey_snapshot(root, None).emulated


def test_a_device_that_tells_nothing(tmp_path):
    facts = survey_snapshot(tmp_path, None)
    assert facts.machine == "unknown"
    empty = (
        facts.board,
        facts.soc,
        facts.cpu,
        facts.memory_bytes,
        facts.cores_logical,
        facts.os,
        facts.max_mhz,
    )
    assert empty == (None,) * 7


@pytest.mark.parametrize("kind", USERLANDS)
def test_a_shell_tells_what_python_finds(tmp_path, kind):
    root = tmp_path / "-root; $(id)\nx"
    (root / "environments/executorch").mkdir(parents=True)
    (root / "environments/executorch/python").touch()
    (root / "emulated").touch()
    facts, here = device_facts(userland(tmp_path / "bin", kind), str(root)), survey_here()
    for name in (
        "machine",
        "cpu",
        "cores_logical",
        "cores_physical",
        "clusters",
        "memory_bytes",
        "board",
        "max_mhz",
    ):
        assert getattr(facts, name) == getattr(here, name), name
    assert facts.kernel == f"{platform.system()} {platform.release()}"
    # To root, toybox counts what is kept for root.
    disk = os.statvfs(root)
    free = disk.f_bfree if kind == "android" and os.geteuid() == 0 else disk.f_bavail
    assert facts.free_bytes == pytest.approx(free * disk.f_frsize, rel=0.05)
    assert facts.runtimes == {"onnxruntime-genai": "not prepared", "executorch": "ready"}
    assert facts.emulated


def test_before_its_folder_is_there_the_facts_are_the_same(tmp_path):
    facts = device_facts(userland(tmp_path / "bin", "debian"), str(tmp_path / "no/root"))
    assert facts.machine == platform.machine()
    assert facts.free_bytes
    assert not facts.emulated
    assert not (tmp_path / "no").exists()


def test_a_device_cannot_have_files_written_elsewhere(tmp_path):
    shell = userland(tmp_path / "bin", "debian")
    uname = shell.programs / "uname"
    uname.unlink()
    evil = ("/../../evil", "/a b", "relative", "/proc", "/proc/cpuinfo")
    said = "".join(f"\\036{path}\\nx" for path in evil)
    uname.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    uname.chmod(0o755)
    with snapshot(shell, str(tmp_path)) as folder:
        inside = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
        assert inside <= {"proc", "sys", "etc", "edgeplm"}
        assert not list(folder.parent.glob("evil"))
    assert not folder.exists()
