// The page of one asset: its mesh, its splat and its atlas before one camera, and how it came about, stage by stage.
// No dependency and no network: all files are in this page, base64 of gzip; pictures lie beside it.

const $ = (id) => document.getElementById(id);
const info = JSON.parse($("data").textContent);
const STAGES = ["Points: the first guess", "Shape: after the first pass", "Splat: coloured and refined", "Mesh: the bare surface", "Textured: what you get"];
const SHOWS = { mesh: "mesh", splat: "splat", atlas: "UV atlas" };
const START = { azimuth: 30, elevation: 18, zoom: 1, panX: 0, panY: 0 };
const still = matchMedia("(prefers-reduced-motion: reduce)").matches, prefersDark = matchMedia("(prefers-color-scheme: dark)").matches;
const state = { show: "mesh", surface: 0, level: 0, bodies: 0, wire: false, spin: !still, dark: prefersDark, stage: 0, ...START };
const scene = { levels: [], bodies: [], profile: new Float32Array(0), box: null };
let pending = false, last = 0, paint = null;

// ---- what can be done: a key, words, and the deed; the page lists them
const next = (value, count) => (value + 1) % count;
const DEEDS = [
  ["m", "mesh", () => show("mesh")], ["s", "splat", () => show("splat")], ["u", "UV atlas: its maps and layout", () => show("atlas")],
  ["w", "wireframe", () => set({ wire: !state.wire })],
  ["l", "next level of detail", () => set({ level: next(state.level, scene.levels.length || 1) })],
  ["c", "collision bodies, hull", () => set({ bodies: next(state.bodies, scene.bodies.length + 1) })],
  ["b", "before and after: next stage", () => set({ stage: next(state.stage, info.pictures.stages ? STAGES.length + 1 : 1) })],
  ["r", "turn by itself", () => set({ spin: !state.spin })], ["f", "frame it again", () => set({ ...START, stage: 0 })],
  ["d", "dark or light", () => set({ dark: !state.dark })], ["Escape", "back from a stage's picture", () => set({ stage: 0 })],
  ["+", "nearer", () => zoom(1.2)], ["-", "farther", () => zoom(1 / 1.2)],
  ["ArrowLeft", "turn; with Shift, move", (e) => drag(20, 0, e.shiftKey)], ["ArrowRight", "", (e) => drag(-20, 0, e.shiftKey)],
  ["ArrowUp", "", (e) => drag(0, 20, e.shiftKey)], ["ArrowDown", "", (e) => drag(0, -20, e.shiftKey)],
  ...SURFACES.map((name, i) => ["1234567890k"[i], name, () => set({ surface: i })]),
];

function show(what) { set({ show: what, stage: 0, zoom: 1, panX: 0, panY: 0 }); }

function set(change) { // the one way to change what is shown
  Object.assign(state, change);
  state.show = (state.show === "splat" && !info.splat) || !(state.show in SHOWS) ? "mesh" : state.show;
  for (const [name, count] of [["surface", SURFACES.length], ["level", scene.levels.length], ["bodies", scene.bodies.length + 1], ["stage", STAGES.length + 1]]) {
    state[name] = Math.min(Math.max(Math.trunc(state[name]), 0), Math.max(count - 1, 0));
  }
  for (const name of ["show", "surface", "level", "bodies"]) $(name).value = String(state[name]);
  for (const name of ["wire", "spin", "dark"]) $(name).setAttribute("aria-pressed", String(state[name]));
  $("surface").disabled = $("level").disabled = $("wire").disabled = state.show === "splat";
  document.body.classList.toggle("dark", state.dark);
  $("canvas").hidden = state.stage > 0 || !paint;
  showStage();
  $("facts").textContent = facts();
  redraw();
}

