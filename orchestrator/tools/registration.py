"""Whether what a worker declares can be taken: names given once, schemas that are some. Pure; faults are located."""

from __future__ import annotations

from dag.schema import SchemaError, validator
from orchestrator.errors import InvalidSubmission
from tenuto.wire import FieldError, WorkerRegistration


def check_registration(registration: WorkerRegistration) -> None:
    """Raises InvalidSubmission with every fault."""
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, tool in enumerate(registration.tools):
        if tool.name in seen:
            message = f"tool {tool.name!r} is declared twice"
            errors.append(FieldError(pointer=f"/tools/{index}/name", message=message, fix="give each tool one name"))
        seen.add(tool.name)
        for name, schema in (("parameters", tool.parameters), ("returns", tool.returns)):
            try:
                validator(schema)
            except SchemaError as error:
                pointer = f"/tools/{index}/{name}{error.pointer}"
                fix = "give a JSON Schema (draft 2020-12)"
                errors.append(FieldError(pointer=pointer, message=str(error), fix=fix))
    if errors:
        raise InvalidSubmission(f"the worker cannot be registered: {errors[0].message}", errors=errors)
