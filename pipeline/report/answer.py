"""Has it learned? The sentence with which a page begins."""

from __future__ import annotations

from html import escape

from marey.pipeline.report.page import number


def answer(
    title: str,
    own: float,
    chance: float,
    untrained: float | None = None,
    *,
    higher_is_better: bool = True,
) -> str:
    """A figure against chance and the untrained encoder (None: not known), and what to do next, as
    a paragraph of HTML."""
    sign = 1 if higher_is_better else -1
    others = [("by chance", chance)]
    if untrained is not None:
        others.insert(0, ("untrained", untrained))
    against = " and ".join(f"{number(value)} {name}" for name, value in others)
    if not all(sign * (own - value) > 0 for _, value in others):
        verdict = "not better: train longer, or with another method (`marey methods`)"
    elif untrained is not None:
        verdict = "better than both"
    else:
        verdict = (
            "better than chance; whether training did it, the untrained encoder tells (--baseline)"
        )
    text = f"{title.capitalize()} {number(own)} against {against}: {verdict}."
    return f'<p class="answer">{escape(text)}</p>'
