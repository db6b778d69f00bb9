"""The stored shape. Pure: it knows BSON and no driver."""
