"""The one pydantic base of every wire type: unknown fields are refused, instances are immutable."""

from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """Base of all wire types. A misspelt field is an error that names it, never silently dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")