function facts() {
  if (!scene.box) return "";
  const faces = scene.levels[state.level].reduce((sum, part) => sum + part.index.length / 3, 0), size = scene.box.size.map((v) => v.toFixed(2)).join(" × ");
  const what = { mesh: `level ${state.level}: ${faces.toLocaleString("en")} triangles`, splat: `splat: ${info.splat?.count.toLocaleString("en")} Gaussians`, atlas: `UV atlas of ${faces.toLocaleString("en")} triangles` };
  return `${state.stage ? STAGES[state.stage - 1] : what[state.show]} · ${size} m`;
}

// ---- the camera frames the object: at zoom 1 all of it is in view at every azimuth, whatever the shape of the window
function camera(aspect) {
  const rad = Math.PI / 180, [a, e] = [state.azimuth * rad, state.elevation * rad], ty = Math.tan(15 * rad), tx = ty * aspect;
  const distance = fit(e, tx * 0.92, ty * 0.92), { centre, radius } = scene.box;
  const back = [Math.cos(e) * Math.sin(a), Math.sin(e), Math.cos(e) * Math.cos(a)]; // azimuth 0 looks at the front (+Z)
  const right = [Math.cos(a), 0, -Math.sin(a)], up = [-Math.sin(e) * Math.sin(a), Math.cos(e), -Math.sin(e) * Math.cos(a)];
  const eye = centre.map((c, i) => c + back[i] * distance), dot = (v) => -v.reduce((sum, x, i) => sum + x * eye[i], 0);
  const view = [right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0, dot(right), dot(up), dot(back), 1];
  const near = Math.max(distance - 1.2 * radius, distance / 100), far = distance + 1.2 * radius;
  const projection = [state.zoom / tx, 0, 0, 0, 0, state.zoom / ty, 0, 0, -state.panX, -state.panY, (far + near) / (near - far), -1, 0, 0, 2 * far * near / (near - far), 0];
  return { view, projection, eye };
}

// A ring of radius r at height y about the upright axis is in view from the least distance that holds all of these.
function fit(e, tx, ty) {
  const [c, s] = [Math.cos(e), Math.sin(e)], p = scene.profile, side = Math.hypot(1 / tx, c);
  let least = 0;
  for (let i = 0; i < p.length; i += 2) {
    const [r, y] = [p[i], p[i + 1]], high = Math.abs(y * c - r * s) / ty + r * c, low = Math.abs(y * c + r * s) / ty - r * c;
    least = Math.max(least, y * s + Math.max(r * side, high, low));
  }
  return least;
}

function sheet(aspect) { // the atlas: u to the right, v down, all of it in view
  const s = 1.84 * state.zoom, x = s * Math.min(1, 1 / aspect), y = s * Math.min(1, aspect);
  return { view: identity(), eye: [0, 0, 1], projection: [x, 0, 0, 0, 0, -y, 0, 0, 0, 0, 1, 0, state.panX - x / 2, state.panY + y / 2, 0, 1] };
}

function measure(parts) { // a box about the object, and the rings that its corners sweep when it turns
  const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
  for (const { position } of parts) position.forEach((v, i) => { low[i % 3] = Math.min(low[i % 3], v); high[i % 3] = Math.max(high[i % 3], v); });
  const centre = low.map((v, i) => (v + high[i]) / 2), size = high.map((v, i) => v - low[i]), rings = [];
  for (const { position: p } of parts) for (let i = 0; i < p.length; i += 3) rings.push(Math.hypot(p[i] - centre[0], p[i + 2] - centre[2]), p[i + 1] - centre[1]);
  Object.assign(scene, { profile: Float32Array.from(rings), box: { centre, size, radius: Math.hypot(...size) / 2 || 1 } });
}

// ---- drawing: a frame where something has changed
function redraw() {
  if (pending || !paint) return;
  pending = true;
  requestAnimationFrame((now) => {
    pending = false;
    if (state.spin && state.show !== "atlas" && !state.stage) { state.azimuth += Math.min(now - last, 50) * 0.03; redraw(); }
    last = now;
    paint();
    const told = document.documentElement.dataset;
    told.drawn ??= drawn($("canvas").getContext("webgl2"));
    told.ready = "true";
  });
}

