"""Bundles onto a device, with the tools of Debian, of busybox, and of Android (toybox and mksh)."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from bundles import small_bundle
from userlands import USERLANDS, Recorder, userland

from exporters.bundle import MANIFEST, open_bundle
from runtimes.devices import store as store_module
from runtimes.devices.push import pull_file, push_bundle
from runtimes.devices.store import Item, Store, free_bytes
from toolkit.errors import BundleError, DeviceError

HOSTILE = "; touch hacked; $(touch hacked) `touch hacked` 'it' \"is\" -rf\nnew line"


@pytest.fixture(params=USERLANDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(userland(tmp_path / "bin", request.param), str(tmp_path / "root"))


@pytest.fixture
def debian(tmp_path: Path) -> Store:
    return Store(userland(tmp_path / "bin", "debian"), str(tmp_path / "root"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "bundle")


def size_of(bundle: Path) -> int:
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


def left_in(store: Store) -> list[str]:
    return sorted(path.name for path in Path(store.root, "incoming").iterdir())


def test_a_bundle_arrives_whole_and_a_second_push_sends_nothing(store, bundle):
    first, second = Recorder(), Recorder()
    folder = push_bundle(store, bundle, first)
    key = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()[:16]
    assert folder == f"{store.root}/bundles/{key}"
    open_bundle(Path(folder))
    assert sorted(p.name for p in Path(folder).rglob("*")) == sorted(p.name for p in bundle.rglob("*"))
    assert first.pushed == size_of(bundle)
    assert push_bundle(store, bundle, second) == folder
    assert second.pushed == 0
    assert left_in(store) == []
    assert Path(store.root).stat().st_mode & 0o777 == 0o700


def test_of_another_bundle_only_what_differs_is_sent(debian, bundle, tmp_path):
    push_bundle(debian, bundle)
    other = small_bundle(tmp_path / "other")
    other = small_bundle(other, {"adapters/maud.json": 120}, seed=1)
    recorder = Recorder()
    folder = push_bundle(debian, other, recorder)
    open_bundle(Path(folder))
    assert recorder.pushed == 120 + (other / MANIFEST).stat().st_size
    # The same content is there once.
    assert (Path(folder) / "model.onnx.data").stat().st_nlink == 3


def test_what_has_arrived_is_not_sent_again(store, bundle):
    size = 123_456
    data = (bundle / "model.onnx.data").read_bytes()
    part = Path(store.root, "incoming", f"{hashlib.sha256(data).hexdigest()}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:size])
    recorder = Recorder()
    open_bundle(Path(push_bundle(store, bundle, recorder)))
    assert recorder.pushed == size_of(bundle) - size


@pytest.mark.parametrize("wrong", [b"x" * 1000, b"x" * 300_000, b"x" * 400_000])
def test_a_wrong_part_is_thrown_away_and_the_file_sent_whole(debian, bundle, wrong):
    data = (bundle / "model.onnx.data").read_bytes()
    part = Path(debian.root, "incoming", f"{hashlib.sha256(data).hexdigest()}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(wrong)
    open_bundle(Path(push_bundle(debian, bundle)))
    assert left_in(debian) == []


@pytest.mark.parametrize("damage", ["altered", "cut short", "missing", "of an object"])
def test_a_damaged_file_is_found_and_mended(debian, bundle, damage):
    folder = Path(push_bundle(debian, bundle))
    path = folder / "model.onnx.data"
    content = path.read_bytes()
    if damage == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # in place: the object is damaged with it
    elif damage == "cut short":
        path.unlink()
        path.write_bytes(content[:-1])
    elif damage == "missing":
        path.unlink()
    else:
        next(p for p in Path(debian.root, "objects").iterdir() if p.stat().st_size == 300_000).write_bytes(
            b""
        )
    recorder = Recorder()
    assert push_bundle(debian, bundle, recorder) == str(folder)
    open_bundle(folder)
    assert recorder.pushed == (300_000 if damage in ("altered", "of an object") else 0)
    assert left_in(debian) == []


def test_names_that_a_shell_would_obey_are_only_names(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"{HOSTILE}.json", "-rf.json", " .json", "a b/$(id).json", "-n/-e.txt", "*.json", "näme\t.json"]
    bundle = small_bundle(tmp_path / f"bundle {HOSTILE.replace('/', '')}", dict.fromkeys(names, 50))
    hostile_store = Store(store.shell, str(tmp_path / f"-root {HOSTILE}"))
    folder = push_bundle(hostile_store, bundle)
    assert {str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()} == {*names, MANIFEST}
    open_bundle(Path(folder))
    pull_file(hostile_store, f"{folder}/{HOSTILE}.json", tmp_path / "pulled")
    assert (tmp_path / "pulled").read_bytes() == (bundle / f"{HOSTILE}.json").read_bytes()
    assert not list(tmp_path.rglob("hacked"))


def test_many_files_need_several_command_lines(debian, tmp_path):
    bundle = small_bundle(tmp_path / "bundle", {f"adapters/{'x' * 200}{n}.json": 20 for n in range(160)})
    folder = Path(push_bundle(debian, bundle))
    open_bundle(folder)
    assert len(list((folder / "adapters").iterdir())) == 160


def test_leftovers_of_dead_pushes_are_cleaned_away(store, bundle):
    incoming = Path(store.root, "incoming")
    (incoming / "0123.new" / "deep").mkdir(parents=True)
    (incoming / "0123.old").mkdir()
    (incoming / f"{'a' * 64}.part").write_bytes(b"old")
    (incoming / f"{'b' * 64}.part").write_bytes(b"new")
    os.utime(incoming / f"{'a' * 64}.part", (1_000_000_000, 1_000_000_000))
    push_bundle(store, bundle)
    assert left_in(store) == [f"{'b' * 64}.part"]


def test_where_files_cannot_be_linked_they_are_copied(debian, bundle):
    ln = debian.shell.programs / "ln"
    ln.unlink()
    ln.write_text("#!/bin/sh\necho 'ln: Permission denied' >&2\nexit 1\n")
    ln.chmod(0o755)
    folder = Path(push_bundle(debian, bundle))
    open_bundle(folder)
    assert (folder / "model.onnx.data").stat().st_nlink == 1


def test_a_bundle_that_is_not_whole_here_is_not_sent(debian, bundle):
    (bundle / "model.onnx").write_bytes(b"altered")
    with pytest.raises(BundleError, match=r"model\.onnx: has 7 bytes"):
        push_bundle(debian, bundle)
    assert not Path(debian.root).exists()


def test_a_file_that_changes_while_it_is_sent_is_never_trusted(debian, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"as it is now")
    with debian.held() as room:
        for size, said in ((12, "arrives altered: its sha256 differs"), (99, "changed on this machine")):
            with pytest.raises(DeviceError, match=said) as caught:
                debian.send([Item(path, size, "ab" * 32, "file")], room, "push")
            assert str(caught.value).startswith("device test:here, step push: 'file' ")
    assert list(Path(debian.root, "objects").iterdir()) == []


def test_content_that_a_slow_device_takes_late_arrives_whole(debian):
    (debian.shell.programs / "sleep").symlink_to("/bin/sleep")
    output = debian.shell.run(
        "sleep 1; wc -c", step="look", stdin=bytes(500_000), watch=lambda: None, timeout=30
    )
    assert output.text.strip() == "500000"


def test_a_missing_tool_is_named(debian, bundle):
    (debian.shell.programs / "flock").unlink()
    with pytest.raises(DeviceError, match=r"device test:here, step set up: it has no `flock`\. Install"):
        push_bundle(debian, bundle)


def test_a_folder_that_cannot_be_made(debian, bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match=r"step set up: cannot make its folder '.*/file/root'"):
        push_bundle(Store(debian.shell, str(tmp_path / "file/root")), bundle)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A real file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", USERLANDS)
def test_a_full_disk(tmp_path, small_disk, kind, monkeypatch):
    store = Store(userland(tmp_path / "bin", kind), str(small_disk / "root"))
    small = small_bundle(tmp_path / "small", {"model.onnx": 1000})
    large = small_bundle(tmp_path / "large", {"model.onnx": 1000, "model.onnx.data": 1_500_000})
    with pytest.raises(DeviceError) as caught:
        push_bundle(store, large)
    assert "device test:here, step space: 1.5 MB more are needed, and 1.0 MB are free" in str(caught.value)
    assert "Free some space there" in str(caught.value)
    # What is said to be free may be gone a moment later.
    monkeypatch.setattr(store_module, "_RESERVE", -10_000_000)
    with pytest.raises(DeviceError) as caught:
        push_bundle(store, large)
    assert "step push: cannot write 'model.onnx.data' (" in str(caught.value)
    assert "No space left on device). The disk is full: free some space there" in str(caught.value)
    assert not list(Path(store.root, "bundles").iterdir())
    assert left_in(store) == []
    open_bundle(Path(push_bundle(store, small)))


def test_free_space_is_read_from_every_df():
    gnu = (
        "Filesystem     1024-blocks     Used Available Capacity Mounted on\n/dev/a b  100 60 40  60% /x 7%\n"
    )
    assert free_bytes(gnu.replace(" 7%", "")) == 40 * 1024
    assert free_bytes("no table") is None


def test_pull_of_what_is_not_there(debian):
    with pytest.raises(DeviceError, match=r"device test:here, step pull: it has no file '/no/such'"):
        pull_file(debian, "/no/such", Path("never"))
