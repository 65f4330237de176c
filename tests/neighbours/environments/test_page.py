"""The page at `/` in a real browser, against a real service: what a newcomer does with it, and who tunes retrieval."""

import gzip
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rerankq.contract import keys
from tests.redis_server import free_port
from tests.service import READY_WITHIN_SECONDS, Service

KEY = "a-key-of-ours"
BAD = "<img src=x onerror=alert(1)><script>alert(2)</script>"
MILLISECONDS = 20_000  # what a machine under load may take for what is there at once

Page = Any  # of playwright, which our own environment lacks


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


@contextmanager
def serving(service: Service, **settings: str) -> Iterator[str]:
    """`rerankq serve` over a service; its address."""
    port = free_port()
    with (service.runtime_directory.parent / "serve.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "rerankq.cli", "serve", "--port", str(port)],
            env={**service.environment, **settings},
            stdout=log,
            stderr=log,
        )
    try:
        service.wait_until(lambda: _answers(port), READY_WITHIN_SECONDS)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with serving(service) as address:
        yield address


@contextmanager
def opened(browser: Any, address: str, **context: Any) -> Iterator[Page]:
    """The page, whose browser must have nothing to complain of and nothing to ask anybody else."""
    complaints: list[str] = []
    asked: list[str] = []
    with browser.new_context(permissions=["clipboard-read", "clipboard-write"], **context) as context:
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        yield page
    refused = (
        "error: Failed to load resource: the server responded with a status of"  # Chromium's note on any 4xx
    )
    assert [said for said in complaints if not said.startswith(refused)] == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    with opened(browser, address) as page:
        yield page


def ranked(page: Page) -> list[str]:
    """The texts of the ranking that is shown, best first; waits for one."""
    page.locator("#ranking > li").first.wait_for()
    return page.locator("#ranking .text").all_text_contents()


DROP = """files => {
  const dataTransfer = new DataTransfer();
  for (const [name, bytes] of files) dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
  for (const type of ["dragover", "drop"])
    document.dispatchEvent(new DragEvent(type, {dataTransfer, cancelable: true}));
}"""


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    """Drop files onto the page, all at once."""
    page.evaluate(DROP, [[name, list(content)] for name, content in files])


