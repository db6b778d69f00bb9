"""The stored shape: pure functions over BSON, without a driver."""
