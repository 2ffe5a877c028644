// Draws parts of a GLB: lit as an engine lights them, or one map or property alone; their wires; their atlas; bodies.

const MESH_VERTEX = `#version 300 es
in vec3 position, normal; in vec4 tangent; in vec2 uv;
uniform mat4 view, projection; uniform float bias; uniform bool flat_;
out vec3 p, n; out vec4 t; out vec2 st;
void main() {
  p = position; n = normal; t = tangent; st = uv;
  gl_Position = projection * view * vec4(flat_ ? vec3(uv, 0.0) : position, 1.0);
  gl_Position.z -= bias * gl_Position.w;
}`;
const MESH_FRAGMENT = `#version 300 es
precision highp float;
in vec3 p, n; in vec4 t; in vec2 st; out vec4 pixel;
uniform sampler2D baseMap, metalMap, occlusionMap, normalMap, emissiveMap;
uniform vec4 base, line; uniform vec3 emissive, eye; uniform vec3 amounts; uniform int surface; // amounts: rough, metal, occlusion

vec3 linear(vec3 c) { return pow(c, vec3(2.2)); }
vec3 screen(vec3 c) { return pow(c, vec3(1.0 / 2.2)); }
float lamp(vec3 d, vec3 from, float r) { // a soft lamp that a rough surface spreads
  float k = mix(90.0, 1.2, sqrt(r));
  return pow(max(dot(d, normalize(from)), 0.0), k) * mix(9.0, 0.75, sqrt(r));
}
vec3 sky(vec3 d, float r) { // the light that arrives from about d: a bright room above a warm floor, three lamps
  vec3 room = mix(vec3(0.46, 0.44, 0.42), vec3(0.86, 0.89, 0.94), smoothstep(-0.15 - r, 0.15 + r, d.y));
  return room + vec3(1.0, 0.97, 0.92) * lamp(d, vec3(0.5, 0.8, 0.7), r) + vec3(0.35, 0.4, 0.5) * (lamp(d, vec3(-0.8, 0.3, 0.3), r) + lamp(d, vec3(0.1, 0.4, -0.9), r));
}
vec3 tone(vec3 c) { // Khronos' PBR neutral: colours stay, only highlights are pressed
  float x = min(c.r, min(c.g, c.b)), offset = x < 0.08 ? x - 6.25 * x * x : 0.04;
  c -= offset;
  float peak = max(c.r, max(c.g, c.b)), d = 0.24;
  if (peak < 0.76) return c;
  float pressed = 1.0 - d * d / (peak + d - 0.76);
  return mix(vec3(pressed), c * pressed / peak, 1.0 / (0.15 * (peak - pressed) + 1.0));
}
vec3 bumped(vec3 m) {
  if (t.w == 0.0) return m;
  vec3 k = texture(normalMap, st).xyz * 2.0 - 1.0, along = normalize(t.xyz - m * dot(m, t.xyz));
  return normalize(k.x * along + k.y * cross(m, along) * t.w + k.z * m);
}
vec3 lit(vec3 m, vec3 colour, float rough, float metal, float open) {
  vec3 v = normalize(eye - p), f0 = mix(vec3(0.04), colour, metal);
  float c = max(dot(m, v), 0.0);
  vec4 r = rough * vec4(-1.0, -0.0275, -0.572, 0.022) + vec4(1.0, 0.0425, 1.04, -0.04); // Karis' fit of the BRDF's table
  vec2 ab = vec2(-1.04, 1.04) * (min(r.x * r.x, exp2(-9.28 * c)) * r.x + r.y) + r.zw;
  return open * (colour * (1.0 - metal) * sky(m, 1.0) * 0.8 + (f0 * ab.x + ab.y) * sky(reflect(-v, m), rough));
}
vec3 checker() {
  vec2 k = floor(st * 32.0);
  return mix(vec3(0.45), vec3(0.95), mod(k.x + k.y, 2.0)) * vec3(st, 1.0 - 0.5 * st.x);
}
void main() {
  vec3 m = normalize(gl_FrontFacing ? n : -n), texel = texture(baseMap, st).rgb, glow = emissive * linear(texture(emissiveMap, st).rgb);
  vec2 rm = texture(metalMap, st).gb * amounts.xy;
  float open = mix(1.0, texture(occlusionMap, st).r, amounts.z);
  vec3 c;
  if (surface == 0) c = screen(tone(lit(bumped(m), linear(texel) * base.rgb, rm.x, rm.y, open) + glow));
  else if (surface == 1) c = screen(tone(lit(m, vec3(0.4), 0.9, 0.0, 1.0)));
  else if (surface == 2) c = screen(linear(texel) * base.rgb);
  else if (surface == 3) c = vec3(open, rm);
  else if (surface == 4) c = vec3(open);
  else if (surface == 5) c = vec3(rm.x);
  else if (surface == 6) c = vec3(rm.y);
  else if (surface == 7) c = screen(glow);
  else if (surface == 8) c = 0.5 + 0.5 * m;
  else if (surface == 9) c = texture(normalMap, st).rgb;
  else c = checker();
  pixel = line.a > 0.0 ? vec4(line.rgb * line.a, line.a) : vec4(c, 1.0);
}`;
const SURFACES = ["as in an engine", "clay", "base colour", "ORM: occlusion, roughness, metal", "occlusion", "roughness", "metal",
  "glow", "normals", "normal map", "checker"];
