"""`edgeplm export` as people type it: both forms at once, what falls short, what cannot be."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import Personal, tiny_adapter, tiny_personal

from toolkit.adapter_record import AdapterRecord, write_record
from toolkit.cli import main
from toolkit.samples import sample_path

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Said:
    """What a command printed, and how it ended."""

    status: object
    out: str
    err: str


@pytest.fixture
def edgeplm(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Said(ended.value.code, printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def personal(tmp_path_factory: pytest.TempPathFactory) -> Personal:
    return tiny_personal(tmp_path_factory.mktemp("llama"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path_factory.mktemp("cache")))


def of(personal: Personal, out: Path) -> list[object]:
    return ["export", "--model", personal.base.source, "--adapter", personal.adapter, "--out", out]


def test_both_forms_at_once(edgeplm, personal: Personal, tmp_path: Path) -> None:
    out = tmp_path / "out"
    person = ["--profile", sample_path("bo"), "--task", "rewrite"]
    said = edgeplm(*of(personal, out), "--form", "both", "--context-length", 256, "--json", *person)
    assert said.status in (0, 3)
    merged, attached = json.loads(said.out)["bundles"]
    assert [Path(each["bundle"]).name for each in (merged, attached)] == ["merged", "attached"]
    for each in (merged, attached):
        assert each["verification"]["survival"]["correlation_mean"] > 0.5
    listed = json.loads(edgeplm("adapters", "list", out / "attached", "--json").out)
    assert "bo" in json.dumps(listed)
    for name, form in (("merged", []), ("attached", ["--adapter", "bo"])):
        plain = edgeplm("chat", out / name, "--prompt", "Hello", "--plain", "--max-new-tokens", 8, *form)
        assert plain.status == 0 and plain.out.strip()
    nobody = edgeplm("chat", out / "attached", "--prompt", "Hello", "--adapter", "eve")
    assert nobody.status == 1 and "no attached adapter 'eve'" in nobody.err and "bo" in nobody.err
    base = edgeplm("chat", out / "attached", "--prompt", "Hello", "--plain", "--max-new-tokens", 8)
    person_says = edgeplm(
        "chat", out / "attached", "--prompt", "Hello", "--plain", "--max-new-tokens", 8, "--adapter", "bo"
    )
    assert base.out != person_says.out


def test_what_falls_short_names_what_holds(edgeplm, personal: Personal, tmp_path: Path) -> None:
    recipe = tmp_path / "strict.yaml"
    recipe.write_text(
        f"model: {personal.base.source}\ntask: rewrite\nprofile: {sample_path('bo')}\nout: run\n"
        "verify: {max_kl: 0}\nexport: {calibration: none, context_length: 256}\n"
    )
    said = edgeplm(*of(personal, tmp_path / "out"), "--recipe", recipe)
    assert said.status == 3
    assert "Check fell short: KL divergence from float" in said.err
    advice = " ".join(said.err.split())
    for way in (
        "--preset faithful",
        "--form attached",
        "--preset exact",
        "finetune.quantization_aware: true",
    ):
        assert way in advice
    assert "int4, blocks of 32" in said.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "exact"], "found exact; accepted with merged: the other presets"),
        (
            ["--runtime", "executorch", "--form", "attached", "--precision", "fp32"],
            "found fp32; accepted with executorch, attached: int4 or int8",
        ),
        (["--preset", "tiny"], "accepted: smallest, balanced, faithful or exact"),
        (["--form", "loose"], "accepted: merged or attached"),
    ],
)
def test_what_cannot_be(edgeplm, personal: Personal, tmp_path: Path, flags: list[str], message: str) -> None:
    said = edgeplm(*of(personal, tmp_path / "out"), *flags)
    assert said.status == 1 and message in said.err and "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


def test_exact_needs_a_base_that_is_on_a_grid(edgeplm, personal: Personal, tmp_path: Path) -> None:
    said = edgeplm(*of(personal, tmp_path / "out"), "--preset", "exact", "--form", "attached")
    assert said.status == 1 and "on neither of llama.cpp's grids" in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_cannot_be_shipped_is_refused_before_calibration(
    edgeplm, personal: Personal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit import bundling

    def calibrated(*_arguments: object) -> None:
        raise AssertionError("calibration was reached")

    monkeypatch.setattr(bundling, "calibration", calibrated)
    dora = tmp_path / "dora"
    shutil.copytree(personal.adapter, dora)
    config = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    out = tmp_path / "out"
    model = ["export", "--model", personal.base.source]
    said = edgeplm(*model, "--adapter", dora, "--out", out, "--form", "attached")
    assert said.status == 1 and "use_dora" in said.err and "cannot do" in said.err
    other = tmp_path / "other"
    shutil.copytree(personal.adapter, other)
    write_record(other, AdapterRecord("owner/another", "0" * 64))
    said = edgeplm(*model, "--adapter", other, "--out", out)
    assert said.status == 1 and "was trained on" in said.err
    assert not out.exists()


def test_a_fleet_cannot_both_go_on_and_start_anew(edgeplm, tmp_path: Path) -> None:
    said = edgeplm("fleet", tmp_path / "r.yaml", "--out", tmp_path / "out", "--resume", "--force")
    assert said.status == 2 and "give one of them" in said.err


def test_a_merged_bundle_is_compared_with_its_own_adapter_only(
    edgeplm, personal: Personal, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    short = ["--precision", "fp32", "--context-length", 256]
    assert edgeplm(*of(personal, out), *short).status == 0
    other = tiny_adapter(personal.base, tmp_path / "other", size=0.5)
    said = edgeplm("verify", out, "--model", personal.base.source, "--adapter", other)
    assert said.status == 1
    assert "other: is not among the bundle's adapters. It has: adapter" in said.err


def test_an_error_does_not_command_the_terminal(edgeplm, tmp_path: Path) -> None:
    people = tmp_path / "people.jsonl"
    lines = [{"user_id": f"\x1b[2J{user}", "split": "history", "input": "a", "output": "b"} for user in "xy"]
    people.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = edgeplm("finetune", "--profile", people, "--task", "rewrite", "--out", tmp_path / "out")
    assert said.status == 1 and "[2Jx, " in said.err and "\x1b" not in said.err
