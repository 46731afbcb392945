"""``GET /v1/models``: the public names, each with what its replica says about the model behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

import orjson
from aiohttp import web

from producers.route import errors
from producers.route.mapping import Promotions
from producers.route.replicas import Pool, known_names

_HIDDEN: Final = frozenset({"parent", "root", "permission"})
"""They name weights and paths of the replica."""


def models(name: str, pools: Sequence[Pool], promotions: Promotions) -> web.Response:
    """The list, or one entry where ``name`` is not empty. Raises `RouteError` for a name that is not public."""
    cards = [_card(pool, promotions) for pool in pools]
    if not name:
        return _json({"object": "list", "data": cards})
    wanted = unquote(name)
    for card in cards:
        if card["id"] == wanted:
            return _json(card)
    raise errors.unknown_model(wanted, known_names(pools))


def _card(pool: Pool, promotions: Promotions) -> dict[str, Any]:
    found = pool.card(promotions.adapter(pool.served_model)) or pool.card(None)
    kept = {key: value for key, value in found.items() if key not in _HIDDEN}
    return {"object": "model", "created": 0, "owned_by": "sentinel", **kept, "id": pool.public_name}


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(value), headers=errors.JSON)
