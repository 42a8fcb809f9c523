"""What the sidecar may tell gateways and operators of this engine, gathered beside the engine's start."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prfaas_connector.local_api.messages import Facts
from prfaas_connector.local_api.model_files import ModelFile, folder_beside
from prfaas_connector.model_files import ModelFilesError, remove, share

logger = logging.getLogger("prfaas.connector")

MAX_NAMES = 64
_CLOSE_SECONDS = 5.0
_TOKENIZER_MODES = ("auto", "hf")


class Telling:
    """The thread that copies the model's files and tells the facts. Whatever goes wrong in it is logged and
    told; the engine starts and serves without it."""

    def __init__(self, config: Any, socket: str, tell: Callable[[Facts], None]) -> None:
        self._config = config
        self._folder = folder_beside(Path(socket))
        self._tell = tell
        self._thread = threading.Thread(target=self._run, name="prfaas-facts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes the files away again: they are this run's."""
        self._thread.join(_CLOSE_SECONDS)
        try:
            remove(self._folder)
        except OSError as error:
            logger.warning("model files of this run stay in %s: %s", self._folder, error)

    def _run(self) -> None:
        try:
            self._tell(gather(self._config, self._folder, sys.argv))
        except Exception:
            logger.exception("the sidecar cannot be told of this engine; transfers are not affected")


def tell_in_background(config: Any, socket: str, tell: Callable[[Facts], None]) -> Telling:
    """Starts gathering; returns at once."""
    return Telling(config, socket, tell)


def gather(config: Any, folder: Path, arguments: Sequence[str]) -> Facts:
    """The facts, with the model's files copied to ``folder``. ``arguments`` is the engine's command line: its
    API server keeps some settings to itself."""
    model, failure = config.model_config, ""
    files: tuple[ModelFile, ...] = ()
    try:
        files = share(finder(model, arguments), folder)
    except ModelFilesError as error:
        failure = str(error)
        logger.warning("gateways cannot have this engine's tokenizer: %s", failure)
    names = values("--served-model-name", arguments) or [str(model.served_model_name or model.model)]
    return Facts(
        block_tokens=int(config.cache_config.block_size),
        max_model_tokens=int(model.max_model_len),
        served_models=tuple(names[:MAX_NAMES]),
        model_files=files,
        model_files_error=failure[:1000],
        kv_events=kv_events(config),
    )


def kv_events(config: Any) -> tuple[str, ...]:
    """Where the engine publishes its KV events: endpoint, replay endpoint, topic. Empty: nowhere, or each
    data-parallel rank elsewhere, whose caches nobody could tell apart."""
    events = config.kv_events_config
    if events is None or not events.enable_kv_cache_events or events.publisher != "zmq":
        return ()
    if config.parallel_config.data_parallel_size > 1:
        return ()
    return (str(events.endpoint), str(events.replay_endpoint or ""), str(events.topic))


def finder(model: Any, arguments: Sequence[str]) -> Callable[[str], Path | None]:
    """Where the engine has a tokenizer file: its folder, or the hub's cache, as it is on this machine.

    Raises:
        ModelFilesError: this engine's tokenizer is not made of these files.
    """
    if model.skip_tokenizer_init:
        raise ModelFilesError("the engine runs without a tokenizer (--skip-tokenizer-init)")
    if model.tokenizer_mode not in _TOKENIZER_MODES:
        raise ModelFilesError(f"--tokenizer-mode {model.tokenizer_mode} has rules that its files do not tell")
    folder = Path(model.tokenizer)
    if folder.is_dir():
        find: Callable[[str], Path | None] = functools.partial(_in_folder, folder)
    else:
        find = functools.partial(_in_cache, model.tokenizer, model.tokenizer_revision)
    if model.tokenizer_mode == "auto" and find("tekken.json") is not None:
        raise ModelFilesError(
            "the engine may use the model's tekken.json; --tokenizer-mode hf makes it tokenizer.json"
        )
    template = values("--chat-template", arguments)
    if not template:
        return find
    path = Path(template[0])
    if not path.is_file():
        raise ModelFilesError("--chat-template is not the path of a file that the engine can read")
    return lambda name: path if name == "chat_template.jinja" else find(name)


def values(option: str, arguments: Sequence[str]) -> list[str]:
    """What follows an option of a command line, in either way of writing it. The last one counts."""
    spellings = {option, option.replace("_", "-"), "--" + option[2:].replace("-", "_")}
    found: list[str] = []
    for index, word in enumerate(arguments):
        name, separator, value = word.partition("=")
        if name not in spellings:
            continue
        found = [value] if separator else []
        for following in arguments[index + 1 :]:
            if separator or following.startswith("-"):
                break
            found.append(following)
    return found


def _in_folder(folder: Path, name: str) -> Path | None:
    path = folder / name
    return path if path.is_file() else None


def _in_cache(repository: str, revision: str | None, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None
