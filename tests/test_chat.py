"""Prompts and answers as token ids: with a template, without one, and what ends an answer."""

import pytest
from tiny import CHAT_TEMPLATE, END_OF_TEXT, TURN_END, TURN_START, tiny_tokenizer

from toolkit.chat import ChatFormat
from toolkit.errors import ModelError

EOS_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
TEXT = "Näh, 2 trowels — please!"


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def ids(tokenizer):
    """The ids of the special tokens by name."""
    return tokenizer.convert_tokens_to_ids


def with_template(tokenizer, template):
    tokenizer.chat_template = template
    return tokenizer


# Prompts


def test_a_prompt_goes_through_the_template_up_to_where_the_answer_begins(tokenizer):
    chat = ChatFormat(tokenizer)
    assert chat.has_template
    expected = f"{TURN_START}user\n{TEXT}{TURN_END}\n{TURN_START}assistant\n"
    assert tokenizer.decode(chat.prompt(TEXT)) == expected


def test_turn_marks_are_single_tokens(tokenizer, ids):
    prompt = ChatFormat(tokenizer).prompt(TEXT)
    assert prompt[0] == ids(TURN_START) and prompt.count(ids(TURN_START)) == 2
    assert prompt.count(ids(TURN_END)) == 1


def test_a_prompt_and_its_answer_read_as_the_template_writes_a_whole_turn(tokenizer):
    chat = ChatFormat(tokenizer)
    turn = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "A 4."}]
    whole = tokenizer.apply_chat_template(turn, tokenize=False)
    assert whole.startswith(tokenizer.decode(chat.prompt(TEXT) + chat.answer("A 4.")))


@pytest.mark.parametrize("template", [None, ""])
def test_without_a_template_a_prompt_is_the_text_and_a_newline(tokenizer, template):
    chat = ChatFormat(with_template(tokenizer, template))
    assert not chat.has_template
    assert tokenizer.decode(chat.prompt(TEXT)) == f"{TURN_START}{TEXT}\n"  # bos, text, newline


def test_without_a_template_and_a_first_token(tokenizer):
    tokenizer.bos_token = None
    assert tokenizer.decode(ChatFormat(with_template(tokenizer, None)).prompt(TEXT)) == f"{TEXT}\n"


def test_the_tokenizer_adds_no_first_token_to_what_the_template_wrote(tokenizer, ids):
    """Many tokenizers put bos before any text; their templates write it as well."""
    from tokenizers.processors import TemplateProcessing

    special = [(TURN_START, ids(TURN_START))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{TURN_START} $A", special_tokens=special
    )
    assert tokenizer("x")["input_ids"][0] == ids(TURN_START)
    chat = ChatFormat(tokenizer)
    assert chat.prompt(TEXT)[:2].count(ids(TURN_START)) == 1
    assert ids(TURN_START) not in chat.answer("ok")


# Answers


def test_an_answer_ends_with_the_end_of_turn(tokenizer, ids):
    answer = ChatFormat(tokenizer).answer(TEXT)
    assert answer[-1] == ids(TURN_END) and answer.count(ids(TURN_END)) == 1
    assert tokenizer.decode(answer[:-1]) == TEXT


def test_decode_gives_the_text_back_without_special_tokens(tokenizer, ids):
    chat = ChatFormat(tokenizer)
    assert chat.decode(chat.answer(f"  {TEXT}\n")) == TEXT
    assert chat.decode([*chat.answer("a"), ids(END_OF_TEXT)]) == "a"
    assert chat.decode([]) == ""


# What ends an answer


def test_the_templates_end_of_turn_counts_before_the_tokenizers_eos(tokenizer, ids):
    tokenizer.eos_token = END_OF_TEXT
    chat = ChatFormat(tokenizer)
    assert chat.end_of_turn == ids(TURN_END)
    assert chat.stop == sorted([ids(END_OF_TEXT), ids(TURN_END)])


def test_a_template_that_writes_the_eos_token(tokenizer, ids):
    chat = ChatFormat(with_template(tokenizer, EOS_TEMPLATE))
    assert chat.end_of_turn == ids(TURN_END) and chat.stop == [ids(TURN_END)]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{{ messages[0].content }}",
        "{% for m in messages %}[{{ m.content }}]{% endfor %}",
    ],
    ids=["newline", "first message only", "a bracket that is no special token"],
)
def test_a_template_without_an_end_of_turn_falls_back_to_eos(tokenizer, ids, template):
    chat = ChatFormat(with_template(tokenizer, template))
    assert chat.end_of_turn == ids(TURN_END) == tokenizer.eos_token_id and chat.stop == [ids(TURN_END)]


def test_an_end_of_turn_behind_white_space_is_found(tokenizer, ids):
    tokenizer.eos_token = END_OF_TEXT
    spaced = CHAT_TEMPLATE.replace("message['content'] + '<|im_end|>", "message['content'] + '\n <|im_end|>")
    assert spaced != CHAT_TEMPLATE
    assert ChatFormat(with_template(tokenizer, spaced)).end_of_turn == ids(TURN_END)


def test_generation_config_counts_before_the_tokenizers_eos(tokenizer, ids):
    chat = ChatFormat(with_template(tokenizer, None), ids(END_OF_TEXT))
    assert chat.end_of_turn == ids(END_OF_TEXT) == 0
    assert chat.stop == [0]


def test_all_ends_of_generation_config_stop_an_answer(tokenizer, ids):
    chat = ChatFormat(tokenizer, [7, ids(END_OF_TEXT), 7])
    assert chat.stop == sorted([ids(END_OF_TEXT), ids(TURN_END), 7])
    assert chat.end_of_turn == ids(TURN_END)
    assert ChatFormat(with_template(tokenizer, None), [7, 0]).end_of_turn == 7


@pytest.mark.parametrize("eos", [None, []])
def test_no_end_at_all(tokenizer, eos):
    tokenizer.eos_token = None
    tokenizer.name_or_path = "./my-model"
    with pytest.raises(ModelError) as raised:
        ChatFormat(with_template(tokenizer, None), eos)
    assert raised.value.where == "./my-model"
    assert "no end-of-sequence token" in raised.value.what and "eos_token" in str(raised.value.mend)


def test_a_template_alone_can_say_what_ends_an_answer(tokenizer, ids):
    tokenizer.eos_token = None
    assert ChatFormat(tokenizer).stop == [ids(TURN_END)]


@pytest.mark.parametrize(
    "template",
    [
        "{{ broken",
        "{% for %}",
        "{{ messages[0].no.such }}",
        "{{ raise_exception('roles must alternate') }}",
        [1],
    ],
    ids=str,
)
def test_a_template_that_cannot_be_used(tokenizer, template):
    with pytest.raises(ModelError) as raised:
        ChatFormat(with_template(tokenizer, template))
    assert raised.value.where == "tokenizer"
    assert "its chat template cannot be used" in raised.value.what and "chat_template" in str(
        raised.value.mend
    )
    assert "\n" not in str(raised.value)


def test_a_template_cannot_reach_out_of_its_sandbox(tokenizer):
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ModelError, match="chat template"):
        ChatFormat(with_template(tokenizer, escape))
