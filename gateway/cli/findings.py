"""Printing what checks found."""

from collections.abc import Sequence
from dataclasses import asdict

from gateway.cli.options import Common
from gateway.cli.output import print_json, print_table
from gateway.services.diagnosing import Finding, Level
from gateway.settings import ConfigRefused


def print_findings(common: Common, findings: Sequence[Finding]) -> None:
    """Print one line a finding; as JSON, all of them with the verdict."""
    if common.is_json:
        print_json(
            {"ok": not has_failed(findings), "findings": [asdict(each) for each in findings]}
        )
        return
    rows = [[each.level, each.check, _sentence(each)] for each in findings]
    print_table(["level", "check", "finding"], rows)


def has_failed(findings: Sequence[Finding]) -> bool:
    return any(finding.level is Level.FAIL for finding in findings)


def find_refusals(error: ConfigRefused) -> Sequence[Finding]:
    """Return the problems of a configuration that can't be loaded as findings."""
    return [
        Finding(each.setting, Level.FAIL, each.problem, each.source and f"Correct {each.source}.")
        for each in error.problems
    ]


def _sentence(finding: Finding) -> str:
    message = finding.message.removesuffix(".")
    return f"{message}. {finding.remedy}" if finding.remedy else message
