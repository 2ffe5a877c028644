// Draws Gaussians as our own rasteriser does (pipeline_core/rendering/reference.py): EWA footprints, sorted, blended in sRGB.

const SPLAT_VERTEX = `#version 300 es
precision highp float; precision highp sampler2D;
in uint index; uniform sampler2D rows; uniform mat4 view, projection; uniform vec2 size; // of the canvas, in pixels
out vec2 q; out vec4 c;
vec4 row(int k) { int i = int(index) * 4 + k; return texelFetch(rows, ivec2(i & 2047, i >> 11), 0); }
void main() {
  vec4 a = row(0), b = row(1), d = row(2), m = view * vec4(a.xyz, 1.0), clip = projection * m;
  c = vec4(b.w, d.w, row(3).x, a.w);
  float extent = min(sqrt(2.0 * log(255.0 * a.w)), 3.33), z = -m.z;
  if (!(extent > 0.0) || z <= 0.0) { gl_Position = vec4(2.0); return; }
  vec2 scale = vec2(projection[0][0], projection[1][1]), f = 0.5 * size * scale, pan = -projection[2].xy;
  vec2 slope = (clamp(clip.xy / clip.w, -1.3, 1.3) - pan) / scale; // beyond, the linear map explodes
  mat3 w = mat3(view), s = w * mat3(b.xyz, b.y, d.xy, b.z, d.yz) * transpose(w);
  vec3 x = f.x / z * vec3(1.0, 0.0, slope.x), y = f.y / z * vec3(0.0, 1.0, slope.y); // rows of the Jacobian (EWA, eq. 29)
  float xx = dot(x, s * x) + 0.3, xy = dot(x, s * y), yy = dot(y, s * y) + 0.3;      // pixels^2, blurred by eps2d
  float mid = 0.5 * (xx + yy), r = length(vec2(0.5 * (xx - yy), xy));
  vec2 axis = abs(xy) > 1e-9 ? normalize(vec2(xy, mid + r - xx)) : vec2(xx >= yy, xx < yy);
  q = (vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0) * extent;                // in standard deviations
  vec2 offset = q.x * sqrt(mid + r) * axis + q.y * sqrt(max(mid - r, 0.0)) * vec2(-axis.y, axis.x);
  gl_Position = vec4(clip.xy / clip.w + 2.0 * offset / size, 0.0, 1.0);
}`;
const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
in vec2 q; in vec4 c; out vec4 pixel;
void main() {
  float alpha = min(c.a * exp(-0.5 * dot(q, q)), 0.999);
  if (alpha < 1.0 / 255.0) discard;
  pixel = vec4(c.rgb * alpha, alpha);
}`;

// Columns of catalog/splats.py: x y z in 16 bits; scales, rotation, colour and opacity in 8, each between low and high.
function unpack(bytes, { count, low, high }) {
  const wide = new Uint16Array(bytes.buffer, bytes.byteOffset, 3 * count), narrow = bytes.subarray(6 * count);
  const column = (k) => (i) => low[k] + (high[k] - low[k]) * (k < 3 ? wide[k * count + i] / 65535 : narrow[(k - 3) * count + i] / 255);
  const read = low.map((_, k) => column(k)), rows = new Float32Array(Math.ceil(count * 4 / 2048) * 2048 * 4);
  for (let i = 0; i < count; i++) {
    const [x, y, z, s0, s1, s2, ...rest] = read.map((value) => value(i)), quat = rest.slice(0, 4), [r, g, b, opacity] = rest.slice(4);
    const length = Math.hypot(...quat) || 1, m = rotation(quat.map((v) => v / length)), v = [s0, s1, s2].map((s) => Math.exp(2 * s));
    const sigma = (j, k) => v.reduce((sum, s, c) => sum + s * m[3 * c + j] * m[3 * c + k], 0);
    rows.set([x, y, z, opacity, sigma(0, 0), sigma(0, 1), sigma(0, 2), r, sigma(1, 1), sigma(1, 2), sigma(2, 2), g, b], i * 16);
  }
  return rows;
}

function sorter(rows, count) { // a function: indices from the farthest to the nearest along a direction, by counting
  const depths = new Float32Array(count), order = new Uint32Array(count), ends = new Uint32Array(65537);
  return ([x, y, z]) => {
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < count; i++) {
      const depth = depths[i] = x * rows[16 * i] + y * rows[16 * i + 1] + z * rows[16 * i + 2];
      if (depth < low) low = depth;
      if (depth > high) high = depth;
    }
    const scale = 65535 / (high - low || 1), bin = (i) => (depths[i] - low) * scale | 0;
    ends.fill(0);
    for (let i = 0; i < count; i++) ends[bin(i) + 1]++;
    for (let k = 0; k < 65536; k++) ends[k + 1] += ends[k];
    for (let i = 0; i < count; i++) order[ends[bin(i)]++] = i;
    return order;
  };
}

// A drawer of one splat: draw(view, projection)
function splatDrawer(gl, bytes, about) {
  const { p, at } = program(gl, SPLAT_VERTEX, SPLAT_FRAGMENT), rows = unpack(bytes, about), sort = sorter(rows, about.count);
  const places = Object.fromEntries(["rows", "view", "projection", "size"].map((name) => [name, at(name)]));
  const table = gl.createTexture(), array = gl.createVertexArray(), buffer = gl.createBuffer(), place = gl.getAttribLocation(p, "index");
  gl.bindTexture(gl.TEXTURE_2D, table);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, 2048, rows.length / 8192, 0, gl.RGBA, gl.FLOAT, rows);
  for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
  gl.bindVertexArray(array); gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.enableVertexAttribArray(place); gl.vertexAttribIPointer(place, 1, gl.UNSIGNED_INT, 0, 0); gl.vertexAttribDivisor(place, 1);
  let sorted = "";
  return (view, projection) => {
    const back = [view[2], view[6], view[10]];
    gl.useProgram(p); gl.bindVertexArray(array); gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    if (sorted !== String(back)) { gl.bufferData(gl.ARRAY_BUFFER, sort(back), gl.DYNAMIC_DRAW); sorted = String(back); }
    gl.activeTexture(gl.TEXTURE0); gl.bindTexture(gl.TEXTURE_2D, table); gl.uniform1i(places.rows, 0);
    gl.uniformMatrix4fv(places.view, false, view); gl.uniformMatrix4fv(places.projection, false, projection);
    gl.uniform2f(places.size, gl.drawingBufferWidth, gl.drawingBufferHeight);
    gl.disable(gl.DEPTH_TEST); gl.enable(gl.BLEND); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, about.count);
  };
}
