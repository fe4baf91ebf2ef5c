"""The contract that Kotlin (android-demo) keeps too: bundles, plans and samples, from shared vectors."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from fake_root import program
from test_bundle import CONTENT, manifest_of

from exporters.bundle import MANIFEST, list_files, open_bundle, read_manifest
from runtimes import sustained
from runtimes.agent import Samples, execute
from runtimes.battery import battery
from runtimes.latency import TOKEN_SEED
from runtimes.plan import plan_from_dict
from toolkit.errors import BundleError, DeviceError

VECTORS = Path(__file__).with_name("vectors")


def vectors(name):
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def test_the_bundle_of_the_vectors_is_what_python_writes():
    folder = VECTORS / "bundle"
    assert {file.path: (folder / file.path).read_bytes() for file in list_files(folder)} == CONTENT
    assert read_manifest(folder) == manifest_of(folder)


def damage(bundle, case):
    """Do to `bundle` what the vector says; files that it writes are listed with their true hashes."""
    path = bundle / MANIFEST
    data = json.loads(path.read_text(encoding="utf-8"))
    if "write" in case:
        (bundle / case["write"]["file"]).write_bytes(case["write"]["text"].encode())
        data["files"] = [vars(file) for file in list_files(bundle)]
    for edit in case.get("edits", ()):
        *above, last = edit.get("set") or edit.get("remove") or edit.get("append")
        place = data
        for key in above:
            place = place[key]
        if "set" in edit:
            place[last] = edit["to"]
        elif "append" in edit:
            place[last].append(edit["value"])
        else:
            del place[last]
    path.write_text(case["raw"] if "raw" in case else json.dumps(data), encoding="utf-8")
    if "delete" in case:
        (bundle / case["delete"]).unlink()
    if "cut" in case:
        content = (bundle / case["cut"]["file"]).read_bytes()
        (bundle / case["cut"]["file"]).write_bytes(content[: case["cut"]["to"]])
    if "flip" in case:
        content = bytearray((bundle / case["flip"]["file"]).read_bytes())
        content[case["flip"]["at"]] ^= 1
        (bundle / case["flip"]["file"]).write_bytes(content)


@pytest.mark.parametrize("case", vectors("manifest.json"), ids=lambda case: case["name"])
def test_bundles(case, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(VECTORS / "bundle", bundle)
    damage(bundle, case)
    if case["refused"] is None:
        assert open_bundle(bundle).name == "maud"
    else:
        with pytest.raises(BundleError) as raised:
            open_bundle(bundle)
        assert case["refused"] in str(raised.value)


@pytest.mark.parametrize("case", vectors("plan.json"), ids=lambda case: json.dumps(case["plan"])[:60])
def test_plans(case):
    if case["refused"] is None:
        assert case["read"].items() <= json.loads(json.dumps(plan_from_dict(case["plan"]).as_dict())).items()
    else:
        with pytest.raises(DeviceError) as raised:
            plan_from_dict(case["plan"])
        assert case["refused"] in str(raised.value)


def test_token_ids_of_a_measurement():
    for vector in vectors("tokens.json"):
        ids = np.random.RandomState(TOKEN_SEED).randint(0, vector["vocab_size"], len(vector["ids"]))
        assert ids.tolist() == vector["ids"]


def plain(sample):
    """A sample without what differs from run to run: measured times become how many there are."""
    kept = {}
    for name, value in sample.items():
        if name in ("seconds", "sampling_seconds", "ttft", "t", "passes"):
            kept[name] = f"{len(value)} numbers" if isinstance(value, list) else "a number"
        elif name == "nll":
            kept[name] = round(value, 6)
        elif value is None or isinstance(value, str | int | list):
            kept[name] = value
    return kept


@pytest.mark.parametrize("case", vectors("samples.json"), ids=lambda case: case["name"])
def test_samples(case, tmp_path, monkeypatch):
    """What the vector has comes in its order; later versions may write more samples and more fields.

    The machine is one that tells nothing of itself, as most of Android does not.
    """
    monkeypatch.setattr(sustained, "MINUTE", 0.0)
    stream = io.StringIO()
    execute(plan_from_dict(case["plan"]), Samples(stream), FakeEngine, root=tmp_path)
    written = iter([json.loads(line) for line in stream.getvalue().splitlines()])
    for expected in case["samples"]:
        found = next((each for each in written if expected["fields"].items() <= plain(each).items()), None)
        assert found is not None, expected
        assert set(expected["also"]) <= set(found)


@pytest.mark.parametrize("case", vectors("settled.json"), ids=lambda case: str(case["rates"]))
def test_when_a_sustained_rate_has_settled(case):
    assert sustained.settled(case["rates"]) == case["settled"]


@pytest.mark.parametrize("case", vectors("battery.json"), ids=lambda case: json.dumps(case["told"]))
def test_what_android_tells_of_the_battery(case, tmp_path):
    """The app asks Android's API, the agent `dumpsys`: the numbers are the same."""
    told = case["told"]
    lines = {
        "USB powered": json.dumps(told["plugged"] != 0),
        "level": told["level"],
        "scale": told["scale"],
        "status": told["status"],
        "temperature": told["tenths"],
        "voltage": told["millivolts"],
        "current now": told["microamperes"],
    }
    text = "".join(f"  {name}: {value}\n" for name, value in lines.items() if value is not None)
    program(tmp_path, "system/bin/dumpsys", f"cat <<'END'\n{text}END")
    assert battery(tmp_path) == case["battery"]


@pytest.mark.parametrize("case", vectors("stop.json"), ids=lambda case: "".join(case["pieces"]))
def test_where_an_answer_ends(case):
    """An answer ends before the first text of a stop token that is complete, as Kotlin's filter shows it."""
    text = "".join(case["pieces"])
    ends = [
        (text.index(stop) + len(stop), text.index(stop)) for stop in case["stops"] if stop and stop in text
    ]
    assert case["stopped"] == bool(ends)
    assert case["shown"] == (text[: min(ends)[1]] if ends else text)
