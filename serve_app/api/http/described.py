"""Documents whose fields are described by the texts below them.

pydantic can read these texts too, but does so for each schema that it makes, of which a route has several:
that took half of the time in which the routes are imported.
"""

import ast
import sys
from collections.abc import Mapping
from functools import cache
from inspect import cleandoc, getsource
from typing import Annotated, Any, TypeVar

from pydantic import Field

Document = TypeVar("Document", bound=type)


def described(document: Document) -> Document:
    """Decorate a ``TypedDict``: have its fields be described by the texts below them."""
    fields: dict[str, Any] = document.__annotations__
    for name, text in _texts(document.__module__)[document.__name__].items():
        fields[name] = Annotated[fields[name], Field(description=text)]
    return document


@cache
def _texts(module: str) -> Mapping[str, Mapping[str, str]]:
    """Return the texts below the fields of a module's classes, by the names of both."""
    statements = ast.parse(getsource(sys.modules[module])).body
    return {each.name: _texts_of(each) for each in statements if isinstance(each, ast.ClassDef)}


def _texts_of(document: ast.ClassDef) -> Mapping[str, str]:
    texts = {}
    for field, below in zip(document.body, document.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = cleandoc(text)
    return texts
