"""Prices of models."""

from statestore.operations.base import AsyncGroup, Group, async_operation, operation
from statestore.repositories.usage.prices import PricesRepository
from statestore.repositories.usage.shared_prices import SharedPricesRepository


class Prices(Group):
    find = operation(PricesRepository.find)
    all = operation(PricesRepository.all)
    set = operation(PricesRepository.set)
    remove = operation(PricesRepository.remove)
    apply = operation(PricesRepository.apply)


class AsyncPrices(AsyncGroup):
    find = async_operation(PricesRepository.find)
    all = async_operation(PricesRepository.all)
    set = async_operation(PricesRepository.set)
    remove = async_operation(PricesRepository.remove)
    apply = async_operation(PricesRepository.apply)


class SharedPrices(Group):
    """Prices that hold for all namespaces of a database; see `statestore.prices_of`."""

    all = operation(SharedPricesRepository.all)
    set = operation(SharedPricesRepository.set)
    remove = operation(SharedPricesRepository.remove)
    replace = operation(SharedPricesRepository.replace)


class AsyncSharedPrices(AsyncGroup):
    """As `SharedPrices`, awaited."""

    all = async_operation(SharedPricesRepository.all)
    set = async_operation(SharedPricesRepository.set)
    remove = async_operation(SharedPricesRepository.remove)
    replace = async_operation(SharedPricesRepository.replace)
