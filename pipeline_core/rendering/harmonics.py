"""Kernels for :mod:`sh`: colours of every drawn Gaussian in every view from its spherical harmonics, and back."""

from __future__ import annotations

import numpy as np

from pipeline_core.rendering.jit import inlined, kernel
from pipeline_core.rendering.sh import C0, C1, C2, C3

_C20, _C21, _C22, _C23, _C24 = C2
_C30, _C31, _C32, _C33, _C34, _C35, _C36 = C3


@inlined
def _basis(degree, x, y, z, b):
    """Fill ``b`` [16] with the basis at the unit vector (x, y, z)."""
    b[0] = C0
    if degree >= 1:
        b[1], b[2], b[3] = -C1 * y, C1 * z, -C1 * x
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        b[4], b[5], b[6] = _C20 * x * y, _C21 * y * z, _C22 * (2 * zz - xx - yy)
        b[7], b[8] = _C23 * x * z, _C24 * (xx - yy)
        if degree >= 3:
            b[9], b[10], b[11] = _C30 * y * (3 * xx - yy), _C31 * x * y * z, _C32 * y * (4 * zz - xx - yy)
            b[12], b[13] = _C33 * z * (2 * zz - 3 * xx - 3 * yy), _C34 * x * (4 * zz - xx - yy)
            b[14], b[15] = _C35 * z * (xx - yy), _C36 * x * (xx - 3 * yy)


@inlined
def _basis_gradient(degree, x, y, z, g):
    """Sum over k of ``g[k]`` times the gradient of the k-th basis function with respect to x, y, z."""
    gx = gy = gz = 0.0
    if degree >= 1:
        gx, gy, gz = -C1 * g[3], -C1 * g[1], C1 * g[2]
    if degree >= 2:
        gx += _C20 * y * g[4] - 2 * _C22 * x * g[6] + _C23 * z * g[7] + 2 * _C24 * x * g[8]
        gy += _C20 * x * g[4] + _C21 * z * g[5] - 2 * _C22 * y * g[6] - 2 * _C24 * y * g[8]
        gz += _C21 * y * g[5] + 4 * _C22 * z * g[6] + _C23 * x * g[7]
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        gx += 6 * _C30 * x * y * g[9] + _C31 * y * z * g[10] - 2 * _C32 * x * y * g[11] - 6 * _C33 * x * z * g[12]
        gx += _C34 * (4 * zz - 3 * xx - yy) * g[13] + 2 * _C35 * x * z * g[14] + 3 * _C36 * (xx - yy) * g[15]
        gy += 3 * _C30 * (xx - yy) * g[9] + _C31 * x * z * g[10] + _C32 * (4 * zz - xx - 3 * yy) * g[11]
        gy += -6 * _C33 * y * z * g[12] - 2 * _C34 * x * y * g[13] - 2 * _C35 * y * z * g[14] - 6 * _C36 * x * y * g[15]
        gz += _C31 * x * y * g[10] + 8 * _C32 * y * z * g[11] + 3 * _C33 * (2 * zz - xx - yy) * g[12]
        gz += 8 * _C34 * x * z * g[13] + _C35 * (xx - yy) * g[14]
    return gx, gy, gz


@kernel
def harmonics_forward(degree, means, positions, coefficients, radii, colors, part, parts):
    """``colors`` [V, N, 3] seen from ``positions`` [V, 3] float64; zero where nothing is drawn."""
    views, count = radii.shape[0], radii.shape[1]
    terms = (degree + 1) * (degree + 1)
    b = np.zeros(16)
    for n in range(count * part // parts, count * (part + 1) // parts):
        for v in range(views):
            colors[v, n, 0], colors[v, n, 1], colors[v, n, 2] = 0.0, 0.0, 0.0
            if radii[v, n, 0] <= 0 or radii[v, n, 1] <= 0:
                continue
            x, y, z = means[n, 0] - positions[v, 0], means[n, 1] - positions[v, 1], means[n, 2] - positions[v, 2]
            inverse = 1.0 / np.sqrt(max(x * x + y * y + z * z, 1e-24))
            _basis(degree, x * inverse, y * inverse, z * inverse, b)
            for c in range(3):
                total = 0.5
                for k in range(terms):
                    total += b[k] * coefficients[n, k, c]
                colors[v, n, c] = 0.0 if total < 0.0 else total


@kernel
def harmonics_backward(
    degree, means, positions, coefficients, radii, colors, v_colors, v_means, v_coefficients, part, parts
):
    """Gradients of coefficients [N, K, 3] and, through the direction, of means [N, 3]; summed over views in order."""
    views, count = radii.shape[0], radii.shape[1]
    terms = (degree + 1) * (degree + 1)
    b, g = np.zeros(16), np.zeros(16)
    for n in range(count * part // parts, count * (part + 1) // parts):
        v_coefficients[n] = 0.0
        mx = my = mz = 0.0
        for v in range(views):
            if radii[v, n, 0] <= 0 or radii[v, n, 1] <= 0:
                continue
            x, y, z = means[n, 0] - positions[v, 0], means[n, 1] - positions[v, 1], means[n, 2] - positions[v, 2]
            inverse = 1.0 / np.sqrt(max(x * x + y * y + z * z, 1e-24))
            x, y, z = x * inverse, y * inverse, z * inverse
            _basis(degree, x, y, z, b)
            g[:] = 0.0
            for c in range(3):
                if colors[v, n, c] > 0.0:  # the clamp at zero has no gradient below
                    gradient = np.float64(v_colors[v, n, c])
                    for k in range(terms):
                        v_coefficients[n, k, c] += b[k] * gradient
                        g[k] += coefficients[n, k, c] * gradient
            gx, gy, gz = _basis_gradient(degree, x, y, z, g)
            along = gx * x + gy * y + gz * z
            mx += (gx - along * x) * inverse
            my += (gy - along * y) * inverse
            mz += (gz - along * z) * inverse
        v_means[n, 0], v_means[n, 1], v_means[n, 2] = mx, my, mz
