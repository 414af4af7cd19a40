"""The rerank server that guides to deploying a cross-encoder write, as they write it.

`uvicorn guide:app`, with the model's folder in `MODEL`. Guides differ in one word: `async def` or
`def`; `HANDLER` chooses.
"""
# ruff: noqa: UP006, UP035, FAST - as guides have it

import os
from typing import List

from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

app = FastAPI()
model = CrossEncoder(os.environ["MODEL"])


class RerankRequest(BaseModel):
    query: str
    documents: List[str]


def answer(request: RerankRequest) -> dict:
    pairs = [[request.query, document] for document in request.documents]
    scores = model.predict(pairs)
    results = [
        {"index": index, "score": float(score), "document": document}
        for index, (document, score) in enumerate(zip(request.documents, scores, strict=True))
    ]
    results.sort(key=lambda result: result["score"], reverse=True)
    return {"results": results}


if os.environ["HANDLER"] == "async def":

    @app.post("/rerank")
    async def rerank(request: RerankRequest):
        return answer(request)

else:

    @app.post("/rerank")
    def rerank(request: RerankRequest):
        return answer(request)


@app.get("/health")
def health():
    return {"status": "ok"}