const MAPS = ["baseMap", "metalMap", "occlusionMap", "normalMap", "emissiveMap"];
const ATTRIBUTES = [["position", 3], ["normal", 3], ["tangent", 4], ["uv", 2]];
const SHEET = { position: new Float32Array(12), normal: new Float32Array(12), tangent: new Float32Array(16), uv: new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), index: new Uint32Array([0, 2, 1, 1, 2, 3]) };

// A drawer of meshes: draw(parts, view, projection, eye, how), how = {surface, wire, atlas}, and bodies(parts, ...)
function meshDrawer(gl, pictures) {
  const { p, at } = program(gl, MESH_VERTEX, MESH_FRAGMENT), plain = textureOf(gl, [255, 255, 255, 255]), even = textureOf(gl, [128, 128, 255, 255]);
  const places = Object.fromEntries(["view", "projection", "bias", "flat_", "base", "line", "emissive", "eye", "amounts", "surface", ...MAPS].map((name) => [name, at(name)]));
  const sent = new Map(), sheet = { ...SHEET };
  const send = (part) => {
    if (sent.has(part)) return sent.get(part);
    const array = gl.createVertexArray(), { lines, borders } = edgesOf(part.index);
    gl.bindVertexArray(array);
    for (const [name, width] of ATTRIBUTES) {
      bufferOf(gl, gl.ARRAY_BUFFER, part[name]);
      const place = gl.getAttribLocation(p, name);
      if (place >= 0) { gl.enableVertexAttribArray(place); gl.vertexAttribPointer(place, width, gl.FLOAT, false, 0, 0); }
    }
    sent.set(part, { array, borders, count: lines.length, triangles: bufferOf(gl, gl.ELEMENT_ARRAY_BUFFER, part.index), lines: bufferOf(gl, gl.ELEMENT_ARRAY_BUFFER, lines) });
    return sent.get(part);
  };
  const begin = (view, projection, eye, surface, atlas) => {
    gl.useProgram(p);
    gl.uniformMatrix4fv(places.view, false, view); gl.uniformMatrix4fv(places.projection, false, projection);
    gl.uniform3fv(places.eye, eye); gl.uniform1i(places.surface, surface); gl.uniform1i(places.flat_, atlas);
    gl.enable(gl.BLEND); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  };
  const wear = (m) => {
    gl.uniform4fv(places.base, m.base); gl.uniform3fv(places.emissive, m.emissive); gl.uniform3f(places.amounts, m.rough, m.metal, m.occlusion);
    m.images.forEach((image, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit); gl.bindTexture(gl.TEXTURE_2D, pictures[image] || (unit === 3 ? even : plain)); gl.uniform1i(places[MAPS[unit]], unit);
    });
  };
  const fill = (part, colour = [0, 0, 0, 0]) => {
    const { array, triangles } = send(part);
    gl.bindVertexArray(array); gl.uniform1f(places.bias, 0); gl.uniform4fv(places.line, colour);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, triangles); gl.drawElements(gl.TRIANGLES, part.index.length, gl.UNSIGNED_INT, 0);
  };
  const wires = (part, colour, from = 0, to = Infinity) => {
    const { array, lines, count } = send(part), end = Math.min(to, count);
    gl.bindVertexArray(array); gl.uniform1f(places.bias, 0.002); gl.uniform4fv(places.line, colour); // in front of their own faces
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, lines); gl.drawElements(gl.LINES, end - from, gl.UNSIGNED_INT, from * 4);
  };
  return {
    draw(parts, view, projection, eye, { surface, wire, atlas }) {
      begin(view, projection, eye, atlas && [0, 1, 8].includes(surface) ? 2 : surface, atlas);
      (atlas ? gl.disable : gl.enable).call(gl, gl.DEPTH_TEST);
      if (atlas) { wear(parts[0].material); fill(sheet); }
      for (const part of parts) {
        wear(part.material);
        if (!atlas) fill(part);
        if (atlas || wire) wires(part, surface ? [0.05, 0.1, 0.25, 0.7] : [0.9, 0.95, 1, 0.7]);
        if (atlas) wires(part, [1, 0.35, 0.1, 1], 0, send(part).borders);
      }
    },
    bodies(parts, view, projection, eye) {
      begin(view, projection, eye, 0, false);
      gl.disable(gl.DEPTH_TEST);
      parts.forEach((part, i) => {
        const colour = [0, 2, 4].map((k) => 0.55 + 0.4 * Math.cos(2.4 * i + k));
        fill(part, [...colour, 0.12]); wires(part, [...colour, 0.9]);
      });
    },
  };
}
