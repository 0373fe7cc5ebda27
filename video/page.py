"""One HTML page that plays a source and its edits side by side, frame by frame in step, without a network."""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ..common.weights import replaced_file
from .errors import VideoError

EMBEDDED_BYTES = 20_000_000
KINDS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}

Table = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Panel:
    """One video of the page. `title` is shown as its caption (a prompt), `note` below it (seed, settings)."""

    title: str
    video: Path
    note: str = ""


def save_page(
    path: str | os.PathLike[str],
    panels: Sequence[Panel],
    *,
    fps: float,
    title: str = "Video edits",
    caption: str = "",
    scores: Table | None = None,
    facts: Mapping[str, str] | None = None,
    embedded_bytes: int = EMBEDDED_BYTES,
) -> None:
    """Write the page; it opens from the disk in any browser that plays the files' codec.

    Videos are embedded while together they are at most `embedded_bytes`; beyond that they are linked by relative paths
    and must stay where they are. All texts are escaped. The file appears whole or not at all.

    panels: the source first. fps: frames per second, for stepping by one frame.
    scores: row -> column -> number, a table below the videos. facts: name -> value, a list below it.

    Raises VideoError: no panels, a frame rate that is not positive, a file that is missing or no video by its suffix.
    """
    target = Path(path)
    page = page_html(
        panels,
        folder=target.parent,
        fps=fps,
        title=title,
        caption=caption,
        scores=scores,
        facts=facts,
        embedded_bytes=embedded_bytes,
    )
    with replaced_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")


def page_html(
    panels: Sequence[Panel],
    *,
    folder: Path,
    fps: float,
    title: str = "Video edits",
    caption: str = "",
    scores: Table | None = None,
    facts: Mapping[str, str] | None = None,
    embedded_bytes: int = EMBEDDED_BYTES,
) -> str:
    """The page as text, for a file in `folder`; see `save_page`."""
    if not panels:
        raise VideoError("page: expected at least one video, found none")
    if not (fps > 0 and math.isfinite(fps)):
        raise VideoError(f"page: fps must be positive, found {fps}")
    for panel in panels:
        if panel.video.suffix.lower() not in KINDS:
            raise VideoError(f"{panel.video}: expected one of {', '.join(KINDS)}")
        if not panel.video.is_file():
            raise VideoError(f"{panel.video}: no such file")
    embed = sum(panel.video.stat().st_size for panel in panels) <= embedded_bytes
    figures = "\n".join(_figure(panel, folder, embed, i) for i, panel in enumerate(panels))
    about = f'<p class="about">{html.escape(caption)}</p>' if caption else ""
    wide = _largest_columns(len(panels))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>
<header><h1>{html.escape(title)}</h1>{about}</header>
<div class="stage" style="--columns:{wide}">
{figures}
</div>
{_CONTROLS}
{_table(scores)}{_facts(facts)}</main>
<script>const FPS = {json.dumps(float(fps))};
{_SCRIPT}</script></body></html>
"""


def _figure(panel: Panel, folder: Path, embed: bool, number: int) -> str:
    if embed:
        data = base64.b64encode(panel.video.read_bytes()).decode()
        source = f"data:{KINDS[panel.video.suffix.lower()]};base64,{data}"
    else:
        source = quote(Path(os.path.relpath(panel.video, folder)).as_posix())
    note = f"<small>{html.escape(panel.note)}</small>" if panel.note else ""
    role = ' class="source"' if number == 0 else ""
    return (
        f'<figure{role}><video src="{html.escape(source)}" muted playsinline preload="auto" tabindex="-1" '
        f'aria-label="{html.escape(panel.title)}"></video>'
        f"<figcaption><span>{html.escape(panel.title)}</span>{note}</figcaption></figure>"
    )


def _largest_columns(count: int) -> int:
    """Videos in a row: all up to three, else about a square with at most four."""
    return count if count <= 3 else min(4, math.ceil(math.sqrt(count)))


def _table(scores: Table | None) -> str:
    if not scores:
        return ""
    columns = list(dict.fromkeys(name for row in scores.values() for name in row))
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row)}</th>'
        + "".join(f"<td>{html.escape(shown(values.get(name)))}</td>" for name in columns)
        + "</tr>\n"
        for row, values in scores.items()
    )
    return f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>\n'


def _facts(facts: Mapping[str, str] | None) -> str:
    if not facts:
        return ""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{items}</dl>\n"


def shown(value: float | None) -> str:
    """A number in a table: four significant digits, a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.4g}"


