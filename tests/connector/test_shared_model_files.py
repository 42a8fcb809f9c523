"""Copies of tokenizer files: whole ones of this run or none, within bounds."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from prfaas_connector import model_files
from prfaas_connector.local_api.model_files import ModelFile, folder_beside
from prfaas_connector.model_files import ModelFilesError, remove, share


def source(folder: Path, **content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name.replace("__", ".")).write_bytes(text)
    return folder


def finder(folder: Path):  # type: ignore[no-untyped-def]
    return lambda name: folder / name if (folder / name).exists() else None


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_folder_lies_beside_the_socket() -> None:
    assert folder_beside(Path("/run/prfaas/engine.sock")) == Path("/run/prfaas/engine.model")


def test_known_files_are_copied_and_named_with_size_and_digest(tmp_path: Path) -> None:
    own = source(tmp_path / "m", tokenizer__json=b"{1}", chat_template__jinja=b"hi", model__safetensors=b"w")
    shared = tmp_path / "e.model"
    umask = os.umask(0o077)
    try:
        files = share(finder(own), shared)
    finally:
        os.umask(umask)
    assert files == (
        ModelFile("tokenizer.json", 3, hashlib.sha256(b"{1}").hexdigest()),
        ModelFile("chat_template.jinja", 2, hashlib.sha256(b"hi").hexdigest()),
    )
    assert names(shared) == {"tokenizer.json", "chat_template.jinja"}
    # The sidecar is another user.
    assert shared.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in shared.iterdir()} == {0o644}


def test_what_an_earlier_run_left_goes(tmp_path: Path) -> None:
    own, shared = source(tmp_path / "m", tokenizer__json=b"{new}"), tmp_path / "e.model"
    source(shared, tokenizer__json=b"{old}", chat_template__jinja=b"old")
    (shared / ".tokenizer.json.7").write_bytes(b"half")
    share(finder(own), shared)
    assert names(shared) == {"tokenizer.json"}
    assert (shared / "tokenizer.json").read_bytes() == b"{new}"


def test_a_link_into_the_hubs_cache_is_copied_as_its_content(tmp_path: Path) -> None:
    blob = source(tmp_path / "blobs", abc=b"{}") / "abc"
    snapshot = source(tmp_path / "snapshot")
    (snapshot / "tokenizer.json").symlink_to(blob)
    share(finder(snapshot), tmp_path / "e.model")
    copy = tmp_path / "e.model" / "tokenizer.json"
    assert not copy.is_symlink()
    assert copy.read_bytes() == b"{}"


@pytest.mark.parametrize("wrong", ["missing", "large", "folder", "link", "read-only"])
def test_what_cannot_be_shared_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    own, shared = (
        source(tmp_path / "m", tokenizer__json=b"{}", chat_template__jinja=b"hi"),
        tmp_path / "e.model",
    )
    words = ""
    if wrong == "missing":
        (own / "tokenizer.json").unlink()
        words = "has no tokenizer.json"
    elif wrong == "large":
        monkeypatch.setattr(model_files, "MAX_BYTES", 1)
        words = "tokenizer.json is larger than 1 bytes"
    elif wrong == "folder":
        (own / "chat_template.jinja").unlink()
        (own / "chat_template.jinja").mkdir()
        words = "chat_template.jinja: Is a directory"
    elif wrong == "link":
        source(tmp_path / "elsewhere", precious=b"1")
        shared.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        words = "is a link"
    else:
        shared = tmp_path / "file" / "e.model"
        shared.parent.write_text("not a folder")
        words = "Not a directory"
    with pytest.raises(ModelFilesError, match=words):
        share(finder(own), shared)
    if wrong == "link":
        assert names(tmp_path / "elsewhere") == {"precious"}
    else:
        assert not shared.exists()


def test_the_files_go_with_their_run(tmp_path: Path) -> None:
    shared = tmp_path / "e.model"
    share(finder(source(tmp_path / "m", tokenizer__json=b"{}")), shared)
    remove(shared)
    remove(shared)
    assert not shared.exists()


@pytest.mark.parametrize(
    ("name", "size", "digest"),
    [
        ("tls.key", 1, "0" * 64),
        ("../tokenizer.json", 1, "0" * 64),
        ("tokenizer.json", -1, "0" * 64),
        ("tokenizer.json", (64 << 20) + 1, "0" * 64),
        ("tokenizer.json", 1, "0" * 63),
        ("tokenizer.json", 1, "G" * 64),
    ],
)
def test_nothing_else_is_a_model_file(name: str, size: int, digest: str) -> None:
    with pytest.raises(ValueError, match="model file"):
        ModelFile(name, size, digest)
