"""Certificates: an exact instance that violates a claim, or attains it, and its check by exact arithmetic alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linnet.errors import ClaimError, DataError, LinnetError
from linnet.trials.algebra import Instance
from linnet.trials.claim import Claim, Comparison
from linnet.trials.exact import Exact, ExactMatrix
from linnet.trials.judge import attains, bounds, judge
from linnet.trials.settings import SETTINGS

RATIONAL = re.compile(r"-?[0-9]{1,4000}(/[0-9]{1,4000})?")


def certificate(claim: Claim, instance: Instance) -> dict[str, Any]:
    """Write down an exact instance that violates a claim.

    Raises:
        ClaimError: it does not.
    """
    found = judge(claim, claim.setting.view(instance), claim.hypotheses)
    if found.finding != "violated" or found.comparison is None:
        raise ClaimError(f"{claim.id}: not a counterexample: {found.finding} {found.reason}")
    return {
        "claim": claim.id,
        "setting": claim.setting.name,
        "instance": {k: _encode(v) for k, v in instance.items()},
        **_sides(found.comparison),
    }


def equality(claim: Claim, instance: Instance, bound: int, rescued: bool) -> dict[str, Any]:
    """Write down an exact instance at which a bound of a claim, counted from 0, is an equality.

    ``rescued`` says that the extra hypotheses, under which it holds, are met too.
    """
    c = bounds(claim, claim.setting.view(instance))[bound]
    return {
        "claim": claim.id,
        "setting": claim.setting.name,
        "bound": bound,
        "rescued": rescued,
        "instance": {k: _encode(v) for k, v in instance.items()},
        **_sides(c),
        "relation": "==",
    }


def check(record: Mapping[str, Any], claims: Mapping[str, Claim]) -> str:
    """Re-check a certificate: the instance, the hypotheses, the violation, all exactly.

    Returns:
        A line that says what was found.

    Raises:
        ClaimError: it does not certify what it says.
        DataError: it is not a certificate.
    """
    if isinstance(record, Mapping) and "courses" in record:
        return _check_fit(record, claims)
    try:
        claim_id, setting = str(record["claim"]), SETTINGS[record["setting"]]
        instance = {k: _decode(v) for k, v in record["instance"].items()}
        printed = (record["observed"], record["relation"], record["stated"])
    except (KeyError, AttributeError, TypeError, ValueError, IndexError, ZeroDivisionError) as err:
        raise DataError(
            f"not a certificate ({type(err).__name__}: {err}); use what linnet verify --json wrote"
        ) from None
    if claim_id not in claims:
        raise ClaimError(f"no claim {claim_id!r} is known; name its file with --claims FILE.py")
    claim = claims[claim_id]
    if claim.setting is not setting:
        raise ClaimError(f"{claim_id} speaks of {claim.setting.name}, the certificate of {setting.name}")
    try:
        flaws = setting.defects(instance)
        found = None if flaws else judge(claim, setting.view(instance), claim.hypotheses)
    except LinnetError:
        raise
    except (KeyError, AttributeError, IndexError, TypeError, ValueError) as err:
        raise DataError(f"{claim_id}: the instance is incomplete ({type(err).__name__}: {err})") from None
    if flaws:
        raise ClaimError(f"{claim_id}: not an instance of {setting.name}: {'; '.join(flaws)}")
    assert found is not None
    if found.finding == "outside":
        raise ClaimError(f"{claim_id}: the instance does not meet the hypotheses: {found.reason}")
    if "bound" in record:
        return _check_equality(record, claim, instance, printed)
    if found.finding != "violated" or found.comparison is None:
        raise ClaimError(f"{claim_id}: the instance does not violate the claim ({found.finding})")
    sides = _sides(found.comparison)
    if printed != (sides["observed"], sides["relation"], sides["stated"]):
        raise ClaimError(
            f"{claim_id}: the certificate says {' '.join(map(str, printed))}, exact arithmetic says "
            f"{sides['observed']} {sides['relation']} {sides['stated']}"
        )
    return f"{claim_id}: observed {sides['observed']}, not {sides['relation']} stated {sides['stated']}"


def _check_equality(record: Mapping[str, Any], claim: Claim, instance: Instance, printed: tuple[Any, ...]) -> str:
    """Check that a bound is attained."""
    bound = record["bound"]
    hypotheses = [*claim.hypotheses, *(claim.rescue if record.get("rescued") else ())]
    if type(bound) is not int or not attains(claim, instance, bound, hypotheses):
        raise ClaimError(f"{claim.id}: bound {bound} is no equality of positive numbers there")
    sides = _sides(bounds(claim, claim.setting.view(instance))[bound])
    if printed != (sides["observed"], "==", sides["stated"]):
        raise ClaimError(f"{claim.id}: the certificate says {' '.join(map(str, printed))}, exact arithmetic otherwise")
    return f"{claim.id}: bound {bound + 1} is attained, both sides are {sides['stated']}"


def _check_fit(record: Mapping[str, Any], claims: Mapping[str, Claim]) -> str:
    """Check what contradicts a claim about growing samples: measured again, not computed exactly."""
    from linnet.trials.rates import check_fit
    from linnet.trials.settings.base import Ladder

    claim = claims.get(str(record.get("claim")))
    if claim is None:
        raise ClaimError(f"no claim {record.get('claim')!r} is known; name its file with --claims FILE.py")
    if claim.setting.name != record.get("setting") or not isinstance(claim.setting, Ladder):
        raise ClaimError(f"{claim.id} speaks of {claim.setting.name}, the certificate of {record.get('setting')}")
    return check_fit(record, claim)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the certificates in a ledger or in a file with one certificate.

    Raises:
        DataError: missing file, not JSON, or no certificate in it.
    """
    content = load(path, "a ledger or a certificate")
    if isinstance(content, dict) and isinstance(content.get("claims"), list):
        rows: Sequence[Any] = content["claims"]
        held = [r for r in rows if isinstance(r, dict)]
        found = [r["certificate"] for r in held if r.get("certificate")]
        found += [e for r in held for e in r.get("equalities") or ()]
    else:
        found = [content]
    if not found or not all(isinstance(f, dict) for f in found):
        raise DataError(f"{path} holds no certificate: nothing in it was refuted or attained")
    return found


