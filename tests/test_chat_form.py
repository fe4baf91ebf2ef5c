"""Chat forms: they give the template's own prompts, or there is none."""

import json
from pathlib import Path

import pytest
from tiny import tiny_model_folder, tiny_tokenizer

from exporters.chat_form import PROBES, chat_form
from toolkit.chat import ChatFormat

# In the manner of well-known families; `tests/vectors/chat.json` has what they must give.
TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "chatml with a system message": "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help."
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "trimmed turns": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "instructions": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
}
VECTORS = Path(__file__).with_name("vectors") / "chat.json"


def with_template(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatFormat(tokenizer)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_form_gives_what_the_template_gives(name):
    chat = with_template(TEMPLATES[name])
    form = chat_form(chat)
    assert form is not None and form.trim == ("trim" in name)
    for message in (*PROBES, "Näh, 2 trowels!", "\u3000 wide blanks \u2003"):
        assert chat._encode(form.render(message)) == chat.prompt(message)


def test_a_model_without_a_template_has_a_form_too():
    chat = with_template(None)
    form = chat_form(chat)
    assert (form.prefix, form.suffix) == (chat.tokenizer.bos_token, "\n")
    assert chat._encode(form.render("a")) == chat.prompt("a")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.content or '!' }}<|im_end|>{% endfor %}",
    ],
    ids=["upper case", "twice", "cut", "length", "an empty one apart"],
)
def test_a_template_that_does_more_has_none(template):
    assert chat_form(with_template(template)) is None


def test_vectors_are_what_the_templates_give():
    """Kotlin renders the same vectors (android-demo)."""
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    assert {each["name"] for each in vectors} == set(TEMPLATES)
    for vector in vectors:
        chat = with_template(TEMPLATES[vector["name"]])
        form = chat_form(chat)
        assert vector["form"] == {"prefix": form.prefix, "suffix": form.suffix, "trim": form.trim}
        assert [prompt["message"] for prompt in vector["prompts"]]
        for prompt in vector["prompts"]:
            assert chat.render(prompt["message"]) == form.render(prompt["message"]) == prompt["text"]


def test_the_stock_tokenizers_encode_a_form_as_training_did(tmp_path):
    """ExecuTorch's runner and ONNX Runtime GenAI are given the text, with no special token added."""
    from pytorch_tokenizers import get_tokenizer
    from transformers import AutoTokenizer

    folder = tiny_model_folder(tmp_path)
    chat = ChatFormat(AutoTokenizer.from_pretrained(folder))
    form = chat_form(chat)
    stock = get_tokenizer(str(folder / "tokenizer.json"))
    for message in PROBES:
        assert stock.encode(form.render(message), bos=False, eos=False) == chat.prompt(message)
