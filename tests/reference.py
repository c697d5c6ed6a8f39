"""The paper's equations 1 to 7 (arXiv 1508.06576) in plain float64 NumPy.

Shares no code with the product. F, P: activations (N, M) of N filters at M positions. A: the style
image's Gram matrix (N, N).
"""

import numpy as np


def gram(F):
    """Return G of F (equation 3), (N, N)."""
    N = F.shape[0]
    G = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            G[i, j] = np.sum(F[i] * F[j])
    return G


def content(F, P):
    """Return L_content (equation 1)."""
    total = 0.0
    for i in range(F.shape[0]):
        for j in range(F.shape[1]):
            total += (F[i, j] - P[i, j]) ** 2
    return 0.5 * total


def content_gradient(F, P):
    """Return dL_content/dF (equation 2), (N, M)."""
    return np.where(F > 0, F - P, 0)


def style_layer(F, A):
    """Return E_l (equation 4)."""
    N, M = F.shape
    return np.sum((gram(F) - A) ** 2) / (4 * N**2 * M**2)


def style_layer_gradient(F, A):
    """Return dE_l/dF (equation 6), (N, M)."""
    N, M = F.shape
    return np.where(F > 0, (gram(F) - A).T @ F / (N**2 * M**2), 0)


def conv(x, weight, bias):
    """Return the 3 x 3 convolution of x (C, H, W) with zero padding, (N, H, W)."""
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
    """Return x (C, H, W) averaged over 2 x 2 positions, (C, H // 2, W // 2)."""
    C, H, W = x.shape
    return x[:, : H // 2 * 2, : W // 2 * 2].reshape(C, H // 2, 2, W // 2, 2).mean(axis=(2, 4))


def activations(x, tensors):
    """Return the rectified activations (N, H, W) of each layer.

    Args:
        x: the network's input (3, H, W).
        tensors: layer name to weight and bias, from the input upwards. Where the block's number in
            the name (the fifth letter) changes, a pooling comes first.
    """
    block, found = "1", {}
    for layer, (weight, bias) in tensors.items():
        if layer[4] != block:
            x, block = average_pool(x), layer[4]
        x = found[layer] = np.maximum(conv(x, weight, bias), 0)
    return found


def vgg19(image, state):
    """Return each layer's rectified activations for an RGB image (3, H, W) in [0, 1]."""
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
    """Return those of a network trained with Caffe: BGR from 0 to 255, minus a mean."""
    return activations(
        255 * image[::-1] - np.array([103.939, 116.779, 123.68])[:, None, None], tensors
    )


def total(image, content_image, style_image, state, alpha, beta, w, content_layers):
    """Return L_total (equations 5 and 7) of an image.

    Images are (3, H, W). The Gram matrix of a style image with M' positions is scaled by M / M'.

    Args:
        image: the generated image.
        content_image: of the same size.
        style_image: of any size.
        state: the network's state dict, as NumPy arrays.
        alpha: the weight of L_content.
        beta: the weight of L_style.
        w: style layer to w_l.
        content_layers: the layers of L_content, summed.
    """
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
