"""The section `[detect]` of the settings: a table a detector, a key a threshold, made from their dataclasses."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, create_model, model_validator
from pydantic_core.core_schema import no_info_after_validator_function, no_info_before_validator_function

from topowatch_monitor.detect import Thresholds
from topowatch_monitor.detect.threshold_tables import thresholds_from

SECTION = "detect"
SHARE = "0 to 1"  # a threshold that is described so can be no more than 1


@dataclass(frozen=True)
class Key:
    """One threshold as the settings know it.

    Attributes:
        name: with section and detector, such as detect.loss_rise.alarm.
        default: an int where only whole numbers make sense.
        meaning: its unit and its reason.
    """

    name: str
    default: float
    meaning: str


def introduction_of(described: type) -> str:
    """Return what the docstring of a class says before its attributes, on one line."""
    return " ".join((inspect.getdoc(described) or "").partition("\nAttributes:\n")[0].split())


def attributes_of(described: type) -> dict[str, str]:
    """Return what the docstring of a class says of each attribute, on one line."""
    _, _, section = (inspect.getdoc(described) or "").partition("\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def tables() -> dict[str, str]:
    """What each table of thresholds is about, by its whole name."""
    return {
        f"{SECTION}.{field.name}": introduction_of(type(getattr(Thresholds(), field.name)))
        for field in fields(Thresholds)
    }


def keys() -> dict[str, Key]:
    """All thresholds by their whole names, in the order of the catalogue."""
    found = {}
    for detector in fields(Thresholds):
        table = getattr(Thresholds(), detector.name)
        meanings = attributes_of(type(table))
        for field in fields(table):
            name = f"{SECTION}.{detector.name}.{field.name}"
            found[name] = Key(name, getattr(table, field.name), meanings[field.name])
    return found


def _refuse_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"a threshold is a number, not {str(value).lower()}")  # noqa: TRY004 pydantic turns a ValueError alone into its own error
    return value


def _field(key: Key) -> tuple[Any, Any]:
    """How a threshold is validated: it is positive and finite, whole where its default is, at most 1 if a share."""
    limits: dict[str, Any] = {"ge": 1} if isinstance(key.default, int) else {"gt": 0, "allow_inf_nan": False}
    if SHARE in key.meaning:
        limits["le"] = 1
    told = Field(key.default, description=key.meaning, **limits)
    return Annotated[type(key.default), BeforeValidator(_refuse_truth)], told


def _agree(name: str) -> Any:
    """Check of the thresholds of one detector among each other."""

    def agree(told: BaseModel) -> BaseModel:
        thresholds_from({name: told.model_dump()})
        return told

    return model_validator(mode="after")(agree)


def _model() -> type[BaseModel]:
    strict = ConfigDict(extra="forbid")
    fields_of: dict[str, dict[str, Any]] = {}
    for key in keys().values():
        _, detector, name = key.name.split(".")
        fields_of.setdefault(detector, {})[name] = _field(key)
    models = {
        name: create_model(name, __config__=strict, __validators__={"agree": _agree(name)}, **each)
        for name, each in fields_of.items()
    }
    whole: dict[str, Any] = {name: (model, Field(default_factory=model)) for name, model in models.items()}
    return create_model(SECTION, __config__=strict, **whole)


class _Validated:
    """Tells pydantic how `Thresholds` are validated, so that these need not know pydantic."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        def told(value: object) -> object:
            return asdict(value) if isinstance(value, Thresholds) else value

        def valid(value: BaseModel) -> Thresholds:
            return thresholds_from(value.model_dump())

        model = handler.generate_schema(_model())
        return no_info_before_validator_function(told, no_info_after_validator_function(valid, model))


# Thresholds in a settings class: given as tables, validated key by key, written as tables again.
DetectSection = Annotated[Thresholds, _Validated, PlainSerializer(asdict)]
