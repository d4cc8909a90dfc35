"""What was used: reports on it, and calls that are no entries."""

from statestore.operations.base import AsyncGroup, Group, Operations, operation
from statestore.repositories.expiry.backlog import BacklogRepository
from statestore.repositories.usage.records import RecordsRepository
from statestore.repositories.usage.reports import UsageRepository


class UsageOperations(Operations):
    __doc__ = UsageRepository.__doc__

    record = operation(RecordsRepository.record)
    totals = operation(UsageRepository.totals)
    by_day = operation(UsageRepository.by_day)
    by_session = operation(UsageRepository.by_session)
    by_user = operation(UsageRepository.by_user)
    by_agent = operation(UsageRepository.by_agent)
    by_model = operation(UsageRepository.by_model)
    by_tool = operation(UsageRepository.by_tool)
    by_hour = operation(UsageRepository.by_hour)
    cache_by_day = operation(UsageRepository.cache_by_day)
    storage = operation(UsageRepository.storage)
    expiry_backlog = operation(BacklogRepository.expiry_backlog)
    lineage = operation(UsageRepository.lineage)


class UsageReports(UsageOperations, Group):
    """What was used and what it cost: `store.usage`."""


class AsyncUsageReports(UsageOperations, AsyncGroup):
    """As `UsageReports`, awaited."""
