"""A server for each test that asks for one."""

from redis_server import redis_server  # noqa: F401
