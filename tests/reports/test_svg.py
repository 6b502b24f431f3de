"""Inline SVG: the same every time, no clashing ids, nothing from elsewhere, the page's colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

import logitbox as lb
from logitbox.reports.style import INK
from logitbox.reports.svg import to_svg


@pytest.fixture(scope="module")
def svg(recorded):
    return to_svg(lb.calibration(recorded.dump).plot().figure, "one", 'A "diagram" <b>')


def test_is_deterministic(recorded, svg):
    again = to_svg(lb.calibration(recorded.dump).plot().figure, "one", 'A "diagram" <b>')
    assert again == svg


def test_ids_carry_the_name_and_references_resolve(svg):
    ids = set(re.findall(r'\bid="([^"]*)"', svg))
    assert ids
    assert all(name.startswith("one-") for name in ids)
    references = set(re.findall(r"url\(#([^)]*)\)", svg)) | set(re.findall(r'href="#([^"]*)"', svg))
    assert references == ids


def test_ink_follows_the_page_and_backgrounds_are_clear(svg):
    assert INK not in svg
    assert "currentColor" in svg
    assert "#ffffff" not in svg.lower()


def test_is_well_formed_labelled_and_bare(svg):
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'A "diagram" <b>'
    assert svg.startswith("<svg ")
    assert "<style" not in svg
    assert "metadata" not in svg
    assert re.findall(r"http[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    assert "confidence, p(arg-max)" in "".join(root.itertext())


def test_numbers_in_texts_are_not_rounded(recorded, svg):
    ece = lb.calibration(recorded.dump).ece("eval")
    assert f"ECE {ece:.4f}" in svg
