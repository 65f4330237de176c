"""Other people's reranking clients, each pointed at one address: a program that asks by all of them and prints JSON.

    python reranking_clients.py ADDRESS KEY ASKED NAME…

`ASKED` is JSON, {what is asked: [query, documents, top_n, whether the key is right]}. For each named client it prints
what came of each: [[index, score], …], or {"error": its class and that class's bases, "says": its text}. Retries are
off where a client lets them be.
"""

import asyncio
import json
import os
import sys

CLIENTS = {}
"""By name: a function of address and key that gives one of query, documents and top_n."""

MODEL = "rerank-v3.5"  # whatever people left in that field


def client(make):
    CLIENTS[make.__name__] = make
    return make


def _by_attributes(results, score="relevance_score"):
    return [(result.index, getattr(result, score)) for result in results]


def _by_keys(results):
    return [(result["index"], result["relevance_score"]) for result in results]


@client
def cohere_v2(url, key):
    import cohere

    ours = cohere.ClientV2(api_key=key, base_url=url)

    def rank(query, documents, top_n):
        options = {"top_n": top_n} if top_n else {}
        reply = ours.rerank(
            model=MODEL, query=query, documents=documents, request_options={"max_retries": 0}, **options
        )
        return _by_attributes(reply.results)

    return rank


@client
def cohere_v2_async(url, key):
    import cohere

    async def asked(query, documents, top_n):
        ours = cohere.AsyncClientV2(api_key=key, base_url=url)
        reply = await ours.rerank(
            model=MODEL,
            query=query,
            documents=documents,
            top_n=top_n,
            max_tokens_per_doc=4096,
            request_options={"max_retries": 0},
        )
        return _by_attributes(reply.results)

    return lambda *asks: asyncio.run(asked(*asks))


@client
def cohere_v1(url, key):
    import cohere

    ours = cohere.Client(api_key=key, base_url=url)

    def rank(query, documents, top_n):
        reply = ours.rerank(
            model=MODEL,
            query=query,
            documents=[{"text": document, "title": "not ranked"} for document in documents],
            top_n=top_n,
            return_documents=True,
            request_options={"max_retries": 0},
        )
        assert all(result.document.text == documents[result.index] for result in reply.results)
        return _by_attributes(reply.results)

    return rank


@client
def cohere_v1_async(url, key):
    import cohere

    async def asked(query, documents, top_n):
        ours = cohere.AsyncClient(api_key=key, base_url=url)
        reply = await ours.rerank(
            model=MODEL,
            query=query,
            documents=documents,
            top_n=top_n,
            return_documents=False,
            request_options={"max_retries": 0},
        )
        return _by_attributes(reply.results)

    return lambda *asks: asyncio.run(asked(*asks))


def _langchain(make):
    """Of a document compressor: sync, and once more awaited, which must come to the same."""

    def rank(query, documents, top_n):
        from langchain_core.documents import Document

        given = [Document(text, metadata={"place": place}) for place, text in enumerate(documents)]
        compressor = make(top_n)
        ranked = compressor.compress_documents(given, query)
        awaited = asyncio.run(compressor.acompress_documents(given, query))
        assert awaited == ranked
        return [(found.metadata["place"], found.metadata["relevance_score"]) for found in ranked]

    return rank


@client
def langchain_cohere(url, key):
    from langchain_cohere import CohereRerank

    return _langchain(lambda top_n: CohereRerank(model=MODEL, base_url=url, cohere_api_key=key, top_n=top_n))


@client
def langchain_voyageai(url, key):
    from langchain_voyageai import VoyageAIRerank

    return _langchain(
        lambda top_n: VoyageAIRerank(model=MODEL, base_url=f"{url}/v1", api_key=key, top_k=top_n)
    )


def _llama_index(make):
    def rank(query, documents, top_n):
        from llama_index.core.schema import NodeWithScore, TextNode

        nodes = [NodeWithScore(node=TextNode(text=text, id_=str(at))) for at, text in enumerate(documents)]
        ranked = make(top_n or len(documents)).postprocess_nodes(nodes, query_str=query)
        return [(int(found.node.node_id), found.score) for found in ranked]

    return rank


@client
def llama_index_cohere(url, key):
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    return _llama_index(
        lambda top_n: CohereRerank(model=MODEL, base_url=url, api_key=key, top_n=top_n, max_retries=1)
    )


@client
def llama_index_jina(url, key):
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    return _llama_index(lambda top_n: JinaRerank(model=MODEL, base_url=f"{url}/v1", api_key=key, top_n=top_n))


@client
def llama_index_siliconflow(url, key):
    from llama_index.postprocessor.siliconflow_rerank import SiliconFlowRerank

    return _llama_index(
        lambda top_n: SiliconFlowRerank(model=MODEL, base_url=f"{url}/v1/rerank", api_key=key, top_n=top_n)
    )


@client
def llama_index_tei(url, key):
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    return _llama_index(
        lambda top_n: TextEmbeddingInference(base_url=url, auth_token=f"Bearer {key}", top_n=top_n)
    )


def _haystack(make):
    """Of a ranker that was stored in a pipeline's YAML and read again."""

    def rank(query, documents, top_n):
        from haystack import Document

        given = [Document(content=text, meta={"place": place}) for place, text in enumerate(documents)]
        ranker = make(top_n or len(documents))
        ranker = type(ranker).from_dict(ranker.to_dict())
        if hasattr(ranker, "warm_up"):
            ranker.warm_up()
        return [(found.meta["place"], found.score) for found in ranker.run(query, given)["documents"]]

    return rank