_STYLE = """
:root { color-scheme: light dark; --paper: #f5f3ef; --card: #fff; --ink: #26282d; --soft: #5d6068; --line: #e0dcd3;
  --accent: #b4572e; }
@media (prefers-color-scheme: dark) { :root { --paper: #17181b; --card: #212327; --ink: #e9e7e2; --soft: #a2a5ac;
  --line: #373a40; --accent: #e2926a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 'Helvetica Neue', Helvetica, Arial,
  sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 34px 24px 56px; }
h1 { font-size: 28px; font-weight: 600; letter-spacing: -0.01em; margin: 0; }
.about { margin: 4px 0 0; color: var(--soft); max-width: 90ch; white-space: pre-line; }
header { margin: 0 0 22px; }
.stage { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
figure.source { border-color: var(--accent); }
video { display: block; width: 100%; min-height: 96px; background: #000; image-rendering: auto; }
.pixels video { image-rendering: pixelated; }
figcaption { padding: 10px 14px 12px; overflow-wrap: anywhere; }
figcaption span { display: block; font-weight: 600; }
figcaption small { color: var(--soft); }
.controls { position: sticky; bottom: 12px; display: flex; flex-wrap: wrap; gap: 10px 14px; align-items: center;
  margin: 18px 0 26px; padding: 10px 14px; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; box-shadow: 0 4px 18px rgb(0 0 0 / 12%); }
button, select { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--line);
  border-radius: 8px; padding: 4px 12px; cursor: pointer; min-height: 36px; }
button:hover, select:hover { border-color: var(--accent); }
#play { min-width: 92px; font-weight: 600; }
#scrub { flex: 1 1 200px; accent-color: var(--accent); min-width: 120px; }
#clock { font-variant-numeric: tabular-nums; color: var(--soft); min-width: 122px; text-align: right; }
label { display: inline-flex; gap: 6px; align-items: center; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.keys { flex-basis: 100%; color: var(--soft); font-size: 13px; }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 5px; font: 12px/1.4 ui-monospace, monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line);
  font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 7px 12px; border-bottom: 1px solid var(--line); text-align: right; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { text-align: left; font-weight: 600; min-width: 150px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 24px 0 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.fault { padding: 18px 14px; color: var(--accent); }
@media (max-width: 760px) { .stage { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  main { padding: 18px 12px; } }
@media print { .controls { display: none; } }
"""

_CONTROLS = """<div class="controls" role="group" aria-label="player">
<button id="play" aria-pressed="false">Play</button>
<button id="back" aria-label="one frame back">&#x2039;</button>
<button id="next" aria-label="one frame forward">&#x203a;</button>
<input id="scrub" type="range" min="0" max="1" step="any" value="0" aria-label="time">
<span id="clock"></span>
<label>speed <select id="speed"><option value="0.25">¼×</option><option value="0.5">½×</option>
<option value="1" selected>1×</option><option value="2">2×</option></select></label>
<label><input id="loop" type="checkbox" checked> loop</label>
<label><input id="pixels" type="checkbox"> sharp pixels</label>
<span class="keys"><kbd>space</kbd> play or pause &nbsp; <kbd>←</kbd> <kbd>→</kbd> one frame &nbsp;
<kbd>home</kbd> <kbd>end</kbd> &nbsp; <kbd>l</kbd> loop &nbsp; <kbd>-</kbd> <kbd>+</kbd> speed</span>
</div>"""

