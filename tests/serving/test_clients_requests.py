"""What real clients send: neutral fields of OpenAI's and of other servers', histories, too much, and prompts to be scored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from tests.support.models import SMALL, model_of
from tests.support.serving import NAME, Server, make_run, serving
from trainer.inference.generation import prompt_ids
from trainer.tokens.tokenizer import END_OF_TEXT, IM_END, TextEncoder

USER: Any = {"role": "user", "content": "What is an elk?"}
LIMIT, CONTEXT = 600, 700


@pytest.fixture(scope="module")
def server(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"serve__max_output_tokens": LIMIT, "serve__context_tokens": CONTEXT}
    with serving(make_run(tmp_path_factory.mktemp("requests"), small_data, **limits)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def encoder(small_data: Path) -> TextEncoder:
    return TextEncoder(small_data / "tokenizer" / "tokenizer.json")


def post(server: Server, path: str, body: Any) -> httpx.Response:
    with server.http() as http:
        return http.post(path, json=body)


def chat_ids(server: Server, messages: list[Any]) -> tuple[str, int]:
    """The greedy answer to a conversation, and how many tokens the conversation has."""
    body = {"model": NAME, "messages": messages, "max_tokens": 12, "temperature": 0}
    answer = post(server, "/v1/chat/completions", body).json()
    return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]


def test_fields_that_ask_for_nothing_else_change_nothing(server: Server, client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": NAME, "messages": [USER], "max_tokens": 12, "seed": 5}
    plain = client.chat.completions.create(**settings).choices[0].message.content
    neutral: dict[str, Any] = {
        "reasoning_effort": "low", "verbosity": "low", "modalities": ["text"], "prompt_cache_key": "k", "store": False,
        "prompt_cache_retention": "24h", "safety_identifier": "s", "user": "u", "service_tier": "auto", "tool_choice": "auto",
        "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"},
        "extra_body": {"top_k": -1, "min_p": 0, "repetition_penalty": 1},
    }  # fmt: skip
    assert client.chat.completions.create(**settings, **neutral).choices[0].message.content == plain
    other = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert client.chat.completions.create(**settings, extra_body=other).choices[0].message.content == plain
    body = {"model": NAME, "prompt": "the", "max_tokens": 12, "seed": 5}
    text = post(server, "/v1/completions", body).json()["choices"][0]["text"]
    made = client.completions.create(**body, extra_body={"top_k": -1, "min_p": 0, "repetition_penalty": 1}, user="u")
    assert made.choices[0].text == text


def test_penalties_and_bias_change_what_is_written(client: openai.OpenAI, encoder: TextEncoder) -> None:
    settings: dict[str, Any] = {"model": NAME, "prompt": "the", "max_tokens": 40, "temperature": 0}
    plain = encoder.encode(client.completions.create(**settings).choices[0].text)
    varied = encoder.encode(client.completions.create(**settings, frequency_penalty=2, presence_penalty=2).choices[0].text)
    assert len(set(varied)) > len(set(plain))
    (dog,) = encoder.encode(" the")
    assert client.completions.create(**settings, logit_bias={str(dog): 100}).choices[0].text == " the" * 40


def test_every_field_may_be_null(server: Server) -> None:
    with server.http() as http:
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
    beyond = dict.fromkeys(("functions", "function_call", "audio", "prediction", "web_search_options", "not_known_at_all"))
    for path, name, needed in (
        ("/v1/chat/completions", "ChatRequest", {"model": NAME, "messages": [USER], "max_tokens": 3}),
        ("/v1/completions", "CompletionRequest", {"model": NAME, "prompt": "the", "max_tokens": 3}),
    ):
        nulls = dict.fromkeys(schemas[name]["properties"])
        response = post(server, path, nulls | beyond | needed)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("stream", [False, True])
def test_more_tokens_than_there_may_be_are_cut_with_a_note(client: openai.OpenAI, stream: bool) -> None:
    long = {"role": "user", "content": "dog " * 150}
    settings: dict[str, Any] = {"model": NAME, "temperature": 0, "stream": stream}
    for messages, words in (
        ([USER], f"4000 was cut to this server's limit of {LIMIT}"),
        ([long], "leaves no more of the context"),
    ):
        raw = client.chat.completions.with_raw_response.create(**settings, messages=messages, max_tokens=4000)
        assert words in raw.headers["x-trainer-note"]
        answer = raw.parse()
        if stream:
            assert list(answer)[-1].choices[0].finish_reason == "length"
        else:
            assert answer.choices[0].finish_reason == "length"
            assert words in answer.note
    raw = client.chat.completions.with_raw_response.create(**settings, messages=[USER], max_tokens=3)
    assert "x-trainer-note" not in raw.headers


def test_later_system_messages_are_joined_to_the_first(server: Server) -> None:
    def system(text: str) -> Any:
        return {"role": "system", "content": text}

    joined = chat_ids(server, [system("Be brief.\n\nBe kind."), USER])
    assert chat_ids(server, [system("Be brief."), USER, system("Be kind.")]) == joined
    assert chat_ids(server, [USER, system("Be brief.")]) == chat_ids(server, [system("Be brief."), USER])


def test_histories_of_real_clients_are_read(server: Server) -> None:
    def called(arguments: str) -> list[Any]:
        call = {"id": "call_1", "type": "function", "index": 0, "function": {"name": "now", "arguments": arguments}}
        nulls = {"content": None, "refusal": None, "audio": None, "function_call": None, "annotations": []}
        return [
            USER,
            {"role": "assistant", "tool_calls": [call], **nulls},
            {"role": "tool", "tool_call_id": "call_1", "content": "5"},
        ]

    assert chat_ids(server, called("")) == chat_ids(server, called("{}"))
    marked = [{"type": "text", "text": USER["content"], "cache_control": {"type": "ephemeral"}}]
    assert chat_ids(server, [{"role": "user", "content": marked, "name": "ann"}]) == chat_ids(server, [USER])


def test_the_oldest_turns_are_left_out_where_a_client_asks_for_that(server: Server) -> None:
    old = [{"role": "user", "content": "dog " * 30}, {"role": "assistant", "content": "one two " * 15}] * 6
    system = {"role": "system", "content": "Be brief."}
    body = {"model": NAME, "messages": [system, *old, USER], "temperature": 0}
    refused = post(server, "/v1/chat/completions", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    response = post(server, "/v1/chat/completions", body | {"truncation": "auto"})
    answer, usage = response.json(), response.json()["usage"]
    note = answer["note"]
    assert note == response.headers["x-trainer-note"]
    left_out = int(note.removeprefix("the oldest ").partition(" messages were left out")[0])
    assert 0 < left_out < len(old)
    kept, more = (
        post(server, "/v1/chat/completions", body | {"messages": [system, *old[count:], USER]}).json()
        for count in (left_out, left_out - 2)
    )
    assert answer["choices"] == kept["choices"]
    room = CONTEXT - CONTEXT // 4
    assert usage["prompt_tokens"] <= room
    assert "error" in more or more["usage"]["prompt_tokens"] > room  # no turn goes that could stay
    alone = body | {"messages": [*old, {"role": "user", "content": "dog " * 800}], "truncation": "auto"}
    assert post(server, "/v1/chat/completions", alone).json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/responses", "set your client to the chat completions API, /v1/chat/completions"),
        ("/v1/embeddings", "gives no embeddings"),
        ("/v1/audio/speech", "this server has /v1/chat/completions"),
        ("/chat/completions", "base_url ends in /v1"),
    ],
)
def test_routes_of_openai_that_are_not_served_say_what_is(server: Server, path: str, words: str) -> None:
    response = post(server, path, {"model": NAME, "input": "x"})
    assert response.status_code == 404
    assert words in response.json()["error"]["message"]


def test_openais_client_is_told_that_there_are_no_responses_and_no_embeddings(client: openai.OpenAI) -> None:
    for call in (client.responses.create, client.embeddings.create):
        with pytest.raises(openai.NotFoundError) as caught:
            call(model=NAME, input="x")  # type: ignore[operator]
        assert caught.value.code == "unsupported_endpoint"


def scores(ids: list[int]) -> list[float]:
    """The log-probability of each id but the first, by the model alone."""
    with torch.no_grad():
        model = model_of(SMALL, len(ids)).eval()
        logits = model.logits(model(torch.tensor([ids])))[0]
    return torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()  # type: ignore[no-any-return]


def lm_eval_score(body: Any, ctxlens: list[int]) -> list[tuple[float, bool]]:
    """How lm-evaluation-harness 0.4.13 reads an answer (LocalCompletionsAPI.parse_logprobs)."""
    results = []
    for choice, ctxlen in zip(sorted(body["choices"], key=lambda each: each["index"]), ctxlens, strict=True):
        told, top = choice["logprobs"]["token_logprobs"][ctxlen:-1], choice["logprobs"]["top_logprobs"][ctxlen:-1]
        results.append((sum(told), all(each == max(of.values()) for each, of in zip(told, top, strict=True))))
    return results


def lm_eval_payload(prompt: Any) -> dict[str, Any]:
    """What lm-evaluation-harness 0.4.13 sends to score texts (LocalCompletionsAPI._create_payload)."""
    return {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}


def test_lm_evals_local_completions_scores_lists_of_ids(server: Server, encoder: TextEncoder) -> None:
    greedy = post(server, "/v1/completions", {"model": NAME, "prompt": "the", "max_tokens": 6, "temperature": 0}).json()
    contexts = [prompt_ids(encoder, "the"), encoder.encode("春 one two "), [END_OF_TEXT], encoder.encode("water " * 200)]
    continued = [encoder.encode(greedy["choices"][0]["text"]), encoder.encode("of é春"), encoder.encode("a dog"), [IM_END, 40]]
    prompts = [[*context, *behind] for context, behind in zip(contexts, continued, strict=True)]
    assert len(prompts[-1]) > 256  # read in several steps
    for batch in ([0, 1, 2, 3], [2], [2], [3, 0]):
        response = post(server, "/v1/completions", lm_eval_payload([prompts[each] for each in batch]))
        found = lm_eval_score(response.json(), [len(contexts[each]) for each in batch])
        for each, (score, is_greedy) in zip(batch, found, strict=True):
            wanted = scores(prompts[each])[len(contexts[each]) - 1 :]
            assert len(wanted) == len(continued[each])
            assert score == pytest.approx(sum(wanted), abs=2e-4)
            assert is_greedy == (each == 0)


def test_a_last_id_that_ends_the_text_has_an_entry_too(server: Server, encoder: TextEncoder) -> None:
    for seed in range(200):  # until the one id that is written is an end
        body = lm_eval_payload([encoder.encode("the dog")]) | {"temperature": 2, "seed": seed}
        choice = post(server, "/v1/completions", body).json()["choices"][0]
        assert len(choice["logprobs"]["token_logprobs"]) == len(encoder.encode("the dog")) + 1
        if choice["finish_reason"] == "stop":
            return
    pytest.fail("no text ended at once")


def test_lm_evals_generation_is_served(server: Server, encoder: TextEncoder) -> None:
    stops = ["\nclass", "\ndef", "\n#", "\nif", "\nprint", "<|im_end|>"]
    payload = {
        "prompt": [encoder.encode("the"), encoder.encode("a dog")], "model": NAME, "max_tokens": 256, "temperature": 0,
        "stop": stops, "seed": 1234,
    }  # fmt: skip
    choices = post(server, "/v1/completions", payload).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]


def test_echo_tells_the_prompt_and_where_each_token_stands(client: openai.OpenAI, encoder: TextEncoder) -> None:
    prompt = "the 春 dog"
    settings: dict[str, Any] = {"model": NAME, "temperature": 0, "echo": True}
    plain = client.completions.create(model=NAME, prompt=prompt, max_tokens=8, temperature=0).choices[0].text
    whole = client.completions.create(**settings, prompt=prompt, max_tokens=8, logprobs=2).choices[0]
    chunks = [
        each.choices[0] for each in client.completions.create(**settings, prompt=prompt, max_tokens=8, logprobs=2, stream=True)
    ]
    assert whole.text == prompt + plain == "".join(chunk.text for chunk in chunks)
    told = whole.logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert told.token_logprobs[: len(encoder.encode(prompt))] == pytest.approx(scores(prompt_ids(encoder, prompt)), abs=2e-4)
    offsets = [offset for chunk in chunks if chunk.logprobs for offset in chunk.logprobs.text_offset or []]
    assert told.text_offset == offsets == sorted(offsets)
    assert [whole.text[start] for start in offsets[: len(encoder.encode(prompt))]] == [
        prompt[len(encoder.decode_bytes(encoder.encode(prompt)[:count]).decode(errors="ignore"))]
        for count in range(len(encoder.encode(prompt)))
    ]
    only = client.completions.create(**settings, prompt=encoder.encode(prompt), max_tokens=0, logprobs=0)
    choice = only.choices[0]
    assert choice.logprobs is not None
    assert (choice.text, only.usage and only.usage.completion_tokens) == (prompt, 0)
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert len(choice.logprobs.token_logprobs) == len(encoder.encode(prompt))
    with pytest.raises(openai.BadRequestError, match="set echo to true"):
        client.completions.create(model=NAME, prompt=prompt, max_tokens=0)


def test_tokens_that_are_no_whole_characters_do_not_collide(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NAME, prompt="春", max_tokens=40, temperature=2, seed=1, logprobs=5, n=4)
    odd = 0
    for choice in answer.choices:
        assert choice.logprobs is not None
        for token, top in zip(choice.logprobs.tokens or [], choice.logprobs.top_logprobs or [], strict=True):
            assert token in top
            assert len(top) in (5, 6)
            odd += sum(each.startswith("bytes:\\x") for each in top)
    assert odd
