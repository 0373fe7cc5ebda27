"""The fixed parts of the page: its style, its controls and the viewer, in plain CSS, HTML and JavaScript."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #f5f3ef; --card: #fff; --ink: #26282d; --soft: #5d6068; --line: #e0dcd3;
  --accent: #b4572e; }
@media (prefers-color-scheme: dark) { :root { --paper: #17181b; --card: #212327; --ink: #e9e7e2; --soft: #a2a5ac;
  --line: #373a40; --accent: #e2926a; } .view img { filter: brightness(.85); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 'Helvetica Neue', Helvetica, Arial,
  sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 34px 24px 56px; }
h1 { font-size: 28px; font-weight: 600; letter-spacing: -0.01em; margin: 0; }
.about { margin: 4px 0 0; color: var(--soft); max-width: 90ch; white-space: pre-line; }
header { margin: 0 0 18px; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin: 0 0 18px; font-size: 14px; }
button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 4px 12px; cursor: pointer; min-height: 36px; }
button:hover { border-color: var(--accent); }
label { display: inline-flex; gap: 6px; align-items: center; min-height: 36px; accent-color: var(--accent); }
.keys { color: var(--soft); font-size: 13px; }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 5px; font: 12px/1.4 ui-monospace, monospace; }
.stage { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
.view { aspect-ratio: 1; position: relative; background: var(--card); }
.view img, .view canvas { display: block; width: 100%; height: 100%; }
.view [hidden] { display: none; }
canvas { cursor: grab; touch-action: pan-y; }
canvas.held { cursor: grabbing; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
figcaption { padding: 9px 14px 11px; border-top: 1px solid var(--line); overflow-wrap: anywhere; display: grid;
  grid-template-columns: 1fr auto; gap: 0 10px; align-items: baseline; }
figcaption span { font-weight: 600; }
figcaption em { font-style: normal; font-size: 13px; color: var(--soft); font-variant-numeric: tabular-nums; }
figcaption small { grid-column: 1 / -1; grid-row: 2; color: var(--soft); white-space: pre-line; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 26px 0 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.fault { color: var(--accent); }
@media (max-width: 620px) { main { padding: 18px 12px; } .stage { gap: 10px; } .keys { display: none; }
  .stage { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); } }
@media print { .controls { display: none; } figure { break-inside: avoid; } }
"""

CONTROLS = """<div class="controls" role="group" aria-label="viewer">
<button id="spin" aria-pressed="false">Turn</button>
<button id="reset">Reset</button>
<label><input id="together" type="checkbox" checked> move together</label>
<span class="keys">drag turns &nbsp; wheel or pinch zooms &nbsp; <kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd>
<kbd>+</kbd> <kbd>-</kbd> on a shape &nbsp; <kbd>0</kbd> resets</span>
<noscript><span class="fault">Still pictures only: scripts are switched off.</span></noscript>
<span id="fault" class="fault" role="status"></span>
</div>"""

