"""Where the small model was in 0.1: whoever still looks here is told where it is now."""

GONE = "rerankq_worker.small_model is gone; `rerankq-worker build-small` puts the small model on disk and says where"

if __name__ == "__main__":
    raise SystemExit(GONE)
raise ImportError(GONE)
