"""The official openai client against a server process."""

import codecs
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.models import SMALL, model_of, uncached_greedy
from tests.support.serving import DEADLINE_S, NAME, Server, make_run, serving
from trainer.inference.generation import prompt_ids
from trainer.tokens.chat import Message, render_chat
from trainer.tokens.tokenizer import TextEncoder

QUESTION: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is an elk?"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
IMAGE: Any = {"type": "image_url", "image_url": {"url": "data:,"}}
BAD_CALL: Any = {
    "role": "assistant",
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": "[]"}}],
}

SLOTS, QUEUE = 4, 8


@pytest.fixture(scope="module")
def server(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    changes = {"serve__slots": SLOTS, "serve__queue": QUEUE, "serve__max_output_tokens": 2000}
    config = make_run(tmp_path_factory.mktemp("serving"), small_data, **changes)
    with serving(config) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def encoder(small_data: Path) -> TextEncoder:
    return TextEncoder(small_data / "tokenizer" / "tokenizer.json")


def greedy_text(encoder: TextEncoder, prompt: list[int], count: int) -> str:
    ids = uncached_greedy(model_of(SMALL), prompt, count)
    assert not {0, 2} & set(ids)
    assert max(ids) < encoder.vocab_size
    return encoder.decode(ids)


def test_the_model_is_listed_and_another_is_not_found(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object) == (NAME, "model")
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="no model 'other' here"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="other", prompt="x")
    assert caught.value.code == "model_not_found"


def test_a_completion_is_the_models_greedy_text(client: openai.OpenAI, encoder: TextEncoder) -> None:
    answer = client.completions.create(model=NAME, prompt="the", max_tokens=30, temperature=0)
    prompt = prompt_ids(encoder, "the")
    assert answer.choices[0].text == greedy_text(encoder, prompt, 30)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 30)
    of_ids = client.completions.create(model=NAME, prompt=prompt, max_tokens=30, temperature=0)
    assert of_ids.choices[0].text == answer.choices[0].text


def test_a_chat_goes_through_the_template(client: openai.OpenAI, encoder: TextEncoder) -> None:
    rendered = render_chat([Message(**each) for each in QUESTION], add_generation_prompt=True)
    prompt = rendered.encode(encoder).ids
    answer = client.chat.completions.create(model=NAME, messages=QUESTION, max_tokens=20, temperature=0)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == greedy_text(encoder, prompt, 20)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    parts = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, QUESTION[1]]
    again = client.chat.completions.create(model=NAME, messages=parts, max_completion_tokens=20, temperature=0)  # type: ignore[arg-type]
    assert again.choices[0].message.content == answer.choices[0].message.content


