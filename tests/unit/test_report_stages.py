"""The report on stages after pretraining: headline, tasks, checkpoints side by side, curves, answers."""

import html
import json
import math
import re
from dataclasses import replace

from tests.support.stories import FINISHED, SCORES, STARTED, full_story, saved, step, story_of, text_of, validated
from trainer.events import (
    AnswersJudged,
    AnswersValidated,
    CheckpointMeasured,
    Evaluated,
    PreferencesValidated,
    Record,
    StageStarted,
    TaskScored,
)
from trainer.tracking.report_page import render_page
from trainer.tracking.run_story import parse_records, tell_story


def scored(task: str, accuracy: float, checkpoint: str = "checkpoints/step-00000040") -> TaskScored:
    score = {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "p_value": 7e-7}
    scores = {"plain": score, "per_character": score | {"p_value": 0.25}}
    return TaskScored(step=40, checkpoint=checkpoint, task=task, kind="choice", n=245, chance=0.25, left_out=3, scores=scores)


def test_tasks_show_accuracy_interval_chance_and_p() -> None:
    page = render_page(story_of(STARTED, FINISHED, scored("<choice>", 0.4), Evaluated(step=40, bits_per_byte=SCORES)))
    text = text_of(page)
    assert "Tasks" in text
    for words in (
        "<choice>",
        "245 (3 left out: trained on)",
        "per character",
        "40.0 % (35.0 to 45.0)",
        "25.0 %",
        "< 0.0001",
        "0.2500",
    ):
        assert words in text, words
    assert 'aria-label="40.0' in page
    assert "checkpoints/step-00000040" not in text_of(page.split("Tasks", 1)[1].split("</section>")[0])


def test_tasks_are_those_of_the_last_whole_evaluation() -> None:
    done = Evaluated(step=40, bits_per_byte=SCORES)
    begun = StageStarted(stage="evaluate")
    story = story_of(begun, scored("old", 0.3), done, begun, scored("new", 0.4), done, begun, scored("cut off", 0.5))
    assert [event.task for event in story.scored] == ["new"]
    assert story_of(begun, scored("old", 0.3), done, begun, done).scored == ()


def test_several_checkpoints_stand_side_by_side() -> None:
    def measured(name: str, bits: float, text: str) -> CheckpointMeasured:
        figures = {"rfc": bits, "all": bits + 0.1}
        return CheckpointMeasured(step=1, checkpoint=name, stage="sft", bits_per_byte=figures, samples={"Once <b>": text})

    story = story_of(measured("a", 2.0, " upon"), measured("b", 1.5, " more"), Evaluated(step=40, bits_per_byte=SCORES))
    text = text_of(render_page(story))
    assert "Side by side" in text
    assert "Source a b unigram bigram a vs bigram rfc 2.000 1.500 (best) 4.500 3.000" in text
    assert "Once <b> upon a Once <b> more b" in text


def test_the_headline_is_the_pretrained_model_s_with_its_own_tokens_and_the_tuned_ones_stand_beside() -> None:
    def measured(stage: str, bits: float) -> CheckpointMeasured:
        name = f"{'' if stage == 'pretrain' else stage + '/'}checkpoints/step-00000040"
        return CheckpointMeasured(step=40, checkpoint=name, stage=stage, bits_per_byte={"all": bits}, samples={})

    scores = {"model": {"all": 2.75}, "unigram": {"all": 4.6}, "bigram": {"all": 3.2}}
    story = story_of(
        STARTED, step(40), FINISHED,
        replace(STARTED, stage="sft"), replace(step(10), stage="sft", tokens_seen=5_000),
        replace(STARTED, stage="dpo"), replace(step(10), stage="dpo", tokens_seen=6_000),
        measured("pretrain", 2.0), measured("sft", 2.5), measured("dpo", 2.75),
        Evaluated(step=40, bits_per_byte=scores, stage="dpo"),
    )  # fmt: skip
    text = text_of(render_page(story))
    assert "Held-out bits per byte 2.000 2.500 after sft 5,000 tokens 2.750 after dpo 6,000 tokens" in text
    assert "38 % below the bigram baseline, 3.200 the pretrained model, after 40.0 k tokens" in text
    assert "Tokens seen 40.0 k 0.40 epochs and 11.0 k in tuning" in text
    assert "all sources 2.000 (best) 2.500 2.750 4.600 3.200 \u221238 %" in text


def test_a_run_that_only_tunes_says_whose_its_headline_is() -> None:
    evaluated = Evaluated(step=40, bits_per_byte={"model": {"all": 2.5}}, stage="sft")
    story = story_of(replace(STARTED, stage="sft"), replace(step(40), stage="sft", tokens_seen=5_000), evaluated)
    text = text_of(render_page(story))
    assert "Held-out bits per byte 2.500 the model after instruction tuning, after 5,000 tokens" in text
    assert "Parameters 1.05 M" in text
    assert "No step has been finished yet" not in text


def test_figures_of_an_evaluation_that_were_no_numbers_leave_a_whole_page() -> None:
    nan = math.nan
    measured = CheckpointMeasured(step=1, checkpoint="a", stage="sft", bits_per_byte={"all": nan, "rfc": 1.0}, samples={})
    scores = {"model": {"all": nan}, "bigram": {"all": nan, "rfc": 2.0}}
    events = [STARTED, measured, replace(measured, checkpoint="b", stage="dpo"), Evaluated(bits_per_byte=scores)]
    lines = [json.loads(Record(1.0, "cafe", event).to_json()) for event in events]
    assert "\u2013" in text_of(render_page(tell_story(parse_records(lines)[0], "demo")))


def chart_points(page: str, name: str) -> dict[str, list[list[float]]]:
    """The points of each line of a chart."""
    (chart,) = re.findall(rf'<svg[^>]*data-chart="([^"]*)"[^>]*><title>{name}</title>', page)
    return {line["name"]: line["points"] for line in json.loads(html.unescape(chart))["series"]}


def test_held_out_curves_begin_where_each_stage_begins() -> None:
    answers = [
        AnswersValidated(step=number, stage="sft", bits_per_byte=bits, by_source={}, duration_s=1.0)
        for number, bits in ((0, 3.0), (10, 2.0))
    ]
    judged = [
        AnswersJudged(
            step=number, stage="grpo", prompts=8, reward=reward, by_source={}, answer_tokens=8.0, samples=[], duration_s=1.0
        )
        for number, reward in ((0, 0.1), (10, 0.5))
    ]
    story = story_of(
        STARTED, replace(validated(0, 8.0), by_source={}), step(10), replace(validated(10, 2.0), by_source={}), FINISHED,
        replace(STARTED, stage="sft"), answers[0], replace(step(10), stage="sft"), answers[1],
        replace(STARTED, stage="grpo"), judged[0], replace(step(10), stage="grpo"), judged[1],
    )  # fmt: skip
    page = render_page(story)
    assert chart_points(page, "Validation") == {"all sources": [[0, 8.0], [10, 2.0]]}
    assert chart_points(page, "Held out") == {"answers": [[0, 3.0], [10, 2.0]]}
    assert chart_points(page, "Reward")["held out"] == [[0, 0.1], [10, 0.5]]


def test_tasks_stand_by_stages_and_the_best_is_marked_where_it_beats_guessing() -> None:
    def score(accuracy: float, p_value: float) -> dict[str, float]:
        return {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "p_value": p_value}

    def told(stage: str, kind: tuple[float, float], word: tuple[float, float]) -> list[TaskScored]:
        name = f"{stage}checkpoints/step-00000040"
        return [
            TaskScored(
                step=40,
                checkpoint=name,
                task=task,
                kind="choice",
                n=9,
                chance=0.25,
                left_out=0,
                scores={"plain": score(*value)},
            )
            for task, value in (("kind", kind), ("word", word))
        ]

    events = [
        *told("", (0.2, 0.9), (0.3, 0.2)),
        *told("sft/", (0.48, 1e-9), (0.31, 0.1)),
        *told("dpo/", (0.45, 1e-8), (0.2, 1.0)),
    ]
    text = text_of(render_page(story_of(STARTED, *events, Evaluated(step=40, bits_per_byte=SCORES))))
    assert "Task Score Items Guessing pretrain sft dpo kind sum 9 25.0 % 20.0 %" in text
    assert text.count("(best)") == 1
    assert "48.0 % (best) (43.0 to 53.0) p < 0.0001 45.0 %" in text


def test_answers_stand_before_and_after_each_stage() -> None:
    def measured(stage: str, answer: str) -> CheckpointMeasured:
        question = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is <b>?<|im_end|>\n<|im_start|>assistant\n"
        said = {"source": "chatter", "question": question, "expected": "Bold.", "answer": answer}
        return CheckpointMeasured(step=1, checkpoint=stage, stage=stage, bits_per_byte={}, samples={}, answers=[said])

    story = story_of(measured("pretrain", "and on"), measured("sft", "A tag."), Evaluated(bits_per_byte=SCORES))
    text = text_of(render_page(story))
    assert "system Be kind. user What is <b>? and on pretrain A tag. sft Bold. in the data" in text


def test_judged_answers_are_those_of_the_first_measure_and_of_the_last() -> None:
    def judged(number: int, answer: str, reward: float) -> AnswersJudged:
        samples = [{"prompt": "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n", "answer": answer, "reward": reward}]
        return AnswersJudged(
            step=number,
            stage="grpo",
            prompts=1,
            reward=reward,
            by_source={},
            answer_tokens=1.0,
            samples=samples,
            duration_s=1.0,
        )

    events = [judged(0, "zz", -0.5), judged(10, "amid", 0.0), judged(20, "", 0.75)]
    story = story_of(replace(STARTED, stage="grpo"), events[0], replace(step(10), stage="grpo"), *events[1:])
    text = text_of(render_page(story))
    assert "user What? zz step 0: reward -0.500 (an empty answer) step 20: reward 0.750" in text
    assert "amid" not in text


