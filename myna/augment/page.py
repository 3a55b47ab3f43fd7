"""The page of `myna augment`: players and pictures, before beside after."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

GENERATOR = '<meta name="generator" content="myna augment">'
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --card: #f4f5f7; --soft: #59626e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #111418; --card: #1b2027; --soft: #9aa4b1; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; } a { color: inherit; }
nav a { display: inline-block; padding: .3rem .6rem; margin: .2rem .2rem 0 0; border-radius: .4rem;
  background: var(--card); text-decoration: none; }
section { background: var(--card); border-radius: .6rem; padding: 1rem; margin: 1rem 0; scroll-margin-top: 1rem; }
code { overflow-wrap: anywhere; font-size: .85rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: .6rem 0 0; min-width: 0; } figcaption { font-weight: 600; } audio { width: 100%; margin: .3rem 0; }
.plot { position: relative; margin: .6rem .5rem 2.6rem 3.4rem; }
.plot img { display: block; width: 100%; height: 14rem; image-rendering: pixelated; }
.plot span { position: absolute; font-size: .78rem; line-height: 1; color: var(--soft); white-space: nowrap; }
.y { right: 100%; transform: translateY(50%); padding-right: .35rem; }
.x { top: 100%; transform: translateX(-50%); padding-top: .3rem; }
.unit-y { right: calc(100% + 1.7rem); top: 50%; writing-mode: vertical-rl; transform: rotate(180deg) translateY(50%); }
.unit-x { top: calc(100% + 1.4rem); left: 50%; transform: translateX(-50%); }
"""
LEGEND = (
    "Spectrograms: bright is loud, dark is 70 dB or more below the loudest point of the recording. Features: bright is "
    "above the mean of the bin, by standard deviations. Grey: the clip has ended."
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One side of a comparison."""

    title: str
    sound: str  # file, "" for none
    note: str
    picture: str  # file
    unit: str  # of the vertical axis
    ticks: tuple[tuple[str, float], ...]  # labels of the vertical axis, and where from bottom 0 to top 1
    seconds: float  # that the horizontal axis spans


@dataclass(frozen=True, slots=True)
class Section:
    """One transform."""

    name: str
    summary: str
    parameters: str
    parameters_file: str
    panels: tuple[Panel, Panel]


def render_page(heading: str, sections: Sequence[Section], notes: Sequence[str]) -> str:
    """A page of HTML whose links are relative and whose style is its own."""
    links = "".join(f'<a href="#s{n}">{escape(section.name)}</a>' for n, section in enumerate(sections))
    body = "".join(_section(f"s{n}", section) for n, section in enumerate(sections))
    left_out = "".join(f'<p class="soft">{escape(note)}</p>' for note in notes)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{GENERATOR}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Augmentation of {escape(heading)}</title><style>{STYLE}</style></head><body>"
        f'<h1>Augmentation</h1><p>{escape(heading)}</p><p class="soft">{LEGEND}</p>{left_out}<nav>{links}</nav>{body}'
        "</body></html>\n"
    )


def _section(anchor: str, section: Section) -> str:
    first, _, rest = section.summary.partition("\n\n")
    more = f'<p class="soft">{escape(" ".join(rest.split()))}</p>' if rest else ""
    link = f'<a class="soft" href="{escape(section.parameters_file)}">JSON</a>'
    panels = "".join(_panel(section.name, panel) for panel in section.panels)
    return (
        f'<section id="{anchor}"><h2>{escape(section.name)}</h2><p>{escape(" ".join(first.split()))}</p>{more}'
        f'<p><code>{escape(section.parameters)}</code> {link}</p><div class="pair">{panels}</div></section>\n'
    )


def _panel(name: str, panel: Panel) -> str:
    player = f'<audio controls preload="metadata" src="{escape(panel.sound)}"></audio>' if panel.sound else ""
    note = f'<p class="soft">{escape(panel.note)}</p>' if panel.note else ""
    up = "".join(f'<span class="y" style="bottom:{100 * at:g}%">{escape(text)}</span>' for text, at in panel.ticks)
    along = "".join(
        f'<span class="x" style="left:{100 * second / panel.seconds:.3f}%">{second:g}</span>'
        for second in _even_seconds(panel.seconds)
    )
    return (
        f"<figure><figcaption>{panel.title}</figcaption>{player}{note}"
        f'<div class="plot"><img src="{escape(panel.picture)}" alt="{escape(name)}, {panel.title}" loading="lazy">'
        f'{up}{along}<span class="unit-y">{panel.unit}</span><span class="unit-x">seconds</span></div></figure>'
    )


def _even_seconds(seconds: float) -> list[float]:
    """Round places on the time axis, at most eight."""
    step = next(step for step in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if seconds / step < 8)
    return [round(number * step, 2) for number in range(int(seconds / step) + 1)]
