"""The hot path: from decoded tensors to answered tensors."""