function drawn(gl) { // share of the pixels of the first frame that the asset covers, in percent: a test looks at it
  const [w, h] = [gl.drawingBufferWidth, gl.drawingBufferHeight], pixels = new Uint8Array(w * h * 4);
  gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  return Math.round(100 * pixels.reduce((sum, value, i) => sum + (i % 4 === 3 && value > 0), 0) / (w * h));
}

function painter(gl, meshes, splat) {
  const canvas = gl.canvas;
  return () => {
    const ratio = Math.min(devicePixelRatio || 1, 2), [w, h] = [Math.max(canvas.clientWidth * ratio | 0, 1), Math.max(canvas.clientHeight * ratio | 0, 1)];
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    gl.viewport(0, 0, w, h); gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const atlas = state.show === "atlas", { view, projection, eye } = (atlas ? sheet : camera)(w / h);
    if (state.show === "splat") splat(view, projection);
    else meshes.draw(scene.levels[state.level], view, projection, eye, { ...state, atlas });
    if (state.bodies && !atlas) meshes.bodies(scene.bodies[state.bodies - 1].parts, view, projection, eye);
  };
}

// ---- hands: mouse, touch, keys, controls
function drag(dx, dy, move) {
  const canvas = $("canvas");
  if (move || state.show === "atlas") return set({ panX: state.panX + 2 * dx / canvas.clientWidth, panY: state.panY - 2 * dy / canvas.clientHeight });
  set({ spin: false, azimuth: state.azimuth - dx * 0.4, elevation: Math.max(-89, Math.min(89, state.elevation + dy * 0.4)) });
}

function zoom(factor, x = 0, y = 0) { // about a point of the picture, -1 to 1
  const to = Math.max(0.2, Math.min(20, state.zoom * factor)), k = to / state.zoom;
  set({ zoom: to, panX: x + (state.panX - x) * k, panY: y + (state.panY - y) * k });
}

function pointers(canvas) {
  const fingers = new Map(), middle = () => { const f = [...fingers.values()]; return [f[0][0] + f[1][0], f[0][1] + f[1][1]].map((v) => v / 2); };
  const spread = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]) || 1; };
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, [e.clientX, e.clientY]); });
  canvas.addEventListener("pointermove", (e) => {
    const before = fingers.get(e.pointerId), two = fingers.size === 2;
    if (!before) return;
    const [apart, at] = two ? [spread(), middle()] : [0, before];
    fingers.set(e.pointerId, [e.clientX, e.clientY]);
    const to = two ? middle() : [e.clientX, e.clientY];
    drag(to[0] - at[0], to[1] - at[1], two || e.shiftKey || (e.buttons & 6) > 0);
    if (two) zoom(spread() / apart);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    zoom(Math.exp(-e.deltaY * 0.001), 2 * e.offsetX / canvas.clientWidth - 1, 1 - 2 * e.offsetY / canvas.clientHeight);
  }, { passive: false });
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("dblclick", () => set(START));
}

function keys() {
  addEventListener("keydown", (e) => {
    const deed = DEEDS.find(([key]) => key === (e.key.length === 1 ? e.key.toLowerCase() : e.key));
    if (!deed || e.ctrlKey || e.metaKey || e.altKey || e.target.matches("select")) return;
    if (state.stage && e.key.startsWith("Arrow")) set({ stage: state.stage + ({ ArrowLeft: -1, ArrowRight: 1 }[e.key] || 0) || 1 });
    else deed[2](e);
    e.preventDefault();
  });
  for (const [key, words] of DEEDS.filter(([, words]) => words)) {
    const row = $("keys").appendChild(document.createElement("li"));
    row.appendChild(document.createElement("kbd")).textContent = key.startsWith("Arrow") ? "arrows" : key.length === 1 ? key.toUpperCase() : key;
    row.append(" " + words);
  }
}

