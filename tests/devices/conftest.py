"""Fixtures of the tests on virtual devices, which are skipped where `make devices-up` was not typed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from reach import VirtualDevice, virtual_device
from state import home, load

KINDS = ("pi", "android")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is one on a device."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.devices)


@pytest.fixture(scope="session", params=KINDS)
def device(request: pytest.FixtureRequest) -> Iterator[VirtualDevice]:
    """Each virtual device in turn, with the environment variables that reach it."""
    state = load(home())
    kind = request.param
    alive = kind in state.processes and state.processes[kind].alive
    if kind not in state.devices or not alive:
        pytest.skip(f"the virtual {kind} is not up: make devices-up")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in state.environment.items():
            patch.setenv(name, value)
        yield virtual_device(kind, home(), state)


@pytest.fixture(scope="session")
def prepared(device: VirtualDevice) -> VirtualDevice:
    """A device with ONNX Runtime's environment."""
    from runtimes.provision import prepare
    from toolkit.models import cache_folder

    opened = device.open()
    try:
        prepare(opened.shell, opened.root, cache=cache_folder() / "environments")
    finally:
        opened.close()
    return device


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with its adapter, in float32: no rounding tells one processor's answers from
    another's."""
    from tiny import tiny_personal

    from exporters.export import export_bundle
    from runtimes import open_engine

    folder = tmp_path_factory.mktemp("tiny")
    person = tiny_personal(folder)
    export_bundle(person.model, person.chat, person.job(), folder / "bundle", open_engine)
    return folder / "bundle"


@pytest.fixture(scope="session")
def smollm2_bundle() -> Path:
    """The default model as a bundle that needs no calibration, kept beside the devices."""
    from exporters.export import ExportJob, export_bundle
    from runtimes import open_engine
    from toolkit.finetune import open_chat
    from toolkit.models import DEFAULT_SOURCE, load_model, resolve_model

    out = home() / "bundles/smollm2"
    if not out.exists():
        base = resolve_model(DEFAULT_SOURCE)
        job = ExportJob(base, "smollm2", 256, preset="exact")
        export_bundle(load_model(base), open_chat(base), job, out, open_engine)
    return out
