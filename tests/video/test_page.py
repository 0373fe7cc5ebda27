"""The page: everything in one file, texts escaped, large videos linked."""

import base64
import html.parser
import math
import re

import pytest
from trifold.video.errors import VideoError
from trifold.video.page import Panel, page_html, save_page, shown


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text; fails on a tag that is closed out of order."""

    VOID = frozenset({"meta", "input", "br", "img"})

    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


@pytest.fixture
def panels(tmp_path):
    for name in ("source.mp4", "edit one.mp4"):
        (tmp_path / name).write_bytes(b"video of " + name.encode())
    return [Panel("the source", tmp_path / "source.mp4"), Panel("an edit", tmp_path / "edit one.mp4", "seed 0")]


def test_small_videos_are_embedded(panels, tmp_path):
    save_page(tmp_path / "page" / "index.html", panels, fps=8)
    text = (tmp_path / "page" / "index.html").read_text()
    page = read(text)
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "video"]
    assert all(source.startswith("data:video/mp4;base64,") for source in sources)
    assert [base64.b64decode(s.partition(",")[2]) for s in sources] == [
        b"video of source.mp4",
        b"video of edit one.mp4",
    ]
    assert "const FPS = 8.0;" in text
    # No network: nothing is fetched from anywhere.
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert [p.name for p in (tmp_path / "page").iterdir()] == ["index.html"]


def test_large_videos_are_linked(panels, tmp_path):
    page = read(page_html(panels, folder=tmp_path / "page", fps=8, embedded_bytes=10))
    assert [a["src"] for tag, a in page.tags if tag == "video"] == ["../source.mp4", "../edit%20one.mp4"]


def test_texts_are_escaped(panels, tmp_path):
    bad = '<script>alert("1")</script>&'
    texts = page_html(
        [Panel(bad, panels[0].video, bad), panels[1]],
        folder=tmp_path,
        fps=8,
        title=bad,
        caption=bad,
        scores={bad: {bad: 1.0}},
        facts={bad: bad},
    )
    page = read(texts)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.texts.count(bad) == 9  # title, heading, caption, panel twice, row, column, fact twice
    assert [a["aria-label"] for tag, a in page.tags if tag == "video"] == [bad, "an edit"]


def test_scores_are_a_table(panels, tmp_path):
    scores = {"source": {"PSNR": math.inf, "SSIM": 1.0}, "edit": {"PSNR": 23.4567, "flicker": math.nan}}
    page = read(page_html(panels, folder=tmp_path, fps=8, scores=scores))
    cells = [text for text in page.texts if text.strip()]
    start = cells.index("PSNR")
    assert cells[start : start + 11] == [
        *("PSNR", "SSIM", "flicker"),
        *("source", "∞", "1", "-"),
        *("edit", "23.46", "-", "-"),
    ]
    assert "<table" not in page_html(panels, folder=tmp_path, fps=8)


def test_shown():
    assert [shown(x) for x in (None, math.nan, math.inf, -math.inf, 0.000123456, 12345.6)] == [
        *("-", "-", "∞", "-∞", "0.0001235", "1.235e+04")
    ]


def test_bad_input_is_told(panels, tmp_path):
    out = tmp_path / "index.html"
    for some, fps, message in (
        ([], 8, "at least one video"),
        (panels, 0, "fps must be positive, found 0"),
        (panels, math.nan, "fps must be positive, found nan"),
        ([Panel("x", tmp_path / "none.mp4")], 8, r"none\.mp4: no such file"),
        ([Panel("x", tmp_path / "a.gif")], 8, r"a\.gif: expected one of \.mp4"),
    ):
        with pytest.raises(VideoError, match=message):
            save_page(out, some, fps=fps)
    assert not out.exists()
