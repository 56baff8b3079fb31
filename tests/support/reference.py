"""Writes docs/reference: the API from openapi.yaml, the configuration from the sample of the code.

cd tests && ../.venv/bin/python -m support.reference
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
API = REPOSITORY / "docs/reference/api.md"
CONFIGURATION = REPOSITORY / "docs/reference/configuration.md"

OPENAPI = REPOSITORY / "docs/api/openapi.yaml"
SAMPLE = REPOSITORY / "crates/zaqar-server/zaqar.conf"

#: Parameters and answers that nearly every operation has: the page says them once.
COMMON_PARAMETERS = {"Client-ID", "X-Project-ID", "X-OpenStack-Request-ID"}
COMMON_ANSWERS = {"401", "406", "500", "503"}


def main() -> None:
    API.parent.mkdir(exist_ok=True)
    API.write_text(api())
    CONFIGURATION.write_text(configuration())


def api() -> str:
    document = yaml.safe_load(OPENAPI.read_text())
    return "\n".join(_api(document)).rstrip() + "\n"


def _api(document: dict) -> Iterator[str]:
    yield "# The HTTP API\n"
    yield (
        "<!-- Made from docs/api/openapi.yaml by tests/support/reference.py; a test compares. -->\n\n"
        "[`openapi.yaml`](../api/openapi.yaml) has the same with the schemas, for tools; tests hold it\n"
        "against the routes and the answers of the server.\n"
    )
    yield _prose(document["info"]["description"])
    yield "Each path answers HEAD where it answers GET, and OPTIONS.\n"
    operations = list(_operations(document))
    for tag in document["tags"]:
        if tag["name"] == "HEAD and OPTIONS":
            continue
        yield f"## {tag['name']}\n"
        if "description" in tag:
            yield _prose(tag["description"])
        for path, method, operation in operations:
            if tag["name"] in operation["tags"]:
                yield from _operation(document, path, method, operation)


def _operations(document: dict) -> Iterator[tuple[str, str, dict]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in ("get", "put", "post", "patch", "delete"):
                shared = item.get("parameters", [])
                yield path, method, {**operation, "parameters": shared + operation.get("parameters", [])}


def _operation(document: dict, path: str, method: str, operation: dict) -> Iterator[str]:
    yield f"### {method.upper()} {path}\n"
    yield _prose(operation["summary"].rstrip(".") + ".")
    if "description" in operation:
        yield _prose(operation["description"])
    parameters = [_resolve(document, one) for one in operation["parameters"]]
    parameters = [one for one in parameters if one["name"] not in COMMON_PARAMETERS]
    if parameters:
        rows = [
            f"| `{one['name']}` | {one['in']} | {_kind(document, one['schema'])} |"
            f" {_cell(one.get('description', ''))} |"
            for one in parameters
        ]
        yield "| parameter | in | value | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    if "requestBody" in operation:
        body = _resolve(document, operation["requestBody"])
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        need = "" if body.get("required") else ", which may be left out"
        yield _prose(f"The body is {kinds}{need}. {body.get('description', '')}")
        yield from _fields(document, body)
    rows = [
        f"| {status} | {_cell(_resolve(document, answer)['description'])} |"
        for status, answer in sorted(operation["responses"].items())
        if status not in COMMON_ANSWERS
    ]
    yield "| answer | |\n|---|---|\n" + "\n".join(rows) + "\n"


def _fields(document: dict, body: dict) -> Iterator[str]:
    """The members of a JSON object that a request takes."""
    rows = list(_members(document, next(iter(body["content"].values())).get("schema", {}), ""))
    if rows:
        yield "| member | value | | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _members(document: dict, schema: dict, prefix: str) -> Iterator[str]:
    schema = _resolve(document, schema)
    for name, field in schema.get("properties", {}).items():
        field = {**_resolve(document, field), **{k: v for k, v in field.items() if k != "$ref"}}
        need = "needed" if name in schema.get("required", []) else ""
        description = _cell(field.get("description", ""))
        yield f"| `{prefix}{name}` | {_kind(document, field)} | {need} | {description} |"
        yield from _members(document, field.get("items", {}), f"{prefix}{name}[].")


def _kind(document: dict, schema: dict) -> str:
    """A schema in a few words."""
    schema = _resolve(document, schema)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        kind = " or ".join(kind)
    if kind == "array":
        kind = f"array of {_kind(document, schema.get('items', {}))}"
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        kind += f", {least} to {most}"
    elif least is not None:
        kind += f", at least {least}"
    if "default" in schema:
        default = schema["default"]
        kind += f", by default {str(default).lower() if isinstance(default, bool) else default}"
    return kind


def _resolve(document: dict, value: Any) -> Any:
    while isinstance(value, dict) and "$ref" in value:
        target: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/")]
        value = target
    return value


def configuration() -> str:
    sections: dict[str, list[str]] = {}
    section, said = "", []
    for line in SAMPLE.read_text().splitlines():
        if found := re.match(r"\[(.+)\]$", line):
            section, said = found[1], []
            sections[section] = []
        elif found := re.match(r"#(\w+) =(.*)$", line):
            default = f"`{found[2].strip()}`" if found[2].strip() else ""
            sections[section].append(f"| `{found[1]}` | {_cell(default)} | {_cell(' '.join(said))} |")
            said = []
        elif line.startswith("# "):
            said.append(line.removeprefix("# "))
        elif not line:
            said = []
    parts = [
        "# Configuration reference\n",
        "<!-- Made from the sample by tests/support/reference.py; a test compares. -->\n",
        "`zaqar-server config sample` prints the same as a file. [Configure](../operators/configure.md)\n"
        "says how values are written and which file wins.\n",
    ]
    for name, rows in sections.items():
        table = "| option | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"
        parts += [f"## {name}\n", table]
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    blocks = re.split(r"\n\s*\n", text.strip())
    filled = (
        textwrap.fill(" ".join(block.split()), 100, break_long_words=False, break_on_hyphens=False)
        for block in blocks
    )
    return "\n\n".join(filled) + "\n"


if __name__ == "__main__":
    main()
