"""The engine's wire protocol: generated messages and stubs, and nothing that needs torch or Kubernetes.

`make proto` writes `engine_pb2*.py` from `engine.proto`; a test holds that they agree.
"""

from headway_rpc import engine_pb2 as pb
from headway_rpc.engine_pb2_grpc import (
    EngineControlServicer,
    EngineControlStub,
    EngineServicer,
    EngineStub,
    add_EngineControlServicer_to_server,
    add_EngineServicer_to_server,
)

__all__ = [
    "EngineControlServicer",
    "EngineControlStub",
    "EngineServicer",
    "EngineStub",
    "add_EngineControlServicer_to_server",
    "add_EngineServicer_to_server",
    "pb",
]
