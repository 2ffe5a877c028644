"""Kernels that take Gaussians to the image plane and back: EWA projection, its gradient, and depth order.

All scalar arithmetic here is float64: it is a small part of the time, and a needle's 2D covariance has a condition
number that float32 cannot carry. What the pixels need is handed on in a form that loses nothing in float32: the
whitening matrix W of each projected Gaussian, in units of bits, so that its alpha at offset d is

    alpha = o exp(-1/2 d^T S^-1 d) = 2^(cut - |W d|^2) / 255,   cut = log2(255 o)

    W = sqrt(log2 e) [[w11, 0], [w21, w22]]
    w11 = 1 / sqrt(2 Sxx),  w22 = sqrt(Sxx / (2 det)),  w21 = -Sxy / sqrt(2 Sxx det)

a square root, so errors grow with the square root of the condition number; and the support is where ``|W d|^2 <= cut``.

``views`` [V, 20] float64 rows: rotation (9, row-major), translation (3), fx, fy, cx, cy, and the least and greatest
x / z and y / z at which the projection is linearised (4).

``records`` [V * N, 16] float32, one cache line each, is all the rasterizer reads of a Gaussian.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.rendering.jit import inlined, kernel

MX, MY, W11, W21, W22, OPACITY, CUT, RED, GREEN, BLUE, DEPTH, K1, K2 = range(13)
"""Columns of ``records``: mean, whitening matrix, opacity, ``log2(255 opacity)`` (negative = not drawn), colour, depth,
and the slopes of the lines on which |W d| is least for a given dx (``dy = K1 dx``) or dy (``dx = K2 dy``)."""
RECORD = 16
LOG2E = 1.4426950408889634
"""W is in bits: |W d|^2 = log2(e) * sigma."""


def view_rows(viewmats: np.ndarray, Ks: np.ndarray, width: int, height: int) -> np.ndarray:
    """``views`` for ``viewmats`` [V, 4, 4] and ``Ks`` [V, 3, 3]; directions are held within 1.3 fields of view."""
    rows = np.empty((len(viewmats), 20))
    rows[:, :9] = viewmats[:, :3, :3].reshape(-1, 9)
    rows[:, 9:12] = viewmats[:, :3, 3]
    fx, fy, cx, cy = (Ks[:, i, j].astype(np.float64) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    rows[:, 12:16] = np.stack([fx, fy, cx, cy], axis=1)
    rows[:, 16], rows[:, 17] = -(cx + 0.15 * width) / fx, (1.15 * width - cx) / fx
    rows[:, 18], rows[:, 19] = -(cy + 0.15 * height) / fy, (1.15 * height - cy) / fy
    return rows


@inlined
def _rotation(quats, n):
    """The nine entries of the rotation of quaternion ``n``, and 1 / its length.

    The one twin of ``types.rotation_matrices``: a kernel needs them as numbers, and the length for its backward.
    """
    w, x, y, z = np.float64(quats[n, 0]), np.float64(quats[n, 1]), np.float64(quats[n, 2]), np.float64(quats[n, 3])
    inverse = 1.0 / np.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        inverse,
    )  # fmt: skip


@inlined
def _covariance(r, scales, n):
    """Upper triangle of R S S R^T."""
    a, b, c = np.float64(scales[n, 0]) ** 2, np.float64(scales[n, 1]) ** 2, np.float64(scales[n, 2]) ** 2
    return (
        a * r[0] * r[0] + b * r[1] * r[1] + c * r[2] * r[2],
        a * r[0] * r[3] + b * r[1] * r[4] + c * r[2] * r[5],
        a * r[0] * r[6] + b * r[1] * r[7] + c * r[2] * r[8],
        a * r[3] * r[3] + b * r[4] * r[4] + c * r[5] * r[5],
        a * r[3] * r[6] + b * r[4] * r[7] + c * r[5] * r[8],
        a * r[6] * r[6] + b * r[7] * r[7] + c * r[8] * r[8],
    )


@inlined
def _camera_point(views, v, means, n):
    x, y, z = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
    return (
        views[v, 0] * x + views[v, 1] * y + views[v, 2] * z + views[v, 9],
        views[v, 3] * x + views[v, 4] * y + views[v, 5] * z + views[v, 10],
        views[v, 6] * x + views[v, 7] * y + views[v, 8] * z + views[v, 11],
    )


@inlined
def _jacobian(views, v, x, y, z):
    """M = J R, the 2 x 3 map from world to pixels linearised at camera point (x, y, z), row by row; and 1/z, x/z, y/z
    clamped."""
    iz = 1.0 / z
    u = min(max(x * iz, views[v, 16]), views[v, 17])
    w = min(max(y * iz, views[v, 18]), views[v, 19])
    fx, fy = views[v, 12] * iz, views[v, 13] * iz
    return (
        fx * (views[v, 0] - u * views[v, 6]), fx * (views[v, 1] - u * views[v, 7]),
        fx * (views[v, 2] - u * views[v, 8]), fy * (views[v, 3] - w * views[v, 6]),
        fy * (views[v, 4] - w * views[v, 7]), fy * (views[v, 5] - w * views[v, 8]),
        iz, u, w,
    )  # fmt: skip


@inlined
def _times(m, c):
    """M C, 2 x 3, of a 2 x 3 matrix and a symmetric 3 x 3 one (upper triangle)."""
    return (
        m[0] * c[0] + m[1] * c[1] + m[2] * c[2], m[0] * c[1] + m[1] * c[3] + m[2] * c[4],
        m[0] * c[2] + m[1] * c[4] + m[2] * c[5], m[3] * c[0] + m[4] * c[1] + m[5] * c[2],
        m[3] * c[1] + m[4] * c[3] + m[5] * c[4], m[3] * c[2] + m[4] * c[4] + m[5] * c[5],
    )  # fmt: skip


@inlined
def _blurred(m, c, eps2d):
    """2D covariance M C M^T + eps2d I (xx, xy, yy)."""
    t = _times(m, c)
    return (
        t[0] * m[0] + t[1] * m[1] + t[2] * m[2] + eps2d,
        t[0] * m[3] + t[1] * m[4] + t[2] * m[5],
        t[3] * m[3] + t[4] * m[4] + t[5] * m[5] + eps2d,
    )


@kernel
def project_forward(
    means,
    quats,
    scales,
    opacities,
    views,
    width,
    height,
    near,
    far,
    eps2d,
    means2d,
    depths,
    conics,
    covars2d,
    radii,
    records,
    part,
    parts,
):
    """Project a contiguous share of the Gaussians into every view. Outputs [V, N, ...] are zero where nothing is drawn.

    Radii and culling are gsplat's: ``ceil(min(3.33, sqrt(2 ln(255 o))) sqrt(Sxx))``, dropped when outside the image.
    Anything non-finite fails one of the comparisons below and is not drawn.
    """
    count = means.shape[0]
    for n in range(count * part // parts, count * (part + 1) // parts):
        r = _rotation(quats, n)
        c = _covariance(r, scales, n)
        opacity = np.float64(opacities[n])
        cut = np.log2(255.0 * opacity) if opacity >= 1.0 / 255.0 else -1.0
        usable = cut >= 0.0 and opacity < np.inf
        extent = min(3.33, np.sqrt(2.0 / LOG2E * max(cut, 0.0)))
        for v in range(views.shape[0]):
            i = v * count + n
            x, y, z = _camera_point(views, v, means, n)
            drawn = usable and z >= near and z <= far
            if drawn:
                m = _jacobian(views, v, x, y, z)
                sxx, sxy, syy = _blurred(m, c, eps2d)
                det = sxx * syy - sxy * sxy
                mx = views[v, 12] * x * m[6] + views[v, 14]
                my = views[v, 13] * y * m[6] + views[v, 15]
                rx, ry = np.ceil(extent * np.sqrt(sxx)), np.ceil(extent * np.sqrt(syy))
                drawn = det > 0.0 and mx + rx > 0.0 and mx - rx < width and my + ry > 0.0 and my - ry < height
                drawn = drawn and sxx < 1e30 and syy < 1e30 and (rx > 0.0 or ry > 0.0)
            if drawn:
                inverse = 1.0 / det
                means2d[v, n, 0], means2d[v, n, 1] = mx, my
                depths[v, n] = z
                conics[v, n, 0], conics[v, n, 1], conics[v, n, 2] = syy * inverse, -sxy * inverse, sxx * inverse
                covars2d[v, n, 0], covars2d[v, n, 1], covars2d[v, n, 2] = sxx, sxy, syy
                radii[v, n, 0], radii[v, n, 1] = int(min(rx, 1e9)), int(min(ry, 1e9))
                w11, w22 = np.sqrt(0.5 * LOG2E / sxx), np.sqrt(0.5 * LOG2E * sxx * inverse)
                w21 = -sxy * np.sqrt(0.5 * LOG2E * inverse / sxx)
                records[i, MX], records[i, MY] = mx, my
                records[i, W11], records[i, W21], records[i, W22] = w11, w21, w22
                records[i, OPACITY], records[i, CUT], records[i, DEPTH] = opacity, cut, z
                records[i, K1], records[i, K2] = sxy / sxx, sxy / syy
            else:
                means2d[v, n, 0], means2d[v, n, 1], depths[v, n] = 0.0, 0.0, 0.0
                conics[v, n, 0], conics[v, n, 1], conics[v, n, 2] = 0.0, 0.0, 0.0
                covars2d[v, n, 0], covars2d[v, n, 1], covars2d[v, n, 2] = 0.0, 0.0, 0.0
                radii[v, n, 0], radii[v, n, 1] = 0, 0
                records[i, CUT] = -1.0


@kernel
def project_backward(
    means,
    quats,
    scales,
    views,
    eps2d,
    radii,
    v_means2d,
    v_depths,
    v_conics,
    v_covars2d,
    v_means,
    v_quats,
    v_scales,
    part,
    parts,
):
    """Gradients of a contiguous share of the Gaussians, summed over views in order.

    ``v_covars2d`` [V, N, 3] is with respect to (xx, xy, yy), where xy stands for both off-diagonal entries.
    """
    count = means.shape[0]
    for n in range(count * part // parts, count * (part + 1) // parts):
        gx, gy, gz = 0.0, 0.0, 0.0  # of the mean, world axes
        c00, c01, c02, c11, c12, c22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0  # of the world covariance, as a symmetric matrix
        r = _rotation(quats, n)
        c = _covariance(r, scales, n)
        seen = False
        for v in range(views.shape[0]):
            if radii[v, n, 0] <= 0 or radii[v, n, 1] <= 0:
                continue
            seen = True
            x, y, z = _camera_point(views, v, means, n)
            m = _jacobian(views, v, x, y, z)
            iz, u, w = m[6], m[7], m[8]
            sxx, sxy, syy = _blurred(m, c, eps2d)
            # conic = inverse of the covariance: v_S = -C V C
            inverse = 1.0 / (sxx * syy - sxy * sxy)
            ca, cb, cc = syy * inverse, -sxy * inverse, sxx * inverse
            va, vb, vc = np.float64(v_conics[v, n, 0]), 0.5 * v_conics[v, n, 1], np.float64(v_conics[v, n, 2])
            ta, tb, tc, td = ca * va + cb * vb, ca * vb + cb * vc, cb * va + cc * vb, cb * vb + cc * vc
            sa = v_covars2d[v, n, 0] - (ta * ca + tb * cb)
            sb = 0.5 * v_covars2d[v, n, 1] - (ta * cb + tb * cc)
            sc = v_covars2d[v, n, 2] - (tc * cb + td * cc)
            # S = M C M^T: v_C += M^T V M, v_M = 2 V M C
            p0, p1, p2 = sa * m[0] + sb * m[3], sa * m[1] + sb * m[4], sa * m[2] + sb * m[5]
            q0, q1, q2 = sb * m[0] + sc * m[3], sb * m[1] + sc * m[4], sb * m[2] + sc * m[5]
            c00 += m[0] * p0 + m[3] * q0
            c01 += m[0] * p1 + m[3] * q1
            c02 += m[0] * p2 + m[3] * q2
            c11 += m[1] * p1 + m[4] * q1
            c12 += m[1] * p2 + m[4] * q2
            c22 += m[2] * p2 + m[5] * q2
            t = _times((p0, p1, p2, q0, q1, q2), c)
            # M = J R with J = [[fx/z, 0, -fx u/z], [0, fy/z, -fy w/z]]
            fx, fy = views[v, 12] * iz, views[v, 13] * iz
            j00 = 2 * (t[0] * views[v, 0] + t[1] * views[v, 1] + t[2] * views[v, 2])
            j02 = 2 * (t[0] * views[v, 6] + t[1] * views[v, 7] + t[2] * views[v, 8])
            j11 = 2 * (t[3] * views[v, 3] + t[4] * views[v, 4] + t[5] * views[v, 5])
            j12 = 2 * (t[3] * views[v, 6] + t[4] * views[v, 7] + t[5] * views[v, 8])
            px, py = fx * v_means2d[v, n, 0], fy * v_means2d[v, n, 1]
            ex, ey = px, py  # camera axes
            ez = v_depths[v, n] - iz * (x * px + y * py + fx * (j00 - u * j02) + fy * (j11 - w * j12))
            if views[v, 16] <= x * iz <= views[v, 17]:
                ex -= fx * iz * j02
                ez += fx * iz * u * j02
            if views[v, 18] <= y * iz <= views[v, 19]:
                ey -= fy * iz * j12
                ez += fy * iz * w * j12
            gx += views[v, 0] * ex + views[v, 3] * ey + views[v, 6] * ez
            gy += views[v, 1] * ex + views[v, 4] * ey + views[v, 7] * ez
            gz += views[v, 2] * ex + views[v, 5] * ey + views[v, 8] * ez
        v_means[n, 0], v_means[n, 1], v_means[n, 2] = gx, gy, gz
        if not seen:
            v_quats[n, 0], v_quats[n, 1], v_quats[n, 2], v_quats[n, 3] = 0.0, 0.0, 0.0, 0.0
            v_scales[n, 0], v_scales[n, 1], v_scales[n, 2] = 0.0, 0.0, 0.0
            continue
        _covariance_backward(r, scales, quats, n, (c00, c01, c02, c11, c12, c22), v_quats, v_scales)


@inlined
def _covariance_backward(r, scales, quats, n, g, v_quats, v_scales):
    """C = R S^2 R^T: v_s_k = 2 s_k r_k^T G r_k, v_R = 2 G R S^2; then through the quaternion and its normalisation."""
    a0 = g[0] * r[0] + g[1] * r[3] + g[2] * r[6]
    a1 = g[1] * r[0] + g[3] * r[3] + g[4] * r[6]
    a2 = g[2] * r[0] + g[4] * r[3] + g[5] * r[6]
    b0 = g[0] * r[1] + g[1] * r[4] + g[2] * r[7]
    b1 = g[1] * r[1] + g[3] * r[4] + g[4] * r[7]
    b2 = g[2] * r[1] + g[4] * r[4] + g[5] * r[7]
    d0 = g[0] * r[2] + g[1] * r[5] + g[2] * r[8]
    d1 = g[1] * r[2] + g[3] * r[5] + g[4] * r[8]
    d2 = g[2] * r[2] + g[4] * r[5] + g[5] * r[8]
    sa, sb, sc = np.float64(scales[n, 0]), np.float64(scales[n, 1]), np.float64(scales[n, 2])
    v_scales[n, 0] = 2 * sa * (r[0] * a0 + r[3] * a1 + r[6] * a2)
    v_scales[n, 1] = 2 * sb * (r[1] * b0 + r[4] * b1 + r[7] * b2)
    v_scales[n, 2] = 2 * sc * (r[2] * d0 + r[5] * d1 + r[8] * d2)
    ka, kb, kc = 2 * sa * sa, 2 * sb * sb, 2 * sc * sc
    r00, r01, r02 = ka * a0, kb * b0, kc * d0
    r10, r11, r12 = ka * a1, kb * b1, kc * d1
    r20, r21, r22 = ka * a2, kb * b2, kc * d2
    inverse = r[9]
    w, x, y, z = quats[n, 0] * inverse, quats[n, 1] * inverse, quats[n, 2] * inverse, quats[n, 3] * inverse
    qw = 2 * (x * (r21 - r12) + y * (r02 - r20) + z * (r10 - r01))
    qx = 2 * (y * (r01 + r10) + z * (r02 + r20) + w * (r21 - r12) - 2 * x * (r11 + r22))
    qy = 2 * (x * (r01 + r10) + z * (r12 + r21) + w * (r02 - r20) - 2 * y * (r00 + r22))
    qz = 2 * (x * (r02 + r20) + y * (r12 + r21) + w * (r10 - r01) - 2 * z * (r00 + r11))
    along = qw * w + qx * x + qy * y + qz * z
    v_quats[n, 0], v_quats[n, 1] = (qw - along * w) * inverse, (qx - along * x) * inverse
    v_quats[n, 2], v_quats[n, 3] = (qy - along * y) * inverse, (qz - along * z) * inverse


@kernel
def depth_order(radii, depths, order, drawn, part, parts):
    """``order`` [V, N] int32: drawn Gaussians by depth, ties by index, and their number ``drawn`` [V]; views in parts.

    Radix sort of the bits of the depth (positive floats sort as integers), as many digits as the range needs.
    """
    views, count = depths.shape
    keys = np.empty(count, np.uint32)
    other = np.empty(count, np.uint32)
    ids = np.empty(count, np.int32)
    starts = np.empty(4097, np.int64)
    for v in range(part, views, parts):
        bits_of = depths[v].view(np.uint32)
        total = 0
        low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
        for n in range(count):
            if radii[v, n, 0] > 0 and radii[v, n, 1] > 0:
                keys[total] = bits_of[n]
                low, high = min(low, bits_of[n]), max(high, bits_of[n])
                order[v, total] = n
                total += 1
        drawn[v] = total
        width = 0
        while total > 0 and (np.int64(high) - np.int64(low)) >> width > 0:
            width += 1
        passes = (width + 11) // 12
        digit = (width + passes - 1) // max(passes, 1)
        for p in range(passes):
            shift, top = p * digit, 1 << digit
            starts[: top + 1] = 0
            for k in range(total):
                starts[((np.int64(keys[k]) - np.int64(low)) >> shift & (top - 1)) + 1] += 1
            for k in range(top):
                starts[k + 1] += starts[k]
            for k in range(total):
                d = (np.int64(keys[k]) - np.int64(low)) >> shift & (top - 1)
                other[starts[d]], ids[starts[d]] = keys[k], order[v, k]
                starts[d] += 1
            for k in range(total):
                keys[k], order[v, k] = other[k], ids[k]
