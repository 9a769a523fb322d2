"""The one place where peft learns that S2FT exists.

peft registers methods by the members of an enumeration that nobody outside can add to in a supported way: a member is
added here as the enumeration itself would add it. Where that fails, or where a later peft has a method of this name
of its own, nothing is changed and :data:`REASON` says why: then ``peft.get_peft_model`` and
``PeftModel.from_pretrained`` do not know S2FT, and :class:`linnet.llm.S2FTModel` with :func:`linnet.llm.save` and
:func:`linnet.llm.load` serve without them.
"""

from __future__ import annotations

from typing import Any

from peft.utils import peft_types

NAME = "S2FT"
PREFIX = "s2ft_"
REASON: str | None = "S2FT has not been registered yet"
"""Why peft does not know S2FT; None if it does."""


def peft_type() -> Any:
    """Return the member of peft's enumeration; the bare name where there is none."""
    members = peft_types.PeftType.__members__
    return members.get(NAME, NAME) if REASON is None else NAME


def register(config: type, model: type) -> str | None:
    """Make S2FT known to peft; return why that failed, None if it did not.

    Args:
        config: class of its configuration.
        model: class of its model.
    """
    global REASON
    if REASON is None:
        return None
    try:
        _extend()
        peft_types.register_peft_method(
            name=NAME.lower(), config_cls=config, model_cls=model, prefix=PREFIX, is_mixed_compatible=False
        )
    except Exception as err:  # whatever a later peft does: everything else must go on working
        REASON = f"{type(err).__name__}: {err}"
    else:
        REASON = None
    return REASON


def _extend() -> None:
    """Add a member to peft's enumeration.

    Raises:
        KeyError: it has one of this name.
        TypeError: it is not the enumeration of strings that it was.
    """
    kind = peft_types.PeftType
    if NAME in kind.__members__:
        raise KeyError(f"this peft has a method {NAME} of its own")
    if not issubclass(kind, str) or kind.LORA != "LORA" or kind._member_map_["LORA"] is not kind.LORA:
        raise TypeError("peft.PeftType is no enumeration of strings any more")
    member = str.__new__(kind, NAME)
    member._name_ = NAME
    member._value_ = NAME
    setattr(member, "_sort_order_", len(kind._member_names_))  # noqa: B010  # which types do not know
    type.__setattr__(kind, NAME, member)
    kind._member_map_[NAME] = member
    kind._value2member_map_[NAME] = member
    kind._member_names_.append(NAME)
