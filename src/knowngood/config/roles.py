"""What a condition column is for, see `data.conditions`. Without pydantic: exported models are read with these."""

from typing import Literal

Role = Literal["model", "stratify", "infer"]
