"""The paper (arXiv 1508.06576) in plain float64 NumPy. Shares no code with the product."""

import numpy as np


def gram(F):
    """Equation 3. F (N, M)."""
    N = F.shape[0]
    G = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            G[i, j] = np.sum(F[i] * F[j])
    return G


def content(F, P):
    """Equation 1."""
    total = 0.0
    for i in range(F.shape[0]):
        for j in range(F.shape[1]):
            total += (F[i, j] - P[i, j]) ** 2
    return 0.5 * total


def content_gradient(F, P):
    """Equation 2."""
    return np.where(F > 0, F - P, 0)


def style_layer(F, A):
    """Equation 4."""
    N, M = F.shape
    return np.sum((gram(F) - A) ** 2) / (4 * N**2 * M**2)


def style_layer_gradient(F, A):
    """Equation 6."""
    N, M = F.shape
    return np.where(F > 0, (gram(F) - A).T @ F / (N**2 * M**2), 0)


def conv(x, weight, bias):
    """3 x 3, zero padding. x (C, H, W)."""
    C, H, W = x.shape
    padded = np.zeros((C, H + 2, W + 2))
    padded[:, 1:-1, 1:-1] = x
    out = np.zeros((len(weight), H, W))
    for dy in range(3):
        for dx in range(3):
            out += np.einsum(
                "oc,chw->ohw", weight[:, :, dy, dx], padded[:, dy : dy + H, dx : dx + W]
            )
    return out + bias[:, None, None]


def average_pool(x):
    C, H, W = x.shape
    return x[:, : H // 2 * 2, : W // 2 * 2].reshape(C, H // 2, 2, W // 2, 2).mean(axis=(2, 4))


def activations(x, tensors):
    """Layer name to rectified activations (N, H, W) of a network's input (3, H, W).

    tensors: layer name to weight and bias, from the input upwards; names differ in their fifth
    letter where a pooling lies between them.
    """
    block, found = "1", {}
    for layer, (weight, bias) in tensors.items():
        if layer[4] != block:
            x, block = average_pool(x), layer[4]
        x = found[layer] = np.maximum(conv(x, weight, bias), 0)
    return found


def vgg19(image, state):
    """Layer name to rectified activations (N, H, W) of an RGB image (3, H, W) in [0, 1]."""
    x = (image - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[
        :, None, None
    ]
    index, tensors = 0, {}
    for block, count in enumerate([2, 2, 4, 4, 4], 1):
        for number in range(1, count + 1):
            if f"features.{index}.weight" in state:
                parts = (state[f"features.{index}.{part}"] for part in ("weight", "bias"))
                tensors[f"conv{block}_{number}"] = tuple(parts)
            index += 2
        index += 1
    return activations(x, tensors)


def caffe(image, tensors):
    """The same of a network that was trained with Caffe: BGR from 0 to 255, less a mean."""
    return activations(
        255 * image[::-1] - np.array([103.939, 116.779, 123.68])[:, None, None], tensors
    )


def total(image, content_image, style_image, state, alpha, beta, w, content_layers):
    """Equation 7 with equation 5; a style of another size is rescaled by M / M'."""
    F, P, S = (vgg19(x, state) for x in (image, content_image, style_image))
    loss = 0.0
    for layer in content_layers:
        N = F[layer].shape[0]
        loss += alpha * content(F[layer].reshape(N, -1), P[layer].reshape(N, -1))
    for layer, weight in w.items():
        N = F[layer].shape[0]
        flat, style = F[layer].reshape(N, -1), S[layer].reshape(N, -1)
        A = gram(style) * flat.shape[1] / style.shape[1]
        loss += beta * weight * style_layer(flat, A)
    return loss
