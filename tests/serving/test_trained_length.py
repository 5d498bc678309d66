"""The server tells its owner when texts become longer than what the model was trained on."""

from pathlib import Path

from tests.support.serving import NAME, make_run, serving


def test_beyond_the_length_that_was_trained_the_server_warns_once(small_data: Path, tmp_path: Path) -> None:
    config = make_run(tmp_path / "length", small_data)  # rows of 64 tokens, serve.context_tokens 2048
    with serving(config) as server, server.client() as client:

        def write(num_tokens: int) -> str:
            client.completions.create(model=NAME, prompt="elk", max_tokens=num_tokens, temperature=1, seed=3)
            return server.process.text()

        assert "trained on" not in write(40)
        write(150)
        warned = write(150)
    assert warned.count("a text has passed 64 tokens, the longest that this model was trained on") == 1
    assert "set serve.context_tokens to 64" in warned
