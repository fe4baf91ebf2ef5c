"""Examples as token ids: what is cut, what is dropped, and what never is."""

import pytest
from tiny import TURN_END, tiny_tokenizer

from toolkit.chat import ChatFormat
from toolkit.errors import EdgePLMError, ModelError
from toolkit.finetune.encode import encode_history, fit_prompt
from toolkit.profiles import Example, Profile
from toolkit.quality import history_prompts, query_prompts
from toolkit.tasks import load_task

TASK = load_task("lamp-3")
INSTRUCTION = TASK.prompt.replace("{input}", "")
LONG = " ".join(f"word{number}" for number in range(300))


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(tiny_tokenizer())


def text_inside(chat: ChatFormat, ids: tuple[int, ...] | list[int]) -> str:
    """The text that a prompt holds behind the instruction; fails unless the rest of it is whole."""
    prompt = chat.tokenizer.decode(list(ids))
    before, after = chat.tokenizer.decode(chat.prompt(TASK.render("\x00"))).split("\x00")
    assert prompt.startswith(before)
    assert prompt.endswith(after)
    return prompt[len(before) : len(prompt) - len(after)]


def test_an_example_that_fits_stays_as_it_is(chat: ChatFormat) -> None:
    encoded = encode_history([Example("1", "a fine film", "5")], TASK, chat, max_length=512, weight=0.5)
    assert (encoded.cut, encoded.dropped) == ((), ())
    (example,) = encoded.examples
    assert (example.id, example.weight) == ("1", 0.5)
    assert list(example.prompt) == chat.prompt(INSTRUCTION + "a fine film")
    assert chat.tokenizer.decode(list(example.answer)) == "5" + TURN_END
    assert len(example) == len(example.prompt) + len(example.answer)


def test_a_long_text_loses_words_at_its_end_and_is_counted(chat: ChatFormat) -> None:
    history = [Example("short", "fine", "4"), Example("long", LONG, "three and a half")]
    limit = 220
    encoded = encode_history(history, TASK, chat, max_length=limit)
    assert (encoded.cut, encoded.dropped) == (("long",), ())
    long = encoded.examples[1]
    assert len(long) <= limit
    assert list(long.answer) == chat.answer("three and a half")
    kept = text_inside(chat, long.prompt)
    assert LONG.startswith(kept + " ")  # whole words
    one_more = " ".join(LONG.split()[: len(kept.split()) + 1])
    assert len(chat.prompt(TASK.render(one_more))) + len(long.answer) > limit  # as many as fit


def test_an_answer_that_leaves_no_room_is_dropped_and_counted(chat: ChatFormat) -> None:
    history = [Example("wide", "fine", LONG), Example("good", "fine", "4"), Example("both", LONG, LONG)]
    encoded = encode_history(history, TASK, chat, max_length=200)
    assert [example.id for example in encoded.examples] == ["good"]
    assert (encoded.cut, encoded.dropped) == ((), ("wide", "both"))


def test_the_instruction_is_never_cut(chat: ChatFormat) -> None:
    instruction = len(chat.prompt(INSTRUCTION))
    history = [Example("1", LONG, "4")]
    answer = len(chat.answer("4"))
    exact = encode_history(history, TASK, chat, max_length=instruction + answer + 1)
    assert exact.cut == ("1",)
    text_inside(chat, exact.examples[0].prompt)
    assert encode_history(history, TASK, chat, max_length=instruction + answer - 2).dropped == ("1",)


def test_a_text_that_also_stands_in_the_instruction_is_cut_in_its_own_place(chat: ChatFormat) -> None:
    text = "review: " + "review " * 30
    assert text.split()[0] in INSTRUCTION
    limit = len(chat.prompt(TASK.render(text))) - 5
    fitted = fit_prompt(chat, TASK.render, text.strip(), limit)
    assert fitted is not None
    assert fitted.cut
    assert text.startswith(text_inside(chat, fitted.ids))


def test_a_script_without_spaces_is_cut_between_characters(chat: ChatFormat) -> None:
    text = "この本はとても面白かったです" * 20
    limit = len(chat.prompt(TASK.render(text))) * 2 // 3
    fitted = fit_prompt(chat, TASK.render, text, limit)
    assert fitted is not None
    kept = text_inside(chat, fitted.ids)
    assert text.startswith(kept)
    assert len(kept) > len(text) / 3


def test_a_prompt_that_cannot_fit_is_none(chat: ChatFormat) -> None:
    assert fit_prompt(chat, TASK.render, LONG, 5) is None
    assert fit_prompt(chat, TASK.render, "", 5) is None
    assert fit_prompt(chat, TASK.render, LONG, -1) is None


def test_no_examples_are_no_error(chat: ChatFormat) -> None:
    assert encode_history([], TASK, chat, max_length=64).examples == ()


def test_query_prompts_are_cut_to_the_limit_or_name_the_query(chat: ChatFormat) -> None:
    queries = [Example("q7", LONG, ""), Example("q8", "fine", "")]
    prompts = query_prompts(TASK, chat, queries, 200)
    assert len(prompts[0]) <= 200
    assert prompts[1] == chat.prompt(TASK.render("fine"))
    with pytest.raises(
        EdgePLMError, match=r"query q7: the instruction alone is longer than 10 tokens\. Raise"
    ):
        query_prompts(TASK, chat, queries, 10)