def lines(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def answer(page: Page, told: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
    """What the service is to say to the next requests, whatever is asked."""
    page.route(
        "**/v1/rerank",
        lambda route: route.fulfill(
            status=status, headers=headers or {}, body=told if isinstance(told, str) else json.dumps(told)
        ),
    )


def test_one_press_of_the_button_ranks_the_example(page: Page) -> None:
    page.get_by_role("button", name="Rank").click()

    assert "digest bamboo" in ranked(page)[0]
    assert page.locator("#told").text_content().startswith("8 documents in ")
    first = page.locator("#ranking > li").first
    assert first.locator(".moved").text_content() == "was 8 ↑7up 7"
    score = float(first.locator(".score").text_content())
    assert first.locator(".bar i").evaluate("bar => parseFloat(bar.style.width)") == pytest.approx(
        100 * score, abs=0.01
    )
    receipt = page.locator("#receipt").inner_text()
    for fact in ("small", "fp32", "sha256:", "tokens", "queued", "score", "cpu0-"):
        assert fact in receipt


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    order = ["query", "clear", "typed", "line", "choose", "top-n", "max-tokens", "key", "whole", "raw", "go"]
    for name in [*order, "curl", "python"]:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id || document.activeElement.value") == name
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    page.locator("#query").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("where do koalas live")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("bread is baked\nkoalas live in Australia")
    page.keyboard.press("Control+Enter")

    assert ranked(page) == ["koalas live in Australia", "bread is baked"]


def _ended_cancelled(redis: Redis) -> bool:
    answers: list[Any] = [redis.get(key) for key in redis.keys(keys.result("*"))]
    return any(b"Cancelled" in answer for answer in answers if answer)


def test_a_request_is_cancelled_by_escape_and_called_off(page: Page, service: Service) -> None:
    engine = service.engine()
    engine.suspend()
    try:
        page.get_by_role("button", name="Rank").click()
        page.get_by_role("button", name="Cancel").wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("cancelled").wait_for()
        with service.redis.client() as redis:
            # the note is gone with the job's end, where a worker was quick
            service.wait_until(lambda: redis.keys(keys.cancel("*")) or _ended_cancelled(redis))
        assert page.get_by_role("button", name="Cancel").is_hidden()
    finally:
        engine.resume()

    page.get_by_role("button", name="Rank").click()
    assert len(ranked(page)) == 8


ROW = {
    "id": "q1",
    "query": "koalas",
    "documents": [{"text": "of bread", "id": "d1"}, {"text": "of koalas", "id": "d2"}],
}
FILES = {
    "json lines": ("a.jsonl", lines(ROW)),
    "in gzip": ("a.jsonl.gz", gzip.compress(lines(ROW))),
    "with a mark of byte order": ("a.jsonl", b"\xef\xbb\xbf" + lines(ROW)),
    "one object over several lines": ("a.json", json.dumps(ROW, indent=2).encode()),
    "an array": ("a.json", json.dumps([ROW], indent=1).encode()),
    "a line of an openai batch": ("a.jsonl", lines({"custom_id": "1", "url": "/v1/rerank", "body": ROW})),
    "texts of tei": ("a.json", lines({"query": "koalas", "texts": ["of bread", "of koalas"]})),
    "positives and negatives": (
        "a.jsonl",
        lines({"query": "koalas", "positive": ["of bread"], "negative": ["of koalas"]}),
    ),
    "rank_llm": (
        "a.jsonl",
        lines(
            {
                "query": {"text": "koalas", "qid": "1"},
                "candidates": [
                    {"docid": "d1", "score": 2, "doc": {"contents": "of bread"}},
                    {"docid": "d2", "score": 1, "doc": {"contents": "of koalas"}},
                ],
            }
        ),
    ),
    "csv": ("a.csv", b'query_id,query,doc_id,text\n1,koalas,d1,"of bread"\n1,koalas,d2,of koalas\n'),
    "tsv": ("a.tsv", b"query_id\tquery\tdoc_id\ttext\n1\tkoalas\td1\tof bread\n1\tkoalas\td2\tof koalas\n"),
}


@pytest.mark.parametrize(("name", "content"), FILES.values(), ids=FILES)
def test_a_file_that_is_dropped_is_asked(page: Page, name: str, content: bytes) -> None:
    drop(page, (name, content))
    page.get_by_text("2 documents").wait_for()

    page.keyboard.press("Control+Enter")

    assert page.locator("#query").input_value() == "koalas"
    assert ranked(page) == ["of koalas", "of bread"]


DOCUMENTS_ALONE = {
    "a text per line": ("a.txt", b"of bread\n\nof koalas\n"),
    "an object per line": ("a.jsonl", lines({"text": "of bread", "id": 1}, {"text": "of koalas", "id": 2})),
    "strings": ("a.json", b'["of bread", "of koalas"]'),
    "between tabs": ("a.tsv", b"1\tof bread\n2\tof koalas\n"),
}


@pytest.mark.parametrize(("name", "content"), DOCUMENTS_ALONE.values(), ids=DOCUMENTS_ALONE)
def test_documents_alone_leave_the_query_as_it_is(page: Page, name: str, content: bytes) -> None:
    page.locator("#query").fill("koalas")

    drop(page, (name, content))
    page.get_by_text("2 documents").wait_for()
    page.keyboard.press("Control+Enter")

    assert ranked(page) == ["of koalas", "of bread"]


def test_a_json_line_that_is_pasted_is_read_as_one_that_is_dropped(page: Page) -> None:
    page.locator("#typed").focus()
    page.keyboard.press("Control+a")
    page.evaluate("text => navigator.clipboard.writeText(text)", lines(ROW).decode())
    page.keyboard.press("Control+v")
    page.get_by_text("2 documents").wait_for()

    assert page.locator("#preview").inner_text().split("\n") == ["d1 of bread", "d2 of koalas"]


def test_of_several_requests_one_is_chosen(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines(ROW, {"query": "second", "documents": ["one"], "top_n": 1}))
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Choose files").click()
    choosing.value.set_files(file)
    page.get_by_text("1 of 2 requests").wait_for()

    page.get_by_role("button", name="The next request").click()

    assert page.locator("#query").input_value() == "second"
    assert page.locator("#top-n").input_value() == "1"
    assert page.locator("#count").text_content() == "1 document"
    page.locator("#row").select_option("0")
    assert page.locator("#query").input_value() == "koalas"
    assert page.locator("#top-n").input_value() == ""


RUN = b"q1 Q0 d2 2 8.5 bm25\nq1 Q0 d1 1 9.5 bm25\nq1 Q0 gone 3 1.5 bm25\n"
QUERIES = b"q1\tkoalas\nq2\tothers\n"
CORPUS = lines({"_id": "d1", "text": "of bread"}, {"_id": "d2", "title": "Of", "text": "koalas"})


def test_a_trec_run_is_asked_with_the_texts_that_are_dropped_with_it_or_later(page: Page) -> None:
    drop(page, ("run.trec", RUN), ("topics.tsv", QUERIES))
    page.get_by_text("3 documents of the run without a text: drop the corpus too").wait_for()

    drop(page, ("texts.jsonl", CORPUS))
    page.get_by_text("2 documents", exact=True).wait_for()
    page.keyboard.press("Control+Enter")

    assert ranked(page) == ["Of koalas", "of bread"]
    assert page.locator("#ranking .name-of").all_text_contents() == ["d2", "d1"]
    assert "1 document of the run without a text" in page.locator("#file-told").text_content()


def test_lines_that_cannot_be_read_are_told_by_their_number(page: Page) -> None:
    drop(page, ("a.jsonl", lines(ROW) + b'\n{"query": "torn", "docu'))

    page.get_by_text("1 line could not be read as JSON, the first is line 2").wait_for()
    assert page.locator("#count").text_content() == "2 documents"

    drop(page, ("a.jsonl", b"# a comment\n{torn\n" + lines(ROW)))
    page.get_by_text("2 lines could not be read as JSON, the first is line 1").wait_for()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PAR1\x00\xff\xfe", "is no text in UTF-8; rerankq bulk reads Parquet"),
        (b"\x1f\x8bbroken", "is packed by gzip and broken"),
        (b'[{"of": "something else"}]', "holds no documents; expected {query, documents}"),
        (b"", "holds no documents"),
    ],
    ids=["parquet", "torn gzip", "another array", "nothing"],
)
def test_a_file_that_cannot_be_read_is_told_and_changes_nothing(
    page: Page, content: bytes, told: str
) -> None:
    drop(page, ("odd.json", content))

    page.get_by_text(told).wait_for()
    assert page.locator("#count").text_content() == "8 documents"


