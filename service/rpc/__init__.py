"""gRPC only: the Open Inference Protocol's service, on the data plane that HTTP uses."""
