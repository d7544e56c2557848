"""Plain English, as far as the simulated model understands it.

General words only: nothing here belongs to one trade, product or example.
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_SUFFIXES = (("ies", "y"), ("ing", ""), ("ied", "y"), ("ed", ""), ("es", ""), ("s", ""))
_SHORTEST_STEM = 3


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP = _set(
    "a an the of to in on at for from by with and or but if then is are was were be been am do does"
    " did has have had it its this that these those there here i me my we us our you your he she"
    " they them their what which who whom how why can could would should will shall may might must"
    " please about into as so up out not no yes also just any some all get give tell let know need"
    " want like hi hello hey thanks thank ok okay one use used using s t m re ve ll d"
)

# Words that mean about the same when people ask for things.
_MEANINGS = (
    "where status track whereabouts arrive arrival deliver delivery shipped shipment shipping eta",
    "price cost charge fee amount total expensive cheap",
    "weather rain raining sunny forecast temperature cold warm hot snow wind",
    "refund reimburse repay moneyback return",
    "cancel stop terminate abort",
    "leave vacation holiday pto absence",
    "employee staff worker colleague",
    "policy rule guideline allowance entitle entitlement allowed",
    "customer client account user",
    "purchase buy bought order ordered",
    "find search lookup look list show",
    "create make open add new register",
    "update change modify edit correct",
    "city town place location",
    "stock inventory available availability",
    "book reserve booking reservation schedule appointment",
    "balance remaining left",
    "when date day time",
)


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """A word without its ending; crude, and the same on both sides of a comparison."""
    if word.endswith("ss"):
        return word
    for suffix, instead in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _SHORTEST_STEM:
            return word[: -len(suffix)] + instead
    return word[:-1] if word.endswith("e") and len(word) > _SHORTEST_STEM else word


_MEANING = {
    stem(word): f"={group.split()[0]}" for group in reversed(_MEANINGS) for word in group.split()
}


def words(text: str) -> list[str]:
    """The words of a text, in lower case, in order."""
    return _WORD.findall(text.lower().replace("_", " ").replace("\u2019", "'"))


def meaning(word: str) -> frozenset[str]:
    """A word's stem, and what it commonly means."""
    root = stem(word)
    return frozenset({root, _MEANING[root]} if root in _MEANING else {root})


def meanings(text: str) -> frozenset[str]:
    """What a text is about: its content words by stem, and what they commonly mean."""
    found: set[str] = set()
    for word in words(text):
        if word in STOP or len(word) == 1:
            continue
        found |= meaning(word)
    return frozenset(found)


# ---------------------------------------------------------------- of instructions


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in text.split())


LOOKING = _stems(
    "check verify consult query retrieve fetch confirm lookup investigate inspect crosscheck"
    " validate search"
)
USING = _stems(
    "use using call invoke read find examine review rely base ground quote cite follow access run"
    " look"
)
SOURCES = _stems(
    "tool function database record system source document data api catalog directory register"
    " result evidence lookup file"
)
GUESSING = _stems(
    "guess assume invent fabricate hallucinate speculate improvise bluff estimate imagine"
)
MEMORY = _stems("memory intuition instinct gut recollection hunch")
NEGATORS = _set(
    "not never no without avoid avoiding skip skipping ignoring refrain don't dont doesn't won't"
    " cannot can't shouldn't mustn't needn't ignore nor neither unnecessary hardly rarely seldom"
    " stop omit"
)
FLIPS = _set("before until unless")
CONDITIONS = _set("if when whenever where unless")
FRESH = _set("but always then must should please first only however")
NEEDLESS = _set("unnecessary optional pointless needless overkill waste wasteful slow")
VAGUE = _stems("vague vaguely plausible approximate approximately roughly whatever sound")
# What tools do that merely read; it tells no tool from another.
ASKING = _set("get lookup look find search fetch list query check show read retrieve tool call")
UNKNOWN = _stems(
    "unknown missing unsure uncertain unclear unavailable unable absent fail empty nothing"
)
ADMITTING = _stems(
    "say tell ask admit apologize apologise escalate inform explain offer state mention refer"
)
FORMAT = _stems("format json sentence paragraph table bullet concise quote exact exactly include")
