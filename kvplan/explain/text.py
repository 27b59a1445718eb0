"""How a block of an explanation reads, as text and as LaTeX: nothing here knows a plan."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from kvplan.explain.named import Step

__all__ = [
    "Block",
    "Made",
    "as_latex",
    "as_text",
    "bracketed",
    "counted",
    "digits",
    "escaped",
    "sentence",
    "spaced",
    "tex_number",
    "times",
]


class Block(NamedTuple):
    """One term explained: heading, steps with lines between them, and closing lines; a line is (text, LaTeX)."""

    path: str
    total: str
    steps: tuple[Step | tuple[str, str], ...]
    lines: tuple[tuple[str, str], ...] = ()
    result: int | float | None = None  # what the steps add up to


def as_text(block: Block) -> str:
    """A block as lines of text; a formula's sentence stands once per block."""
    lines = [f"{block.path} = {block.total}"]
    said = set()
    for step in block.steps:
        if not isinstance(step, Step):
            lines.append(f"  {step[0]}")
            continue
        lines.append(f"  {step.name} = {step.result.symbol}")
        value = f"{step.result.value:,}"
        shown = value if step.result.number == value else f"{step.result.number} = {value}"
        if step.result.symbol != shown:
            lines.append(f"  {' ' * len(step.name)} = {shown}")
        if step.sentence not in said:
            lines.append(f"    {step.sentence}")
            said.add(step.sentence)
    lines += [f"  {text}" for text, _ in block.lines]
    return "\n".join(lines) + "\n"


def as_latex(block: Block) -> str:
    """A block as an ``align*`` environment."""
    rows = []
    for step in block.steps:
        if not isinstance(step, Step):
            rows.append(step[1])
            continue
        name = escaped(step.name)
        value = f"{step.result.value:,}".replace(",", r"\,")
        rows.append(rf"\mathrm{{{name}}} &= {step.result.latex} = {step.result.latex_number} = {value}")
    rows += [tex for _, tex in block.lines]
    body = " \\\\\n".join(rows)
    return f"% {block.path} = {block.total}\n\\begin{{align*}}\n{body}\n\\end{{align*}}\n"


# What a block is made of: a formula applied, a line of (text, LaTeX), or an amount that its total adds up.
Made = Step | tuple[str, str] | int | float


def digits(value: float) -> str:
    """A number in full, or a fraction in six digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def counted(n: int, what: str) -> str:
    """So many of something, in the plural where it takes one."""
    return f"{n:,} {what}{'' if n == 1 else 'es' if what.endswith('s') else 's'}"


def times(one: int, unit: str, *factors: tuple[int, str]) -> Iterator[Made]:
    """An amount multiplied: the line that says by what, and the product."""
    total = one
    for n, _ in factors:
        total *= n
    words = [counted(n, what) for n, what in factors]
    tex = " ".join(rf"\times \text{{{escaped(word)}}}" for word in words)
    yield f"{' '.join(f'× {word}' for word in words)} = {total:,} {unit}", f"&{tex} = {spaced(total)}"
    yield total


def spaced(n: int) -> str:
    """A whole number as LaTeX groups its digits."""
    return f"{n:,}".replace(",", r"\,")


def escaped(text: str) -> str:
    """Text as LaTeX reads it letter by letter."""
    return "".join(TEX.get(letter, letter) for letter in text)


def sentence(text: str) -> tuple[str, str]:
    """A line of words, as text and as LaTeX."""
    return text, rf"&\text{{{escaped(text)}}}"


# What LaTeX reads as more than a letter inside text, and letters that a text font may lack.
TEX = {letter: f"\\{letter}" for letter in "_%&#${}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\^{}",
    "~": r"\~{}",
    "×": r"$\times$",
    "→": r"$\to$",
    "←": r"$\gets$",
    "−": "$-$",
    "≤": r"$\le$",
    "≈": r"$\approx$",
    "⌊": r"$\lfloor$",
    "⌋": r"$\rfloor$",
}


def bracketed(n: Fraction | int) -> str:
    """A number as it stands in a sum: fractions and negative numbers in brackets."""
    exact = Fraction(n)
    text = f"{exact.numerator:,}" if exact.denominator == 1 else f"{exact.numerator:,}/{exact.denominator:,}"
    return text if exact.denominator == 1 and exact >= 0 else f"({text})"


def tex_number(n: Fraction) -> str:
    """A number as it stands in a LaTeX sum: fractions and negative numbers in brackets."""
    return f"{n}" if n.denominator == 1 and n >= 0 else rf"\left({n}\right)"
