"""How a server is reached: tensors, requests and responses, over gRPC or HTTP."""
