"""How images are named, what their base leaves out, and what is refused; tests/e2e builds them."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from prfaas_setup import SetupError, locations
from prfaas_setup.images import PARTS, build, ensure_images
from prfaas_setup.images.archive import read_config, unpack
from prfaas_setup.images.base import reduce_base
from prfaas_setup.images.smoke import run_image

CHECKOUT = Path(__file__).parents[2]


def _tar(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), 1_700_000_000
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def _archive(path: Path, *, user: str = "65532:65532", layer: dict[str, str] | None = None) -> Path:
    """An OCI archive with one layer."""
    inner = _tar(path.with_suffix(".layer"), layer or {"etc/hello": "hi"}).read_bytes()

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    config = json.dumps({"config": {"User": user, "Entrypoint": ["/bin/x"], "Env": ["A=1"]}}).encode()
    manifest = json.dumps(
        {"config": {"digest": f"sha256:{digest(config)}"}, "layers": [{"digest": f"sha256:{digest(inner)}"}]}
    ).encode()
    with tarfile.open(path, "w") as tar:
        contents = {f"blobs/sha256/{digest(blob)}": blob for blob in (inner, config, manifest)}
        contents["index.json"] = json.dumps(
            {"manifests": [{"digest": f"sha256:{digest(manifest)}"}]}
        ).encode()
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_the_base_loses_what_no_program_needs_and_the_address_of_its_source(tmp_path: Path) -> None:
    whole = _tar(
        tmp_path / "whole.tar",
        {
            "./usr/bin/python3.11": "x", "./usr/bin/dpkg": "x", "./usr/bin/tar": "x", "./dev/null": "",
            "./usr/lib/python3.11/ssl.py": "x", "./usr/lib/python3.11/lib2to3/a.py": "x",
            "./usr/lib/x86_64-linux-gnu/libssl.so.3": "x", "./usr/share/doc/a/copyright": "x",
            "./etc/apt/sources.list.d/a.sources": "URIs: http://mirror.example.org", "./etc/mime.types": "x",
        },
    )  # fmt: skip
    reduce_base(whole, tmp_path / "reduced.tar")
    with tarfile.open(tmp_path / "reduced.tar") as tar:
        assert sorted(tar.getnames()) == [
            "etc/group",
            "etc/mime.types",
            "etc/passwd",
            "usr/bin/python3.11",
            "usr/lib/python3.11/ssl.py",
            "usr/lib/x86_64-linux-gnu/libssl.so.3",
        ]
        assert {member.mtime for member in tar} == {0}
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None
        assert b"prfaas:x:65532:65532" in passwd.read()


def test_the_same_base_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = _tar(tmp_path / "whole.tar", {"./usr/bin/python3": "x"})
    for name in ("one.tar", "two.tar"):
        reduce_base(whole, tmp_path / name)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_tag_names_every_file_that_goes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in PARTS.values():
        for path in part.inputs():
            copy = tmp_path / path.relative_to(CHECKOUT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(locations, "checkout", lambda: tmp_path)
    before = {name: build.image_tag(part) for name, part in PARTS.items()}
    source = tmp_path / "gateway" / "prfaas_gateway" / "app.py"
    source.write_text(source.read_text() + "\n")
    after = {name: build.image_tag(part) for name, part in PARTS.items()}
    assert {name for name in PARTS if before[name] != after[name]} == {"gateway"}
    (tmp_path / "images" / "install.py").write_text("")
    assert all(build.image_tag(part) != after[name] for name, part in PARTS.items())
    assert all(re.fullmatch(r"dev-[0-9a-f]{12}", tag) for tag in before.values())


def test_an_unknown_image_is_told_which_there_are() -> None:
    with pytest.raises(SetupError, match="operator, gateway, sidecar, connector"):
        ensure_images(["gatewya"])


@pytest.mark.parametrize("base", ["", "python:3.11-slim"], ids=["none", "a tag"])
def test_a_base_that_moves_is_refused_for_docker(base: str) -> None:
    with pytest.raises(SetupError, match="by digest"):
        build.build_for_engine("docker", base, ["sidecar"])


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(SetupError, match="ENGINE=kaniko"):
        build.build_for_engine("kaniko", "", ["sidecar"])


def test_an_archive_tells_its_digest_and_unpacks(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "image.tar")
    config = read_config(archive)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", config.digest)
    assert (config.entrypoint, config.env, config.user) == (["/bin/x"], ["A=1"], "65532:65532")
    unpack(archive, tmp_path / "root")
    assert (tmp_path / "root" / "etc" / "hello").read_text() == "hi"


def test_a_file_that_is_no_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no index\.json"):
        read_config(_tar(tmp_path / "other.tar", {"a": "b"}))


@pytest.mark.parametrize("user", ["", "root", "0", "0:0", "prfaas"])
def test_an_image_whose_user_pods_would_refuse_is_not_started(tmp_path: Path, user: str) -> None:
    with pytest.raises(SetupError, match="a number that is not 0"):
        run_image(_archive(tmp_path / "image.tar", user=user), [])


def test_the_dockerfiles_have_no_default_base_no_shell_and_a_numeric_user() -> None:
    for part in PARTS.values():
        lines = (part.folder / "Dockerfile").read_text().splitlines()
        assert "ARG BASE" in lines
        assert all(line.startswith('RUN ["') for line in lines if line.startswith("RUN"))
        assert lines.count("USER 65532:65532") == 1
        entrypoints = [line for line in lines if line.startswith("ENTRYPOINT")]
        assert len(entrypoints) == 1
        assert entrypoints[0].startswith('ENTRYPOINT ["python3", "-m"')


@pytest.mark.parametrize("lock", ["operator.txt", "gateway.txt", "sidecar.txt"])
def test_images_install_the_versions_that_the_tests_run_with(lock: str) -> None:
    pinned = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)
    tested = dict(pinned.findall(locations.requirements("dev.txt").read_text()))
    installed = dict(pinned.findall(locations.requirements(lock).read_text()))
    assert installed
    assert installed.items() <= tested.items(), "make lock writes all of them together"
