"""Runs the demo's course with stand-ins for the engines: `python stand_in_demo.py FOLDER ENGINE OPTION...`

ENGINE is a shell command that runs in place of `vllm`; FOLDER takes it and a tokenizer.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prfaas_demo import command, play
from prfaas_demo.stage import EnginePair, Software
from tests.gateway.tokenizers_for_tests import write_model


def main() -> None:
    folder, engine, options = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    vllm = folder / "vllm"
    vllm.write_text(f"#!/bin/sh\n{engine}\n")
    vllm.chmod(0o755)

    def software(_: EnginePair) -> Software:
        return Software(folder / "python", {"prefill": {}, "decode": {}}, write_model(folder / "model"))

    play._software = software
    command.demo(options)


if __name__ == "__main__":
    main()
