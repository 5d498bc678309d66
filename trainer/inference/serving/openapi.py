"""The OpenAPI document of the server, made from the same models that read its requests and write its answers."""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from trainer import __version__
from trainer.inference.serving.answers import ChatChunk, ChatCompletion, Completion, Health, ModelCard, ModelList
from trainer.inference.serving.failures import ErrorResponse
from trainer.inference.serving.requests import ChatRequest, CompletionRequest

_MODELS: list[tuple[type[BaseModel], JsonSchemaMode]] = [
    (ChatRequest, "validation"),
    (CompletionRequest, "validation"),
    *((each, "serialization") for each in (ChatCompletion, ChatChunk, Completion, ModelCard, ModelList, Health, ErrorResponse)),
]
_REFUSED = {
    "400": "The request breaks a rule, or does not fit into the context",
    "401": "No valid API key",
    "403": "A host name or a page that this server does not answer to",
    "404": "Another model than the one that is served",
    "405": "Another method",
    "408": "The body did not arrive in time",
    "413": "The body is above 1 MiB",
    "415": "The body is not application/json",
    "429": "The queue is full, or your address has too many requests under way; Retry-After says when to come again",
    "503": "Too many requests are under way, or the server is ending",
    "504": "Not done within the deadline",
}


@cache
def document(model_name: str) -> dict[str, Any]:
    """OpenAPI 3.1 as plain values, for a server of this model."""
    schemas, definitions = models_json_schema(_MODELS, ref_template="#/components/schemas/{model}")
    for request in (ChatRequest, CompletionRequest):
        definitions["$defs"][request.__name__]["properties"]["model"]["enum"] = [model_name]
    refs = {model: ref for (model, _), ref in schemas.items()}

    def json_of(model: type[BaseModel]) -> dict[str, Any]:
        return {"application/json": {"schema": refs[model]}}

    def refused(*codes: str) -> dict[str, Any]:
        return {code: {"description": _REFUSED[code], "content": json_of(ErrorResponse)} for code in codes}

    def get(summary: str, answer: dict[str, Any], *codes: str) -> dict[str, Any]:
        return {
            "get": {"summary": summary, "responses": {"200": {"description": summary, "content": answer}, **refused(*codes)}}
        }

    def post(summary: str, takes: type[BaseModel], gives: type[BaseModel], chunk: type[BaseModel]) -> dict[str, Any]:
        words = f"{chunk.__name__} as JSON; the last event is [DONE]"
        event = {"type": "object", "properties": {"data": {"type": "string", "description": words}}, "required": ["data"]}
        streamed = {"text/event-stream": {"schema": event}}
        return {
            "post": {
                "summary": summary,
                "requestBody": {"required": True, "content": json_of(takes)},
                "responses": {
                    "200": {"description": "The answer, whole or streamed", "content": json_of(gives) | streamed},
                    **refused(*_REFUSED),
                },
            }
        }

    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": [model_name]}}
    one_model = get("One model", json_of(ModelCard), "401", "403", "404")
    one_model["get"]["parameters"] = [name]
    health = get("Whether the server can answer; needs no key", json_of(Health), "403")
    health["get"]["responses"]["503"] = {"description": _REFUSED["503"], "content": json_of(Health)}
    health["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {"title": "pretrain-run", "version": __version__, "description": "OpenAI's API over one trained model."},
        "paths": {
            "/v1/chat/completions": post("Answer a conversation", ChatRequest, ChatCompletion, ChatChunk),
            "/v1/completions": post("Continue texts", CompletionRequest, Completion, Completion),
            "/v1/models": get("The served models", json_of(ModelList), "401", "403"),
            "/v1/models/{model}": one_model,
            "/healthz": health,
            "/metrics": get("Figures for Prometheus", {"text/plain": {"schema": {"type": "string"}}}, "401", "403"),
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }
