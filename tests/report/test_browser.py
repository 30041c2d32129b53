"""The page as a reader sees it: light and dark, wide and narrow."""

import numpy as np
import pytest
from browser import Browser, needs_chromium
from PIL import Image
from runs import gate, three, violations

from leakage_audit.report import write_report

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = write_report(three(folder, gate(violations(25.0), verdict="exceeded")))["html"]
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.get(path.as_uri())
        yield browser


def brightness(path):
    return np.asarray(Image.open(path).convert("L")).mean()


def test_it_follows_the_readers_colour_scheme(page, tmp_path):
    for scheme in ("light", "dark"):
        page.look(1200, scheme=scheme)
        page.screenshot(tmp_path / f"{scheme}.png")
    assert brightness(tmp_path / "light.png") > 200
    assert brightness(tmp_path / "dark.png") < 90


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_against_its_background(page, scheme):
    """Contrast at least 4.5 to 1 (WCAG AA) for every text with a colour of its own."""
    page.look(1200, scheme=scheme)
    pairs = page.run("""
        const solid = node => { for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (!colour.endsWith(', 0)')) return colour; } return 'rgb(255, 255, 255)'; };
        return [...document.querySelectorAll('h1, h2, p, b, td, th, li, .word, .sub, .key, dt, dd, figcaption, header')]
            .map(node => [getComputedStyle(node).color, solid(node), node.textContent.slice(0, 30)]);
    """)
    assert len(pairs) > 50
    for ink, paper, text in pairs:
        assert contrast(ink, paper) >= 4.5, (text, ink, paper)


def contrast(*colours):
    shades = []
    for colour in colours:
        rgb = [int(x) / 255 for x in colour[4:-1].split(",")]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in rgb]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(shades) / min(shades)


@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_nothing_is_wider_than_the_window(page, width):
    page.look(width)
    assert page.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1280])
def test_the_verdict_is_seen_without_scrolling(page, width):
    page.look(width, 640)
    box = page.run("const r = document.querySelector('.scale').getBoundingClientRect(); return [r.top, r.bottom]")
    assert 0 < box[0] < box[1] < 640


def test_pictures_are_shown_and_nothing_is_asked_of_the_network(page):
    page.look(1200)
    assert all(page.run("return [...document.images].map(image => image.complete && image.naturalWidth > 0)"))
    assert (
        page.run("return performance.getEntriesByType('resource').filter(x => !x.name.startsWith('data:')).length") == 0
    )
    assert page.complaints() == []
