"use strict";
// A small glTF 2.0 binary viewer on WebGL 1: triangles, one base colour texture, vertex colours, node transforms;
// shows texture, clay, normals or UV checks, with or without wires.
// No dependency and no network: the file is base64 in this page.
const $ = (id) => document.getElementById(id);
const info = JSON.parse($("data").textContent);
document.title = info.asset_id;
$("prompt").textContent = info.prompt || info.asset_id;

const VERTEX = `attribute vec3 position, normal; attribute vec2 uv; attribute vec4 color;
uniform mat4 view, projection; uniform float bias; varying vec3 n; varying vec2 t; varying vec4 c;
void main() { n = mat3(view[0].xyz, view[1].xyz, view[2].xyz) * normal; t = uv; c = color;
  gl_Position = projection * view * vec4(position, 1.0); gl_Position.z -= bias * gl_Position.w; }`;
const FRAGMENT = `precision mediump float; varying vec3 n; varying vec2 t; varying vec4 c;
uniform sampler2D image; uniform vec4 factor, line; uniform int mode;
vec3 base(vec3 m) {
  if (mode == 1) return vec3(0.62);
  if (mode == 2) return pow(0.5 + 0.5 * m, vec3(2.2));
  if (mode == 3) { vec2 k = floor(t * 32.0); return mix(vec3(0.15), vec3(0.8), mod(k.x + k.y, 2.0)) * vec3(t, 1.0 - 0.5 * t.x); }
  return pow(texture2D(image, t).rgb, vec3(2.2)) * factor.rgb * c.rgb;
}
void main() {
  vec3 m = normalize(gl_FrontFacing ? n : -n);
  float sky = 0.5 + 0.5 * m.y, key = max(dot(m, normalize(vec3(0.4, 0.7, 0.6))), 0.0);
  vec3 light = mode == 2 ? vec3(1.0) : mix(vec3(0.46, 0.44, 0.42), vec3(0.66, 0.70, 0.76), sky) + 0.6 * key;
  gl_FragColor = line.a > 0.0 ? line : vec4(pow(base(m) * light, vec3(1.0 / 2.2)), 1.0);
}`;
const MODES = ["texture", "clay", "normals", "uv"];

function parse(bytes) {
  const view = new DataView(bytes.buffer);
  if (view.getUint32(0, true) !== 0x46546c67 || view.getUint32(4, true) !== 2) throw new Error("not a GLB 2.0 file");
  let json = null, bin = null;
  for (let at = 12; at < view.getUint32(8, true);) {
    const length = view.getUint32(at, true), kind = view.getUint32(at + 4, true), chunk = bytes.subarray(at + 8, at + 8 + length);
    if (kind === 0x4e4f534a) json = JSON.parse(new TextDecoder().decode(chunk));
    if (kind === 0x004e4942) bin = chunk;
    at += 8 + length;
  }
  return { json, bin };
}

const ARRAYS = { 5120: Int8Array, 5121: Uint8Array, 5122: Int16Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
const WIDTHS = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4, MAT4: 16 };

function accessor({ json, bin }, index) {
  const a = json.accessors[index], b = json.bufferViews[a.bufferView], type = ARRAYS[a.componentType], width = WIDTHS[a.type];
  const start = bin.byteOffset + (b.byteOffset || 0) + (a.byteOffset || 0), stride = b.byteStride || width * type.BYTES_PER_ELEMENT;
  const out = new type(a.count * width);
  for (let i = 0; i < a.count; i++) {
    const row = bin.buffer.slice(start + i * stride, start + i * stride + width * type.BYTES_PER_ELEMENT);
    out.set(new type(row), i * width);
  }
  if (!a.normalized || type === Float32Array) return out;
  const scale = 1 / (2 ** (8 * type.BYTES_PER_ELEMENT - (type.name.startsWith("U") ? 0 : 1)) - 1);
  return Float32Array.from(out, (value) => Math.max(value * scale, -1));
}