def test_history_prompts_hold_as_much_history_as_fits(chat: ChatFormat) -> None:
    history = tuple(Example(str(n), f"a fine film of {n} hours, really", "4") for n in range(4))
    profile = Profile("anna", TASK.name, history, (Example("q", "a fine film", "4"),))
    plain = len(query_prompts(TASK, chat, profile.queries, 500)[0])
    lengths = [
        len(history_prompts(TASK, chat, profile, 4, limit)[0]) for limit in (plain, plain + 60, plain + 400)
    ]
    assert lengths[0] == plain
    assert plain < lengths[1] <= plain + 60
    assert lengths[1] < lengths[2] <= plain + 400


def test_a_tokenizer_without_template_gets_the_bare_prompt() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    chat = ChatFormat(tokenizer)
    assert tokenizer.decode(chat.prompt("hello")) == f"{tokenizer.bos_token}hello\n"
    assert chat.answer("x")[-1] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match=r"names no end-of-sequence token\. Set eos_token"):
        ChatFormat(tokenizer)


def test_stop_tokens_are_those_of_the_model_and_of_its_template() -> None:
    tokenizer = tiny_tokenizer()
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    assert ChatFormat(tokenizer).stop == [end]
    assert ChatFormat(tokenizer, [0]).stop == sorted({0, end})
    assert ChatFormat(tokenizer, [0]).end_of_turn == end


def titled(number: int, words: str) -> Example:
    return Example(str(number), words, f"title {number}")


def test_history_goes_before_each_example_and_never_the_example_itself(chat: ChatFormat) -> None:
    task = load_task("lamp-5")
    history = [
        titled(1, "iron and steel"),
        titled(2, "roses in june"),
        titled(3, "steel and roses"),
        titled(4, "steel, iron and steel again"),
    ]
    encoded = encode_history(history, task, chat, max_length=400, history=history, retrieved=2)
    first, *_, last = encoded.examples
    assert list(first.prompt) == chat.prompt(
        '"title 4" is a title for "steel, iron and steel again" , and "title 3" is a title for '
        '"steel and roses" . Following the given patterns ' + task.render("iron and steel")
    )
    for example, plain in zip(encoded.examples, history, strict=True):
        prompt = chat.tokenizer.decode(list(example.prompt))
        assert f"title {example.id}" not in prompt
        assert prompt.count(" is a title for ") == 2
        assert list(example.answer) == chat.answer(plain.output)
    assert "steel and roses" in chat.tokenizer.decode(list(last.prompt))


def test_as_much_history_as_fits_goes_before_an_example(chat: ChatFormat) -> None:
    task = load_task("lamp-5")
    history = [titled(number, f"steel and {number} roses, all of them red") for number in range(5)]
    answer = len(chat.answer("title 0"))
    plain = len(chat.prompt(task.render(history[0].input)))
    lengths = [
        len(
            encode_history(history[:1], task, chat, max_length=limit, history=history, retrieved=4)
            .examples[0]
            .prompt
        )
        for limit in (plain + answer, plain + answer + 60, plain + answer + 600)
    ]
    assert lengths[0] == plain
    assert plain < lengths[1] <= plain + 60 < lengths[2]
    cut = encode_history(history[:1], task, chat, max_length=plain, history=history, retrieved=4)
    assert cut.cut == ("0",)


def test_a_held_out_slice_asks_only_the_history_that_is_trained_on(chat: ChatFormat) -> None:
    task = load_task("lamp-5")
    training, held_out = [titled(1, "iron"), titled(2, "roses")], [titled(3, "steel"), titled(4, "steel")]
    encoded = encode_history(held_out, task, chat, max_length=400, history=training, retrieved=9)
    for example in encoded.examples:
        prompt = chat.tokenizer.decode(list(example.prompt))
        assert "title 1" in prompt and "title 2" in prompt
        assert "title 3" not in prompt and "title 4" not in prompt


def test_training_prompts_are_those_that_the_bundle_is_asked(chat: ChatFormat) -> None:
    task = load_task("lamp-5")
    history = tuple(titled(number, f"steel and {number} roses") for number in range(5))
    profile = Profile("anna", task.name, history, (Example("q", "roses of steel", "gold"),))
    (asked,) = history_prompts(task, chat, profile, 3, 400)
    trained = encode_history(profile.queries, task, chat, max_length=400, history=history, retrieved=3)
    assert list(trained.examples[0].prompt) == asked
    assert "gold" not in chat.tokenizer.decode(asked)


def test_a_task_whose_history_holds_no_answers_is_refused(chat: ChatFormat) -> None:
    with pytest.raises(
        EdgePLMError, match=r"^finetune\.history_in_prompt: the history of lamp-7 holds no an"
    ):
        encode_history(
            [titled(1, "x")], load_task("lamp-7"), chat, max_length=99, history=[titled(2, "y")], retrieved=1
        )
