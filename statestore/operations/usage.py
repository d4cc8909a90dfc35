"""What was used: reports on it, calls that are not entries, and the prices of models."""

from statestore.operations.base import AsyncGroup, Group, Operations, operation
from statestore.repositories.expiry.backlog import BacklogRepository
from statestore.repositories.usage.prices import PricesRepository
from statestore.repositories.usage.records import RecordsRepository
from statestore.repositories.usage.reports import UsageRepository
from statestore.repositories.usage.shared_prices import SharedPricesRepository


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


class PriceOperations(Operations):
    find = operation(PricesRepository.find)
    all = operation(PricesRepository.all)
    set = operation(PricesRepository.set)
    remove = operation(PricesRepository.remove)
    apply = operation(PricesRepository.apply)


class Prices(PriceOperations, Group):
    """The prices of models that hold for the namespace: `store.prices`."""


class AsyncPrices(PriceOperations, AsyncGroup):
    """As `Prices`, awaited."""


class SharedPriceOperations(Operations):
    all = operation(SharedPricesRepository.all)
    set = operation(SharedPricesRepository.set)
    remove = operation(SharedPricesRepository.remove)
    replace = operation(SharedPricesRepository.replace)


class SharedPrices(SharedPriceOperations, Group):
    """Prices that hold for all namespaces of a database; see `statestore.prices_of`."""


class AsyncSharedPrices(SharedPriceOperations, AsyncGroup):
    """As `SharedPrices`, awaited."""
