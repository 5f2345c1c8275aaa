"""The deep family's network: embeddings of numbers, then a residual perceptron that is an ensemble in one.

Method: Gorishniy, Kotelnikov, Babenko, *TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling*,
ICLR 2025. All members share each layer's matrix ``w`` and differ by vectors: member ``i`` computes
``((x * r[i]) @ w) * s[i] + b[i]`` (BatchEnsemble: Wen, Tran, Ba, ICLR 2020). They are trained side by side, each on its
own loss, and their margins averaged.

A feature that must move the margin one way is kept out of the layers. It adds a curve of its own that rises (or falls),
times a factor above 0 that the layers compute from the other features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fraudml.training.families import base
from fraudml.training.families._piecewise import Encoding

Weights = dict[str, Any]  # arrays by name; see initial_weights
Dropout = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Shape:
    """What decides which program is compiled. ``monotone``: of each feature, -1, 0 or +1."""

    bins: int
    embedding: int
    width: int
    blocks: int
    members: int
    monotone: tuple[int, ...]

    @property
    def held(self) -> list[int]:
        """The columns with a direction."""
        return [column for column, direction in enumerate(self.monotone) if direction]


def initial_weights(shape: Shape, base_rate: float, seed: int) -> Weights:
    """Random weights, float32, of a network that first says about ``base_rate`` whatever it sees.

    With k features, t bins, e numbers per embedding, d the width, m members, h features with a direction.
    """
    rng = np.random.default_rng(seed)
    k, t, e, d, m, h = len(shape.monotone), shape.bins, shape.embedding, shape.width, shape.members, len(shape.held)

    def normal(*dims: int, scale: float) -> base.Matrix:
        return rng.normal(0, scale, dims).astype(np.float32)

    def ones(*dims: int) -> base.Matrix:
        return np.ones(dims, np.float32)

    def zeros(*dims: int) -> base.Matrix:
        return np.zeros(dims, np.float32)

    weights: Weights = {
        "embed_w": normal(k, t, e, scale=t**-0.5),
        "embed_missing": zeros(k, e),
        "embed_b": normal(k, e, scale=0.3),
        "in_r": rng.choice(np.array([-1, 1], np.float32), (m, k * e)),
        "in_w": normal(k * e, d, scale=(2 / (k * e)) ** 0.5),
        "in_s": ones(m, d),
        "in_b": normal(m, d, scale=0.1),
        "head_w": normal(m, d, scale=0.1 * d**-0.5),
        "head_b": np.full(m, np.log(base_rate / (1 - base_rate)), np.float32),
    }
    for block in range(shape.blocks):
        weights |= {
            f"block{block}_r": ones(m, d),
            f"block{block}_w": normal(d, d, scale=d**-0.5),
            f"block{block}_s": ones(m, d),
            f"block{block}_b": zeros(m, d),
        }
    if h:
        weights |= {"curve": np.full((h, t), -3, np.float32), "factor_w": zeros(d, h), "factor_b": zeros(m, h)}
    return weights


def encode(encoding: Encoding, X: Any) -> tuple[Any, Any]:
    """Bins float32 ``[n, k, t]`` and, 0 or 1, what is missing ``[n, k]``, of float32 ``[n, k]``."""
    import jax.numpy as jnp

    missing = jnp.isnan(X)
    x = jnp.clip(jnp.where(missing, encoding.fill, X), -base.HUGE, base.HUGE)
    return jnp.clip((x[:, :, None] - encoding.lower) / encoding.width, 0, 1), missing * encoding.flagged


def member_margins(shape: Shape, weights: Weights, bins: Any, missing: Any, drop: Dropout) -> Any:
    """The members' log-odds, ``[n, m]``. ``drop``: what becomes of the outputs of a layer, called with its number."""
    import jax
    import jax.numpy as jnp

    free = np.array([[[not direction]] for direction in shape.monotone], np.float32)
    embedded = jnp.einsum("nkt,kte->nke", bins, weights["embed_w"] * free)
    embedded = jax.nn.relu(embedded + missing[:, :, None] * weights["embed_missing"] + weights["embed_b"])
    # One product with all members' matrices moves less memory than all members' inputs would.
    matrices = weights["in_r"][:, :, None] * weights["in_w"]
    product = jnp.einsum("ni,mio->nmo", embedded.reshape(len(embedded), -1), matrices)
    h = drop(jax.nn.relu(product * weights["in_s"] + weights["in_b"]), 0)
    for block in range(shape.blocks):
        r, w, s, b = (weights[f"block{block}_{part}"] for part in "rwsb")
        h = h + drop(jax.nn.relu(((h * r) @ w) * s + b), block + 1)
    margins = (h * weights["head_w"]).sum(axis=2) + weights["head_b"]
    if shape.held:
        signs = np.array([[shape.monotone[column]] for column in shape.held], np.float32)
        curves = (bins[:, np.array(shape.held)] * (signs * jax.nn.softplus(weights["curve"]))).sum(axis=2)
        factors = jax.nn.softplus(h @ weights["factor_w"] + weights["factor_b"])
        margins = margins + (factors * curves[:, None, :]).sum(axis=2)
    return margins


def random_key(seed: int) -> Any:
    """Where dropout draws from."""
    import jax

    return jax.random.key(seed)


class Program(NamedTuple):
    """What is compiled once per shape and optimiser setting."""

    start: Callable[[Weights], Any]  # gives the state of a training
    step: Callable[[Any, Encoding, Any, Any, Any], Any]  # state, encoding, X [b, k], y [b], random key -> state
    margin: Callable[[Weights, Encoding, Any], Any]  # weights, encoding, X [n, k] -> [n]


class State(NamedTuple):
    """Of a training; ``averaged`` is what it is for."""

    weights: Weights
    optimiser: Any
    averaged: Weights
    steps: Any


@lru_cache(maxsize=8)
def program(shape: Shape, learning_rate: float, weight_decay: float, dropout: float, averaging: float) -> Program:
    """Steps of AdamW, the moving average of the weights they give, and the margin.

    Nothing depends on how many steps there will be, so a training of as many steps ends at the same weights.
    """
    import jax
    import jax.numpy as jnp
    import optax

    optimiser = optax.adamw(learning_rate, weight_decay=weight_decay)

    def loss(weights: Weights, encoding: Encoding, X: Any, y: Any, key: Any) -> Any:
        def drop(h: Any, number: int) -> Any:
            if not dropout:
                return h
            keep = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - dropout, h.shape)
            return jnp.where(keep, h / (1 - dropout), 0)

        margins = member_margins(shape, weights, *encode(encoding, X), drop)
        return (jax.nn.softplus(margins) - margins * y[:, None]).mean()

    def start(weights: Weights) -> State:
        return State(weights, optimiser.init(weights), weights, jnp.zeros((), jnp.int32))

    @jax.jit
    def step(state: State, encoding: Encoding, X: Any, y: Any, key: Any) -> State:
        gradients = jax.grad(loss)(state.weights, encoding, X, y, jax.random.fold_in(key, state.steps))
        updates, memory = optimiser.update(gradients, state.optimiser, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        share = jnp.maximum(1 - averaging, 10 / (10 + state.steps))  # the first weights are soon forgotten
        averaged = optax.incremental_update(weights, state.averaged, share)
        return State(weights, memory, averaged, state.steps + 1)

    @jax.jit
    def margin(weights: Weights, encoding: Encoding, X: Any) -> Any:
        return member_margins(shape, weights, *encode(encoding, X), lambda h, _: h).mean(axis=1)

    return Program(start, step, margin)
