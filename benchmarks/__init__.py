"""What statestore costs beside the raw drivers and beside its peers. Run by `./run bench`."""
