"""What goes wrong on the way, with real parts: each is one clear error, and the next run goes on."""

import threading
import time

import pytest
from bundles import small_bundle
from reach import until

from runtimes.plan import Plan
from toolkit.errors import DeviceError

PUSHED = 150_000_000


def answering(folder):
    """A plan that takes minutes under emulation."""
    prompts = tuple((5, 6, 7, 8 + number) for number in range(400))
    return Plan(folder, threads=1, repeats=0, prompts_ids=prompts, max_new_tokens=100)


def test_a_cut_in_mid_run(prepared, tiny_bundle):
    device = prepared.open()
    try:
        plan = answering(device.place(tiny_bundle))
        answered = threading.Event()

        def cut(sample):
            if sample["kind"] == "answer" and not answered.is_set():
                answered.set()
                prepared.cut()

        with pytest.raises(DeviceError, match=r"cut|closed|unplugged|not connected") as fault:
            device.run(plan, cut)
        assert prepared.name in str(fault.value) and "step answer" in str(fault.value)
        assert answered.is_set()
        until(lambda: not prepared.processes("/agents/"))  # the agent has noticed, and ended
        prepared.back()
        plan = Plan(plan.bundle, threads=1, repeats=0, prompts_ids=((5, 6),), max_new_tokens=2)
        assert device.run(plan)[-1]["kind"] == "done"
    finally:
        device.close()


def test_a_cut_in_mid_push_is_gone_on_with(prepared, tmp_path):
    # Another content in every run: a device that stayed up has that of the last one, and is sent nothing.
    sizes = {"model.onnx": 100, "model.onnx.data": PUSHED}
    bundle = small_bundle(tmp_path / "big", sizes, seed=time.time_ns())
    device = prepared.open()
    incoming = prepared.files / "incoming"

    def arrived():
        return [part.stat().st_size for part in incoming.glob("*.part")] if incoming.exists() else []

    def cut_when_half_is_there():
        until(lambda: max(arrived(), default=0) > PUSHED // 10)
        prepared.cut()

    try:
        watcher = threading.Thread(target=cut_when_half_is_there)
        watcher.start()
        with pytest.raises(DeviceError, match="step push") as fault:
            device.place(bundle)
        watcher.join()
        assert prepared.name in str(fault.value)
        kept = max(arrived())
        assert 0 < kept < PUSHED
        assert not (prepared.files / "bundles" / device_key(bundle)).exists()
        prepared.back()
        folder = device.place(bundle)
        placed = prepared.root / folder.lstrip("/")
        assert (placed / "model.onnx.data").read_bytes() == (bundle / "model.onnx.data").read_bytes()
        assert not arrived()
    finally:
        device.close()


def device_key(bundle):
    """The name of a bundle's folder on a device."""
    from exporters.bundle import MANIFEST
    from toolkit.files import sha256_of

    return sha256_of(bundle / MANIFEST)[:16]


def test_a_full_device(device, tmp_path):
    bundle = small_bundle(tmp_path / "big", {"model.onnx": 100, "model.onnx.data": 8_000_000})
    opened = device.open()
    try:
        with device.small_disk(4), pytest.raises(DeviceError, match=r"MB are free|no space") as fault:
            opened.place(bundle)
        assert device.name in str(fault.value)
    finally:
        opened.close()


def test_a_device_that_was_not_prepared(device, tiny_bundle):
    opened = device.open()
    try:
        with device.small_disk(64):
            plan = Plan(opened.place(tiny_bundle), threads=1, repeats=1)
            with pytest.raises(DeviceError, match="is not prepared for onnxruntime-genai") as fault:
                opened.run(plan)
        assert f"edgeplm devices prepare {device.name}" in str(fault.value)
    finally:
        opened.close()


def test_an_environment_for_another_processor(device, tiny_bundle):
    opened = device.open()
    launcher = 'exec "${0%/*}/other" "$@"\n'
    # An ELF file for IBM's z/Architecture: no kernel here has an interpreter for it.
    other = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x16\x00\x00\x00\x01" + bytes(44)
    script = 'mkdir -p "$1" && cat >"$1/other" && chmod 755 "$1/other" && printf "%s" "$2" >"$1/python"'
    try:
        with device.small_disk(64):
            plan = Plan(opened.place(tiny_bundle), threads=1, repeats=1)
            folder = f"{opened.root}/environments/onnxruntime-genai"
            opened.shell.run(script, folder, launcher, step="test", stdin=other)
            with pytest.raises(DeviceError, match=r"another processor|is damaged") as fault:
                opened.run(plan)
        assert f"edgeplm devices prepare {device.name}" in str(fault.value)
    finally:
        opened.close()
