"""Fewer faces by collapsing edges, by quadric error (Garland and Heckbert 1997), so that nothing else goes wrong.

    points, faces = simplify(points, faces, 5000)                       # vertices go where the error is least
    faces = simplify_charts(vertices, faces, uvs, 1000)                 # vertices stay; the atlas stays valid

A collapse that would pinch or open the surface (the link condition), turn a face over, or leave a triangle longer than
:data:`ASPECT` allows is not made: a closed mesh stays closed, whatever is asked. What is left may then have more faces
than were asked for; the caller sees that.

Edges are taken in passes, cheapest first, as meshoptimizer does: each pass prices all edges, then collapses those below
a price, no vertex twice.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.meshing.neighbours import paired_faces
from pipeline_core.rendering.jit import inlined, kernel

ASPECT = 12.0
"""Longest side over the height on it that a collapse may leave (equilateral: 1.15), unless one was longer before."""
THIN_PRICE = 0.01
"""Edges of triangles that are longer than that cost so much of their price, so that these go first."""
TURN = 0.3
"""Least cosine between a face's normal before and after a collapse."""
STIFFNESS = 1e-6
"""How strongly a vertex is held to the middle of its edge, so that flat regions have one best place, too."""
SHORT_FIRST = 1e-7
"""Weight of an edge's squared length in its price: in flat regions short ones go first."""
PRICE_SLACK = 1.5
"""Edges of a pass cost at most this many times the price at which it would reach its target."""
PASSES = 200