const identity = () => [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
function multiply(a, b) {
  const out = new Array(16).fill(0);
  for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++) for (let k = 0; k < 4; k++) out[c * 4 + r] += a[k * 4 + r] * b[c * 4 + k];
  return out;
}
function local(node) {
  if (node.matrix) return node.matrix;
  const [x, y, z, w] = node.rotation || [0, 0, 0, 1], s = node.scale || [1, 1, 1], t = node.translation || [0, 0, 0];
  return [(1 - 2 * (y * y + z * z)) * s[0], 2 * (x * y + z * w) * s[0], 2 * (x * z - y * w) * s[0], 0,
    2 * (x * y - z * w) * s[1], (1 - 2 * (x * x + z * z)) * s[1], 2 * (y * z + x * w) * s[1], 0,
    2 * (x * z + y * w) * s[2], 2 * (y * z - x * w) * s[2], (1 - 2 * (x * x + y * y)) * s[2], 0, t[0], t[1], t[2], 1];
}

function collect(file) {
  const found = [], { json } = file;
  const visit = (index, parent) => {
    const node = json.nodes[index], world = multiply(parent, local(node));
    if (node.mesh !== undefined) for (const p of json.meshes[node.mesh].primitives) if ((p.mode ?? 4) === 4) found.push(primitive(file, p, world));
    for (const child of node.children || []) visit(child, world);
  };
  const scene = json.scenes ? json.scenes[json.scene || 0] : { nodes: json.nodes.map((_, i) => i) };
  for (const index of scene.nodes) visit(index, identity());
  if (!found.length) throw new Error("the file has no triangles");
  return found;
}

function primitive(file, p, m) {
  const raw = accessor(file, p.attributes.POSITION), count = raw.length / 3, position = new Float32Array(raw.length);
  const index = p.indices === undefined ? Uint32Array.from({ length: count }, (_, i) => i) : Uint32Array.from(accessor(file, p.indices));
  const turn = (v, i, w) => [0, 1, 2].map((r) => m[r] * v[i] + m[4 + r] * v[i + 1] + m[8 + r] * v[i + 2] + w * m[12 + r]);
  for (let i = 0; i < raw.length; i += 3) position.set(turn(raw, i, 1), i);
  let normal = new Float32Array(raw.length);
  if (p.attributes.NORMAL !== undefined) {
    const given = accessor(file, p.attributes.NORMAL);
    for (let i = 0; i < raw.length; i += 3) normal.set(turn(given, i, 0), i);
  } else normal = smooth(position, index);
  const uv = p.attributes.TEXCOORD_0 === undefined ? new Float32Array(count * 2) : Float32Array.from(accessor(file, p.attributes.TEXCOORD_0));
  const pbr = (file.json.materials || [])[p.material]?.pbrMetallicRoughness || {}, texture = pbr.baseColorTexture;
  const image = texture ? file.json.images[file.json.textures[texture.index].source] : null;
  return { position, normal, uv, index, factor: pbr.baseColorFactor || [1, 1, 1, 1], image };
}

function smooth(position, index) {
  const out = new Float32Array(position.length), p = (i) => position.subarray(3 * i, 3 * i + 3);
  for (let f = 0; f < index.length; f += 3) {
    const [a, b, c] = [p(index[f]), p(index[f + 1]), p(index[f + 2])], u = b.map((v, i) => v - a[i]), w = c.map((v, i) => v - a[i]);
    const n = [u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]];
    for (let k = 0; k < 3; k++) for (let r = 0; r < 3; r++) out[3 * index[f + k] + r] += n[r];
  }
  return out;
}

function bounds(parts) {
  const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
  for (const { position } of parts) for (let i = 0; i < position.length; i++) { low[i % 3] = Math.min(low[i % 3], position[i]); high[i % 3] = Math.max(high[i % 3], position[i]); }
  return { centre: low.map((v, i) => (v + high[i]) / 2), radius: Math.hypot(...high.map((v, i) => v - low[i])) / 2 || 1, size: high.map((v, i) => v - low[i]) };
}

function program(gl) {
  const p = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source); gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(p, shader);
  }
  gl.linkProgram(p); gl.useProgram(p);
  return p;
}

