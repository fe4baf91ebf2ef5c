"""The export study, end to end on a tiny model: killed and gone on with, rounds in turn, what is left out."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tiny import tiny_base, tiny_model_folder
from tiny_gguf import write_tiny_gguf

from benchmarks.studies.child import CrashError, ask
from benchmarks.studies.drawing import size_against_kl
from benchmarks.studies.outcome import (
    Figure,
    Made,
    Measured,
    Quality,
    Setting,
    Study,
    read_study,
    write_study,
)
from benchmarks.studies.scoring import compare, spread_windows, study_texts
from benchmarks.studies.study import _Run, run_study
from benchmarks.studies.subjects import PRESETS, SUBJECTS
from benchmarks.studies.tables import markdown
from exporters import presets
from toolkit.errors import EdgePLMError
from toolkit.progress import SILENT

ROOT = Path(__file__).parents[1]
OURS, PEER, ABSENT = "onnx-smallest", "builder-int4", "llama.cpp-q4_0"


def command(out: Path, model: Path, *more: str) -> list[str]:
    subjects = [part for name in (OURS, PEER, ABSENT) for part in ("--only", name)]
    arguments = ["--out", str(out), "--model", str(model), "--rounds", "2", "--windows", "1", "--settle", "0"]
    return [sys.executable, "-m", "benchmarks.studies.exports", *arguments, *subjects, *more]


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_until(condition, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def killed(model, tmp_path_factory) -> tuple[Path, float, list[int]]:
    """A study that was killed at its second export: its folder, when its first was done, its children."""
    out = tmp_path_factory.mktemp("study") / "out"
    study = start(command(out, model))
    first = out / "made" / f"{OURS}.json"
    wait_until(lambda: (first.exists() and children(study.pid)) or study.poll() is not None)
    left_behind = children(study.pid)
    study.send_signal(signal.SIGKILL)
    study.communicate()
    return out, first.stat().st_mtime, left_behind


@pytest.fixture(scope="module")
def finished(killed, model) -> tuple[Path, subprocess.CompletedProcess, float]:
    """The same study, gone on with to its end."""
    out, made, _ = killed
    study = start(command(out, model, "--json"))
    said, complained = study.communicate()
    return out, subprocess.CompletedProcess(study.args, study.returncode, said, complained), made


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_study_leaves_no_process_behind(killed):
    _, _, left_behind = killed
    assert left_behind
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left_behind), 10)


def test_a_killed_study_goes_on_with_what_is_there(finished):
    out, done, made = finished
    assert done.returncode == 0, done.stderr
    assert (out / "made" / f"{OURS}.json").stat().st_mtime == made, "exported again"
    assert {path.name for path in out.iterdir()} >= {"exports.json", "exports.md", "exports.svg"}
    assert not [path.name for path in (out / "artifacts").iterdir() if path.name in (ABSENT,)]


def test_the_study_has_every_figure_of_every_subject(finished):
    out, done, _ = finished
    study = read_study(out / "exports.json")
    assert json.loads(done.stdout) == json.loads((out / "exports.json").read_text(encoding="utf-8"))
    assert [subject.name for subject in study.subjects] == [OURS, PEER]
    for subject in study.subjects:
        assert subject.bytes > 50_000 and subject.made.cpu_seconds > 0.1
        assert subject.made.wall_seconds > 0.1 and subject.made.peak_bytes > 100e6
        assert set(subject.quality) == {"encyclopaedic", "documentation"}
        for quality in subject.quality.values():
            assert 1e-3 < quality.mean_kl < 2 and 0 < quality.mean_same_top < 1
            assert quality.perplexity > 100 and quality.perplexity_float > 100
        assert all(len(values) == 2 for values in map(subject.values, study.figures[subject.name]))
        # The process that measures holds the runtime and the model, not torch.
        assert 20e6 < study.figures[subject.name]["peak_rss"].median < 200e6
    assert study.reference == PEER
    assert {figure.ratio for figure in study.figures[PEER].values()} == {1.0}
    assert (
        study.subjects[0].quality["encyclopaedic"].sha256 == study.subjects[1].quality["encyclopaedic"].sha256
    )


def test_each_round_begins_with_another_subject(finished):
    study = read_study(finished[0] / "exports.json")
    starts = {subject.name: [run[0]["t"] for run in subject.runs] for subject in study.subjects}
    assert starts[OURS][0] < starts[PEER][0] < starts[PEER][1] < starts[OURS][1]


def test_what_is_missing_is_left_out_and_said(finished):
    study = read_study(finished[0] / "exports.json")
    assert list(study.left_out) == [ABSENT] and not study.failed
    assert "GGUF" in study.left_out[ABSENT] or "not installed" in study.left_out[ABSENT]
    assert f"Left out: {ABSENT}" in (finished[0] / "exports.md").read_text(encoding="utf-8")


def test_nothing_is_measured_twice_and_the_table_fits(finished, model):
    out = finished[0]
    before = {
        path: path.stat().st_mtime for part in ("made", "scores", "rounds") for path in (out / part).iterdir()
    }
    again = start(command(out, model))
    said, complained = again.communicate()
    assert again.returncode == 0, complained
    assert before == {path: path.stat().st_mtime for path in before}
    lines = said.partition("Written: ")[0].splitlines()
    assert lines[0].split()[:2] == ["subject", "MB"] and max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:3]] == [OURS, PEER]


def test_a_folder_of_another_study_is_refused(finished, model, tmp_path):
    out = finished[0]
    with pytest.raises(EdgePLMError, match=r"another threads, windows\. .*--out"):
        run_study(Setting(str(model), threads=2, windows=3), out)
    with pytest.raises(EdgePLMError, match="another model_sha256"):
        run_study(Setting(str(tiny_model_folder(tmp_path, seed=1)), windows=1), out)


def test_an_unknown_subject_is_named_with_those_there_are(model, tmp_path):
    with pytest.raises(EdgePLMError, match=r"unknown subject onyx.*onnx-balanced"):
        run_study(Setting(str(model)), tmp_path / "out", ["onyx"])


def test_an_unknown_reference_is_refused(model, tmp_path):
    with pytest.raises(EdgePLMError, match="unknown subject onyx"):
        run_study(Setting(str(model), reference="onyx"), tmp_path / "out", [OURS])


def test_what_was_measured_on_an_older_artifact_does_not_count(model, tmp_path):
    """Made anew, it is scored and measured anew: here the file is younger than what was found of its like."""
    base = tiny_base(tmp_path)
    run = _Run(Setting(base.source), tmp_path, base, SILENT)
    for folder, age in (("scores", 5), ("made", 9)):
        path = tmp_path / folder / f"{OURS}.json"
        path.parent.mkdir()
        path.write_text('{"some": "thing"}')
        os.utime(path, (time.time() - age,) * 2)
    scores, made = (tmp_path / folder / f"{OURS}.json" for folder in ("scores", "made"))
    assert run._is_there(SUBJECTS[OURS], scores)
    os.utime(made)
    assert not run._is_there(SUBJECTS[OURS], scores)
    scores.write_text("{")
    assert not run._is_there(SUBJECTS[OURS], scores)


def test_a_study_of_nothing_says_why(model, tmp_path):
    with pytest.raises(EdgePLMError, match=rf"nothing could be measured \({ABSENT}: "):
        run_study(Setting(str(model)), tmp_path / "out", [ABSENT])


def test_a_crash_is_told_with_its_last_lines():
    with pytest.raises(CrashError, match=r"status 1; its last lines:(.|\n)*KeyError: 'base'"):
        ask("benchmarks.studies.making", {}, 1)


def test_the_presets_are_those_of_the_exporters():
    assert {runtime: set(names) for runtime, names in PRESETS.items()} == {
        "onnx": set(presets.PRESETS),
        "executorch": set(presets.PRESETS) - {presets.EXACT},
    }
    assert set(PRESETS) == set(presets.RUNTIMES)


def test_the_float_model_does_not_differ_from_itself(tmp_path, one_thread):
    from runtimes.torch_engine import TorchEngine
    from toolkit.models import load_model

    engine = TorchEngine(load_model(tiny_base(tmp_path)))
    other = TorchEngine(load_model(tiny_base(tmp_path / "other", seed=1)))
    windows = spread_windows(list(range(300)), 64, 2)
    same, different = compare(engine, engine, windows), compare(other, engine, windows)
    assert same["kl"] == [0, 0] and same["same_top"] == [1, 1] and same["nll"] == same["nll_float"]
    assert min(different["kl"]) > 0.5 and max(different["same_top"]) < 0.5
    assert different["nll"] != different["nll_float"] == same["nll_float"]


def test_windows_lie_evenly_over_a_text():
    assert spread_windows(range(100), 10, 3) == [list(range(s, s + 10)) for s in (0, 30, 60)]
    assert len(spread_windows(range(100), 10, 50)) == 10
    assert spread_windows(range(5), 10, 3) == []


def test_the_two_texts_are_long_enough_and_not_the_calibration_text():
    from exporters.texts import calibration_text

    texts = study_texts()
    assert min(map(len, texts.values())) > 9_000
    assert not set(calibration_text().splitlines()) & {
        line for text in texts.values() for line in text.splitlines() if line
    }


def made_up(name: str, *, megabytes: float, kl: float, speed: float = 1.0) -> Measured:
    run = [
        {"kind": "load", "state": "cold", "seconds": 2.0},
        {"kind": "load", "state": "warm", "seconds": 1.0},
        {"kind": "prefill", "ttft": 0.5 / speed, "tokens": 128, "seconds": 0.5 / speed},
        {"kind": "decode", "depth": 128, "seconds": [0.02 / speed] * 4},
        {"kind": "memory", "when": "after run", "peak_rss": 3e8, "pss": None, "swapped": 0},
    ]
    slower = [sample | {"ttft": 5.0} if sample["kind"] == "prefill" else sample for sample in run]
    subject = SUBJECTS[name]
    quality = Quality([3.0, 3.2], [2.9, 3.1], [kl, kl], [0.8, 0.9], "ab")
    texts = {"encyclopaedic": quality, "documentation": quality}
    made = Made(10.0, 9.0, 10**9)
    return Measured(
        name, subject.family, subject.option, int(megabytes * 1e6), made, texts, [run, run, slower]
    )


@pytest.fixture
def study() -> Study:
    subjects = [
        made_up("onnx-balanced", megabytes=103.2, kl=0.08, speed=2),
        made_up("builder-int4", megabytes=86.5, kl=0.35),
        made_up("builder-fp32", megabytes=541, kl=0.0),
    ]
    return Study("2026", "python", Setting("m", rounds=3), "ab", "builder-int4", {}, {}, subjects)


def test_figures_are_medians_over_rounds_and_ratios_within_them(study):
    rate = study.figures["onnx-balanced"]["decode_rate"]
    assert rate == Figure([100.0] * 3, 100.0, 100.0, 100.0, 2.0)
    ttft = study.figures["onnx-balanced"]["ttft"]
    assert (ttft.values, ttft.median, ttft.ratio) == ([0.25, 0.25, 5.0], 0.25, 0.5)
    assert ttft.p90 == pytest.approx(4.05)


def test_a_study_is_read_as_it_was_written_and_its_figures_anew(study, tmp_path):
    path = tmp_path / "exports.json"
    write_study(study, path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["figures"]["onnx-balanced"]["ttft"]["ratio"] == 0.5
    document["figures"]["onnx-balanced"]["ttft"]["ratio"] = 7
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_study(path) == study
    assert read_study(path).figures == study.figures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "is no export study"),
        ({"schema_version": 9}, "schema_version is 9"),
        ({"reference": 3}, "field reference is 3, expected str"),
        ({"subjects": [{"name": "a"}]}, r"field subjects\[0\]\.family is missing"),
    ],
)
def test_a_file_that_is_no_study_is_refused(study, tmp_path, change, message):
    path = tmp_path / "exports.json"
    path.write_text(json.dumps(json.loads(study.to_json()) | change), encoding="utf-8")
    with pytest.raises(EdgePLMError, match=message):
        read_study(path)


def test_the_drawing_has_every_point_and_names_what_it_leaves_out(study):
    root = ElementTree.fromstring(str(size_against_kl(study, "encyclopaedic")))
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f"{space}circle")
    assert [circle.get("class") for circle in circles] == ["mine", "other"]
    ours, peer = ((float(circle.get("cx")), float(circle.get("cy"))) for circle in circles)
    assert ours[0] > peer[0] and ours[1] > peer[1]  # larger, and closer to float: lower
    texts = [text.text for text in root.findall(f"{space}text")]
    assert {"onnx-balanced", "builder-int4"} <= set(texts)
    assert "Not drawn, without loss: builder-fp32" in texts


def test_a_drawing_of_lossless_builds_alone_is_still_one(study):
    alone = replace(study, subjects=study.subjects[2:])
    root = ElementTree.fromstring(str(size_against_kl(alone, "encyclopaedic")))
    assert not root.findall("{http://www.w3.org/2000/svg}circle")


def test_markdown_gives_the_spread_and_the_ratio(study):
    text = markdown(study)
    assert "| onnx-balanced | 2.00 (2.00 to 2.00) | 1.00 (1.00 to 1.00) | 250 (250 to 4050) |" in text
    assert (
        "## Ratios to builder-int4" in text and "| onnx-balanced | 1.00 | 1.00 | 0.50 | 2.00 | 1.00 |" in text
    )
    assert "Perplexity of the float model: encyclopaedic 20.09" in text


def test_what_measures_does_not_load_torch():
    program = "import sys, benchmarks.studies.agent; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False).returncode == 0


def test_llama_cpp_answers_as_the_float_model_does(tmp_path, one_thread):
    pytest.importorskip("llama_cpp")
    from benchmarks.studies.peers import LlamaCppEngine, open_subject, quantise_gguf
    from runtimes.torch_engine import TorchEngine
    from toolkit.models import load_model

    base = tiny_base(tmp_path)
    gguf = write_tiny_gguf(base.folder, tmp_path / "tiny.gguf")
    ids = list(range(20, 52))
    exact = TorchEngine(load_model(base)).score(ids)
    engine = LlamaCppEngine(gguf, 1024, threads=1)
    assert (engine.context_length, engine.vocab_size) == (512, 384)
    found = engine.score(ids)
    np.testing.assert_allclose(found, exact, atol=0.02)
    np.testing.assert_array_equal(engine.score(ids), found)  # nothing is remembered
    engine.close()

    quantise_gguf(gguf, "Q8_0", tmp_path, threads=1)
    coarse = open_subject(tmp_path, threads=1)
    off = np.abs(coarse.score(ids) - exact).max()
    coarse.close()
    assert 1e-3 < off < 0.5