def simplify(points: np.ndarray, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``target`` faces where that can be; ``points`` [V, 3], ``faces`` [F, 3] with welded vertices.

    Vertices on open or crowded edges stay where they are.
    """
    points, faces = points.astype(np.float64), faces.astype(np.int64)
    kept = _run(points, faces, faces.copy(), np.zeros((0, 2)), target, True)
    used, index = np.unique(faces[kept], return_inverse=True)
    return points[used], index.reshape(-1, 3)


def simplify_charts(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, target: int) -> np.ndarray:
    """Faces [f, 3] of about ``target`` of them, between the given ``vertices`` [W, 3] with their ``uvs`` [W, 2].

    Every vertex that is left keeps its place and its UV, so that all levels share one texture. Vertices are duplicated
    along seams: both sides of a seam collapse together, and where three charts meet nothing moves. No face turns over
    in the atlas.
    """
    _, place = np.unique(vertices, axis=0, return_inverse=True)
    place = place.reshape(-1)
    points = np.empty((place.max() + 1, 3))
    points[place] = vertices
    wedges = faces.astype(np.int64)
    corners = place[wedges].astype(np.int64)
    kept = _run(points, corners, wedges, uvs.astype(np.float64), target, False)
    return wedges[kept].astype(np.int32)


def _run(
    points: np.ndarray, corners: np.ndarray, wedges: np.ndarray, uvs: np.ndarray, target: int, free: bool
) -> np.ndarray:
    """Collapse in place; returns which faces are left [F]."""
    size = max(float(np.ptp(points, axis=0).max()), 1e-30) if len(points) else 1.0
    points /= size
    alive = np.ones(len(corners), np.bool_)
    locked = np.zeros(len(points), np.bool_)
    alone = paired_faces(corners, len(points)) < 0
    locked[corners[alone]] = locked[np.roll(corners, -1, axis=1)[alone]] = True
    texel = 1.0
    if not free:
        a, b = uvs[wedges[:, 1]] - uvs[wedges[:, 0]], uvs[wedges[:, 2]] - uvs[wedges[:, 0]]
        flat = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
        x, y = points[corners[:, 1]] - points[corners[:, 0]], points[corners[:, 2]] - points[corners[:, 0]]
        texel = float(np.sqrt(np.linalg.norm(np.cross(x, y), axis=1).sum() / max(flat, 1e-30)))
    quadrics = _quadrics(points, corners)
    left = len(corners)
    for _ in range(PASSES):
        if left <= target:
            break
        head, following = _corner_lists(corners, alive, len(points))
        ends, price, spots = _price(points, corners, wedges, uvs, alive, locked, head, following, quadrics, texel, free)
        if not len(price):
            break
        order = np.argsort(price, kind="stable")
        goal = order[min((left - target) // 2, len(order) - 1)]
        order = order[price[order] <= PRICE_SLACK * price[goal]]
        made = _collapse(
            points, corners, wedges, uvs, alive, head, following, quadrics, ends[order], spots[order], left - target,
            free,
        )  # fmt: skip
        if made == 0 and len(order) < len(price):
            order = np.argsort(price, kind="stable")
            made = _collapse(
                points, corners, wedges, uvs, alive, head, following, quadrics, ends[order], spots[order],
                left - target, free,
            )  # fmt: skip
        if made == 0:
            break
        left -= made
    points *= size
    return alive


@kernel
def _quadrics(points, corners):
    """Quadrics [V, 10] of the planes of the faces around each vertex, by area: xx xy xz yy yz zz, x y z, constant."""
    out = np.zeros((len(points), 10))
    for f in range(len(corners)):
        a, b, c = points[corners[f, 0]], points[corners[f, 1]], points[corners[f, 2]]
        x = (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1])
        y = (b[2] - a[2]) * (c[0] - a[0]) - (b[0] - a[0]) * (c[2] - a[2])
        z = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        length = np.sqrt(x * x + y * y + z * z)
        if length < 1e-20:
            continue
        x, y, z = x / length, y / length, z / length
        d = -(x * a[0] + y * a[1] + z * a[2])
        for k in range(3):
            q = out[corners[f, k]]
            q[0] += length * x * x
            q[1] += length * x * y
            q[2] += length * x * z
            q[3] += length * y * y
            q[4] += length * y * z
            q[5] += length * z * z
            q[6] += length * x * d
            q[7] += length * y * d
            q[8] += length * z * d
            q[9] += length * d * d
    return out


@kernel
def _corner_lists(corners, alive, count):
    """First corner of each vertex [count] and the next corner of the same vertex [3 F]; -1 ends a list."""
    head, following = np.full(count, -1, np.int64), np.full(3 * len(corners), -1, np.int64)
    for f in range(len(corners) - 1, -1, -1):
        if alive[f]:
            for k in range(2, -1, -1):
                v = corners[f, k]
                following[3 * f + k], head[v] = head[v], 3 * f + k
    return head, following


@inlined
def _error(q, r, x, y, z):
    """Error of the sum of two quadrics at a place."""
    return (
        (q[0] + r[0]) * x * x + (q[3] + r[3]) * y * y + (q[5] + r[5]) * z * z
        + 2 * ((q[1] + r[1]) * x * y + (q[2] + r[2]) * x * z + (q[4] + r[4]) * y * z)
        + 2 * ((q[6] + r[6]) * x + (q[7] + r[7]) * y + (q[8] + r[8]) * z) + q[9] + r[9]
    )  # fmt: skip


@inlined
def _best_place(q, r, a, b):
    """Where the error of two quadrics is least, held a little to the middle of a and b."""
    mx, my, mz = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2
    hold = STIFFNESS * (q[0] + r[0] + q[3] + r[3] + q[5] + r[5]) + 1e-30
    xx, yy, zz = q[0] + r[0] + hold, q[3] + r[3] + hold, q[5] + r[5] + hold
    xy, xz, yz = q[1] + r[1], q[2] + r[2], q[4] + r[4]
    x, y, z = hold * mx - q[6] - r[6], hold * my - q[7] - r[7], hold * mz - q[8] - r[8]
    i, j, k = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    det = xx * i + xy * j + xz * k
    return (
        (i * x + j * y + k * z) / det,
        (j * x + (xx * zz - xz * xz) * y + (xy * xz - xx * yz) * z) / det,
        (k * x + (xy * xz - xx * yz) * y + (xx * yy - xy * xy) * z) / det,
    )


@inlined
def _sides(corners, wedges, alive, head, following, u, v):
    """The two faces of the edge u-v: their wedges at u and at v, and how many wedges u has (3 = more than two)."""
    first_u, first_v, other_u, other_v, faces = -1, -1, -1, -1, 0
    w0, w1, count = -1, -1, 0
    c = head[u]
    while c >= 0:
        f, k = c // 3, c % 3
        if alive[f]:
            w = wedges[f, k]
            if count == 0:
                w0, count = w, 1
            elif w != w0 and count == 1:
                w1, count = w, 2
            elif w != w0 and w != w1:
                count = 3
            for j in range(1, 3):
                if corners[f, (k + j) % 3] == v:
                    if faces == 0:
                        first_u, first_v = w, wedges[f, (k + j) % 3]
                    else:
                        other_u, other_v = w, wedges[f, (k + j) % 3]
                    faces += 1
        c = following[c]
    return first_u, first_v, other_u, other_v, faces, count


@inlined
def _may_slide(first_u, first_v, other_u, other_v, faces, count):
    """Whether u may go to v with its UVs: within a chart, or along the seam that u lies on."""
    if faces != 2:
        return False
    if count == 1:
        return first_v == other_v
    return count == 2 and first_u != other_u and first_v != other_v


@inlined
def _seam_error(corners, wedges, uvs, alive, head, following, u, v, first_u, first_v, other_u, other_v):
    """Squared distance in the atlas by which the seam through u moves when u goes to v, the larger side's."""
    worst = 0.0
    c = head[u]
    while c >= 0:
        f, k = c // 3, c % 3
        if alive[f]:
            w = wedges[f, k]
            for j in range(1, 3):
                t = wedges[f, (k + j) % 3]
                to = first_v if w == first_u else other_v
                if corners[f, (k + j) % 3] == v:
                    continue
                # the seam's other neighbour: an edge of u with one face on this side
                times, d = 0, head[u]
                while d >= 0:
                    g, m = d // 3, d % 3
                    if alive[g] and wedges[g, m] == w:
                        for i in range(1, 3):
                            times += wedges[g, (m + i) % 3] == t
                    d = following[d]
                if times == 1:
                    x, y = uvs[to, 0] - uvs[t, 0], uvs[to, 1] - uvs[t, 1]
                    px, py = uvs[w, 0] - uvs[t, 0], uvs[w, 1] - uvs[t, 1]
                    share = min(max((px * x + py * y) / (x * x + y * y + 1e-30), 0.0), 1.0)
                    dx, dy = px - share * x, py - share * y
                    worst = max(worst, dx * dx + dy * dy)
        c = following[c]
    return worst


@inlined
def _shape(ax, ay, az, bx, by, bz, cx, cy, cz):
    """Normal (twice the area) of a triangle, its length, and longest side over the height on it."""
    ux, uy, uz = bx - ax, by - ay, bz - az
    vx, vy, vz = cx - ax, cy - ay, cz - az
    x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    double = np.sqrt(x * x + y * y + z * z)
    wx, wy, wz = vx - ux, vy - uy, vz - uz
    longest = max(ux * ux + uy * uy + uz * uz, max(vx * vx + vy * vy + vz * vz, wx * wx + wy * wy + wz * wz))
    return x, y, z, double, longest / max(double, 1e-30)


@inlined
def _thin(points, corners, alive):
    """Mask [V] of the vertices of triangles longer than :data:`ASPECT`."""
    out = np.zeros(len(points), np.bool_)
    for f in range(len(corners)):
        if alive[f]:
            a, b, c = points[corners[f, 0]], points[corners[f, 1]], points[corners[f, 2]]
            if _shape(a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2])[4] > ASPECT:
                out[corners[f, 0]] = out[corners[f, 1]] = out[corners[f, 2]] = True
    return out


