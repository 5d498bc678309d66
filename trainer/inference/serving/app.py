"""The routes. Starlette brings routing and responses; requests are read, and the OpenAPI document made, by pydantic alone."""

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trainer.inference.serving.answers import Health, ModelCard, ModelList, as_json
from trainer.inference.serving.desk import Desk
from trainer.inference.serving.exchange import Exchange
from trainer.inference.serving.failures import ApiError
from trainer.inference.serving.forms import ChatForm, CompletionForm
from trainer.inference.serving.guard import Guard, failed
from trainer.inference.serving.openapi import document
from trainer.inference.serving.page import chat_page
from trainer.inference.serving.places import Places

_PATHS = frozenset({"/", "/healthz", "/metrics", "/openapi.json", "/v1/models", "/v1/completions", "/v1/chat/completions"})

_INSTEAD = {
    "/v1/responses": "set your client to the chat completions API, /v1/chat/completions",
    "/v1/embeddings": "this model writes text and gives no embeddings",
}
"""What to do where a path of OpenAI's is not served."""


def make_app(desk: Desk, key: str | None, names: frozenset[str] | None, places: Places) -> Starlette:
    """The server's ASGI application.

    Args:
        desk: What requests are taken to.
        key: The API key that requests must bring; None: none.
        names: The host names that may be asked for; None: any.
        places: Room for requests.
    """
    page, policy = chat_page()

    async def index(_: Request) -> Response:
        return Response(page, media_type="text/html", headers={"content-security-policy": policy})

    async def healthz(_: Request) -> Response:
        alive = desk.thread.is_alive
        return _json(Health(status="ok" if alive else "failed"), HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(_: Request) -> Response:
        return Response(desk.metrics.text(), headers={"content-type": desk.metrics.content_type})

    async def openapi(_: Request) -> Response:
        return JSONResponse(document(desk.model.name))

    async def models(_: Request) -> Response:
        return _json(ModelList(object="list", data=[_card(desk)]))

    async def model(request: Request) -> Response:
        desk.check_model(request.path_params["model"])
        return _json(_card(desk))

    async def chat(_: Request) -> Response:
        return Exchange(desk, ChatForm())

    async def complete(_: Request) -> Response:
        return Exchange(desk, CompletionForm())

    return Starlette(
        routes=[
            Route("/", index),
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
            Route("/v1/models", models),
            Route("/v1/models/{model:path}", model),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, key=key, names=names, metrics=desk.metrics, route_of=_route_of, places=places)],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
    )


def _card(desk: Desk) -> ModelCard:
    model = desk.model
    return ModelCard(
        id=model.name,
        object="model",
        created=model.created,
        owned_by="pretrain-run",
        context_tokens=model.context_tokens,
        parameters=model.num_parameters,
    )


def _json(body: Health | ModelList | ModelCard, status: int = 200) -> Response:
    return Response(as_json(body), status, media_type="application/json")


def _route_of(path: str) -> str:
    """A path's name in metrics: few, whatever is asked for."""
    return path if path in _PATHS else "/v1/models/{model}" if path.startswith("/v1/models/") else "other"


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return failed(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, or another method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    words = f"{error.detail}: {request.method} {path}"
    code = error.detail.lower().replace(" ", "_")
    if error.status_code == HTTPStatus.NOT_FOUND and f"/v1{path}" in _PATHS:
        words += "; did you mean /v1" + path + "? A client's base_url ends in /v1 here"
    elif error.status_code == HTTPStatus.NOT_FOUND and path.startswith("/v1/"):
        instead = _INSTEAD.get(path, "this server has /v1/chat/completions, /v1/completions and /v1/models")
        words, code = f"{path} is not served; {instead}", "unsupported_endpoint"
    return failed(ApiError(error.status_code, words, code, headers=error.headers))