def test_the_chart_has_the_rows_and_columns_of_the_table() -> None:
    page = render_page(full_story())
    chart = page[page.index("<title>Bits per byte by source</title>") :].split("</svg>")[0]
    assert re.findall(r'class="group"[^>]*>([^<]*)<', chart) == ["rfc", "all sources"]
    assert re.findall(r'class="legend"[^>]*>([^<]*)<', chart) == ["model", "unigram", "bigram"]
    assert re.findall(r'class="value"[^>]*>([^<]*)<', chart) == ["1.500", "4.500", "3.000", "1.600", "4.600", "3.200"]


def test_rows_of_another_number_are_said_to_be_so() -> None:
    def text(config: str) -> str:
        return text_of(render_page(story_of(STARTED, step(10), validated(10, 2.0), config_text=config)))

    config = "validation: {{max_rows_per_source: 48}}\nevaluate: {{max_rows_per_source: {}}}\n"
    assert "Validation is of at most 48 rows of each source, the evaluation below of at most 96 rows" in text(config.format(96))
    assert "the evaluation below of all held-out rows" in text(config.format("null"))
    assert "Validation is of" not in text(config.format(48))


def test_the_contents_name_every_section_in_order() -> None:
    page = render_page(full_story())
    nav = page[page.index("<nav") : page.index("</nav>")]
    assert re.findall(r'href="#([^"]*)">([^<]*)<', nav) == re.findall(r'<h2 id="([^"]*)">([^<]*)<', page)


def test_without_tasks_the_page_has_no_section_for_them() -> None:
    text = text_of(render_page(story_of(STARTED)))
    assert "Tasks" not in text
    assert "Side by side" not in text


def test_curves_of_later_stages_do_not_mix_with_pretraining_s() -> None:
    figures = {"accuracy": 0.75, "margin": 0.5, "kl": 0.01}
    answers = AnswersValidated(step=10, stage="sft", bits_per_byte=1.25, by_source={"chatter": 1.25}, duration_s=1.0)
    preferences = PreferencesValidated(
        step=10, stage="dpo", pairs=80, accuracy=0.625, by_source={"sister": 0.625}, margin=0.2, kl=0.02, duration_s=1.0
    )
    story = story_of(
        STARTED, step(10, 3.0), step(20, 2.0), validated(20, 1.5), saved(20), FINISHED,
        replace(STARTED, stage="sft"), replace(step(10, 2.5), stage="sft"), answers, replace(validated(10, 1.6), stage="sft"),
        replace(STARTED, stage="dpo"), replace(step(10, 0.6), stage="dpo", figures=figures), preferences,
    )  # fmt: skip
    assert [event.loss for event in story.steps] == [3.0, 2.0]
    assert [event.bits_per_byte for event in story.validations] == [1.5]
    assert len(story.starts) == 1
    assert [(tuning.stage, [event.loss for event in tuning.steps]) for tuning in story.tunings] == [
        ("sft", [2.5]),
        ("dpo", [0.6]),
    ]
    assert story.tunings[0].answers == (answers,)
    assert story.tunings[0].text[0].bits_per_byte == 1.6
    assert story.tunings[1].preferences == (preferences,)
    words = text_of(render_page(story))
    for heading in ("Instruction tuning", "Preference optimisation", "Accuracy", "Margin"):
        assert heading in words


def test_rewards_have_their_curves() -> None:
    figures = {"reward": 0.4, "kl": 0.02, "clip_share": 0.1, "cut_share": 0.0, "no_signal_share": 0.5, "answer_tokens": 9.0}
    judged = AnswersJudged(
        step=10, stage="grpo", prompts=8, reward=0.5, by_source={"q": 0.5}, answer_tokens=8.0, samples=[], duration_s=1.0
    )
    reward = PreferencesValidated(
        step=10, stage="reward", pairs=80, accuracy=0.7, by_source={"order": 0.7}, margin=0.2, p_value=0.001, duration_s=1.0
    )
    pairs = {"accuracy": 0.75, "margin": 0.5}
    story = story_of(
        STARTED, step(10, 3.0), FINISHED,
        replace(STARTED, stage="reward"), replace(step(10, 0.6), stage="reward", figures=pairs), reward,
        replace(STARTED, stage="grpo"), replace(step(10, 0.01), stage="grpo", figures=figures), judged,
    )  # fmt: skip
    assert story.tunings[1].judged == (judged,)
    words = text_of(render_page(story))
    for heading in ("Reward model", "Reinforcement by rewards", "Answer length", "Shares"):
        assert heading in words


def test_events_of_before_stages_were_told_are_pretraining_s() -> None:
    line = json.loads(Record(1.0, "r", step(10)).to_json())
    assert line.pop("stage") == "pretrain"
    (record,), unknown = parse_records([line])
    assert record.event == step(10)
    assert unknown == 0
