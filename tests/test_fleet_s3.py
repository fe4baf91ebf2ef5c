"""A fleet whose adapters lie on S3: a server on loopback that checks signatures, and a real Ray."""

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_people import write_people, write_recipe
from fleet_process import finish, fleet_command, kill_driver, start, until
from s3_server import BUCKET, S3Server

from toolkit.errors import EdgePLMError
from toolkit.fleet.store import SILENT_FOR, Store

FEW = ("--batch", "4", "--slots", "2")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("fleet"), epochs=6, learning_rate=1e-2)


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray keeps its logs; a short path, for its sockets lie there too."""
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def objects(server: S3Server, prefix: str) -> dict[str, Any]:
    """What lies in the bucket below `prefix`: when it was written, by name."""
    listed = server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {each["Key"]: each["LastModified"] for page in listed for each in page.get("Contents", ())}


def assert_nowhere(server: S3Server, text: str, *folders: Path) -> None:
    """That the server's secret is in no text, no file and no object."""
    assert_kept_from(server, text, *folders)
    for name in objects(server, ""):
        body = server.client().get_object(Bucket=BUCKET, Key=name)["Body"].read()
        assert server.secret.encode() not in body, name


def assert_kept_from(server: S3Server, text: str, *folders: Path) -> None:
    """That the server's secret is in no text and no file."""
    assert server.secret not in text
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files and not [path for path in files if server.secret.encode() in path.read_bytes()]


def test_a_killed_driver_loses_nothing_on_s3(
    s3: S3Server, recipe: Path, tmp_path: Path, ray_folder: Path
) -> None:
    """One story: the driver is killed, a second one is refused, then it goes on and makes a bundle."""
    from exporters.adapters import list_adapters

    users = write_people(tmp_path / "people.jsonl", 20, bad=(7,))
    out = f"s3://{BUCKET}/killed/run"
    store = Store(out)
    process = start(fleet_command(recipe, users, out, *FEW))
    until(lambda: len(store.done()) >= 6, process)
    status, _, refused = finish(start(fleet_command(recipe, users, out, "--resume")))
    assert (status, "another fleet is writing into it (process" in refused) == (1, True), refused
    kill_driver(process)
    kept = store.done()
    assert 6 <= len(kept) < 19
    written = objects(s3, "killed/run/people/")

    with pytest.raises(EdgePLMError, match="one that was killed is forgotten after 90 s"), store.held():
        pass
    sign = json.loads(s3.client().get_object(Bucket=BUCKET, Key="killed/run/driver.json")["Body"].read())
    store.write("driver.json", sign | {"time": time.time() - SILENT_FOR})  # as if it were 90 s later

    bundle = tmp_path / "bundle"
    more = ("--bundle", "attached", "--bundle-out", str(bundle))
    small = ("--set", "export.calibration=none", "--set", "export.context_length=256")
    status, result, err = finish(start(fleet_command(recipe, users, out, "--resume", *more, *small)))
    assert status == 3, err
    assert (result["people"], result["reused"], result["trained"]) == (20, len(kept), 19 - len(kept))
    assert [failure["user_id"] for failure in result["failures"]] == ["user 7"]
    assert len(store.done()) == 19
    now = objects(s3, "killed/run/")
    for key, digest in kept:
        mark = f"killed/run/people/{key}/done-{digest}.json"
        assert now[mark] == written[mark], "those that were done are not made again"
    assert "killed/run/driver.json" not in now
    bundled = {
        key for key, digest in store.done() if store.mark(key, digest)["better_than_base"] is not False
    }
    assert bundled and {each.name for each in list_adapters(bundle)} == bundled
    assert_nowhere(s3, refused + err + json.dumps(result), tmp_path, ray_folder)


def test_a_server_that_goes_away_ends_a_fleet_with_one_error(
    s3: S3Server, recipe: Path, tmp_path: Path, ray_folder: Path
) -> None:
    server = S3Server(tmp_path)
    users = write_people(tmp_path / "people.jsonl", 20)
    process = start(fleet_command(recipe, users, f"s3://{BUCKET}/run", *FEW), **server.variables)
    client = server.client()
    until(lambda: "done-" in str(client.list_objects_v2(Bucket=BUCKET)), process)
    server.stop()
    status, result, err = finish(process)
    assert (status, result) == (1, {}), err
    assert_one_error(err, f"Error: s3://{BUCKET}/run: cannot be used (Could not connect to the endpoint URL")
    assert_kept_from(server, err, tmp_path, ray_folder)


def assert_one_error(err: str, begins: str) -> None:
    """That the last thing said is one line, and nothing a traceback."""
    assert "Traceback" not in err and err.count("Error") == 1, err
    assert err.splitlines()[-1].startswith(begins), err
    assert "Check the address, the network and the credentials in the environment" in err


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "qzxw-wrong-secret"}, "Forbidden"),
        ({"AWS_ACCESS_KEY_ID": "AKIAQZXWWRONG"}, "Forbidden"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Unable to locate credentials"),
        ({"AWS_ENDPOINT_URL": ""}, "Could not connect to the endpoint URL"),
    ],
    ids=["wrong secret", "wrong key", "no key", "no server"],
)
def test_a_key_or_server_that_is_wrong_is_one_error(
    s3: S3Server,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edgeplm_here: Callable[..., tuple[int, str, str]],
    changed: dict[str, str],
    reason: str,
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        for name, value in changed.items():
            address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            monkeypatch.setenv(name, address if name == "AWS_ENDPOINT_URL" else value)
        users = write_people(tmp_path / "people.jsonl", 2)
        status, out, err = edgeplm_here(
            "fleet", recipe, "--users", users, "--out", f"s3://{BUCKET}/wrong", "--json"
        )
    assert (status, out) == (1, "")
    assert_one_error(err, f"Error: s3://{BUCKET}/wrong: cannot be used ({reason}")
    for secret in (s3.secret, s3.key, "qzxw-wrong-secret", "AKIAQZXWWRONG"):
        assert secret not in err
    assert not objects(s3, "wrong")


def test_a_bucket_that_is_not_there_is_not_made(
    s3: S3Server, recipe: Path, tmp_path: Path, edgeplm_here: Callable[..., tuple[int, str, str]]
) -> None:
    users = write_people(tmp_path / "people.jsonl", 2)
    status, out, err = edgeplm_here("fleet", recipe, "--users", users, "--out", "s3://adaptors/run")
    assert (status, out) == (1, "")
    assert_one_error(err, "Error: s3://adaptors/run: cannot be used (The specified bucket does not exist)")
    assert [each["Name"] for each in s3.client().list_buckets()["Buckets"]] == [BUCKET]


def test_of_two_that_begin_at_once_one_is_refused(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see that nobody is there; S3 itself creates a file only once."""
    first, second = Store(f"s3://{BUCKET}/at-once"), Store(f"s3://{BUCKET}/at-once")
    with first.held():
        monkeypatch.setattr(second, "_read", lambda name: None)
        with pytest.raises(EdgePLMError, match="another fleet is writing into it"), second.held():
            pass


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(EdgePLMError, match="--out: an address with a password in it") as refused:
        Store("s3://AKIAQZXW:very-secret@adapters/run")
    assert "very-secret" not in str(refused.value) and "AKIAQZXW" not in str(refused.value)
