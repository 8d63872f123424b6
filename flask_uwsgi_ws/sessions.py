"""A session that can be read only, since its cookie has gone out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NoReturn

from flask.sessions import SessionMixin

_FROZEN = (
    "the session can not be changed any more: its cookie has gone out with the handshake; change "
    "it in a view, a before_request function or a before_handshake function"
)


def _fail(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(_FROZEN)


class ReadOnlySession(SessionMixin):
    """What handlers have in the place of their session, which somebody else may have as well.

    :param opened: the session. Its attributes are here too.
    """

    def __init__(self, opened: SessionMixin) -> None:
        object.__setattr__(self, "_opened", opened)

    def __getitem__(self, name: str) -> Any:
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)

    def __contains__(self, name: object) -> bool:
        return name in self._opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Flask notes that, of each look.
        if name != "accessed":
            _fail()

    def __repr__(self) -> str:
        return f"<read only {self._opened!r}>"

    def __copy__(self) -> Any:
        return copy.copy(self._opened)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._opened, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._opened.__reduce_ex__(protocol)

    __setitem__ = __delitem__ = __delattr__ = __ior__ = _fail
    clear = pop = popitem = setdefault = update = _fail

    # Of the session itself, where the base class has values of its own.
    new = property(lambda self: self._opened.new)
    modified = property(lambda self: self._opened.modified)
    accessed = property(lambda self: self._opened.accessed)
    permanent = property(lambda self: self._opened.permanent)
