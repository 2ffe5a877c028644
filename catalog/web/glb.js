"use strict";
// Reads a binary glTF 2.0: triangles of each level with their material, node transforms applied. No extension but MSFT_lod.

function parse(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getUint32(0, true) !== 0x46546c67 || view.getUint32(4, true) !== 2) throw new Error("not a GLB 2.0 file");
  const file = {};
  for (let at = 12; at < view.getUint32(8, true);) {
    const length = view.getUint32(at, true), kind = view.getUint32(at + 4, true), chunk = bytes.subarray(at + 8, at + 8 + length);
    if (kind === 0x4e4f534a) file.json = JSON.parse(new TextDecoder().decode(chunk));
    if (kind === 0x004e4942) file.bin = chunk;
    at += 8 + length;
  }
  return file;
}

const ARRAYS = { 5120: Int8Array, 5121: Uint8Array, 5122: Int16Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
const WIDTHS = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4, MAT4: 16 };

function accessor({ json, bin }, index) {
  const a = json.accessors[index], b = json.bufferViews[a.bufferView], type = ARRAYS[a.componentType], width = WIDTHS[a.type];
  const start = bin.byteOffset + (b.byteOffset || 0) + (a.byteOffset || 0), bytes = width * type.BYTES_PER_ELEMENT, stride = b.byteStride || bytes;
  const out = new type(a.count * width);
  for (let i = 0; i < a.count; i++) out.set(new type(bin.buffer.slice(start + i * stride, start + i * stride + bytes)), i * width);
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

function rotation([w, x, y, z]) { // columns, of a unit quaternion
  return [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w), 2 * (x * y - z * w), 1 - 2 * (x * x + z * z),
    2 * (y * z + x * w), 2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)];
}

function local(node) {
  if (node.matrix) return node.matrix;
  const [x, y, z, w] = node.rotation || [0, 0, 0, 1], s = node.scale || [1, 1, 1], r = rotation([w, x, y, z]);
  return [0, 1, 2].flatMap((c) => [...[0, 1, 2].map((k) => r[3 * c + k] * s[c]), 0]).concat(node.translation || [0, 0, 0], 1);
}

// Levels, finest first; each is a list of parts. A file without levels has one.
function levelsOf(file) {
  const { json } = file, scene = json.scenes ? json.scenes[json.scene || 0] : { nodes: json.nodes.map((_, i) => i) };
  const chains = scene.nodes.map((index) => [index, ...(json.nodes[index].extensions?.MSFT_lod?.ids || [])]);
  const count = Math.max(...chains.map((chain) => chain.length));
  const levels = Array.from({ length: count }, (_, k) => chains.flatMap((chain) => collect(file, chain[Math.min(k, chain.length - 1)], identity())));
  if (!levels[0].length) throw new Error("the file has no triangles");
  return levels;
}

function collect(file, index, parent) {
  const node = file.json.nodes[index], world = multiply(parent, local(node));
  const own = node.mesh === undefined ? [] : file.json.meshes[node.mesh].primitives.filter((p) => (p.mode ?? 4) === 4);
  return [...own.map((p) => ({ name: node.name || "", ...primitive(file, p, world) })), ...(node.children || []).flatMap((child) => collect(file, child, world))];
}

function primitive(file, p, m) {
  const read = (name) => p.attributes[name] === undefined ? null : Float32Array.from(accessor(file, p.attributes[name]));
  const position = read("POSITION"), count = position.length / 3;
  const index = p.indices === undefined ? Uint32Array.from({ length: count }, (_, i) => i) : Uint32Array.from(accessor(file, p.indices));
  const turn = (array, step, w) => {
    for (let i = 0; array && i < array.length; i += step) array.set([0, 1, 2].map((r) => m[r] * array[i] + m[4 + r] * array[i + 1] + m[8 + r] * array[i + 2] + w * m[12 + r]), i);
    return array;
  };
  turn(position, 3, 1);
  const normal = turn(read("NORMAL"), 3, 0) || smooth(position, index);
  const tangent = turn(read("TANGENT"), 4, 0) || new Float32Array(count * 4), uv = read("TEXCOORD_0") || new Float32Array(count * 2);
  return { position, normal, tangent, uv, index, material: materialOf(file.json, p.material) };
}

function materialOf(json, index) {
  const m = (json.materials || [])[index] || {}, pbr = m.pbrMetallicRoughness || { metallicFactor: 0 };
  const image = (texture) => texture ? json.textures[texture.index].source : -1;
  return { base: pbr.baseColorFactor || [1, 1, 1, 1], rough: pbr.roughnessFactor ?? 1, metal: pbr.metallicFactor ?? 1,
    occlusion: m.occlusionTexture ? m.occlusionTexture.strength ?? 1 : 0, emissive: m.emissiveFactor || [0, 0, 0],
    images: [pbr.baseColorTexture, pbr.metallicRoughnessTexture, m.occlusionTexture, m.normalTexture, m.emissiveTexture].map(image) };
}

function smooth(position, index) { // normals of a surface that brings none
  const out = new Float32Array(position.length), p = (i) => position.subarray(3 * i, 3 * i + 3);
  for (let f = 0; f < index.length; f += 3) {
    const [a, b, c] = [p(index[f]), p(index[f + 1]), p(index[f + 2])], u = b.map((v, i) => v - a[i]), w = c.map((v, i) => v - a[i]);
    const n = [u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]];
    for (let k = 0; k < 3; k++) for (let r = 0; r < 3; r++) out[3 * index[f + k] + r] += n[r];
  }
  return out;
}

function edgesOf(index) { // each edge once, those of a single triangle (borders of charts) first; and how many these are
  const seen = new Map();
  for (let f = 0; f < index.length; f += 3) for (let k = 0; k < 3; k++) {
    const a = index[f + k], b = index[f + (k + 1) % 3], key = Math.min(a, b) * 2 ** 26 + Math.max(a, b);
    seen.set(key, (seen.get(key) || 0) + 1);
  }
  const border = [...seen.keys()].filter((key) => seen.get(key) === 1), inner = [...seen.keys()].filter((key) => seen.get(key) > 1);
  return { lines: Uint32Array.from([...border, ...inner].flatMap((key) => [Math.floor(key / 2 ** 26), key % 2 ** 26])), borders: border.length * 2 };
}

async function picturesOf(gl, file) { // a texture for each image of the file
  return Promise.all((file.json.images || []).map(async (image) => {
    const b = file.json.bufferViews[image.bufferView], start = b.byteOffset || 0;
    const blob = new Blob([file.bin.subarray(start, start + b.byteLength)], { type: image.mimeType });
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const handle = textureOf(gl, bitmap);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    return handle;
  }));
}

function textureOf(gl, bitmap) { // of a picture, or of the bytes of one texel
  const handle = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, handle);
  if (Array.isArray(bitmap)) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(bitmap));
  else gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  return handle;
}

function program(gl, vertex, fragment) { // and a function: the place of a uniform by name
  const p = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source); gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(p, shader);
  }
  gl.linkProgram(p);
  return { p, at: (name) => gl.getUniformLocation(p, name) };
}

function bufferOf(gl, target, data) {
  const buffer = gl.createBuffer();
  gl.bindBuffer(target, buffer); gl.bufferData(target, data, gl.STATIC_DRAW);
  return buffer;
}
