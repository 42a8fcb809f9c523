"""The rules of tests/conftest.py do fail the tests that break them."""

from __future__ import annotations

import pytest

from prfaas_setup import locations

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite of its own under the project's conftest."""
    monkeypatch.setenv("PYTHONPATH", str(locations.checkout()))
    for name in ("PRFAAS_REQUIRE_ENGINE", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    markers = "engine\n    engine_full\n    root\n"
    pytester.makeini(f"[pytest]\nasyncio_mode = auto\nmarkers =\n    {markers}")
    return pytester


def run(suite: pytest.Pytester) -> pytest.RunResult:
    # The plug-in lists itself, which is fine for a conftest and not for -p.
    suite.makeconftest("from tests.conftest import *\nfrom tests.conftest import _why_no_engine")
    return suite.runpytest_subprocess("-p", "no:cacheprovider", timeout=100)


def test_a_blocking_call_of_the_project_fails_even_if_caught(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import contextlib, time
        import prfaas

        source = compile("def wait():\\n    time.sleep(0)", prfaas.__file__, "exec")
        exec(source, globals())

        async def test_caught():
            with contextlib.suppress(Exception):
                wait()

        async def test_the_tests_own_calls_may_block():
            time.sleep(0)

        def test_no_loop():
            wait()
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_caught*", "*blocking calls in an event loop*sleep*"]
    )


def test_a_process_left_behind_fails_and_is_ended(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import subprocess

        def test_leaves_a_grandchild():
            subprocess.run(["sh", "-c", "sleep 98765 >/dev/null 2>&1 &"], check=True)

        def test_after_it():
            pass
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*processes left behind: *sleep 98765*"])


ENGINE_TEST = """
    import pytest
    import prfaas_setup

    prfaas_setup.engine_is_built = lambda: False

    @pytest.mark.engine
    def test_it():
        pass
    """


def test_without_the_engine_its_tests_are_skipped_with_the_reason(suite: pytest.Pytester) -> None:
    suite.makepyfile(ENGINE_TEST)
    suite.makeini("[pytest]\naddopts = -ra\nmarkers =\n    engine")
    result = run(suite)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*the engine environment is not built: run make engine*"])


def test_without_the_engine_make_test_is_an_error(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRFAAS_REQUIRE_ENGINE", "1")
    suite.makepyfile(ENGINE_TEST)
    result = run(suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*PRFAAS_REQUIRE_ENGINE is set, but the engine environment is not built*"])
