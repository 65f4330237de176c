"""Somebody's application, configured as nobody's example is; as a program, it asks and is told."""

import os

from celery import Celery, chain, chord, group

import rerankq.celery

URL, SERIALIZER = os.environ["RERANKQ_BROKER_URL"], os.environ["SHOP_SERIALIZER"]

app = Celery("shop", broker=URL, backend=URL)
app.conf.update(
    task_default_queue="shop",
    task_routes={"shop.show": {"queue": "shop.pages"}},
    task_serializer=SERIALIZER,
    accept_content=[SERIALIZER, "json"],
    task_acks_late=True,
    task_track_started=True,
    result_extended=True,
    worker_send_task_events=True,
    task_send_sent_event=True,
    broker_transport_options={
        "priority_steps": list(range(10)),
        "sep": ":",
        "queue_order_strategy": "priority",
    },
)
rerankq.celery.route(app)
ranked = rerankq.celery.signature


@app.task(name="shop.search")
def search(query):
    return [f"all about {query}", {"text": "a fish", "id": "fish"}]


@app.task(name="shop.show")
def show(ranking):
    return [result["index"] for result in ranking["results"]]


@app.task(name="shop.count")
def count(rankings):
    return sum(ranking["scored"] for ranking in rankings)


@app.task(name="shop.note", bind=True)
def note(self, *given):
    self.backend.client.rpush("shop:noted", repr(given))


def raised(result):
    try:
        return result.get(timeout=30)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return error


if __name__ == "__main__":
    job = ranked("panda", ["a", "b"], top_n=1).set(priority=7).delay()
    answer = job.get(timeout=30)
    assert (type(answer), answer["scored"], len(answer["results"])) == (dict, 2, 1)

    assert chain(search.s("panda"), ranked("panda"), show.s())().get(timeout=30) in ([0, 1], [1, 0])
    pages = group(chain(search.s("panda"), ranked("panda")) for _ in range(3))
    assert chord(pages, count.s())().get(timeout=30) == 6
    assert chord([search.s("panda"), search.s("bear")], ranked("panda"))().get(timeout=30)["scored"] == 4

    broken = app.send_task("rerankq.rerank", kwargs={"query": "", "documents": ["a"]}, link_error=note.s())
    assert type(raised(broken)).__name__ == "InvalidRequest"
    dead = chord([ranked("panda", ["a"], app=app).set(shadow=5), ranked("panda", ["a"])], count.s())()
    assert type(raised(app.AsyncResult(dead.id))).__name__ == "ChordError"

    assert app.backend.client.blpop("shop:noted", timeout=30), "the errback was not called"
    workers = {name.split("@")[0] for name in app.control.ping(timeout=3) for name in name}
    ours = {"cpu0-interactive", "cpu0-bulk"} if SERIALIZER == "json" else set()  # they read nothing else
    assert workers == {"shop", *ours}, workers
