"""Prices of models."""

from statestore.operations.base import AsyncGroup, Group, Operations, operation
from statestore.repositories.usage.prices import PricesRepository
from statestore.repositories.usage.shared_prices import SharedPricesRepository


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
