"""What OpenAPI says of the server beyond the types of its functions: the form, and examples."""

from __future__ import annotations

from typing import Any

ABOUT = (
    "Scores images by models of known-good images: an anomaly score, a p-value, the verdict at a false-alarm rate, and "
    "on request the anomaly map or an explanation. With keys, send `Authorization: Bearer KEY`."
)
_ROW = {
    "id": "part-17.png",
    "anomaly_score": 4.66,
    "p_value": 0.0099,
    "is_anomalous": True,
    "condition": "camera=B",
    "note": None,
    "error": None,
}
_ANSWER = {"request_id": "4f0c", "model": "parts", "version": 3, "scored_by": "8d0c5d3a9b1e2f47", "alpha": 0.05}
_UNREAD = {
    **dict.fromkeys(_ROW),
    "id": "cut.png",
    "error": "is no image, or is cut off early, though it is named .png",
}
_EXPLAINED = {"summary": "anomalous (p = 0.0099): …", "peak": [81, 40], "regions": [], "sentences": ["…"]}
_FORM = {
    "type": "object",
    "required": ["images"],
    "properties": {
        "images": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "one file or more: PNG, JPEG, TIFF, DICOM and the other formats of the command line",
        },
        "model": {"type": "string", "description": "name of the model, where several are served"},
        "conditions": {
            "type": "string",
            "description": "JSON object: a value for all images, or a list of values, one an image",
        },
        "alpha": {"type": "number", "description": "false-alarm rate; default that of the fit"},
        "unknown": {"type": "string", "enum": ["error", "infer"], "description": "what to do with unknown conditions"},
        "maps": {
            "type": "boolean",
            "description": "add the anomaly map: 16-bit grey PNG in base64; anomaly = offset + scale * grey level",
        },
    },
}
_ERRORS = {
    400: "the body is no multipart form",
    401: "no key, or a wrong one",
    404: "there is no such model",
    408: "nothing of the body came for a minute",
    413: "the body is too large",
    422: "a field is wrong, or no image can be read (then with rows)",
    503: "too much is waiting: try again after `Retry-After` seconds",
}


_REFUSAL = {
    "type": "object",
    "required": ["detail"],
    "properties": {"detail": {"type": "string"}, "request_id": {"type": "string"}},
}
LOCKED = {401: _ERRORS[401]}


def judging(path: str, *, explain: bool) -> dict[str, Any]:
    """The keywords of a route that takes images."""
    row = {**_ROW, "explanation": _EXPLAINED} if explain else _ROW
    fields = '-F images=@part-17.png -F images=@cut.png -F \'conditions={"camera": "B"}\''
    request = {"images": ["part-17.png", "cut.png"], "conditions": '{"camera": "B"}', "alpha": 0.05}
    example = {**_ANSWER, "rows": [row, _UNREAD]}
    return {
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": _FORM, "example": request}},
            },
            "x-curl": f"curl {fields} http://127.0.0.1:8000{path}",
        },
        "responses": {
            200: {"description": "a row an image", "content": {"application/json": {"example": example}}},
            **refusals(_ERRORS),
        },
    }


def refusals(reasons: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Answers that refuse, by status."""
    return {
        status: {
            "description": why,
            "content": {"application/json": {"schema": _REFUSAL, "example": {"detail": why, "request_id": "4f0c"}}},
        }
        for status, why in reasons.items()
    }