async function texture(gl, file, image) {
  const handle = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, handle);
  if (!image) { gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array([255, 255, 255, 255])); return handle; }
  const b = file.json.bufferViews[image.bufferView], start = b.byteOffset || 0;
  const bitmap = await createImageBitmap(new Blob([file.bin.subarray(start, start + b.byteLength)], { type: image.mimeType }),
    { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  gl.bindTexture(gl.TEXTURE_2D, handle);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  const power = ((bitmap.width & (bitmap.width - 1)) | (bitmap.height & (bitmap.height - 1))) === 0;
  if (power) gl.generateMipmap(gl.TEXTURE_2D);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, power ? gl.LINEAR_MIPMAP_LINEAR : gl.LINEAR);
  for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, power ? gl.REPEAT : gl.CLAMP_TO_EDGE);
  return handle;
}

function upload(gl, p, part) {
  const buffer = (data, target) => { const b = gl.createBuffer(); gl.bindBuffer(target, b); gl.bufferData(target, data, gl.STATIC_DRAW); return b; };
  const lines = new Uint32Array(part.index.length * 2);
  for (let f = 0, o = 0; f < part.index.length; f += 3) for (const [a, b] of [[0, 1], [1, 2], [2, 0]]) { lines[o++] = part.index[f + a]; lines[o++] = part.index[f + b]; }
  return { ...part, buffers: [["position", 3], ["normal", 3], ["uv", 2]].map(([name, width]) => [gl.getAttribLocation(p, name), width, buffer(part[name], gl.ARRAY_BUFFER)]),
    triangles: buffer(part.index, gl.ELEMENT_ARRAY_BUFFER), lines: buffer(lines, gl.ELEMENT_ARRAY_BUFFER) };
}

async function main() {
  const text = atob($("glb").textContent.trim()), bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  $("glb").remove();
  const file = parse(bytes), gl = $("canvas").getContext("webgl", { antialias: true, alpha: true });
  if (!gl) throw new Error("this browser has no WebGL; the GLB itself opens in any 3D program");
  gl.getExtension("OES_element_index_uint");
  const p = program(gl), at = (name) => gl.getUniformLocation(p, name), box = bounds(collect(file));
  const parts = collect(file).map((part) => upload(gl, p, part));
  for (const part of parts) part.handle = await texture(gl, file, part.image);
  const triangles = parts.reduce((sum, part) => sum + part.index.length / 3, 0);
  $("facts").textContent = `${triangles.toLocaleString("en")} triangles · ${(bytes.length / 2 ** 20).toFixed(2)} MiB · `
    + `${box.size.map((v) => v.toFixed(2)).join(" × ")} m`;
  const state = { azimuth: 30, elevation: 18, zoom: 1, spin: !matchMedia("(prefers-reduced-motion: reduce)").matches, mode: 0, wire: false };
  controls(state);
  gl.enable(gl.DEPTH_TEST); gl.vertexAttrib4f(gl.getAttribLocation(p, "color"), 1, 1, 1, 1);
  let last = performance.now();
  const frame = (now) => {
    if (state.spin) state.azimuth += Math.min(now - last, 100) * 0.03;
    last = now;
    draw(gl, at, parts, box, state);
    if (!document.documentElement.dataset.ready) { document.documentElement.dataset.ready = "true"; document.documentElement.dataset.drawn = String(drawn(gl)); }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

function drawn(gl) { // share of the pixels of the first frame that the asset covers, in percent: a test looks at it
  const [w, h] = [gl.drawingBufferWidth, gl.drawingBufferHeight], pixels = new Uint8Array(w * h * 4);
  gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let covered = 0;
  for (let i = 3; i < pixels.length; i += 4) covered += pixels[i] > 0;
  return Math.round(100 * covered / (w * h));
}

function camera(box, state, aspect) {
  const rad = Math.PI / 180, [a, e] = [state.azimuth * rad, state.elevation * rad], fov = 35 * rad;
  const distance = box.radius / Math.sin(fov / 2) / Math.min(1, aspect) * 0.9 / state.zoom;
  const back = [Math.cos(e) * Math.sin(a), Math.sin(e), Math.cos(e) * Math.cos(a)]; // azimuth 0 looks at the front (+Z)
  const right = [Math.cos(a), 0, -Math.sin(a)], up = [-Math.sin(e) * Math.sin(a), Math.cos(e), -Math.sin(e) * Math.cos(a)];
  const eye = box.centre.map((c, i) => c + back[i] * distance), dot = (v) => -v.reduce((sum, x, i) => sum + x * eye[i], 0);
  const view = [right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0, dot(right), dot(up), dot(back), 1];
  const f = 1 / Math.tan(fov / 2), near = Math.max(distance - 2 * box.radius, box.radius / 100), far = distance + 2 * box.radius;
  return { view, projection: [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, 2 * far * near / (near - far), 0] };
}

function draw(gl, at, parts, box, state) {
  const canvas = gl.canvas, ratio = Math.min(devicePixelRatio || 1, 2), [w, h] = [canvas.clientWidth * ratio | 0, canvas.clientHeight * ratio | 0];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  gl.viewport(0, 0, w, h); gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  const { view, projection } = camera(box, state, w / h);
  gl.uniformMatrix4fv(at("view"), false, view); gl.uniformMatrix4fv(at("projection"), false, projection);
  gl.uniform1i(at("mode"), state.mode);
  for (const part of parts) {
    for (const [location, width, buffer] of part.buffers) if (location >= 0) { gl.bindBuffer(gl.ARRAY_BUFFER, buffer); gl.enableVertexAttribArray(location); gl.vertexAttribPointer(location, width, gl.FLOAT, false, 0, 0); }
    gl.bindTexture(gl.TEXTURE_2D, part.handle); gl.uniform4fv(at("factor"), part.factor);
    gl.uniform4f(at("line"), 0, 0, 0, 0); gl.uniform1f(at("bias"), 0); gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, part.triangles);
    gl.drawElements(gl.TRIANGLES, part.index.length, gl.UNSIGNED_INT, 0);
    if (!state.wire) continue;
    gl.uniform1f(at("bias"), 0.004); // in front of their own faces, still behind the rest
    gl.uniform4f(at("line"), ...(state.mode ? [0.05, 0.1, 0.25, 1] : [0.9, 0.95, 1, 1])); gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, part.lines);
    gl.drawElements(gl.LINES, part.index.length * 2, gl.UNSIGNED_INT, 0);
  }
}

