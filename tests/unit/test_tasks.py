"""Task files: what is in the box, what is refused, and how an item becomes ids."""

import json
from itertools import product
from pathlib import Path

import pytest

from trainer.config import Config, CorpusSection, EvaluateSection, EvaluationTask, SourceSection
from trainer.config_tuning import ChatSection
from trainer.corpus.normalising import fingerprint, is_held_out, normalise
from trainer.corpus.reading import JSON_LINES, Document, files_at, read_source
from trainer.errors import TaskError
from trainer.evaluation import wordnet_tasks
from trainer.evaluation.scoring import score_task
from trainer.evaluation.tasks import LoadedTask, continuation, load_task, read_choices, task_file
from trainer.tokens.chat_encoding import split_of
from trainer.tokens.chat_files import ChatLine, Conversation, Pair, read_chat_file
from trainer.tokens.tokenizer import IM_END, TOKENIZER_FILE, TextEncoder

BOX = ("wordnet-choice", "wordnet-word-class")
DEFAULT = Config()


def box(name: str, **fields: object) -> EvaluationTask:
    return EvaluationTask.model_validate({"name": name, "path": f"box:{name}.jsonl", **fields})


@pytest.fixture(scope="module")
def encoder(small_data: Path) -> TextEncoder:
    return TextEncoder(small_data / "tokenizer" / TOKENIZER_FILE)


def test_the_tasks_in_the_box_are_what_the_script_makes() -> None:
    for name, content in wordnet_tasks.tasks().items():
        assert task_file(box(name.removesuffix(".jsonl"))).read_text(encoding="utf-8") == content


@pytest.mark.parametrize("name", BOX)
def test_no_run_with_the_default_split_trains_on_a_choice_or_a_word_of_the_box(name: str) -> None:
    """Looked at from the corpus: every page that is in training at a share of 0.02, whatever the script thinks."""
    default = CorpusSection().held_out
    source = SourceSection(name="wordnet", path="box:wordnet-glosses.jsonl.zst")
    pages = [normalise(page.text) for page in read_source(source, CorpusSection()) if isinstance(page, Document)]
    trained = [line for page in pages if not is_held_out(fingerprint(page), default) for line in page.splitlines()]
    heads = {line.partition(" (")[0].casefold() for line in trained}
    glosses = {line.partition("): ")[2].partition('; "')[0] for line in trained}
    items = read_choices(task_file(box(name)))
    assert len(items) == 241
    for item in items:
        assert item.question.partition(" (")[0].casefold() not in heads, item.question
        assert glosses.isdisjoint(item.choices)
        assert len(item.choices) == 4
    places = [sum(item.answer == place for item in items) for place in range(4)]
    assert places == [61, 60, 60, 60]


def test_items_that_the_run_trains_on_are_left_out(encoder: TextEncoder) -> None:
    def with_share(share: float) -> Config:
        return Config(corpus=CorpusSection(held_out=share), chat=ChatSection(held_out=share))

    whole = load_task(box(BOX[0]), encoder, DEFAULT)
    assert (len(whole.questions), whole.left_out) == (241, 0)
    fewer = load_task(box(BOX[0]), encoder, with_share(0.01))
    assert fewer.left_out == 241 - len(fewer.questions) > 50
    for name in (*BOX, "wordnet-kind"):
        with pytest.raises(TaskError, match=r"holds no item; the run trains on the documents of all \d+"):
            load_task(box(name, form="chat" if name == "wordnet-kind" else "text"), encoder, with_share(1e-6))


def test_the_kinds_in_the_box_are_asked_of_dialogs_that_sft_holds_out(encoder: TextEncoder) -> None:
    task = box("wordnet-kind", form="chat")
    items = read_choices(task_file(task))
    assert load_task(task, encoder, DEFAULT).left_out == 0
    (file,) = files_at("box:wordnet-dialogs.jsonl.zst", "dialogs", JSON_LINES)
    rows = [line.row for line in read_chat_file("dialogs", file, "conversations") if isinstance(line, ChatLine)]
    told = {row.conversations[0].content: row for row in rows if isinstance(row, Conversation)}
    for item in items:
        assert item.choices[item.answer] == told[item.question].conversations[1].content
        assert split_of(told[item.question], DEFAULT.chat.held_out) == "held_out"
    assert len(items) > 100


def test_max_items_takes_the_first_ones(encoder: TextEncoder) -> None:
    assert (
        load_task(box(BOX[0], max_items=7), encoder, DEFAULT).questions
        == load_task(box(BOX[0]), encoder, DEFAULT).questions[:7]
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", r":2: is not JSON: "),
        ('{"question": "q", "choices": ["a"], "answer": 0}', r":2: choices: must have at least 2 items"),
        (
            '{"question": "q", "choices": ["a", "b"], "answer": 2}',
            r":2: answer 2 is not one of the 2 choices, which count from 0",
        ),
        (
            '{"question": "q", "choices": ["a", "a"], "answer": 0}',
            r":2: choices: two of them are equal; a question",
        ),
        ('{"choices": ["a", "b"], "answer": 0}', r":2: question: is missing"),
    ],
)
def test_a_bad_line_is_named_with_its_rule(tmp_path: Path, encoder: TextEncoder, line: str, words: str) -> None:
    file = tmp_path / "task.jsonl"
    file.write_text('{"question": "q", "choices": ["a", "b"], "answer": 0}\n' + line + "\n")
    with pytest.raises(TaskError, match=words):
        load_task(EvaluationTask(name="own", path=str(file)), encoder, DEFAULT)


