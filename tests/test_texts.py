"""The neutral texts: one to evaluate on, that nothing else has seen."""

from tiny import tiny_tokenizer

from exporters.texts import calibration_text, evaluation_text, neutral_windows
from toolkit.chat import ChatFormat


def test_no_sentence_of_the_evaluation_is_in_the_calibration() -> None:
    sentences = [sentence.strip() for sentence in evaluation_text().split(".") if len(sentence.strip()) > 20]
    assert len(sentences) > 40
    assert [sentence for sentence in sentences if sentence in calibration_text()] == []


def test_windows_do_not_overlap_and_keep_the_texts_order() -> None:
    tokenizer = tiny_tokenizer()
    windows = neutral_windows(ChatFormat(tokenizer), 64, 5)
    assert [len(window) for window in windows] == [64] * 5
    joined = [token for window in windows for token in window]
    assert joined == tokenizer(evaluation_text(), add_special_tokens=False)["input_ids"][: 5 * 64]
    assert neutral_windows(ChatFormat(tokenizer), 10**6, 5) == []