function controls(state) {
  const canvas = $("canvas"), fingers = new Map();
  let spin = null;
  const turn = (dx, dy) => { spin(false); state.azimuth -= dx * 0.4; state.elevation = Math.max(-89, Math.min(89, state.elevation + dy * 0.4)); };
  const zoom = (factor) => { state.zoom = Math.max(0.2, Math.min(12, state.zoom * factor)); };
  const spread = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, { x: e.clientX, y: e.clientY }); });
  canvas.addEventListener("pointermove", (e) => {
    const before = fingers.get(e.pointerId);
    if (!before) return;
    const apart = fingers.size === 2 ? spread() : 0;
    fingers.set(e.pointerId, { x: e.clientX, y: e.clientY });
    if (apart) zoom(spread() / apart); else turn(e.clientX - before.x, e.clientY - before.y);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(-e.deltaY * 0.001)); }, { passive: false });
  canvas.addEventListener("dblclick", () => Object.assign(state, { azimuth: 30, elevation: 18, zoom: 1 }));
  canvas.addEventListener("keydown", (e) => { const way = { ArrowLeft: [20, 0], ArrowRight: [-20, 0], ArrowUp: [0, 20], ArrowDown: [0, -20] }[e.key]; if (way) turn(...way); if (e.key === "+") zoom(1.2); if (e.key === "-") zoom(1 / 1.2); });
  $("shading").append(...MODES.map((name) => new Option(name)));
  $("shading").addEventListener("input", () => { state.mode = $("shading").selectedIndex; });
  const toggle = (id, on, act) => {
    const press = (value) => { act(value); $(id).setAttribute("aria-pressed", String(value)); };
    press(on);
    $(id).addEventListener("click", () => press($(id).getAttribute("aria-pressed") !== "true"));
    return press;
  };
  toggle("wire", false, (on) => { state.wire = on; });
  toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches, (on) => document.body.classList.toggle("dark", on));
  spin = toggle("spin", state.spin, (on) => { state.spin = on; });
}

main().catch((error) => { $("error").textContent = String(error.message || error); document.documentElement.dataset.ready = "failed"; });