# One WebGL context draws every shape and is copied to its canvas: browsers allow only about sixteen contexts.
SCRIPT = """
const $ = id => document.getElementById(id);
const canvases = [...document.querySelectorAll('canvas[data-shape]')];
const START = { azimuth: SETTING.azimuth, elevation: SETTING.elevation, zoom: 1 };
const views = canvases.map(() => ({ ...START }));
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const surface = document.createElement('canvas');
const gl = surface.getContext('webgl2', { antialias: true, alpha: false, preserveDrawingBuffer: true });
const dark = matchMedia('(prefers-color-scheme: dark)');

const LIGHT = `
uniform mat3 turn;
vec3 lit(vec3 base, vec3 n) {
  float up = dot(n, turn * vec3(0, 1, 0));
  float key = clamp((dot(n, normalize(vec3(-.55, .75, .75))) + .25) / 1.25, 0., 1.);
  vec3 ambient = mix(vec3(.40, .375, .35), vec3(.52, .54, .57), .5 + .5 * up);
  return base * (ambient + .7 * key * vec3(1., .985, .955));
}`;
const PLACE = `
uniform float distance, focal, aspect, radius;
vec4 placed(vec3 seen) {
  float near = max(distance - 1.6 * radius, .02), far = distance + 1.6 * radius;
  float ahead = distance - seen.z;
  float depth = ((far + near) * ahead - 2. * far * near) / (far - near);
  return vec4(seen.x * focal / aspect, seen.y * focal, depth, ahead);
}`;
const MESH = [`#version 300 es
in vec3 point; in vec3 normal; out vec3 n; out vec3 eye;
uniform mat3 turn;` + PLACE + `
void main() {
  vec3 seen = turn * point;
  n = turn * normal; eye = vec3(0, 0, distance) - seen; gl_Position = placed(seen);
}`,
`#version 300 es
precision highp float;
in vec3 n; in vec3 eye; out vec4 colour;` + LIGHT + `
void main() {
  vec3 m = normalize(n);
  if (dot(m, eye) < 0.) m = -m;
  colour = vec4(lit(vec3(.804, .749, .667), m), 1);
}`];
const CLOUD = [`#version 300 es
in vec3 point; out float up; out float air;
uniform mat3 turn; uniform float height, pixels, ball;` + PLACE + `
void main() {
  vec3 seen = turn * point; gl_Position = placed(seen); up = point.y / max(height, 1e-6) * .5 + .5;
  gl_PointSize = max(2., 2. * ball * radius * focal * pixels * .5 / gl_Position.w);
  air = .5 - .5 * seen.z / radius;
}`,
`#version 300 es
precision highp float;
in float up; in float air; out vec4 colour;
uniform vec3 ramp[5]; uniform vec3 paper;` + LIGHT + `
void main() {
  vec2 p = gl_PointCoord * 2. - 1.; p.y = -p.y;
  float square = dot(p, p);
  if (square > 1.) discard;
  float place = clamp(up, 0., 1.) * 4.;
  int i = int(min(floor(place), 3.));
  vec3 n = normalize(vec3(p, sqrt(1. - square)) * .55 + vec3(0, 0, .45));
  vec3 shade = lit(mix(ramp[i], ramp[i + 1], place - float(i)), n) * (1. - .28 * square);
  colour = vec4(mix(shade, paper, clamp(air, 0., 1.) * .3), 1);
}`];

function program([vertex, fragment]) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.bindAttribLocation(made, 0, 'point');
  gl.bindAttribLocation(made, 1, 'normal');
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  const at = {};
  for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
    const name = gl.getActiveUniform(made, i).name.replace('[0]', '');
    at[name] = gl.getUniformLocation(made, name);
  }
  return { made, at };
}

function upload(shape) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  const fill = (target, data) => {
    gl.bindBuffer(target, gl.createBuffer());
    gl.bufferData(target, data, gl.STATIC_DRAW);
  };
  const points = bytes(shape.points);
  fill(gl.ARRAY_BUFFER, points);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribPointer(0, 3, gl.SHORT, true, 0, 0);
  const made = { array, count: points.byteLength / 6, mesh: Boolean(shape.faces), ...shape };
  if (made.mesh) {
    fill(gl.ARRAY_BUFFER, bytes(shape.normals));
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 3, gl.BYTE, true, 0, 0);
    const faces = bytes(shape.faces);
    fill(gl.ELEMENT_ARRAY_BUFFER, faces);
    made.count = faces.byteLength / (shape.wide ? 4 : 2);
  }
  gl.bindVertexArray(null);
  return made;
}

function parts(text) {
  return [1, 3, 5].map(k => parseInt(text.slice(k, k + 2), 16) / 255);
}

let programs, shapes;
const seen = new Set(), waiting = new Set();

function draw(number) {
  const canvas = canvases[number], shape = shapes[number], view = views[number];
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  if (surface.width !== width || surface.height !== height) Object.assign(surface, { width, height });
  const paper = dark.matches ? [33 / 255, 35 / 255, 39 / 255] : [1, 1, 1];
  gl.viewport(0, 0, width, height);
  gl.clearColor(...paper, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.enable(gl.DEPTH_TEST);
  const a = view.azimuth * Math.PI / 180, e = view.elevation * Math.PI / 180;
  const [ca, sa, ce, se] = [Math.cos(a), Math.sin(a), Math.cos(e), Math.sin(e)];
  // Columns of the turn; its rows are right, up and back of the camera in the shape's axes.
  const turn = [ca, -sa * se, sa * ce, 0, ce, se, -sa, -ca * se, ca * ce];
  const half = SETTING.fov * Math.PI / 360, { made, at } = programs[shape.mesh ? 'mesh' : 'cloud'];
  gl.useProgram(made);
  gl.uniformMatrix3fv(at.turn, false, turn);
  gl.uniform1f(at.radius, shape.radius);
  gl.uniform1f(at.distance, shape.radius / Math.sin(half) / view.zoom);
  gl.uniform1f(at.focal, Math.min(1, width / height) / Math.tan(half));
  gl.uniform1f(at.aspect, width / height);
  if (!shape.mesh) {
    gl.uniform1f(at.height, shape.height);
    gl.uniform1f(at.pixels, height);
    gl.uniform1f(at.ball, clamp(1.05 / Math.sqrt(shape.count), 0.004, 0.04));
    gl.uniform3fv(at.ramp, SETTING.ramp.flatMap(parts));
    gl.uniform3f(at.paper, ...paper);
  }
  gl.bindVertexArray(shape.array);
  if (shape.mesh) gl.drawElements(gl.TRIANGLES, shape.count, shape.wide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT, 0);
  else gl.drawArrays(gl.POINTS, 0, shape.count);
  canvas.getContext('2d', { alpha: false }).drawImage(surface, 0, 0);
}

function ask(number) {
  if (!waiting.size) requestAnimationFrame(flush);
  waiting.add(number);
}
function flush() {
  const now = [...waiting];
  waiting.clear();
  for (const number of now) if (seen.has(number)) draw(number);
}
const askAll = () => canvases.forEach((_, number) => ask(number));

function move(number, change) {
  const those = $('together').checked ? views.keys() : [number];
  for (const k of those) {
    const view = views[k];
    view.azimuth += change.azimuth || 0;
    view.elevation = clamp(view.elevation + (change.elevation || 0), -89, 89);
    view.zoom = clamp(view.zoom * (change.zoom || 1), 0.4, 4);
    ask(k);
  }
}
function reset(those) {
  for (const k of those) { Object.assign(views[k], START); ask(k); }
}

let spinning = false, last = 0;
function spin(on) {
  spinning = on;
  $('spin').textContent = on ? 'Stop' : 'Turn';
  $('spin').setAttribute('aria-pressed', String(on));
  last = performance.now();
  if (on) requestAnimationFrame(spun);
}
function spun(now) {
  if (!spinning) return;
  for (const view of views) view.azimuth += Math.min(now - last, 100) * 0.04;
  last = now;
  waiting.clear();
  for (const number of seen) draw(number);
  requestAnimationFrame(spun);
}

function listen(canvas, number) {
  const fingers = new Map();
  let gap = 0;
  const spread = () => { const [p, q] = [...fingers.values()]; return Math.hypot(p.x - q.x, p.y - q.y); };
  canvas.addEventListener('pointerdown', e => {
    if (e.pointerType === 'mouse' && e.button !== 0) return;
    canvas.setPointerCapture(e.pointerId);
    fingers.set(e.pointerId, { x: e.clientX, y: e.clientY });
    if (fingers.size === 2) gap = spread();
    canvas.classList.add('held');
  });
  canvas.addEventListener('pointermove', e => {
    const from = fingers.get(e.pointerId);
    if (!from) return;
    const [dx, dy] = [e.clientX - from.x, e.clientY - from.y];
    Object.assign(from, { x: e.clientX, y: e.clientY });
    if (fingers.size === 1) move(number, { azimuth: -dx * 0.5, elevation: dy * 0.5 });
    else if (fingers.size === 2) { const now = spread(); move(number, { zoom: now / Math.max(gap, 1) }); gap = now; }
  });
  const lift = e => { fingers.delete(e.pointerId); if (!fingers.size) canvas.classList.remove('held'); };
  for (const name of ['pointerup', 'pointercancel', 'lostpointercapture']) canvas.addEventListener(name, lift);
  canvas.addEventListener('wheel', e => {
    e.preventDefault();
    move(number, { zoom: Math.exp(-clamp(e.deltaY, -200, 200) * 0.0015) });
  }, { passive: false });
  canvas.addEventListener('dblclick', () => reset($('together').checked ? views.keys() : [number]));
  canvas.addEventListener('keydown', e => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const keys = { ArrowLeft: { azimuth: 8 }, ArrowRight: { azimuth: -8 }, ArrowUp: { elevation: 6 },
      ArrowDown: { elevation: -6 }, '+': { zoom: 1.12 }, '=': { zoom: 1.12 }, '-': { zoom: 1 / 1.12 } };
    if (e.key === '0') reset($('together').checked ? views.keys() : [number]);
    else if (keys[e.key]) move(number, keys[e.key]);
    else return;
    e.preventDefault();
  });
}

function begin() {
  programs = { mesh: program(MESH), cloud: program(CLOUD) };
  shapes = SHAPES.map(upload);
  const watch = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) {
      const number = Number(target.dataset.shape);
      if (isIntersecting) { seen.add(number); ask(number); } else seen.delete(number);
    }
  }, { rootMargin: '200px' });
  const sized = new ResizeObserver(entries => entries.forEach(e => ask(Number(e.target.dataset.shape))));
  canvases.forEach((canvas, number) => {
    canvas.hidden = false;
    canvas.previousElementSibling.hidden = true;
    listen(canvas, number);
    watch.observe(canvas);
    sized.observe(canvas);
  });
  dark.addEventListener('change', askAll);
  $('spin').onclick = () => spin(!spinning);
  $('reset').onclick = () => reset(views.keys());
}
if (gl) begin();
else $('fault').textContent = 'Still pictures only: this browser has no WebGL 2.';
surface.addEventListener('webglcontextlost', e => { e.preventDefault(); spin(false); });
surface.addEventListener('webglcontextrestored', () => {
  programs = { mesh: program(MESH), cloud: program(CLOUD) };
  shapes = SHAPES.map(upload);
  askAll();
});
"""
