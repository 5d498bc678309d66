"""llama.cpp's own server over a GGUF file, in a process of its own: it logs to stderr, and its end takes no test along.

python -m tests.support.llama_cpp FILE.gguf REQUESTS.json ANSWERS.json
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

DEADLINE_S = 60.0

Request = tuple[str, dict[str, Any] | None]
"""Path and body of a POST; without a body it is a GET."""


def ask(gguf: Path, requests: Sequence[Request], folder: Path) -> list[Any]:
    """What the server answers to each request, in turn. Fails with the server's log if it does not start or refuses one."""
    asked, answered = folder / "requests.json", folder / "answers.json"
    asked.write_text(json.dumps(requests), encoding="utf-8")
    command = [sys.executable, "-m", __name__, str(gguf), str(asked), str(answered)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    answers: list[Any] = json.loads(answered.read_text(encoding="utf-8"))
    return answers


def main(gguf: str, asked: str, answered: str) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.n_ctx = 0  # as the file says
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # the default, half precision, would let a text part from ours where two ids are nearly as probable
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.warmup = False
    params.endpoint_props = True
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    server = xllamacpp.Server(params)
    answers = []
    with httpx.Client(base_url=server.listening_address, trust_env=False, timeout=DEADLINE_S) as http:
        for path, body in json.loads(Path(asked).read_text(encoding="utf-8")):
            response = http.get(path) if body is None else http.post(path, json=body)
            assert response.is_success, f"{path}: {response.status_code} {response.text}"
            answers.append(response.json())
    Path(answered).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
