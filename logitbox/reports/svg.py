"""Figures as inline SVG: small, the same every time, and in the colours of the page around them."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree as ET

from matplotlib import rc_context
from matplotlib.figure import Figure

from logitbox.reports.style import INK

_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"#([\w.-]+)")
_GEOMETRY = ("d", "x", "y", "width", "height", "points", "transform")
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_NO_ROTATION = re.compile(r"rotate\(-?0(\.0*)? [^)]*\)")
_SPACES = re.compile(r" ?([A-Za-z]) ?(?=[-\d.A-Za-z]|$)")
"""Around the commands of a path."""
_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}


def to_svg(figure: Figure, name: str, label: str) -> str:
    """A figure as an `<svg>` element to be put into an HTML page.

    Args:
        figure: drawn in `figure_style`; its backgrounds become transparent, its ink the page's text colour.
        name: unique within the page; ids inside begin with it, since several SVGs share one document.
        label: what the figure shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "logitbox", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NOTHING)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 (matplotlib wrote it just now)
    _clean(root, name)
    width = root.get("width", "").removesuffix("pt")
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.get("viewBox", ""),
        "style": f"width: {float(width):g}pt",
        "role": "img",
        "aria-label": label,
        "stroke-linejoin": "round",
    }
    return ET.tostring(root, encoding="unicode")


def _clean(root: ET.Element, name: str) -> None:
    """Drop what an inline figure does not need and make its ids and colours fit the page."""
    used = {
        match
        for element in root.iter()
        for value in element.attrib.values()
        for match in _REFERENCE.findall(value)
    }
    for element in root.iter():
        element.tag = _local(element.tag)
        old = {_local(key): value for key, value in element.attrib.items()}
        element.attrib = {
            key: _attribute(key, value, name) for key, value in old.items() if key != "id" or value in used
        }
        if _NO_ROTATION.fullmatch(element.get("transform", "")):
            del element.attrib["transform"]
        if not (element.text or "").strip():
            element.text = None
        element.tail = None
    root[:] = _flattened(root)


def _flattened(element: ET.Element) -> list[ET.Element]:
    """The children, without groups that group nothing and shapes that show nothing."""
    kept: list[ET.Element] = []
    for child in element:
        child[:] = _flattened(child)
        if child.tag in ("g", "defs") and not child.attrib and (child.tag == "g" or len(child) == 0):
            kept += child
        elif child.tag not in ("metadata", "style") and child.get("style") != "fill:none":
            kept.append(child)
    return kept


def _local(qualified: str) -> str:
    return qualified.rpartition("}")[2]


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key in _GEOMETRY:
        rounded = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
        plain = " ".join(rounded.split())
        return _SPACES.sub(r"\1", plain) if key == "d" else plain
    if key == "href":
        return value.replace("#", f"#{name}-")
    value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    return _FONT.sub("", value).replace("; ", ";").replace(": ", ":")
