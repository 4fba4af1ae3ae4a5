# SPDX-License-Identifier: BSD-3-Clause
"""Immutable records for the node path, where the import of dataclasses would cost 5 ms.

    if TYPE_CHECKING:
        from dataclasses import dataclass as record
    else:
        from bollard.runtime.frozen import record

Type checkers then see a dataclass.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


def record(*, frozen: bool) -> Callable[[type], type]:
    """Return a decorator that makes a class with annotated fields behave like a frozen dataclass.

    The class gets `__init__`, `__eq__`, `__hash__` and `__repr__`. `__init__` ends with `__post_init__`, if any.
    Fields cannot be set or deleted.
    """
    assert frozen, "only frozen records are made here"

    def decorate(cls: type) -> type:
        names = tuple(cls.__annotations__)
        known = frozenset(names)
        required = known.difference(cls.__dict__)
        after = cls.__dict__.get("__post_init__")

        def init(self: Any, *values: Any, **fields: Any) -> None:
            given = fields
            if values:
                if len(values) > len(names):
                    raise TypeError(f"{cls.__name__} has {len(names)} fields, not {len(values)}")
                given = dict(zip(names, values), **fields)
            if not known.issuperset(given) or len(given) != len(values) + len(fields):
                raise TypeError(f"{cls.__name__} has no such fields, or has them twice: {', '.join(fields)}")
            if required.difference(given):
                raise TypeError(f"{cls.__name__} lacks one of {', '.join(name for name in names if name in required)}")
            self.__dict__.update(given)
            if after:
                after(self)

        def equal(self: Any, other: object) -> Any:
            return values_of(self) == values_of(other) if type(other) is cls else NotImplemented

        def hashed(self: Any) -> int:
            return hash(tuple(values_of(self).values()))

        def shown(self: Any) -> str:
            return f"{cls.__name__}({values_of(self)})"

        cls.__init__ = init  # type: ignore[misc]
        cls.__eq__ = equal  # type: ignore[assignment,method-assign]
        cls.__hash__ = hashed  # type: ignore[assignment,method-assign]
        cls.__repr__ = shown  # type: ignore[assignment,method-assign]
        cls.__setattr__ = _refuse  # type: ignore[method-assign]
        cls.__delattr__ = _refuse  # type: ignore[assignment,method-assign]
        return cls

    return decorate


def _refuse(self: object, name: str, value: object = None) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be set: the record is frozen")


def values_of(record: object) -> dict[str, Any]:
    """Return {name: value} of a record's fields, in their order."""
    return {name: getattr(record, name) for name in type(record).__annotations__}


def replace(record: T, **changes: object) -> T:
    """Return a copy of `record` with the fields `changes` replaced."""
    return type(record)(**{**record.__dict__, **changes})