def test_documents_of_several_lines_are_told_apart_by_blank_lines(page: Page) -> None:
    page.locator("#typed").fill("one\nand on\n\ntwo\n \n\nthree\n")
    assert page.locator("#count").text_content() == "4 documents"

    page.get_by_label("blank lines between them").check()

    assert page.locator("#count").text_content() == "3 documents"


def test_what_a_user_writes_stays_text(page: Page) -> None:
    drop(
        page,
        (f"{BAD}.jsonl", lines({"id": BAD, "query": BAD, "documents": [{"text": BAD, "id": BAD}, "b"]}, ROW)),
    )
    page.get_by_text("1 of 2 requests").wait_for()
    page.keyboard.press("Control+Enter")
    assert BAD in ranked(page)
    answer(page, {"message": BAD}, 422, {"Retry-After": BAD.replace("\n", "")})
    page.keyboard.press("Control+Enter")

    page.get_by_role("alert").get_by_text(BAD).first.wait_for()
    assert page.locator("img, script:not(:last-of-type)").count() == 0


def test_a_refusal_is_told_in_the_services_words_with_its_time_to_come_back(page: Page) -> None:
    answer(page, {"message": "the interactive lane is full"}, 429, {"Retry-After": "3"})

    page.get_by_role("button", name="Rank").click()

    alert = page.get_by_role("alert")
    alert.get_by_text("the interactive lane is full").wait_for()
    alert.get_by_text("HTTP 429; come back in 3 seconds").wait_for()


def test_the_services_own_refusal_is_shown(page: Page) -> None:
    page.locator("#top-n").fill("-1")

    page.get_by_role("button", name="Rank").click()

    page.get_by_role("alert").get_by_text("top_n: expected a whole number").wait_for()


