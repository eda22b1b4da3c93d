"""The routes of the server, from its OpenAPI description."""

from __future__ import annotations

import json
from typing import Any

from cells import code, table

from knowngood.deploy.server import create_app


def openapi() -> dict[str, Any]:
    """The description that the server gives at /openapi.json; no model is needed for it."""
    models: Any = {}
    return create_app(models).openapi()


def routes() -> str:
    """A section for each route: what it does, its fields, an example answer."""
    description = openapi()
    sections = []
    for path, methods in description["paths"].items():
        for method, about in methods.items():
            sections += [f"## {method.upper()} {path}", about.get("description") or about.get("summary", "")]
            fields = [(code(one["name"]), one["in"], one.get("description", "")) for one in about.get("parameters", ())]
            for kind, body in about.get("requestBody", {}).get("content", {}).items():
                for name, schema in body.get("schema", {}).get("properties", {}).items():
                    fields.append((code(name), kind, schema.get("description", "")))
            if fields:
                sections.append(table(("field", "in", "meaning"), fields))
            rows = [(status, answer.get("description", "")) for status, answer in about["responses"].items()]
            sections.append(table(("status", "meaning"), rows))
            if about.get("x-curl"):
                sections.append(f"```text\n{about['x-curl']}\n```")
            example = _example(about)
            if example is not None:
                shown = json.dumps(example, indent=2, ensure_ascii=False)
                sections.append(f"```json\n{shown}\n```")
    return "\n\n".join(sections)


def _example(about: dict[str, Any]) -> Any:
    content = about["responses"].get("200", {}).get("content", {})
    return content.get("application/json", {}).get("example")
