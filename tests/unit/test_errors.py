"""The error tree: each error has one HTTP answer and one code, and keeps both when pickled."""

import pickle

import pytest

from serve_app import errors
from serve_app.errors import Draining, InvalidField, ServiceError, TooManyRequests


def _build(kind: type[ServiceError]) -> ServiceError:
    if issubclass(kind, InvalidField):
        return kind("height", "height must be a multiple of 16")
    if issubclass(kind, TooManyRequests | Draining):
        return kind("the queue is full", 7)
    return kind("a sentence")


TREE = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", TREE)
def test_an_error_is_the_same_after_pickling(kind: type[ServiceError]) -> None:
    before = _build(kind)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert vars(after) == vars(before)
    assert str(after) == before.detail


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in TREE]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", TREE)
def test_the_tree_drawn_in_the_docstring_is_the_tree(kind: type[ServiceError]) -> None:
    assert errors.__doc__ is not None
    (line,) = [row for row in errors.__doc__.splitlines() if kind.__name__ in row.split()]
    assert line.split(kind.__name__)[1].split()[:2] == [str(kind.status), kind.code]
