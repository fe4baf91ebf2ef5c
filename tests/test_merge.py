"""Merging an adapter: the same logits as PEFT's, or a refusal that says why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, tiny_adapter, tiny_base

from exporters.merge import AdapterFacts, merge_adapter, read_adapter
from toolkit.errors import AdapterError
from toolkit.files import sha256_of
from toolkit.models import BaseModel, load_model

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.arange(3, 60)[None]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base: BaseModel, tmp_path: Path) -> Path:
    return tiny_adapter(base, tmp_path / "adapter")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_merged_equals_peft(tmp_path: Path, arch: str) -> None:
    base = tiny_base(tmp_path, arch)
    adapter = tiny_adapter(base, tmp_path / "adapter")
    wanted = logits(PeftModel.from_pretrained(load_model(base), str(adapter)))
    merged = merge_adapter(load_model(base), adapter)
    assert (logits(merged) - wanted).abs().max() < 1e-4
    assert (wanted - logits(load_model(base))).abs().max() > 0.1
    assert type(merged) is type(load_model(base))
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_facts(adapter: Path, base: BaseModel) -> None:
    assert read_adapter(adapter) == AdapterFacts(
        rank=4,
        alpha=8.0,
        targets=["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        base=base.source,
        sha256=sha256_of(adapter / WEIGHTS),
    )
    change_config(adapter, target_modules="all-linear", base_model_name_or_path=None)
    assert read_adapter(adapter).targets == ["all-linear"]
    assert read_adapter(adapter).base is None


def test_missing_files(adapter: Path, tmp_path: Path) -> None:
    mend = r"\. Give the folder that `edgeplm finetune` or PEFT's save_pretrained wrote$"
    with pytest.raises(AdapterError, match=rf"^{tmp_path}/none: no such folder{mend}"):
        read_adapter(tmp_path / "none")
    for name in (WEIGHTS, CONFIG):
        (adapter / name).unlink()
        with pytest.raises(AdapterError, match=rf"^{adapter}: has no {name}{mend}"):
            read_adapter(adapter)


def test_a_folder_of_adapters_names_those_in_it(adapter: Path) -> None:
    with pytest.raises(AdapterError, match=rf"has no {CONFIG}\. Give one of the adapters in it: {adapter}$"):
        read_adapter(adapter.parent)


def test_pickled_weights_alone_are_refused(adapter: Path, base: BaseModel) -> None:
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    with pytest.raises(AdapterError, match=rf"^{adapter}: has no {WEIGHTS}\."):
        merge_adapter(load_model(base), adapter)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'"text"', b"\xff\xfe", b'{"peft_type": "LORA", "r": "many"}']
)
def test_a_configuration_that_is_none(adapter: Path, content: bytes) -> None:
    (adapter / CONFIG).write_bytes(content)
    with pytest.raises(
        AdapterError, match=rf"^{adapter}/{CONFIG}: is not PEFT's configuration \(.+Give the f"
    ):
        read_adapter(adapter)


def test_other_kinds_of_adapter(adapter: Path) -> None:
    change_config(adapter, peft_type="IA3")
    with pytest.raises(AdapterError, match=r"is a IA3 adapter\. Only LoRA adapters can be exported$"):
        read_adapter(adapter)


def test_an_adapter_of_a_wider_base(base: BaseModel, tmp_path: Path) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(base.folder)
    config.hidden_size, config.intermediate_size = 96, 160
    other = get_peft_model(
        transformers.LlamaForCausalLM(config), LoraConfig(r=4, target_modules="all-linear")
    )
    other.peft_config["default"].base_model_name_or_path = "owner/wider"
    other.save_pretrained(tmp_path / "wider", save_embedding_layers=False)
    with pytest.raises(
        AdapterError,
        match=r"wider: does not fit the base model \(.*\)\. It was trained on owner/wider: give that with",
    ):
        merge_adapter(load_model(base), tmp_path / "wider")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_of_a_deeper_or_shallower_base(adapter: Path, base: BaseModel) -> None:
    def deeper(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update(
            {name.replace("layers.1.", "layers.2."): value.clone() for name, value in tensors.items()}
        )

    change_weights(adapter, deeper)
    with pytest.raises(
        AdapterError, match=r"does not fit .* \(14 tensors; .*layers\.2\..* has no place in the"
    ):
        merge_adapter(load_model(base), adapter)

    def shallower(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if "layers.0." not in name:
                del tensors[name]

    change_weights(adapter, shallower)
    with pytest.raises(
        AdapterError, match=r"does not fit .* \(14 tensors; .*layers\.1\..* is missing\)\. It was"
    ):
        merge_adapter(load_model(base), adapter)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_targets_that_the_base_does_not_have(adapter: Path, base: BaseModel) -> None:
    change_config(adapter, target_modules=["c_attn"])
    with pytest.raises(AdapterError, match=r"does not fit the base model \(.*c_attn"):
        merge_adapter(load_model(base), adapter)


def test_an_adapter_that_changes_nothing(adapter: Path, base: BaseModel) -> None:
    def silence(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            if "lora_B" in name:
                value.zero_()

    change_weights(adapter, silence)
    with pytest.raises(
        AdapterError, match=r"changes nothing: its B matrices are all zero\. Fine-tune it first$"
    ):
        merge_adapter(load_model(base), adapter)


def test_values_that_are_not_numbers(adapter: Path, base: BaseModel) -> None:
    change_weights(adapter, lambda tensors: next(iter(tensors.values())).view(-1)[3:4].fill_(float("nan")))
    with pytest.raises(AdapterError, match="holds values that are not numbers"):
        merge_adapter(load_model(base), adapter)


@pytest.mark.parametrize("keep", [0, 5, 200, -40])
def test_weights_that_are_cut_short(adapter: Path, base: BaseModel, keep: int) -> None:
    path = adapter / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        AdapterError, match=rf"^{path}: is cut short or damaged \(.+\)\. Copy the adapter again$"
    ):
        merge_adapter(load_model(base), adapter)


def test_quantised_weights_are_not_merged_into(adapter: Path, base: BaseModel) -> None:
    model = load_model(base)
    model.is_quantized = True
    with pytest.raises(AdapterError, match="into float weights only"):
        merge_adapter(model, adapter)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_tied_head_or_embedding_cannot_be_merged(base: BaseModel, tmp_path: Path, target: str) -> None:
    adapter = tiny_adapter(base, tmp_path / "tied", targets=["q_proj", target])
    with pytest.raises(
        AdapterError, match=r"same weights in this model.*Fine-tune it without lm_head and embed"
    ):
        merge_adapter(load_model(base), adapter)


def test_an_untied_head_can(base: BaseModel, tmp_path: Path) -> None:
    folder = shutil.copytree(base.folder, tmp_path / "untied")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    untied = BaseModel(str(folder), folder, "", "")
    adapter = tiny_adapter(untied, tmp_path / "adapter", targets=["q_proj", "lm_head", "embed_tokens"])
    wanted = logits(PeftModel.from_pretrained(load_model(untied), str(adapter)))
    assert (logits(merge_adapter(load_model(untied), adapter)) - wanted).abs().max() < 1e-4
    assert (logits(load_model(untied)) - wanted).abs().max() > 0.1
