"""Random calls of the operators and of reduced models, each from one number, held to the contract."""
