"""librdkafka's own C interface, from the library that ``confluent-kafka`` brings along."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from sentinel.errors import ConfigurationError

PRODUCER: Final = 0
"""``rd_kafka_type_t``; a mock cluster needs a handle to live on, of either type."""


def load() -> ctypes.CDLL:
    """The library with the signatures of what the embedded broker calls.

    Raises:
        ConfigurationError: the extra ``demo`` is not installed, or its librdkafka lacks the mock cluster.
    """
    try:
        from confluent_kafka import cimpl
    except ImportError as error:
        raise ConfigurationError(
            "the embedded broker is not installed: pip install 'sentinel-loop[demo]', or set "
            "kafka.bootstrap_servers"
        ) from error
    # Looking a symbol up in an extension module also looks in the librdkafka that it was linked with.
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_topic_delete": (number, [pointer, text]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ConfigurationError(f"librdkafka of confluent-kafka lacks {name}: install >= 2.11") from None
        function.restype, function.argtypes = result, arguments
    return library
