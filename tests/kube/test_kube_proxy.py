"""Proxies that the environment names are looked up once, and ~/.netrc never."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prfaas.kube.connect import configuration_loader, proxy_of_environment

NAMES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://api.example.org:6443", "http://user:word@proxy.example.org:3128"),
        ("https://10.0.0.1", None),
        ("https://api.cluster.local", None),
        ("http://api.example.org", None),
    ],
)
def test_the_environment_is_honoured(monkeypatch: pytest.MonkeyPatch, url: str, proxy: str | None) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:word@proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.1,.cluster.local")
    assert proxy_of_environment(url) == proxy


@pytest.mark.parametrize("named", [None, "http://named.example.org:3128"])
async def test_a_kubeconfig_comes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    cluster = {"server": "https://api.example.org"} | ({"proxy-url": named} if named else {})
    file = tmp_path / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "c", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            }
        )
    )
    configuration = await configuration_loader(file)()
    assert configuration.proxy == (named or "http://proxy.example.org:3128")
    assert configuration.client_session_kwargs == {"trust_env": False}
