"""Prints what vLLM's own request path makes of requests; run by the engine's Python, not by pytest.

Reads ``{"model": folder, "cases": [{"path", "body", "template"}]}`` from standard input and writes one list
of token ids, or an error text, per case. ``template`` stands for the engine's ``--chat-template``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from vllm.config import ModelConfig, VllmConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.tokenizers import cached_tokenizer_from_config


async def main() -> None:
    """All cases, in order."""
    task = json.load(sys.stdin)
    model = ModelConfig(model=task["model"], tokenizer=task["model"], dtype="float32", max_model_len=8192)
    renderer = HfRenderer(VllmConfig(model_config=model), cached_tokenizer_from_config(model))
    results = [await tokens(model, renderer, case) for case in task["cases"]]
    print("RESULTS " + json.dumps(results))


async def tokens(model: ModelConfig, renderer: HfRenderer, case: dict[str, Any]) -> list[int] | str:
    """One request through the renderer of vLLM's server."""
    online = OnlineRenderer(
        model,
        renderer,
        request_logger=None,
        chat_template=case.get("template"),
        chat_template_content_format="auto",
        enable_auto_tools=True,
        tool_parser="hermes",
    )
    try:
        if case["path"] == "/v1/chat/completions":
            _, inputs = await online.render_chat(ChatCompletionRequest.model_validate(case["body"]))
        else:
            inputs = await online.render_completion(CompletionRequest.model_validate(case["body"]))
        return list(inputs[0]["prompt_token_ids"])
    except (TypeError, ValueError, VLLMValidationError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    asyncio.run(main())
