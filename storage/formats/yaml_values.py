"""YAML as strangers write it: what PyYAML takes without a word, and means nothing good, is refused."""

from __future__ import annotations

from typing import IO, Any

import yaml
from yaml.composer import ComposerError


class UniqueKeyLoader(yaml.SafeLoader):
    """Reads YAML as :class:`yaml.SafeLoader` does, but refuses a key that comes twice in one mapping, as YAML itself
    does; PyYAML keeps the last."""

    def compose_mapping_node(
        self, anchor: Any
    ) -> Any:  # a constructor could not tell it from a key merged by <<
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise ComposerError(None, None, f"{key.value} comes twice: keep one", key.start_mark)
                seen.add((key.tag, key.value))
        return node


def load_yaml(stream: IO[str] | str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, or a key comes twice in one mapping.
        ValueError, RecursionError: a value that YAML's forms allow and Python's do not; nested too deep.
    """
    return yaml.load(stream, UniqueKeyLoader)