@pytest.mark.parametrize("told", ["<html>Bad Gateway</html>", "", "[]", '"x"'])
def test_an_answer_that_is_none_is_told_as_such(page: Page, told: str) -> None:
    answer(page, told)

    page.get_by_role("button", name="Rank").click()

    page.get_by_role("alert").get_by_text("The answer is no ranking.").wait_for()


def test_without_a_query_or_documents_nothing_is_asked(page: Page) -> None:
    page.get_by_role("button", name="Clear all").click()
    page.get_by_role("button", name="Rank").click()
    page.get_by_role("alert").get_by_text("There is no query yet.").wait_for()

    page.keyboard.type("koalas\n")

    page.get_by_role("alert").get_by_text("There are no documents yet.").wait_for()
    assert page.evaluate("document.activeElement.id") == "typed"


def test_a_key_is_asked_for_kept_for_the_session_and_not_copied(browser: Any, service: Service) -> None:
    with serving(service, RERANKQ_HTTP_KEYS=KEY) as address, opened(browser, address) as page:
        page.get_by_role("button", name="Rank").click()
        page.get_by_role("alert").get_by_text("HTTP 401").wait_for()
        page.get_by_text("an API key is asked for").wait_for()

        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        assert len(ranked(page)) == 8

        page.get_by_text("ready: small").wait_for()
        page.get_by_role("button", name="Copy as curl").click()
        assert KEY not in page.evaluate("navigator.clipboard.readText()")
        page.reload()
        assert page.get_by_label("API key").input_value() == KEY
        assert page.evaluate("localStorage.length + document.cookie.length") == 0


def test_what_is_copied_asks_the_same(page: Page) -> None:
    page.locator("#query").fill('it\'s "quoted" \\ $HOME `x` 中国')
    page.locator("#typed").fill("END\nit's $HOME\n'''\"\"\"\n中国的首都")
    page.get_by_role("button", name="Rank").click()
    page.locator("#ranking > li").first.wait_for()
    shown = page.locator("#ranking > li").evaluate_all("rows => rows.map(row => Number(row.dataset.index))")

    page.get_by_role("button", name="Copy as curl").click()
    curl = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Copy as Python").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.startsWith('import'))")
    python = page.evaluate("navigator.clipboard.readText()")

    by_curl = json.loads(subprocess.check_output(["bash", "-c", curl], stderr=subprocess.DEVNULL))
    by_python = subprocess.check_output([sys.executable, "-c", python], text=True)
    assert [result["index"] for result in by_curl["results"]] == shown
    assert [int(line.split()[0]) for line in by_python.splitlines()] == shown


