"""Reads YAML that may be anything, with the line of each entry and of what is wrong."""

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from voicereel.errors import InvalidRequest

_DEEPEST = 32  # a script is a list of mappings with options
_MOST_MERGED = 1000  # entries of a mapping with those that << brings in
_LONGEST_NUMBER = 100  # characters of what is no text; a long number takes quadratic time
_TEXT = "tag:yaml.org,2002:str"
# What PyYAML raises for a value that does not fit its tag, such as !!bool x.
_MISFITS = (AttributeError, KeyError, IndexError, ValueError, TypeError, OverflowError)


class _Loader(yaml.SafeLoader):
    """Takes words as they are written: a text of 12:30, yes or null is no number, flag or gap."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what is nested deeper than a script can be."""
        self._depth += 1
        if self._depth > _DEEPEST:
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, f"it is nested deeper than {_DEEPEST} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Bring in what << names; such mappings could grow without end."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_MERGED:
            raise ConstructorError(
                None, None, f"a mapping has {len(node.value)} entries", node.start_mark
            )

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, value in node.value:
            if key.value in ("speaker_id", "text") and isinstance(value, yaml.ScalarNode):
                value.tag = _TEXT
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        r"""Join the halves of a character that is written as in JSON: "\ud83d\ude42"."""
        value = super().construct_scalar(node)
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Construct a value; one that does not fit its tag is named with its line."""
        is_value = isinstance(node, yaml.ScalarNode) and node.tag != _TEXT
        if is_value and len(node.value) > _LONGEST_NUMBER:
            problem = f"a number or a date has {len(node.value)} characters"
            raise ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep=True)  # at once, so that errors come here
        except _MISFITS as error:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            what = repr(node.value[:40]) if isinstance(node.value, str) else "it"
            problem = f"{what} is no {kind} ({error})" if is_value else f"{what}: {error}"
            raise ConstructorError(None, None, problem, node.start_mark) from None


def read_yaml(text: str, source: str) -> tuple[Any, list[int]]:
    """What a document says, and the line of each entry of its list.

    Raises:
        InvalidRequest: If it is no YAML; names the line at fault in `source`.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        segments = loader.construct_document(node) if node else []
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        if isinstance(error, yaml.reader.ReaderError):
            line = text.count("\n", 0, int(error.position)) + 1
        where = f", line {line}" if line else ""
        problem = getattr(error, "problem", None) or error
        raise InvalidRequest(f"{source}{where}: expected YAML, but {problem}") from None
    finally:
        if loader:
            loader.dispose()
    children = node.value if isinstance(node, yaml.SequenceNode) else ()
    return segments, [child.start_mark.line + 1 for child in children]