@kernel
def _price(points, corners, wedges, uvs, alive, locked, head, following, quadrics, texel, free):
    """Edges [E, 2] that may go, from and to; their prices [E]; where the vertex comes to lie [E, 3]."""
    thin = _thin(points, corners, alive)
    most = 3 * len(corners)
    ends, price, spots = np.empty((most, 2), np.int64), np.empty(most), np.empty((most, 3))
    n = 0
    for f in range(len(corners)):
        if not alive[f]:
            continue
        for k in range(3):
            a, b = corners[f, k], corners[f, (k + 1) % 3]
            if a > b or (locked[a] and locked[b]) or (free and (locked[a] or locked[b])):
                continue
            p, q = points[a], points[b]
            length = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2
            area = quadrics[a, 0] + quadrics[a, 3] + quadrics[a, 5] + quadrics[b, 0] + quadrics[b, 3] + quadrics[b, 5]
            if free:
                x, y, z = _best_place(quadrics[a], quadrics[b], p, q)
                ends[n, 0], ends[n, 1] = a, b
                spots[n, 0], spots[n, 1], spots[n, 2] = x, y, z
                price[n] = max(_error(quadrics[a], quadrics[b], x, y, z), 0.0) + SHORT_FIRST * length * area
                if thin[a] and thin[b]:
                    price[n] *= THIN_PRICE
                n += 1
                continue
            best, found = np.inf, False
            for way in range(2):
                u, v = (a, b) if way == 0 else (b, a)
                if locked[u]:
                    continue
                fu, fv, ou, ov, faces, count = _sides(corners, wedges, alive, head, following, u, v)
                if not _may_slide(fu, fv, ou, ov, faces, count):
                    continue
                cost = max(_error(quadrics[u], quadrics[v], points[v, 0], points[v, 1], points[v, 2]), 0.0)
                if count == 2:
                    moved = _seam_error(corners, wedges, uvs, alive, head, following, u, v, fu, fv, ou, ov)
                    cost += moved * texel * texel * np.sqrt(length) * np.sqrt(area)
                cost += SHORT_FIRST * length * area
                if cost < best:
                    best, found = cost, True
                    ends[n, 0], ends[n, 1] = u, v
                    spots[n] = points[v]
            if found:
                price[n] = best
                n += 1
    return ends[:n], price[:n], spots[:n]


