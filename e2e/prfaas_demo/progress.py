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
    """One thing that takes its time."""

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
            self.teller.line(f"  {self.text}: {now - self.began:.0f} s, {detail}")


class Teller:
    """Tells of steps: spinners on a terminal, plain lines elsewhere."""

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

    @property
    def _is_live(self) -> bool:
        return self.console.is_terminal

    def line(self, text: str, style: str | None = None) -> None:
        """A line that stays."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        """Starts a part of the demo."""
        self.line("")
        self.line(text, style="bold")

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
        """A step; `outcome`, if the block sets it, stands behind its text in the end."""
        now = time.monotonic()
        task = self.live.add_task(escape(text), detail="") if self._is_live else None
        step = Step(self, text, task, now, now)
        if task is None:
            self.line(f"  {text} ...")
        done = False
        try:
            yield step
            done = True
        finally:
            if task is not None:
                self.live.remove_task(task)
            seconds = time.monotonic() - now
            tail = f": {step.outcome}" if step.outcome else ""
            if done:
                self.line(f"  ✓ {text} ({seconds:.1f} s){tail}")
