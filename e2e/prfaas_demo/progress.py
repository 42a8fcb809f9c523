"""What the user sees while something takes long: always on standard error, results go to standard output."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_SECONDS = 15.0


@dataclass(eq=False)
class Step:
    """One thing that takes its time.

    Attributes:
        outcome: what stands behind its text in the end.
    """

    teller: Teller
    text: str
    task: TaskID | None
    began: float
    said_at: float
    outcome: str = ""

    def update(self, detail: str) -> None:
        """Say how far it is. Without a terminal this is said only now and then."""
        now = time.monotonic()
        if self.task is not None:
            self.teller.live.update(self.task, detail=escape(detail))
        elif now - self.said_at >= _PLAIN_EVERY_SECONDS:
            self.said_at = now
            self.teller.line(f"  {self.text}: {now - self.began:.0f} s so far; {detail}", "dim")


class Teller:
    """Tells of steps: spinners on a terminal; elsewhere a line that is finished when the step is."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("[dim]{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._unfinished: Step | None = None

    @property
    def _is_live(self) -> bool:
        return self.console.is_terminal

    def line(self, text: str, style: str | None = None) -> None:
        """A line that stays."""
        self._finish_line()
        self._print(f"{text}\n", style)

    def heading(self, text: str) -> None:
        """Starts a part of the demo."""
        self.line(f"\n{text}", "bold")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Spinners can turn within this block."""
        if not self._is_live:
            yield
            return
        with self.live:
            yield

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """A step, told when it begins and when it has ended."""
        now = time.monotonic()
        task = self.live.add_task(escape(text), detail="") if self._is_live else None
        step = Step(self, text, task, now, now)
        if task is None:
            self._begin(step)
        try:
            yield step
        finally:
            if task is not None:
                self.live.remove_task(task)
        seconds = time.monotonic() - now
        self._end(step, f"({seconds:.1f} s)" + (f": {step.outcome}" if step.outcome else ""))

    def _begin(self, step: Step) -> None:
        self._finish_line()
        self._unfinished = step
        self._print(f"  {step.text} ...")

    def _end(self, step: Step, text: str) -> None:
        if self._unfinished is step:
            self._unfinished = None
            self._print(f" ✓ {text}\n")
        else:
            self.line(f"  {step.text} ✓ {text}")

    def _finish_line(self) -> None:
        if self._unfinished is not None:
            self._unfinished = None
            self._print("\n")

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True, end="")
