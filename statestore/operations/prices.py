"""Prices of models."""

from statestore.operations.base import AsyncGroup, Group, async_operation, operation
from statestore.repositories.prices import PricesRepository


class Prices(Group):
    repository = PricesRepository

    find = operation(PricesRepository.find)
    all = operation(PricesRepository.all)
    set = operation(PricesRepository.set)
    remove = operation(PricesRepository.remove)
    replace_shared = operation(PricesRepository.replace_shared)
    apply = operation(PricesRepository.apply)


class AsyncPrices(AsyncGroup):
    repository = PricesRepository

    find = async_operation(PricesRepository.find)
    all = async_operation(PricesRepository.all)
    set = async_operation(PricesRepository.set)
    remove = async_operation(PricesRepository.remove)
    replace_shared = async_operation(PricesRepository.replace_shared)
    apply = async_operation(PricesRepository.apply)