# The longest video leads; the others are set to its time whenever they are more than half a frame away.
_SCRIPT = """
const $ = id => document.getElementById(id);
const videos = [...document.querySelectorAll('video')];
let lead = videos[0], playing = false, scrubbing = false;
const length = v => Number.isFinite(v.duration) ? v.duration : 0;
const total = () => length(lead);
const frames = () => Math.max(1, Math.round(total() * FPS));
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
// The middle of a frame: a time on its edge may show either neighbour.
const toFrame = t => (clamp(Math.floor(t * FPS + 1e-3), 0, frames() - 1) + 0.5) / FPS;
function seek(t) {
  for (const v of videos) v.currentTime = clamp(t, 0, Math.max(0, length(v) - 0.25 / FPS));
  show(t);
}
function show(t) {
  if (!scrubbing) $('scrub').value = total() ? t / total() : 0;
  const frame = clamp(Math.floor(t * FPS + 1e-3), 0, frames() - 1);
  $('clock').textContent = `${t.toFixed(2)} s · ${frame + 1}/${frames()}`;
}
function setPlaying(on) {
  playing = on;
  $('play').textContent = on ? 'Pause' : 'Play';
  $('play').setAttribute('aria-pressed', String(on));
  if (on && lead.currentTime >= total() - 0.6 / FPS) seek(0);
  for (const v of videos) {
    if (!on) v.pause();
    else if (v.currentTime < length(v) - 0.6 / FPS) v.play().catch(() => {});
  }
  if (on) requestAnimationFrame(tick); else seek(toFrame(lead.currentTime));
}
function tick() {
  if (!playing) return;
  if (lead.ended || lead.currentTime >= total() - 0.02 / FPS) {
    if (!$('loop').checked) { setPlaying(false); return; }
    seek(0);
    for (const v of videos) v.play().catch(() => {});
  }
  for (const v of videos) {
    const gap = Math.abs(v.currentTime - lead.currentTime);
    if (v !== lead && !v.seeking && gap > 0.5 / FPS && lead.currentTime < length(v)) v.currentTime = lead.currentTime;
  }
  show(lead.currentTime);
  requestAnimationFrame(tick);
}
function step(by) {
  if (playing) setPlaying(false);
  const frame = Math.floor(lead.currentTime * FPS + 1e-3) + by;
  const wrapped = $('loop').checked ? (frame + frames()) % frames() : clamp(frame, 0, frames() - 1);
  seek((wrapped + 0.5) / FPS);
}
function speed(by) {
  const s = $('speed');
  s.selectedIndex = clamp(s.selectedIndex + by, 0, s.options.length - 1);
  s.onchange();
}
$('play').onclick = () => setPlaying(!playing);
$('back').onclick = () => step(-1);
$('next').onclick = () => step(1);
$('scrub').oninput = e => { scrubbing = true; seek(toFrame(e.target.value * total())); };
$('scrub').onchange = () => { scrubbing = false; };
$('speed').onchange = () => videos.forEach(v => { v.playbackRate = Number($('speed').value); });
$('pixels').onchange = e => document.body.classList.toggle('pixels', e.target.checked);
document.addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches('select')) return;
  const keys = { ' ': () => setPlaying(!playing), ArrowLeft: () => step(-1), ArrowRight: () => step(1),
    Home: () => seek(0.5 / FPS), End: () => seek(toFrame(total())), l: () => $('loop').click(),
    '-': () => speed(-1), '+': () => speed(1), '=': () => speed(1) };
  if (!(e.key in keys) || (e.key === ' ' && e.target.matches('button, input[type=checkbox]'))) return;
  e.preventDefault();
  keys[e.key]();
});
for (const v of videos) {
  v.addEventListener('loadedmetadata', () => {
    if (length(v) > total() + 1e-3) lead = v;
    if (v.videoWidth <= 256) { $('pixels').checked = true; document.body.classList.add('pixels'); }
    seek(0.5 / FPS);
  });
  v.addEventListener('error', () => {
    const told = document.createElement('p');
    told.className = 'fault';
    told.textContent = 'This browser cannot play the file.';
    v.replaceWith(told);
    videos.splice(videos.indexOf(v), 1);
    if (v === lead && videos.length) lead = videos[0];
  });
}
show(0);
"""
