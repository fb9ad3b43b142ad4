"""One file that holds the evidence of an audit, for readers who must argue about it.

`write_evidence` packs a printable PDF, the page of the report, sound and pictures, all figures as
data, and the SHA-256 of each into a ZIP; `verify_evidence` finds out whether it is still the same.
"""

from __future__ import annotations

from anechoic.evidence.file import Statement, verify_evidence, write_evidence

__all__ = ["Statement", "verify_evidence", "write_evidence"]
