"""One real vLLM engine in a process of its own, driven by JSON lines. Runs in the engine environment.

Commands on standard input, one JSON object a line:
    {"do": "generate", "id": "a", "prompt": [1, 2], "max_tokens": 8, "params": {...} or null}
    {"do": "abort", "id": "a"}
    {"do": "reset"}          empty the prefix cache
    {"do": "stop"}
Answers on the descriptor named by the first argument: {"ready": …}, {"id", "tokens", "logprobs", "cached",
"params"}, {"id": "abort a", "ended": true|false}, {"reset": true|false}.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import Any

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.inputs import TokensPrompt


def main() -> None:
    answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    arguments: dict[str, Any] = json.loads(sys.argv[2])
    engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        commands.put({"do": "stop"})

    threading.Thread(target=read, daemon=True).start()

    def answer(body: dict[str, Any]) -> None:
        answers.write(json.dumps(body) + "\n")

    answer({"ready": True, "steps": 0})
    # As in the engine's own loop, steps go on while the scheduler has anything left to do, such as telling
    # the workers that an aborted request is over.
    scheduler = engine.engine_core.engine_core.scheduler
    while True:
        busy = scheduler.has_requests()
        while busy is False or not commands.empty():
            command = commands.get()
            match command["do"]:
                case "stop":
                    # Ends the ranks' processes in order, which removes their shared memory.
                    engine.engine_core.shutdown()
                    return
                case "reset":
                    answer({"reset": engine.reset_prefix_cache()})
                case "abort":
                    before = engine.get_num_unfinished_requests()
                    engine.abort_request([command["id"]])
                    ended = before - engine.get_num_unfinished_requests()
                    answer({"id": f"abort {command['id']}", "ended": ended == 1})
                case "generate":
                    extra = {"kv_transfer_params": command["params"]} if command.get("params") else None
                    sampling = SamplingParams(
                        temperature=0.0,
                        # Random prompts send a small model into a loop of one token.
                        repetition_penalty=1.3,
                        max_tokens=command["max_tokens"],
                        ignore_eos=True,
                        logprobs=0,
                        extra_args=extra,
                    )
                    prompt = TokensPrompt(prompt_token_ids=list(command["prompt"]))
                    engine.add_request(command["id"], prompt, sampling)
            busy = scheduler.has_requests()
        began = time.monotonic()
        for output in engine.step():
            if output.finished:
                completion = output.outputs[0]
                logprobs = [next(iter(position.values())).logprob for position in (completion.logprobs or [])]
                answer(
                    {
                        "id": output.request_id,
                        "tokens": list(completion.token_ids),
                        "logprobs": logprobs,
                        "cached": output.num_cached_tokens,
                        "params": output.kv_transfer_params,
                        "finish": completion.finish_reason,
                    }
                )
        if time.monotonic() - began < 0.001:
            time.sleep(0.001)


if __name__ == "__main__":
    main()
