"""The demo's prompts: pages of a harbour's log book, made from a seed, each ending in a question."""

from __future__ import annotations

import random
from dataclasses import dataclass

CUT_NAME = "link cut"
# Of the log's own words, measured with SmolLM2's tokenizer.
CHARACTERS_PER_TOKEN = 4.3

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SHIPS = (
    "Amelia", "Northern Star", "Good Hope", "Kittiwake", "Wanderer", "Saint Olaf", "Marigold", "Fair Isle",
    "Albatross", "Three Sisters", "Lantern", "Silver Spray",
)  # fmt: skip
_KINDS = ("schooner", "brig", "cutter", "steamer", "fishing boat", "barge", "ketch")
_PORTS = ("Bergen", "Leith", "Rotterdam", "Riga", "Aberdeen", "Hamburg", "Lisbon", "Stavanger", "Cork")
_CARGOES = (
    "timber and dried fish", "coal", "barrels of herring", "window glass", "wool", "salt", "tea and spices",
    "slates for the new school", "iron nails", "oranges", "paper and ink", "clay pipes",
)  # fmt: skip
_CAPTAINS = ("Holm", "MacLeod", "de Vries", "Petersen", "Grant", "Ivarsson", "Brandt", "Oliveira")
_WINDS = (
    "a light wind from the south-west", "a stiff north-easterly", "fog until noon", "rain in the evening",
    "a heavy swell outside the bar", "clear skies and a falling glass", "a calm sea",
)  # fmt: skip
_NEEDS = (
    "fresh water and bread", "two new sails", "a doctor for the cook", "a pilot for the morning tide",
    "rope, tar and a spare anchor", "coal for the galley", "letters to be sent on by the mail coach",
)  # fmt: skip
_EVENTS = (
    "The lamp on the mole was cleaned and filled.",
    "Two boys were fined for fishing from the pilot stairs.",
    "The crane stood still for an hour because its chain had to be greased.",
    "A seal slept on the slipway and would not be moved.",
    "The ferry was late, and nobody could say why.",
    "The customs officer counted everything twice and found one barrel too many.",
    "The dredger worked at the eastern basin all day.",
    "The harbour office received a new clock, which is already four minutes slow.",
    "The baker complained about the smell of the fish market.",
    "The tide stood higher than at any time since spring.",
)


@dataclass(frozen=True)
class Prompt:
    """One request of the demo.

    Attributes:
        name: what the table calls it.
        text: the user's message.
        expects: what must become of it: "local", or "remote".
        cut: whether the link is cut while its KV crosses.
        note: a sentence for the user.
    """

    name: str
    text: str
    expects: str
    note: str
    cut: bool = False


def log_book(title: str, tokens: int) -> str:
    """Pages of about so many tokens. The same title gives the same pages, another one others from the first
    word on."""
    draw = random.Random(title)  # noqa: S311 - prose, not secrets
    entries = [f"{title}: from the log book of the harbour office."]
    size, day = len(entries[0]), 0
    while size < tokens * CHARACTERS_PER_TOKEN:
        day += 1
        entry = _entry(draw, day)
        entries.append(entry)
        size += len(entry) + 1
    return "\n".join(entries)


def _entry(draw: random.Random, day: int) -> str:
    ship, kind, captain = draw.choice(_SHIPS), draw.choice(_KINDS), draw.choice(_CAPTAINS)
    came = (
        f"the {kind} {ship} came in from {draw.choice(_PORTS)} with {draw.choice(_CARGOES)}; "
        f"Captain {captain} asked for {draw.choice(_NEEDS)} and paid {draw.randint(3, 90)} crowns in dues."
    )
    left = f"The {draw.choice(_SHIPS)} left for {draw.choice(_PORTS)} with {draw.choice(_CARGOES)}."
    return f"{_DAYS[day % 7]}, day {day}, {draw.choice(_WINDS)}: {came} {left} {draw.choice(_EVENTS)}"


def demo_prompts(scale: float = 1.0) -> tuple[Prompt, ...]:
    """The demo's requests, in order. `scale` multiplies the lengths of the long ones."""

    def pages(title: str, tokens: int) -> str:
        return log_book(title, round(tokens * scale))

    question = "\n\nSummarise in three sentences what happened in the harbour."
    first = pages("Harbour of Aldby, spring", 3000)
    more = pages("Harbour of Aldby, early summer", 600)
    return (
        Prompt(
            "short question",
            "Name three things that a lighthouse keeper does every evening.",
            "local",
            "shorter than the threshold, so it stays local",
        ),
        Prompt(
            "long",
            pages("Port of Vesterhavn, winter", 1500) + question,
            "remote",
            "long: prefilled in the east, and its KV crosses the link while it is computed",
        ),
        Prompt("longer", first + question, "remote", "twice as long"),
        Prompt(
            "repeated prefix",
            first + "\n" + more + question,
            "remote",
            "starts like the one before, so only what the west lacks crosses",
        ),
        Prompt(
            CUT_NAME,
            pages("Roads of Sankt Jorgen, autumn", 3000) + question,
            "remote",
            "the link is cut in mid-transfer: what has landed is used, the rest is computed in the west",
            cut=True,
        ),
        Prompt(
            "link restored",
            pages("Quays of Nordby, midsummer", 1500) + question,
            "remote",
            "the link is back: remote again",
        ),
    )
