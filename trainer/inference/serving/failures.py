"""What a request can meet, in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

_KINDS = frozenset({"str", "int", "constrained-str", "constrained-int"})

_INSTEAD = {
    "functions": "the older form is not served; send tools",
    "function_call": "the older form is not served; send tool_choice",
    "audio": "only text is served; leave it out",
    "prediction": "not served; leave it out",
    "web_search_options": "this server searches nothing; leave it out",
    "top_k": "not served; send -1 or 0, or leave it out, and sample with temperature and top_p",
    "min_p": "not served; send 0, or leave it out, and sample with temperature and top_p",
    "repetition_penalty": "not served; send 1, or leave it out, and set frequency_penalty",
    "typical_p": "not served; sample with temperature and top_p",
}
"""What to do where a field of OpenAI's or another server's is not served."""
_NEUTRAL_ONLY = (["top_k"], ["min_p"], ["repetition_penalty"])
"""Fields that are known, but only with the value that changes nothing."""


class ErrorBody(BaseModel):
    """OpenAI's description of an error."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    message: str
    """What is wrong, and the way out."""
    type: str
    """The family: invalid_request_error, authentication_error, rate_limit_error, server_error."""
    param: str | None
    """The field of the request that it is about."""
    code: str | None
    """A word for programs."""


class ErrorResponse(BaseModel):
    """The body of every response that is not a success."""

    error: ErrorBody


class ApiError(Exception):
    """A request that is refused or given up."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        types = {401: "authentication_error", 429: "rate_limit_error"}
        kind = types.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.body = ErrorResponse(error=ErrorBody(message=message, type=kind, param=param, code=code))


def invalid(error: ValidationError) -> ApiError:
    """What is wrong with a request's body: its first fault, with the field's path.

    Where a field may be of several kinds, that is what is wrong with the kind that fits best, which is looked into deepest.
    """
    faults = error.errors(include_url=False, include_context=False)
    first = max((fault for fault in faults if fault["loc"][:1] == faults[0]["loc"][:1]), key=lambda fault: len(fault["loc"]))
    path = [str(part) for part in first["loc"]]
    # pydantic's own words for the kinds of a union are no fields
    param = ".".join(part for part in path if "[" not in part and part not in _KINDS) or None
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden" or path[-1:] in _NEUTRAL_ONLY:
        message = _INSTEAD.get(path[-1], "this server does not know the field; leave it out")
    return ApiError(400, f"{param}: {message}" if param else message, "invalid_value", param)