def test_missing_and_empty_files_are_errors(tmp_path: Path, encoder: TextEncoder) -> None:
    with pytest.raises(TaskError, match=r"evaluate.tasks: own: no file at box:nowhere.jsonl"):
        load_task(EvaluationTask(name="own", path="box:nowhere.jsonl"), encoder, DEFAULT)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(TaskError, match=r"holds no item$"):
        load_task(EvaluationTask(name="own", path=str(tmp_path / "empty.jsonl")), encoder, DEFAULT)


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="task name 'wordnet-choice' is used twice"):
        EvaluateSection(tasks=(box(BOX[0]), box(BOX[0])))


def test_a_choice_is_encoded_behind_its_question_and_blanks_belong_to_it(encoder: TextEncoder) -> None:
    option = continuation(encoder, "elk (noun): ", "", "a deer")
    assert encoder.decode(option.context) == "<|endoftext|>elk (noun):"
    assert encoder.decode(option.ids) == " a deer"
    assert option.num_chars == len("a deer")
    assert continuation(encoder, "elk (noun):", " ", "a deer") == option
    chinese = continuation(encoder, "春眠不", "", "觉晓")
    assert encoder.decode(chinese.context + chinese.ids) == "<|endoftext|>春眠不觉晓"


def test_a_choice_that_grows_together_with_its_question_is_scored_whole(encoder: TextEncoder) -> None:
    words = ["the", "他", "at", "ing", "th", "er", "不", "en", "re", "on"]
    grown = 0
    for question, choice in product(words, words):
        option = continuation(encoder, question, "", choice)
        assert encoder.decode(option.ids) == choice
        assert encoder.decode(option.context) == f"<|endoftext|>{question}"
        grown += len(encoder.encode(question + choice)) < len(option.context) - 1 + len(option.ids)
    assert grown > 0, "no pair of these words has a token of its own"


def test_an_answer_that_only_calls_a_function_has_a_length_and_reasoning_counts_in_it(
    tmp_path: Path, encoder: TextEncoder
) -> None:
    asked = {"role": "user", "content": "Rain in Oslo?"}
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "rain", "arguments": {"town": "Oslo"}}]}
    thought = {"role": "assistant", "content": "No.", "reasoning_content": "It is dry."}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"chosen": [asked, call], "rejected": [asked, thought]}) + "\n")
    task = EvaluationTask(name="calls", path=str(file), kind="preference")
    (question,) = load_task(task, encoder, DEFAULT).questions
    texts = [encoder.decode(option.ids).removesuffix("<|im_end|>") for option in question.options]
    assert [option.num_chars for option in question.options] == [len(text) for text in texts]
    assert "It is dry." in texts[1]
    for more, right in ((-0.1, True), (0.1, False)):
        scores = [-float(len(texts[0])), -len(texts[1]) + more]
        result = score_task("calls", "preference", LoadedTask((question,), 0), scores)
        assert result.right["per_character"] == [right]


def test_in_chat_form_the_assistant_says_the_choice_and_ends_its_turn(tmp_path: Path, encoder: TextEncoder) -> None:
    file = tmp_path / "task.jsonl"
    file.write_text(json.dumps({"question": "What is an elk?", "choices": ["A deer.", "A bird."], "answer": 1}) + "\n")
    (question,) = load_task(EvaluationTask(name="own", path=str(file), form="chat"), encoder, DEFAULT).questions
    assert question.answer == 1
    context = "<|im_start|>user\nWhat is an elk?<|im_end|>\n<|im_start|>assistant\n"
    for option, text in zip(question.options, ("A deer.", "A bird."), strict=True):
        assert encoder.decode(option.context) == context
        assert encoder.decode(option.ids) == f"{text}<|im_end|>"
        assert option.ids[-1] == IM_END


def test_a_preference_is_between_the_last_answers(tmp_path: Path, encoder: TextEncoder) -> None:
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Elk?"}]
    pair = {
        "chosen": [*asked, {"role": "assistant", "content": "A deer."}],
        "rejected": [*asked, {"role": "assistant", "content": "No."}],
    }
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(pair) + "\n")
    task = EvaluationTask(name="own", path=str(file), kind="preference")
    (question,) = load_task(task, encoder, DEFAULT).questions
    assert question.answer == 0
    assert [encoder.decode(option.ids) for option in question.options] == ["A deer.<|im_end|>", "No.<|im_end|>"]
    assert question.options[0].context == question.options[1].context
    splits = {split: task.model_copy(update={"split": split}) for split in ("held_out", "train")}
    own = split_of(Pair.model_validate(pair), DEFAULT.chat.held_out)
    assert load_task(splits.pop(own), encoder, DEFAULT).questions == (question,)
    for other in splits.values():
        with pytest.raises(TaskError, match=r"holds no item$"):
            load_task(other, encoder, DEFAULT)
    file.write_text(json.dumps({"chosen": asked}) + "\n")
    with pytest.raises(TaskError, match=r"pairs.jsonl:1: rejected: is missing"):
        load_task(task, encoder, DEFAULT)