def load(path: Path, what: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        DataError: missing file, or not JSON; ``what`` is the file that should be given.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise DataError(f"cannot read {path} ({err.strerror}); give {what}") from None
    except ValueError as err:
        raise DataError(f"{path} is not JSON ({err}); give what linnet verify --json wrote") from None


def _sides(c: Comparison) -> dict[str, str]:
    if isinstance(c.observed, ExactMatrix):
        gap = (c.observed - c.stated).sq()
        return {"observed": f"matrices at squared distance {gap}", "relation": c.relation, "stated": "0"}
    return {"observed": str(Exact.of(c.observed)), "relation": c.relation, "stated": str(Exact.of(c.stated))}


def _encode(value: Any) -> Any:
    if isinstance(value, ExactMatrix):
        core = value._plain("writing down")
        return [[str(core[i, j]) for j in range(core.ncols())] for i in range(core.nrows())]
    if isinstance(value, list) and value and isinstance(value[0], ExactMatrix):
        return [_encode(v) for v in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], list):
        if isinstance(value[0][0], list):
            return [_decode(v) for v in value]
        if not all(isinstance(x, str) and RATIONAL.fullmatch(x) for row in value for x in row):
            raise ValueError('matrix entries must be strings such as "-3" or "2/7"')
        return ExactMatrix.of(value)
    if isinstance(value, list) and not all(isinstance(x, int) for x in value):
        raise ValueError("a list of whole numbers was expected")
    return value
