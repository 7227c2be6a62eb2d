"""`pattern_search.py SECONDS`: the last match of each pattern in the lines of a text.

A program of its own, because a pattern such as (a+)+$ may search for years, and only the end of its
process stops that: SIGXCPU after so many CPU-seconds. stdin is {"text", "patterns": {name:
pattern}}; for each pattern in turn a JSON line [name, its first group or all of the match, null
without one]. Standard library only.
"""

from __future__ import annotations

import json
import re
import resource
import sys


def last_match(pattern: str, text: str) -> str | None:
    """The first group, or all of it where there is none, of the last match in any line."""
    compiled, found = re.compile(pattern), None
    for line in text.splitlines():
        for match in compiled.finditer(line):
            found = match[1] if compiled.groups else match[0]
    return found


def main() -> None:
    """Answer the request on stdin."""
    seconds = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.load(sys.stdin)
    for name, pattern in request["patterns"].items():
        print(json.dumps([name, last_match(pattern, request["text"])]), flush=True)


if __name__ == "__main__":
    main()
