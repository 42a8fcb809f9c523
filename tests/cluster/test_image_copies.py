"""An image under another name is the same image."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from prfaas_cluster.oci import File, copy_image, write_image
from prfaas_setup.images.archive import read_config


def _index(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        file = tar.extractfile("index.json")
        assert file is not None
        found: dict[str, Any] = json.load(file)
        return found


def test_a_copy_differs_in_its_name_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    files = {"etc/passwd": File(content=b"root:x:0:0::/:/bin/sh\n"), "tmp": File(0o1777)}
    write_image(first, "example.org/engine:1", files, entrypoint=["/bin/engine"], user="65532")
    copy_image(first, second, "example.org/engine:2")

    assert read_config(second) == read_config(first)
    names = [_index(archive)["manifests"][0]["annotations"] for archive in (first, second)]
    assert [set(each.values()) for each in names] == [{"example.org/engine:1"}, {"example.org/engine:2"}]
    with tarfile.open(first) as one, tarfile.open(second) as other:
        assert other.getnames() == one.getnames()