function controls() {
  const options = (id, names, values) => $(id).replaceChildren(...names.map((name, i) => new Option(name, values ? values[i] : String(i))));
  options("show", Object.values(SHOWS), Object.keys(SHOWS));
  $("show").options[1].disabled = !info.splat;
  options("surface", SURFACES);
  options("level", scene.levels.map((parts, i) => `level ${i}: ${parts.reduce((sum, part) => sum + part.index.length / 3, 0).toLocaleString("en")} faces`));
  options("bodies", ["no bodies", ...scene.bodies.map(({ name }) => name)]);
  $("show").addEventListener("input", () => show($("show").value));
  for (const id of ["surface", "level", "bodies"]) $(id).addEventListener("input", () => set({ [id]: Number($(id).value) }));
  for (const id of ["wire", "spin", "dark"]) $(id).addEventListener("click", () => set({ [id]: !state[id] }));
}

// ---- before and after
function stages() {
  $("stages").hidden = !info.pictures.stages;
  if (!info.pictures.stages) return;
  document.body.style.setProperty("--stages", `url("${info.pictures.stages}")`);
  STAGES.forEach((words, i) => {
    const button = $("stages").appendChild(document.createElement("button"));
    button.type = "button"; button.style.setProperty("--i", i);
    button.append(document.createElement("i"), words);
    button.addEventListener("click", () => set({ stage: state.stage === i + 1 ? 0 : i + 1 }));
  });
}

function showStage() {
  $("still").hidden = !state.stage;
  $("still").style.setProperty("--i", state.stage - 1);
  $("still").setAttribute("aria-label", STAGES[state.stage - 1] || "");
  [...$("stages").children].forEach((button, i) => button.setAttribute("aria-pressed", String(state.stage === i + 1)));
}

function address() { // what the address asks for: #show=splat&surface=8&azimuth=0
  const asked = [...new URLSearchParams(location.hash.slice(1))].filter(([name]) => name in state);
  const typed = asked.map(([name, text]) => [name, { number: Number(text) || 0, boolean: text === "true", string: text }[typeof state[name]]]);
  set(Object.fromEntries(typed));
}

async function data(id) { // the bytes of a file in this page; null where the asset has none
  const text = $(id).textContent.trim();
  $(id).remove();
  if (!text) return null;
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function load() {
  const [glb, collision, splat] = await Promise.all(["glb", "collision", "splat"].map(data));
  const gl = $("canvas").getContext("webgl2", { antialias: true, alpha: true, preserveDrawingBuffer: true });
  if (!gl) throw new Error("this browser has no WebGL 2, so here are the pictures; the files themselves open in any 3D program");
  const file = parse(glb), found = collision ? levelsOf(parse(collision))[0] : [], hull = (part) => part.name.endsWith("_hull");
  scene.levels = levelsOf(file);
  scene.bodies = [["bodies", found.filter((part) => !hull(part))], ["hull", found.filter(hull)]].filter(([, parts]) => parts.length).map(([name, parts]) => ({ name, parts }));
  measure(scene.levels[0]);
  paint = painter(gl, meshDrawer(gl, await picturesOf(gl, file)), splat && splatDrawer(gl, splat, info.splat));
}

function failed(error) {
  $("error").textContent = String(error.message || error);
  for (const [name, words] of [["preview", "views of the asset"], ["turntable", "the asset turning"]]) {
    if (info.pictures[name]) $("pictures").append(Object.assign(new Image(), { src: info.pictures[name], alt: words }));
  }
  $("canvas").hidden = $("tools").hidden = true;
  document.documentElement.dataset.ready = "failed";
}

async function main() {
  document.title = info.asset_id;
  $("prompt").textContent = info.prompt || info.asset_id;
  stages(); keys(); pointers($("canvas"));
  await load().catch(failed);
  controls(); address();
  addEventListener("hashchange", address);
  new ResizeObserver(redraw).observe($("canvas"));
}

main();
