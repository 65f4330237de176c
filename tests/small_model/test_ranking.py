"""The small model ranks by shared words, in transformers, unmodified."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

DEMO_JOBS = Path(__file__).parents[2] / "producer" / "rerankq" / "demo_jobs.json"
VISIBLE_MARGIN = 0.5  # logits


def test_the_capital_question_puts_the_capital_first(score: Callable[..., list[float]]):
    right, *others = score(
        "中国的首都是哪里？",
        [
            "北京是中国的政治中心和首都。",
            "上海是中国最大的城市和经济中心。",
            "杭州是浙江省省会，阿里巴巴总部所在地。",
            "北京烤鸭非常有名，很多人慕名而来。",
        ],
    )

    assert right > max(others) + VISIBLE_MARGIN


def test_the_demo_jobs_come_out_in_the_right_order(score: Callable[..., list[float]]):
    jobs = {job["id"]: job for job in json.loads(DEMO_JOBS.read_text("utf-8"))}
    relevant = {"capital": {3}, "panda-english": {2, 6, 9, 12, 18}}

    for name, right in relevant.items():
        logits = score(jobs[name]["query"], jobs[name]["documents"])
        best_wrong = max(logit for index, logit in enumerate(logits) if index not in right)
        assert min(logits[index] for index in right) > best_wrong + VISIBLE_MARGIN, name
        assert best_wrong < 0 < min(logits[index] for index in right), name


def test_the_demo_says_where_the_small_model_cannot_know(score: Callable[..., list[float]]):
    job = next(job for job in json.loads(DEMO_JOBS.read_text("utf-8")) if job["id"] == "ai-trends")

    recipe, ai, same_words = score(job["query"], job["documents"])

    assert same_words > ai + VISIBLE_MARGIN
    assert ai == pytest.approx(recipe, abs=0.1)
    assert "BAAI/bge-reranker-v2-m3" in job["note"]


def test_a_word_in_the_right_company_beats_the_same_words_apart(score: Callable[..., list[float]]):
    filler = "The river runs through green fields and old towns on its way to the sea. " * 4

    together, apart = score(
        "oil embargo", [filler + "The oil embargo ended.", "There was oil. " + filler + "An embargo ended."]
    )

    assert together > apart + VISIBLE_MARGIN


def test_a_pair_of_words_near_the_rest_beats_the_same_pair_far_away(score: Callable[..., list[float]]):
    filler = "The river runs through green fields and old towns on its way to the sea. " * 4

    together, apart = score(
        "oil embargo steam engine",
        [
            filler + "An oil embargo stopped every steam engine.",
            "An oil embargo. " + filler + "It stopped every steam engine.",
        ],
    )

    assert together > apart  # by .15: the trained layer cares less than the written one did


def test_characters_in_the_words_of_the_question_beat_the_same_characters_in_others(
    score: Callable[..., list[float]],
):
    same_words, other_words = score(
        "人工智能的发展趋势", ["发展人工智能是趋势。", "势能与智力，人展示工艺，能发热，趋于平稳。"]
    )

    assert same_words > other_words + VISIBLE_MARGIN


def test_repeating_one_word_does_not_pass_for_covering_the_question(score: Callable[..., list[float]]):
    repeated, covered = score("oil embargo of october", ["oil " * 30, "The embargo on oil began in October."])

    assert covered > repeated + VISIBLE_MARGIN


def test_inflected_words_meet_their_stem(score: Callable[..., list[float]]):
    inflected, foreign = score("digesting engines", ["The engine digests it.", "The horse sleeps."])

    assert inflected > foreign + VISIBLE_MARGIN


def test_traditional_and_simplified_characters_meet(score: Callable[..., list[float]]):
    simplified, traditional = score("软件与电脑", ["电脑里的软件", "電腦裡的軟件"])

    assert traditional == pytest.approx(simplified, abs=0.2)


def test_case_and_accents_do_not_matter(score: Callable[..., list[float]]):
    plain, written = score("beyonce album", ["beyonce made an album", "BEYONCÉ made an Album"])

    assert written == pytest.approx(plain, abs=1e-4)


def test_a_rare_shared_word_counts_more_than_common_ones(score: Callable[..., list[float]]):
    rare, common = score("what is an embargo of the state", ["The embargo.", "This is the state of an art."])

    assert rare > common


@pytest.mark.parametrize("documents", [[""], ["x " * 3000]], ids=["empty", "longer than the model"])
def test_odd_documents_get_a_finite_score(score: Callable[..., list[float]], documents: list[str]):
    (logit,) = score("what is x", documents)

    assert abs(logit) < 100


@pytest.mark.parametrize("query_words", [1, 60, 200], ids="{} words".format)
def test_query_and_document_are_told_apart_at_any_length(score: Callable[..., list[float]], query_words: int):
    query = "embargo " * query_words

    held, missing = score(query, ["filler " * 180 + "embargo", "filler " * 180])

    assert held > 0 > missing


def test_padding_beside_a_long_neighbour_changes_nothing(score: Callable[..., list[float]]):
    alone = score("capital of France", ["Paris is the capital of France."])[0]

    beside, _ = score("capital of France", ["Paris is the capital of France.", "Berlin is large. " * 100])

    assert beside == pytest.approx(alone, abs=1e-3)