def _stored(key):
    """A secret by the name of a variable: one by value cannot be stored."""
    from haystack.utils import Secret

    os.environ[f"SECRET_{key}"] = key
    return Secret.from_env_var(f"SECRET_{key}")


@client
def haystack_cohere(url, key):
    from haystack_integrations.components.rankers.cohere import CohereRanker

    secret = _stored(key)
    return _haystack(lambda top_n: CohereRanker(model=MODEL, api_base_url=url, api_key=secret, top_k=top_n))


@client
def haystack_jina(url, key):
    from haystack_integrations.components.rankers.jina import JinaRanker

    secret = _stored(key)
    return _haystack(
        lambda top_n: JinaRanker(model=MODEL, base_url=f"{url}/v1/rerank", api_key=secret, top_k=top_n)
    )


@client
def voyageai(url, key):
    import voyageai

    ours = voyageai.Client(api_key=key, base_url=f"{url}/v1", max_retries=0)

    def rank(query, documents, top_n):
        reply = ours.rerank(query, documents, MODEL, top_k=top_n)
        assert reply.total_tokens > 0
        return _by_attributes(reply.results)

    return rank


@client
def voyageai_async(url, key):
    import voyageai

    async def asked(query, documents, top_n):
        ours = voyageai.AsyncClient(api_key=key, base_url=f"{url}/v1", max_retries=0)
        return _by_attributes((await ours.rerank(query, documents, MODEL, top_k=top_n)).results)

    return lambda *asks: asyncio.run(asked(*asks))


@client
def pinecone(url, key):
    from pinecone import Pinecone

    ours = Pinecone(api_key=key, host=url)

    def rank(query, documents, top_n):
        given = [{"id": str(place), "text": text} for place, text in enumerate(documents)]
        reply = ours.inference.rerank(model=MODEL, query=query, documents=given, top_n=top_n)
        assert all(row.document["id"] == str(row.index) for row in reply.data)
        assert reply.usage.rerank_units == 1
        return _by_attributes(reply.data, "score")

    return rank


@client
def mixedbread(url, key):
    from mixedbread import Mixedbread

    ours = Mixedbread(api_key=key, base_url=url, max_retries=0)

    def rank(query, documents, top_n):
        options = {"top_k": top_n} if top_n else {}
        reply = ours.rerank(model=MODEL, query=query, input=documents, return_input=True, **options)
        assert all(row.input == documents[row.index] for row in reply.data)
        return _by_attributes(reply.data, "score")

    return rank


def _litellm(provider, path="", model=MODEL, **fixed):
    def make(url, key):
        import litellm

        litellm.suppress_debug_info = True
        asked = {"model": f"{provider}/{model}", "api_base": url + path, "api_key": key, **fixed}

        def rank(query, documents, top_n):
            asks = {**asked, "query": query, "documents": documents, "num_retries": 0}
            if top_n:
                asks["top_n"] = top_n
            ranked = _by_keys(litellm.rerank(**asks).results)
            assert _by_keys(asyncio.run(litellm.arerank(**asks)).results) == ranked
            return ranked

        return rank

    CLIENTS[f"litellm_{provider}"] = make


for _provider in ("cohere", "hosted_vllm", "jina_ai", "litellm_proxy", "huggingface", "voyage", "azure_ai"):
    _litellm(_provider)
_litellm("together_ai", "/v1")
_litellm(
    "fireworks_ai", "/v1", "accounts/fireworks/models/small"
)  # a name with a slash must be one that is served
_litellm("scaleway", "/v1")
_litellm("infinity", return_documents=False)


@client
def litellm_router(url, key):
    """What LiteLLM's proxy makes of its `config.yaml`."""
    import litellm

    there = {"model": "hosted_vllm/rerank", "api_base": url, "api_key": key}
    router = litellm.Router(
        model_list=[{"model_name": "rerank", "litellm_params": there}], num_retries=0, disable_cooldowns=True
    )

    def rank(query, documents, top_n):
        options = {"top_n": top_n} if top_n else {}
        asked = router.arerank(model="rerank", query=query, documents=documents, **options)
        return _by_keys(asyncio.run(asked).results)

    return rank


@client
def rerankers(url, key):
    from rerankers.models.api_rankers import APIRanker

    ours = APIRanker(MODEL, key, "cohere", verbose=0, url=f"{url}/v1/rerank")

    def rank(query, documents, top_n):
        ranked = ours.rank(query, documents)
        return [(result.doc_id, result.score) for result in ranked.top_k(top_n or len(documents))]

    return rank


@client
def infinity(url, key):
    from infinity_client import AuthenticatedClient
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    ours = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)

    def rank(query, documents, top_n):
        options = {"top_n": top_n} if top_n else {}
        body = RerankInput(query=query, documents=documents, model=MODEL, **options)
        return _by_attributes(rerank.sync(client=ours, body=body).results)

    return rank


def _came_of(rank, asks):
    try:
        return rank(*asks)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return {"error": [kind.__name__ for kind in type(error).__mro__], "says": str(error)}


def _answers(make, url, key, asked):
    ranks = {is_right: make(url, key if is_right else "a-wrong-key") for is_right in (True, False)}
    return {name: _came_of(ranks[is_right], asks) for name, (*asks, is_right) in asked.items()}


if __name__ == "__main__":
    _url, _key, _asked, *_names = sys.argv[1:]
    for _name in _names:
        try:
            told = _answers(CLIENTS[_name], _url, _key, json.loads(_asked))
        except Exception as error:  # noqa: BLE001 - it was not even made
            told = {"not made": repr(error)}
        print("ANSWERS", json.dumps({_name: told}), flush=True)
