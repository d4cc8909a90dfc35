"""What is wrong with a database of statestore, and the command that mends it: `statestore doctor`, from Python.

    from statestore import doctor

    for finding in doctor.examine("postgresql://app@db.example.com/app"):
        print(finding.verdict, finding.check, finding.message, finding.remedy)

It blocks; from a coroutine: `await asyncio.to_thread(doctor.examine, url)`.
"""

from statestore.doctor.examining import Mended, examine, mend, names
from statestore.doctor.findings import Examination, Finding, Verdict

__all__ = ["Examination", "Finding", "Mended", "Verdict", "examine", "mend", "names"]