def test_a_stream_has_all_fields_and_the_same_text(server: Server, client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": NAME, "messages": QUESTION, "max_tokens": 25, "seed": 3}
    whole = client.chat.completions.create(**settings)
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    assert {(chunk.object, chunk.model) for chunk in chunks} == {("chat.completion.chunk", NAME)}
    *told, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in told)
    assert told[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in told]
    assert reasons == [None] * (len(told) - 1) + [whole.choices[0].finish_reason]
    with server.http() as http, http.stream("POST", "/v1/chat/completions", json=settings | {"stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        chunk = json.loads(line.removeprefix("data: "))
        assert set(chunk) == {"id", "object", "created", "model", "system_fingerprint", "choices"}
        assert set(chunk["choices"][0]) == {"index", "delta", "logprobs", "finish_reason"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_and_no_part_of_it_is_told(client: openai.OpenAI, stream: bool) -> None:
    settings: dict[str, Any] = {"model": NAME, "prompt": "one", "temperature": 1, "seed": 11, "logprobs": 1}
    plain = client.completions.create(**settings, max_tokens=60).choices[0].text
    stop = plain[len(plain) // 2 :][:5]
    wanted = plain[: plain.index(stop)]
    made = client.completions.create(**settings, max_tokens=60, stop=["never in it at all", stop], stream=stream)
    choices = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]
    so_far = ""
    for choice in choices:
        so_far += choice.text
        assert wanted.startswith(so_far)
        assert choice.logprobs is not None
    assert so_far == wanted
    assert choices[-1].finish_reason == "stop"


def test_the_seed_decides_and_the_nth_text_is_that_of_the_nth_seed(client: openai.OpenAI) -> None:
    def texts(seed: int | None, n: int = 1) -> list[str]:
        answer = client.completions.create(model=NAME, prompt="x", max_tokens=12, seed=seed, n=n)
        assert [choice.index for choice in answer.choices] == list(range(n))
        return [choice.text for choice in answer.choices]

    three = texts(5, 3)
    assert three == [*texts(5), *texts(6), *texts(7)]
    assert len(set(three)) == 3
    assert texts(None) != texts(None)


def test_several_prompts_are_answered_in_their_order(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": NAME, "max_tokens": 8, "temperature": 0}
    together = client.completions.create(prompt=["the", "春", "a dog"], **settings)
    alone = [client.completions.create(prompt=prompt, **settings).choices[0].text for prompt in ("the", "春", "a dog")]
    assert [choice.text for choice in together.choices] == alone
    streamed = {0: "", 1: "", 2: ""}
    for chunk in client.completions.create(prompt=["the", "春", "a dog"], stream=True, **settings):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert list(streamed.values()) == alone


def test_logprobs_spell_the_text(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model=NAME, messages=QUESTION, max_tokens=10, seed=1, logprobs=True, top_logprobs=2
    ).choices[0]
    assert chat.logprobs is not None
    assert chat.logprobs.content is not None
    assert b"".join(bytes(each.bytes or []) for each in chat.logprobs.content).decode(errors="replace") == chat.message.content
    assert all(len(each.top_logprobs) == 2 and each.logprob < 0 for each in chat.logprobs.content)
    text = client.completions.create(model=NAME, prompt="the", max_tokens=10, temperature=0, logprobs=1).choices[0]
    assert text.logprobs is not None
    tokens = [bytes_of(each) for each in text.logprobs.tokens or []]
    assert b"".join(tokens).decode(errors="replace") == text.text
    assert text.logprobs.text_offset is not None
    begun = [len(codecs.getincrementaldecoder("utf-8")("replace").decode(b"".join(tokens[:count]))) for count in range(10)]
    assert text.logprobs.text_offset == begun


def bytes_of(token: str) -> bytes:
    """A token's bytes as the older form tells them."""
    return bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:") else token.encode()


def test_tools_are_in_the_prompt_unless_the_choice_is_none(client: openai.OpenAI) -> None:
    def prompt_tokens(**settings: Any) -> int:
        answer = client.chat.completions.create(model=NAME, messages=QUESTION, max_tokens=1, **settings)
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    assert prompt_tokens(tools=[TOOL]) > prompt_tokens() == prompt_tokens(tools=[TOOL], tool_choice="none")


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'system', 'developer'"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"messages": [{"role": "user", "content": "dog " * 4000}]}, "messages", "has no room for it"),
        ({"messages": [QUESTION[1], BAD_CALL]}, None, "messages.1.tool_calls.0.arguments: must be a JSON object"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "less than or equal to 2"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "id 99999 is beyond"),
        ({"logit_bias": {"elk": 1}}, "logit_bias.elk", "should match pattern"),
        ({"top_logprobs": 3}, None, "top_logprobs needs logprobs"),
        ({"extra_body": {"best": True}}, "best", "does not know the field; leave it out"),
        ({"functions": [TOOL["function"]]}, "functions", "send tools"),
        ({"modalities": ["text", "audio"]}, "modalities.1", "should be 'text'"),
        ({"extra_body": {"top_k": 40}}, "top_k", "not served; send -1 or 0"),
        ({"extra_body": {"repetition_penalty": 1.1}}, "repetition_penalty", "set frequency_penalty"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", 'no call can be forced here; send "auto"'),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice", "be forced"),
        ({"response_format": {"type": "json_object"}}, "response_format", "ask for JSON in a message"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0.type", "should be 'text'"),
    ],
)
def test_a_bad_request_names_field_and_rule(client: openai.OpenAI, change: Any, param: str | None, words: str) -> None:
    settings: dict[str, Any] = {"model": NAME, "messages": QUESTION, "max_tokens": 4} | change
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.chat.completions.create(**settings)
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", param)


def test_other_refusals_have_openais_form_and_their_status(server: Server) -> None:
    path, json_type = "/v1/completions", {"content-type": "application/json"}
    with server.http() as http:
        refused = {
            400: http.post(path, content=b"{", headers=json_type),
            404: http.get("/v2"),
            405: http.get(path),
            413: http.post(path, content=b"x" * ((1 << 20) + 1), headers=json_type),
            415: http.post(path, content=b"{}", headers={"content-type": "text/plain"}),
        }
        for status, response in refused.items():
            assert response.status_code == status
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        for name, value in (("host", "evil.example"), ("sec-fetch-site", "cross-site")):
            assert http.get("/v1/models", headers={name: value}).status_code == 403
        big = {"model": NAME, "prompt": "a" * 900_000}
        assert http.post(path, json=big).json()["error"]["code"] == "context_length_exceeded"


def test_eight_clients_at_once_get_what_each_gets_alone(server: Server) -> None:
    prompts = ["the", "a dog", "春", "of", "one two", "water and", "x", "to be or"]

    def ask(prompt: str) -> str:
        with server.client() as client:
            answer = client.completions.create(model=NAME, prompt=prompt, max_tokens=60, temperature=0, stream=True)
            return "".join(chunk.choices[0].text for chunk in answer)

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, prompts)) == alone


def long_stream(client: openai.OpenAI) -> Any:
    """A stream that is under way and goes on for long."""
    stream = client.completions.create(model=NAME, prompt="the", max_tokens=2000, temperature=0, stream=True)
    next(iter(stream))
    return stream


def test_a_client_that_goes_frees_its_slot(server: Server, client: openai.OpenAI) -> None:
    before = server.figure("disconnects_total")
    stream = long_stream(client)
    assert server.figure("texts") == 1
    stream.response.close()
    server.wait_for_figure("disconnects_total", before + 1)
    server.wait_for_figure("texts", 0)
    server.wait_for_figure("texts_running", 0)


def test_overload_is_refused_with_the_time_to_come_again_and_then_over(server: Server) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(QUEUE) as pool:
        clients = [stack.enter_context(server.client()) for _ in range(SLOTS + QUEUE + 1)]
        # those that wait for a slot have no first chunk yet
        running = [long_stream(client) for client in clients[:SLOTS]]
        long: dict[str, Any] = {"model": NAME, "prompt": "the", "max_tokens": 400, "temperature": 0}
        waiting = [pool.submit(client.completions.create, **long) for client in clients[SLOTS:-1]]
        server.wait_for_figure("texts", SLOTS + QUEUE)
        with pytest.raises(openai.RateLimitError) as caught:
            clients[-1].completions.create(model=NAME, prompt="x", max_tokens=1)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.code == "queue_full"
        for stream in running:
            stream.response.close()
        for future in waiting:
            assert future.result(DEADLINE_S).choices
        server.wait_for_figure("texts", 0)
        assert clients[-1].completions.create(model=NAME, prompt="x", max_tokens=1).choices
