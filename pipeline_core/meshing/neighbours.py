"""What lies next to what on a triangle mesh."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def neighbour_mean(faces: np.ndarray, count: int) -> sparse.spmatrix:
    """Matrix [count, count] that takes the mean over a vertex's neighbours along edges; zero for a vertex without."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    graph = sparse.coo_matrix((np.ones(len(edges), bool), edges.T), shape=(count, count)).tocsr()
    graph.data[:] = 1
    return sparse.diags(1 / np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1)) @ graph


def paired_faces(faces: np.ndarray, count: int) -> np.ndarray:
    """The face [F, 3] beyond each side of ``faces`` [F, 3]: beyond side k from corner k to k + 1; -1 = not just one.

    Faces of two sides run along their edge in opposite directions; ``count`` is the number of vertices.
    """
    start, end = faces.reshape(-1).astype(np.int64), np.roll(faces, -1, axis=1).reshape(-1).astype(np.int64)
    key, back = start * count + end, end * count + start
    ways, first, times = np.unique(key, return_index=True, return_counts=True)
    if not len(ways):
        return np.full((0, 3), -1)
    at = np.searchsorted(ways, back).clip(max=len(ways) - 1)
    mine = np.searchsorted(ways, key)
    paired = (ways[at] == back) & (times[at] == 1) & (times[mine] == 1)
    return np.where(paired, first[at] // 3, -1).reshape(-1, 3)
