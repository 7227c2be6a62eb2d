"""The wizard on a plain terminal: the same questions as in the app, one a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine import api, recipe
from engine.api import Question
from engine.errors import InputError
from engine.store import regular_file


def print_schema() -> None:
    """The JSON Schema of a recipe."""
    print(json.dumps(recipe.json_schema(), indent=2))


def ask(output: Path | None) -> None:
    """Ask every question, write the recipe, and say how to run it."""
    if output is not None:
        regular_file(output)  # told before the questions, not after them
    answers: dict[str, str] = {}
    done: set[str] = set()
    print("Enter takes the value in [ ]. Ctrl+C leaves; nothing is written before the end.\n")
    while True:
        todo = [q for q in api.questions(answers) if q.key not in done]
        if not todo:
            break
        question = todo[0]
        answers[question.key] = _ask(question, answers)
        done.add(question.key)
    problems = api.check_answers(answers)
    if problems:
        raise InputError("\n".join(f"{key}: {text}" for key, text in problems.items()))
    path = api.save_recipe(answers, output)
    print(f"\nwrote {path}\nnext:  aiok plan {path}\n       aiok run {path}")


def _ask(question: Question, answers: dict[str, str]) -> str:
    """One question until its answer is good."""
    while True:
        print(f"{question.label}: {question.help}", file=sys.stderr)
        for number, (_, label) in enumerate(question.choices, 1):
            print(f"  {number}) {label}", file=sys.stderr)
        print(f"[{question.default}] > ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise InputError("the input ended before the last question", todo="answer all of them")
        text = line.strip() or question.default
        if question.choices and text.isdigit() and 1 <= int(text) <= len(question.choices):
            text = question.choices[int(text) - 1][0]
        problem = api.check_answers({**answers, question.key: text}).get(question.key)
        if problem is None:
            return text
        print(f"  ! {problem}", file=sys.stderr)