@inlined
def _stays_closed(corners, alive, head, following, mark, ticket, u, v):
    """The link condition: u and v share two neighbours, those of their two faces, which have more than three faces."""
    faces = 0
    c = head[u]
    while c >= 0:
        f, k = c // 3, c % 3
        if alive[f]:
            mark[corners[f, (k + 1) % 3]] = ticket
            mark[corners[f, (k + 2) % 3]] = ticket
        c = following[c]
    shared = 0
    c = head[v]
    while c >= 0:
        f, k = c // 3, c % 3
        if alive[f]:
            for j in range(1, 3):
                other = corners[f, (k + j) % 3]
                if other == u:
                    faces += 1
                if mark[other] == ticket:
                    shared += 1
                    mark[other] = ticket + 1
                    valence, d = 0, head[other]
                    while d >= 0:
                        valence += alive[d // 3]
                        d = following[d]
                    if valence <= 3:
                        return False
        c = following[c]
    return faces == 2 and shared == 2


@inlined
def _keeps_shape(points, corners, alive, head, following, u, v, x, y, z):
    """Whether the faces that stay, with u and v at (x, y, z), neither turn over nor grow too long."""
    worst_before, worst_after = ASPECT, 0.0
    for end in range(2):
        at, gone = (u, v) if end == 0 else (v, u)
        c = head[at]
        while c >= 0:
            f, k = c // 3, c % 3
            if alive[f]:
                i, j = corners[f, (k + 1) % 3], corners[f, (k + 2) % 3]
                p, q, r = points[at], points[i], points[j]
                nx, ny, nz, double, aspect = _shape(p[0], p[1], p[2], q[0], q[1], q[2], r[0], r[1], r[2])
                worst_before = max(worst_before, aspect)
                if i != gone and j != gone:
                    mx, my, mz, after, longer = _shape(x, y, z, q[0], q[1], q[2], r[0], r[1], r[2])
                    worst_after = max(worst_after, longer)
                    if after < 1e-16 or nx * mx + ny * my + nz * mz < TURN * double * after:
                        return False
            c = following[c]
    return worst_after <= worst_before


@inlined
def _keeps_charts(corners, wedges, uvs, alive, head, following, u, v, fu, fv, ov):
    """Whether no face of u turns over in the atlas when u goes to v."""
    c = head[u]
    while c >= 0:
        f, k = c // 3, c % 3
        if alive[f] and corners[f, (k + 1) % 3] != v and corners[f, (k + 2) % 3] != v:
            w, i, j = wedges[f, k], wedges[f, (k + 1) % 3], wedges[f, (k + 2) % 3]
            to = fv if w == fu else ov
            ex, ey = uvs[j, 0] - uvs[i, 0], uvs[j, 1] - uvs[i, 1]
            before = ex * (uvs[w, 1] - uvs[i, 1]) - ey * (uvs[w, 0] - uvs[i, 0])
            after = ex * (uvs[to, 1] - uvs[i, 1]) - ey * (uvs[to, 0] - uvs[i, 0])
            if before * after <= 0:
                return False
        c = following[c]
    return True


@kernel
def _collapse(points, corners, wedges, uvs, alive, head, following, quadrics, ends, spots, wanted, free):
    """Collapse the edges ``ends`` in order, until ``wanted`` faces are gone; returns how many went."""
    mark, ticket = np.zeros(len(points), np.int64), 1
    touched = np.zeros(len(points), np.bool_)
    gone = 0
    for e in range(len(ends)):
        if gone >= wanted:
            break
        u, v = ends[e, 0], ends[e, 1]
        if touched[u] or touched[v]:
            continue
        ticket += 2
        if not _stays_closed(corners, alive, head, following, mark, ticket, u, v):
            continue
        x, y, z = spots[e, 0], spots[e, 1], spots[e, 2]
        if not _keeps_shape(points, corners, alive, head, following, u, v, x, y, z):
            continue
        fu, fv, ou, ov = u, v, u, v
        if not free:
            fu, fv, ou, ov, faces, count = _sides(corners, wedges, alive, head, following, u, v)
            if not _may_slide(fu, fv, ou, ov, faces, count) or not _keeps_charts(
                corners, wedges, uvs, alive, head, following, u, v, fu, fv, ov
            ):
                continue
        c, last = head[u], -1
        while c >= 0:
            f, k = c // 3, c % 3
            following_c = following[c]
            if alive[f]:
                if corners[f, (k + 1) % 3] == v or corners[f, (k + 2) % 3] == v:
                    alive[f] = False
                    gone += 1
                else:
                    corners[f, k] = v
                    wedges[f, k] = v if free else (fv if wedges[f, k] == fu else ov)
                    following[c], last = last, c
            c = following_c
        c = head[v]
        while c >= 0:
            following_c = following[c]
            if alive[c // 3]:
                following[c], last = last, c
            c = following_c
        head[v], head[u] = last, -1
        points[v, 0], points[v, 1], points[v, 2] = x, y, z
        for i in range(10):
            quadrics[v, i] += quadrics[u, i]
        touched[u] = touched[v] = True
    return gone
