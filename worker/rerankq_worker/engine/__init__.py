"""The model: load it, score rows of token ids. The only room with torch; knows no queue, no socket, no job.

from rerankq_worker.engine import Engine

engine = Engine.load("BAAI/bge-reranker-v2-m3", device="cpu", dtype="fp32")
logits = engine.score_pairs([("what is a panda?", "The giant panda is a bear.")])
"""

from rerankq_worker.engine.engine import Engine
from rerankq_worker.engine.errors import PrecisionRefused
from rerankq_worker.engine.from_settings import load_engine
from rerankq_worker.scoring import EngineBroken, EngineError, EngineInfo

__all__ = ["Engine", "EngineBroken", "EngineError", "EngineInfo", "PrecisionRefused", "load_engine"]