def test_without_https_there_is_a_clipboard_all_the_same(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        page.evaluate("delete Navigator.prototype.clipboard")
        page.get_by_role("button", name="Copy as curl").click()
        page.get_by_role("button", name="Copied").wait_for()
        page.locator("#typed").focus()
        page.keyboard.press("Control+a")
        page.keyboard.press("Control+v")

        assert page.locator("#typed").input_value().startswith(f"curl '{address}v1/rerank'")


def test_behind_a_proxys_prefix_it_asks_there(page: Page, address: str) -> None:
    asked: list[str] = []

    def forward(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(response=route.fetch(url=route.request.url.replace("/behind/", "/")))

    page.route("**/behind/**", forward)
    page.goto(f"{address}behind/")
    page.get_by_text("ready: small").wait_for()
    page.get_by_role("button", name="Rank").click()

    assert len(ranked(page)) == 8
    assert {f"{address}behind/", f"{address}behind/v1/state", f"{address}behind/v1/rerank"} == set(asked)


def test_lanes_and_workers_are_shown_and_looked_at_again_unless_nobody_looks(
    page: Page, service: Service
) -> None:
    page.clock.install()
    page.reload()
    names = {worker.name for worker in service.client.workers()}
    page.locator("#worker-rows tr").first.wait_for()

    assert set(page.locator("#worker-rows td:first-child").all_text_contents()) == names
    assert page.locator("#lanes").inner_text().split() == [
        "interactive",
        "0",
        "waiting",
        "bulk",
        "0",
        "waiting",
    ]
    assert page.locator("#health").text_content().startswith("ready: small on cpu")

    looks: list[str] = []
    page.on("request", lambda request: looks.append(request.url))
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.clock.run_for(60_000)
    assert len(looks) <= 1  # that which was due
    page.evaluate("Object.defineProperty(document, 'hidden', {value: false})")
    with page.expect_request("**/v1/state"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.get_by_text("not up to date").wait_for(state="hidden")
    with page.expect_request("**/v1/state"):
        page.clock.run_for(4_000)


STATES = {
    "no worker": ({"lanes": {}, "workers": [], "redis": True}, 200, "no worker"),
    "none is ready": ({"workers": [{"name": BAD, "state": "loading"}]}, 200, "no worker is ready"),
    "no redis": ({"redis": False}, 200, "Redis is away"),
    "refused": ({"message": "the queue cannot be reached"}, 503, "the queue cannot be reached"),
}


@pytest.mark.parametrize(("told", "status", "shown"), STATES.values(), ids=STATES)
def test_a_service_that_cannot_answer_is_shown_as_such(
    page: Page, told: Any, status: int, shown: str
) -> None:
    page.route("**/v1/state", lambda route: route.fulfill(status=status, body=json.dumps(told)))

    page.reload()

    page.get_by_text(shown, exact=True).wait_for()


def results_of(scores: list[float | None], **further: Any) -> dict[str, Any]:
    rows = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
    return {"results": rows, "complete": True, "model": "small", **further}


def worker_of(model: str, revision: str = "1", *, any_too: bool = True) -> dict[str, Any]:
    return {
        "name": f"{model}-{revision}",
        "state": "ready",
        "model": model,
        "revision": revision,
        "serves_unnamed": any_too,
    }


CHOICES = {
    "one model": ([worker_of("a"), worker_of("a")], []),
    "two": ([worker_of("b"), worker_of("a", any_too=False)], ["", "a", "b"]),
    "two revisions": ([worker_of("a"), worker_of("a", "2")], ["", "a@1", "a@2"]),
    "none answers what names none": ([worker_of(BAD, any_too=False)], [BAD]),
}


@pytest.mark.parametrize(("workers", "offered"), CHOICES.values(), ids=CHOICES)
def test_of_several_models_one_can_be_chosen(
    page: Page, workers: list[dict[str, Any]], offered: list[str]
) -> None:
    told = {"lanes": {}, "workers": workers, "redis": True}
    page.route("**/v1/state", lambda route: route.fulfill(body=json.dumps(told)))
    page.reload()
    page.locator("#worker-rows tr").first.wait_for()

    options = [option.get_attribute("value") for option in page.locator("#model option").all()]
    if offered:
        page.locator("#model").select_option(offered[-1])
    with page.expect_request("**/v1/rerank") as asked:
        page.locator("#go").click()

    assert options == offered
    assert asked.value.post_data_json.get("model") == (offered[-1] if offered else None)


def test_raw_scores_have_bars_from_the_least_to_the_greatest(page: Page) -> None:
    answer(page, results_of([6.0, 1.0, -4.0]))
    page.get_by_label("raw scores").check()

    page.get_by_role("button", name="Rank").click()

    ranked(page)
    widths = page.locator(".bar i").evaluate_all("bars => bars.map(bar => bar.style.width)")
    assert widths == ["100%", "50%", "0%"]


def test_scores_beyond_0_to_1_have_such_bars_too(page: Page) -> None:
    answer(page, results_of([8.5, -1.0, -10.5]))

    page.get_by_role("button", name="Rank").click()

    ranked(page)
    widths = page.locator(".bar i").evaluate_all("bars => bars.map(bar => bar.style.width)")
    assert widths == ["100%", "50%", "0%"]


def test_long_documents_are_read_whole_and_the_window_is_told(page: Page) -> None:
    told = results_of([0.5])
    told["results"][0]["window"] = {"index": 2, "total": 7, "start": 5395, "end": 8406}
    answer(page, told)
    page.get_by_label("long documents whole").check()

    with page.expect_request("**/v1/rerank") as asked:
        page.get_by_role("button", name="Rank").click()

    ranked(page)
    assert asked.value.post_data_json["long_documents"] == "windows"
    assert page.get_by_text("best of 7 windows: number 3, characters 5,395 to 8,406").count() == 1


def test_what_was_cut_and_what_was_not_scored_is_told(page: Page) -> None:
    told = results_of([0.5, None], complete=False, scored=1)
    told["results"][0]["truncated"] = True
    answer(page, told)

    page.get_by_role("button", name="Rank").click()

    ranked(page)
    assert page.get_by_text("only its beginning was read").count() == 1
    assert page.locator(".score").all_text_contents() == ["0.5000", "not scored"]
    assert "1 scored before the time was up" in page.locator("#told").text_content()


def test_of_ten_thousand_documents_in_twenty_megabytes_a_part_is_shown_until_all_are_asked_for(
    page: Page,
) -> None:
    row = '{query: "koalas", documents: Array.from({length: 10000}, (_, index) => `${index} `.padEnd(2000, "k"))}'
    page.evaluate(f"({DROP})([['large.json', new TextEncoder().encode(JSON.stringify({row}))]])")
    page.get_by_text("10,000 documents", exact=True).wait_for()
    told = json.dumps(results_of([0.5] * 10_000))
    page.evaluate(f"fetch = async () => new Response({json.dumps(told)})")  # the small model takes minutes

    page.get_by_role("button", name="Rank").click()

    assert len(ranked(page)) == 100
    page.get_by_role("button", name="Show all 10,000").click()
    page.locator("#ranking > li").nth(9_999).wait_for(state="attached")
    assert (
        page.evaluate("[...document.activeElement.parentElement.children].indexOf(document.activeElement)")
        == 100
    )


def test_a_long_text_is_shown_in_part_until_the_whole_is_asked_for(page: Page) -> None:
    text = "koalas " * 500
    page.locator("#typed").fill(text)
    page.get_by_role("button", name="Rank").click()
    page.get_by_role("button", name="more").wait_for()
    assert len(ranked(page)[0]) < 2_000

    page.get_by_role("button", name="more").click()

    assert ranked(page) == [text.strip()]
    assert page.get_by_role("button", name="less").get_attribute("aria-expanded") == "true"


def test_a_file_too_large_for_a_page_is_refused_unread(page: Page) -> None:
    page.evaluate(f"({DROP})([['huge.jsonl', 65 << 20]])")  # a number makes that many bytes

    page.get_by_text("huge.jsonl has more than 64 MB").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out_by_day_or_night(browser: Any, address: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    def unfit() -> list[str]:
        found = Axe().run(page)
        assert "color-contrast" in {rule["id"] for rule in found.response["passes"]}
        return [f"{rule['help']}: {rule['nodes']}" for rule in found.response["violations"]]

    with opened(browser, address, color_scheme=scheme, reduced_motion="reduce") as page:
        assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 20)") == (
            scheme == "dark"
        )
        page.locator("#worker-rows tr").first.wait_for()
        page.get_by_role("button", name="Rank").click()
        ranked(page)
        assert unfit() == []

        drop(page, ("a.jsonl", lines(ROW, ROW) + b"\n{torn"))
        page.get_by_text("1 of 2 requests").wait_for()
        told = results_of([0.5, 0.25])
        told["results"][0]["truncated"] = True
        answer(page, told)
        page.get_by_role("button", name="Rank").click()
        page.get_by_text("only its beginning was read").wait_for()
        assert unfit() == []

        answer(page, {"message": "wrong"}, 422)
        page.get_by_role("button", name="Rank").click()
        page.get_by_text("HTTP 422").wait_for()
        assert unfit() == []


@pytest.mark.parametrize("width", [320, 400, 768])
def test_a_narrow_screen_scrolls_one_way_only(browser: Any, address: str, width: int) -> None:
    with opened(browser, address, viewport={"width": width, "height": 800}) as page:
        page.locator("#typed").fill("x" * 500)
        page.locator("#worker-rows tr").first.wait_for()
        page.get_by_role("button", name="Rank").click()
        ranked(page)

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        top = page.locator("#ranking > li").first.evaluate("item => item.getBoundingClientRect().top")
        assert 0 < top < 800  # where it can be seen
