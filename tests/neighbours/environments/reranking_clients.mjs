// What reranking_clients.py is for Python, for Node: the same arguments, the same answers.

const MODEL = "rerank-v3.5"; // whatever people left in that field
const PATIENT = { maxRetries: 0 };

const places = (rows, score = "relevanceScore") => rows.map((row) => [row.index, row[score]]);

// By name: a function of address and key that gives one of query, documents and topN.
const CLIENTS = {
  async node_cohere_v2(url, key) {
    const { CohereClientV2 } = await import("cohere-ai");
    const ours = new CohereClientV2({ token: key, environment: url });
    return async (query, documents, topN) =>
      places((await ours.rerank({ model: MODEL, query, documents, topN }, PATIENT)).results);
  },

  async node_cohere_v1(url, key) {
    const { CohereClient } = await import("cohere-ai");
    const ours = new CohereClient({ token: key, environment: url });
    return async (query, documents, topN) => {
      const asked = { model: MODEL, query, documents, topN, returnDocuments: true };
      const { results } = await ours.rerank(asked, PATIENT);
      if (results.some((row) => row.document.text !== documents[row.index])) throw new Error("another text");
      return places(results);
    };
  },

  async node_langchain_cohere(url, key) {
    const { CohereClient } = await import("cohere-ai");
    const { CohereRerank } = await import("@langchain/cohere");
    const client = new CohereClient({ token: key, environment: url, maxRetries: 0 });
    return async (query, documents, topN) => {
      const given = documents.map((pageContent, place) => ({ pageContent, metadata: { place } }));
      const reranker = new CohereRerank({ client, model: MODEL, topN: topN ?? documents.length });
      const ranked = await reranker.compressDocuments(given, query);
      return ranked.map(({ metadata }) => [metadata.place, metadata.relevanceScore]);
    };
  },

  async node_ai_sdk(url, key) {
    const { rerank } = await import("ai");
    const { createCohere } = await import("@ai-sdk/cohere");
    const model = createCohere({ baseURL: `${url}/v2`, apiKey: key }).reranking(MODEL);
    return async (query, documents, topN) => {
      const { ranking } = await rerank({ model, query, documents, topN, ...PATIENT });
      return ranking.map((row) => [row.originalIndex, row.score]);
    };
  },

  async node_voyageai(url, key) {
    const { VoyageAIClient } = await import("voyageai");
    const ours = new VoyageAIClient({ apiKey: key, environment: `${url}/v1` });
    return async (query, documents, topK) => {
      const asked = { model: MODEL, query, documents, topK, returnDocuments: true };
      const { data } = await ours.rerank(asked, PATIENT);
      if (data.some((row) => row.document !== documents[row.index])) throw new Error("another text");
      return places(data);
    };
  },

  async node_pinecone(url, key) {
    const { Pinecone } = await import("@pinecone-database/pinecone");
    const ours = new Pinecone({ apiKey: key, controllerHostUrl: url, ...PATIENT });
    return async (query, documents, topN) => {
      const given = documents.map((text, place) => ({ id: String(place), text }));
      const { data } = await ours.inference.rerank({ model: MODEL, query, documents: given, topN });
      return places(data, "score");
    };
  },

  async node_mixedbread(url, key) {
    const { Mixedbread } = await import("@mixedbread/sdk");
    const ours = new Mixedbread({ apiKey: key, baseURL: url, ...PATIENT });
    return async (query, input, top_k) =>
      places((await ours.rerank({ model: MODEL, query, input, top_k })).data, "score");
  },
};

function classes(error) {
  const names = [error.name];
  for (let at = error; at; at = Object.getPrototypeOf(at)) names.push(at.constructor.name);
  return names;
}

async function cameOf(rank, [query, documents, topN]) {
  try {
    return await rank(query, documents, topN ?? undefined);
  } catch (error) {
    return { error: classes(error), says: String(error.message) };
  }
}

const [url, key, asked, ...names] = process.argv.slice(2);
for (const name of names) {
  const answers = {};
  for (const [what, asks] of Object.entries(JSON.parse(asked))) {
    const rank = await CLIENTS[name](url, asks[3] ? key : "a-wrong-key");
    answers[what] = await cameOf(rank, asks);
  }
  console.log("ANSWERS", JSON.stringify({ [name]: answers }));
}
