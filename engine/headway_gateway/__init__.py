"""The OpenAI front: HTTP and server-sent events in front of engines that speak gRPC."""
