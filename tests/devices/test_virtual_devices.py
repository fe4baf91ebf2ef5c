"""The whole way on virtual devices: look, prepare, push, bench, count, answer."""

import json
import subprocess
import sys

import pytest

from benchmarks.quality import quality_on_device
from runtimes.devices.local import LocalDevice

PROMPTS = ([5, 6, 7, 8], [20, 21, 22])
SETTING = ("--prompt-tokens", "8", "--decode-tokens", "3")


def edgeplm(*words: object) -> "subprocess.CompletedProcess[str]":
    """The command line, as a user runs it."""
    command = [sys.executable, "-m", "toolkit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_listed_as_what_it_is(device):
    done = edgeplm("devices", "--device", device.name, "--json")
    found = next(each for each in json.loads(done.stdout)["devices"] if each["device"] == device.name)
    facts = found["facts"]
    assert (facts["machine"], facts["emulated"], facts["cpu"]) == ("aarch64", True, "Cortex-A76")
    assert facts["os"].startswith({"pi": "Debian GNU/Linux", "android": "Android 14"}[device.kind])


def test_a_second_preparation_pushes_nothing(prepared):
    done = edgeplm("devices", "prepare", prepared.name, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["nothing_to_do"] is True
    assert [each["pushed_bytes"] for each in report["environments"]] == [0]
    # The board has a Python that fits, the phone gets one.
    assert report["environments"][0]["self_contained"] is (prepared.kind == "android")


def test_instructions_are_counted_and_no_times_are_shown(prepared, tiny_bundle, tmp_path):
    results = []
    for number in range(2):
        out = tmp_path / f"{number}.json"
        done = edgeplm(
            "bench", tiny_bundle, "--device", prepared.name, "--count-instructions", *SETTING, "--out", out
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(out.read_text()))
    assert "instructions per prefill token" in done.stdout
    assert "ttft" not in done.stdout and "t/s" not in done.stdout
    first, second = (counts_of(result) for result in results)
    assert first == second
    assert set(first) == {"instructions_per_prefill_token", "instructions_per_decode_token_at_0"}
    # Two layers and a head, about 100,000 weights, of which each token needs all.
    assert all(10_000 < value < 3_000_000 for values in first.values() for value in values)


def counts_of(result):
    figures = result["statistics"].items()
    return {name: each["values"] for name, each in figures if each["unit"] == "instructions"}


def test_a_measured_run_shows_memory_and_no_times(prepared, tiny_bundle, tmp_path):
    out = tmp_path / "result.json"
    shown = edgeplm("bench", tiny_bundle, "--device", prepared.name, *SETTING, "--repeat", 1, "--out", out)
    assert "peak rss" in shown.stdout
    assert "ttft" not in shown.stdout and "t/s" not in shown.stdout and "load" not in shown.stdout
    result = json.loads(out.read_text())
    assert result["environment"]["facts"]["emulated"] is True
    assert {sample["kind"] for sample in result["samples"]} >= {"load", "prefill", "decode", "memory", "done"}


def test_it_answers_and_scores_as_this_machine_does(prepared, tiny_bundle):
    asked = {"prompts_ids": PROMPTS, "score_ids": ([5, 6, 7, 8, 9],), "max_new_tokens": 6, "threads": 1}
    device = prepared.open()
    try:
        there = quality_on_device(tiny_bundle, device, **asked)
    finally:
        device.close()
    here = quality_on_device(tiny_bundle, LocalDevice(), **asked)
    assert there.answers == here.answers
    assert len(there.answers[0]) > 0
    assert there.perplexity == pytest.approx(here.perplexity, rel=1e-4)


@pytest.mark.model
def test_the_default_model_answers_on_it(prepared, smollm2_bundle):
    """SmolLM2-135M, one short prompt: emulation takes seconds for a token."""
    from toolkit.bundling import bundle_chat

    chat = bundle_chat(smollm2_bundle)
    prompt = chat.tokenizer("The capital of France is", add_special_tokens=False)["input_ids"]
    device = prepared.open()
    try:
        found = quality_on_device(smollm2_bundle, device, prompts_ids=[prompt], max_new_tokens=2, threads=1)
    finally:
        device.close()
    assert "Paris" in chat.tokenizer.decode(found.answers[0])
